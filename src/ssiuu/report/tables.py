"""The tables of a run outside the page: Markdown, CSV, LaTeX, plain data. The same numbers.

    print(FORMATS["md"](record, "gd"))

Text that comes from a run (labels, names) is escaped for each format: Markdown's marks, LaTeX's
special characters, and in CSV a leading = + - @ that a spreadsheet would run as a formula.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ssiuu.analysis.agreement import attributed_twice, conclusion
from ssiuu.analysis.comparisons import Comparison, baseline, columns, compare, row_intervals
from ssiuu.analysis.divergence import DAMAGED, WORDS
from ssiuu.analysis.prediction import CELLS, Prediction, prediction
from ssiuu.analysis.published import ARROWS, COLUMNS, PaperTable, Published, others, paper_table
from ssiuu.analysis.rows import ORIGINAL, rows
from ssiuu.analysis.tofu import is_tofu, tofu_columns
from ssiuu.analysis.utility import task_mean, task_names
from ssiuu.records.files import dump_json
from ssiuu.records.schema import Cell, Evaluation, RunRecord, TaskScore
from ssiuu.report.text import (
    DASH,
    before_row,
    kl,
    nats,
    percent,
    plain,
    points,
    short,
    span,
)
from ssiuu.statistics import Estimate, wilson

HEADINGS = {
    "forget": "forget ↓",
    "forget_paraphrase": "paraphrase ↓",
    "forget_free": "free ↓",
    "forget_other": "other form ↓",
    "forget_other_free": "other form, free ↓",
    "forget_rouge": "forget ROUGE ↓",
    "heldout_rouge": "held-out ROUGE ↑",
    "retain": "retain ↑",
    "heldout": "held-out ↑",
}
KL = ("KL ↓", "KL instr. ↓")
MOVED = (
    "KL: from the original's predictions to this model's, nats a token, on plain text and on answers "
    f"to instructions, ± half its 95 % interval; above {DAMAGED} on plain text: {WORDS}."
)
MARKS = {"lower": "↓", "higher": "↑"}


class Table(NamedTuple):
    """A table as text: the first column holds words, the others numbers."""

    title: str
    note: str
    headings: list[str]
    rows: list[list[str]]


def data(record: RunRecord, against: str | None = None) -> dict[str, Any]:
    """Return the table as plain data, with intervals and comparisons (shares in [0, 1]).

    Raises:
        ConfigError: The run has no method with the label `against`.
    """
    base = baseline(record, against)
    table = rows(record)
    for row, cell in zip(table["rows"], record.cells, strict=True):
        intervals = row_intervals(record, cell)
        row["intervals"] = {name: [found.low, found.high] for name, found in intervals.items()}
    comparisons = [
        {
            "method": found.label,
            "score": found.column,
            "difference": found.difference.value,
            "low": found.difference.low,
            "high": found.difference.high,
            "items": found.items,
            "seeds": found.seeds,
            "differs": found.differs,
            "better": found.better,
        }
        for found in compare(record, base)
    ]
    predictions = [
        found._asdict() | {"correlation": found.correlation and found.correlation._asdict()}
        for found in prediction([record])
    ]
    return {**table, "baseline": base, "comparisons": comparisons, "prediction": predictions}


def page_context(record: RunRecord, against: str | None = None) -> dict[str, Any]:
    """Return what the page's tables show beside the rows, by the names its template uses.

    Raises:
        ConfigError: The run has no method with the label `against`.
    """
    found = compare(record, against)
    return {
        "intervals": [row_intervals(record, cell) for cell in record.cells],
        "compared": {(comparison.label, comparison.column): comparison for comparison in found},
        "compared_columns": columns(record),
        "marking": marking(found),
        "headings": HEADINGS,
        "moved_note": MOVED,
        "inside": inside_tables(record),
        "paper": (paper := paper_table(record)),
        "paper_note": paper_note(paper),
        "further": [
            (id, found)
            for id, found in (("tofu", tofu_table(record)), ("utility", utility_table(record)))
            if found.rows
        ],
        "attack_score": (
            "ROUGE-L recall of the written answers (accuracy where the attack writes none)"
            if is_tofu(record)
            else "accuracy"
        ),
        "paper_columns": tuple(zip(COLUMNS, ARROWS, strict=True)),
        "published": others(record),
    }


# --- the tables ----------------------------------------


def tables(record: RunRecord, against: str | None = None) -> list[Table]:
    """Return every table of a run: scores, differences, inside, the paper's, the published.

    Raises:
        ConfigError: The run has no method with the label `against`.
    """
    found = compare(record, against)
    ours = [_scores(record, found), _differences(record, found), _inside(record)]
    ours += [*inside_tables(record), tofu_table(record), utility_table(record), _paper(record)]
    return [table for table in ours if table.rows] + [_published(block) for block in others(record)]


def _name(row: Mapping[str, Any], record: RunRecord) -> str:
    several = len({cell.seed for cell in record.cells}) > 1
    return f"{row['method']}, seed {row['seed']}" if several else str(row["method"])


def _scores(record: RunRecord, found: list[Comparison]) -> Table:
    marks = {(c.label, c.column): MARKS[c.direction] for c in found if c.direction}
    names = columns(record)
    before = before_row(record)
    lines = []
    if before is not None:
        levels = [percent(before.get(name)) for name in names]
        lines.append([before["method"], *levels, *_moved(before), ""])
    for row, cell in zip(rows(record)["rows"], record.cells, strict=True):
        intervals = row_intervals(record, cell)
        cells = [
            _level(row[name], intervals.get(name), marks.get((row["method"], name))) for name in names
        ]
        lines.append([_name(row, record), *cells, *_moved(row), row["verdict"]])
    note = f"{_unit(record)} in %, with 95 % intervals; attack columns: highest on the common pool."
    return Table(
        "All numbers", f"{note} {MOVED} {marking(found)}".strip(), _headings(names, *KL), lines
    )


def _moved(row: Mapping[str, Any]) -> list[str]:
    return [kl(row[name], row[f"{name}_se"]) for name in ("kl", "kl_instructions")]


def _unit(record: RunRecord) -> str:
    if not is_tofu(record):
        return "Accuracies"
    return (
        "Accuracies (ROUGE columns, retraining and rounded weights: mean ROUGE-L recall of the written "
        "answers)"
    )


def _headings(names: Iterable[str], *more: str) -> list[str]:
    return ["method", *(HEADINGS.get(name, f"{name} ↓") for name in names), *more, "verdict"]


def marking(found: list[Comparison]) -> str:
    """Say what a mark beside a number means, and how many of them are expected by chance."""
    if not found:
        return ""
    return (
        f"Marked ↓ or ↑: lower or higher than {found[0].baseline}, where the 95 % interval of the "
        f"paired difference excludes 0. Of {len(found)} such comparisons about "
        f"{max(1, round(0.05 * len(found)))} would be marked by chance if no method differed."
    )


def _level(value: float | None, interval: Estimate | None, mark: str | None) -> str:
    ends = f" ({span(interval.low, interval.high)})" if interval else ""
    return f"{percent(value)}{ends}{f' {mark}' if mark else ''}"


def _differences(record: RunRecord, found: list[Comparison]) -> Table:
    names = columns(record)
    by_method: dict[str, dict[str, Comparison]] = {}
    for comparison in found:
        by_method.setdefault(comparison.label, {})[comparison.column] = comparison
    lines = [
        [label, *(_difference(cells.get(name)) for name in names)] for label, cells in by_method.items()
    ]
    base = found[0].baseline if found else ""
    note = (
        "Percentage points with 95 % intervals from a bootstrap paired by fact, clustered by entity "
        "and crossed over seeds; attacks: each method at its own strongest point. Marked where the "
        "interval excludes 0. Levels after attack compare only at equal retention."
    )
    return Table(f"Differences to {base}", note, _headings(names)[:-1], lines)


def _difference(comparison: Comparison | None) -> str:
    if comparison is None:
        return DASH
    value, low, high = comparison.difference
    mark = f" {MARKS[comparison.direction]}" if comparison.direction else ""
    return f"{points(value)} ({points(low)} to {points(high)}){mark}"


def _inside(record: RunRecord) -> Table:
    fills: dict[str, Callable[[dict[str, Any]], str]] = {
        "log p forget": lambda row: nats(row["forget_logprob"]),
        "log p retain": lambda row: nats(row["retain_logprob"]),
        "log p held-out": lambda row: nats(row["heldout_logprob"]),
        "pool": lambda row: short(row["pool"]),
        "D+ top 100": lambda row: short(row["d_plus_100"]),
        "D− top 100": lambda row: short(row["d_minus_100"]),
        "hide ratio": lambda row: DASH if row["hide_ratio"] is None else f"{row['hide_ratio']:.2f}",
        "steps": lambda row: short(row["steps"]),
        "seconds": lambda row: short(row["seconds"]),
    }
    lines = [
        [_name(row, record), *(fill(row) for fill in fills.values())] for row in rows(record)["rows"]
    ]
    note = "Log-probabilities in nats; D+ and D−: attribution target log-probability."
    return Table("Inside and cost", note, ["method", *fills], lines)


TOFU: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "forget_quality": ("forget quality ↑", short),
    "model_utility": ("model utility ↑", percent),
    "model_utility_geometric": ("the same, geometric ↑", percent),
    "privleak": (
        "PrivLeak → 0",
        lambda value: DASH if value is None else f"{value:.1f}".replace("-", "−"),
    ),
    "forget_probability": ("forget: probability ↓", percent),
    "forget_rouge": ("ROUGE-L ↓", percent),
    "forget_truth_ratio": ("truth ratio ↑", percent),
    "forget_truth_ratio_geometric": ("the same, geometric ↑", percent),
    "extraction_strength": ("extraction strength ↓", percent),
    "exact_memorisation": ("exact memorisation ↓", percent),
}
TOFU_NOTE = (
    "In %, but for forget quality: the p-value of a test against the never-learned control (above "
    "0.05: not told apart), and PrivLeak: 0 as if never learned, below 0 the forget set still looks"
    " trained on. Utility is the harmonic mean of probability, ROUGE-L and truth ratio on the "
    "retain set, real authors and world facts. Probabilities and truth ratios count the end token; "
    "the truth ratio averages the wrong answers' probabilities, as TOFU does, the geometric one "
    "their logarithms, as OpenUnlearning and forget quality do."
)
TOFU_BEFORE = (
    " This run was scored before ssiuu counted the end token, and its truth ratios are all "
    "geometric: its numbers do not compare with later ones."
)


def tofu_table(record: RunRecord) -> Table:
    """Return what TOFU reports of each model, one row a model; no rows for other benchmarks."""
    if not is_tofu(record):
        return Table("TOFU's numbers", "", [], [])
    models = [(_label(record, cell), cell) for cell in record.cells if cell.evaluation]
    if record.original and record.cells:
        before = {"evaluation": record.original, "attacks": []}
        models.insert(0, (ORIGINAL, record.cells[0].model_copy(update=before)))
    found = [(label, tofu_columns(record, cell)) for label, cell in models]
    lines = [[label, *(form(row[key]) for key, (_, form) in TOFU.items())] for label, row in found]
    note = TOFU_NOTE + (TOFU_BEFORE if record.header.benchmark.version == "1" else "")
    return Table("TOFU's numbers", note, ["method", *(name for name, _ in TOFU.values())], lines)


def utility_table(record: RunRecord) -> Table:
    """Return the accuracies on the public tasks, one row a model; no rows where none were asked."""
    names = task_names(record)
    models = [(ORIGINAL, record.original)] if record.original else []
    models += [(_label(record, cell), cell.evaluation) for cell in record.cells if cell.evaluation]
    lines = [
        [label, *(_task(scores.utility.get(name)) for name in names), _mean(scores)]
        for label, scores in models
    ]
    note = (
        "Accuracies in % on public tasks, by lm-eval with its own prompts and examples, with 95 % "
        "intervals; mean: over the tasks, US in the paper's columns."
    )
    return Table("Utility", note, ["method", *names, "mean"], lines if names else [])


def _label(record: RunRecord, cell: Cell) -> str:
    return _name({"method": cell.method.label, "seed": cell.seed}, record)


def _task(score: TaskScore | None) -> str:
    if score is None:
        return DASH
    found = wilson(round(score.accuracy * score.items), score.items)
    return f"{percent(score.accuracy)} ({span(found.low, found.high)})"


def _mean(scores: Evaluation) -> str:
    found = task_mean([scores.utility])
    return _level(found.value if found else None, found, None)


def inside_tables(record: RunRecord) -> list[Table]:
    """Return the tables of the look inside that have rows: two attributions, what predicts recovery."""
    return [
        table for table in (_attributions(record), _predictions(prediction([record]))) if table.rows
    ]


def _attributions(record: RunRecord) -> Table:
    lines = []
    facts = 0
    for (label, seed), both in attributed_twice(record).items():
        sides, facts = (both.gradient, both.integrated), len(both.gradient.facts)
        gap = both.integrated.completeness_gap
        lines.append(
            [
                _name({"method": label, "seed": seed}, record),
                *(short(side.d_plus_all) for side in sides),
                *(short(side.d_minus_all) for side in sides),
                *(DASH if side.hide_ratio is None else f"{side.hide_ratio:.2f}" for side in sides),
                f"{percent(gap)} %" if gap is not None else DASH,
            ]
        )
    note = (
        f"Over the same {facts} facts, sums over all neurons, target log-probability; gradient: "
        "gradient × activation; integrated: integrated gradients, a block at a time. Gap: what these "
        f"leave unexplained of what the blocks are worth. {conclusion(record)}"
    )
    names = [
        f"{what}, {by}" for what in ("D+", "D−", "hide ratio") for by in ("gradient", "integrated")
    ]
    return Table("D+ and D− by two attributions", note, ["method", *names, "gap"], lines)


def _predictions(found: list[Prediction]) -> Table:
    """Return a row a measure; none where no measure has enough cells."""
    by_measure: dict[str, list[Prediction]] = {}
    for one in found:
        by_measure.setdefault(one.measure, []).append(one)
    lines = [
        [measure, *map(_correlation, pair), str(pair[0].cells), str(pair[0].methods)]
        for measure, pair in by_measure.items()
        if pair[0].cells >= CELLS
    ]
    sure = [f"{one.measure} ({one.outcome})" for one in found if one.predicts]
    said = f"Excludes 0: {', '.join(sure)}." if sure else "No measure's interval excludes 0."
    note = (
        "Rank correlation over cells (method and seed) of what was measured right after unlearning "
        "with what the strongest attacker then gets on the common pool: recovery, its level less the "
        "level before the attack, and the level itself. Intervals, 95 %: bootstrap over methods with "
        "all their seeds; with fewer than six methods they always hold 0. Where one holds 0, the "
        f"measure was not shown to predict anything. {said}"
    )
    headings = ["measure", "with recovery", "with level", "cells", "methods"]
    return Table("What the diagnosis predicts", note, headings, lines)


def _correlation(found: Prediction) -> str:
    if found.correlation is None:
        return DASH
    value, low, high = (f"{number:+.2f}".replace("-", "−") for number in found.correlation)
    return f"{value} ({low} to {high}){'' if found.predicts else ', holds 0'}"


def _paper(record: RunRecord) -> Table:
    table = paper_table(record)
    lines = []
    for row in table.rows:
        numbers = row.published or (None,) * len(COLUMNS)
        cells = [
            _level(estimate.value if estimate else None, estimate, None)
            + (f" / {_number(number)}" if table.same else "")
            for estimate, number in zip(row.ours, numbers, strict=True)
        ]
        lines.append([row.label, *cells])
    beside = f" After the slash: published ({table.same.model}), same cell." if table.same else ""
    return Table("In the paper's columns", f"{paper_note(table)}{beside}", _paper_headings(), lines)


def paper_note(table: PaperTable) -> str:
    """Say what the paper's columns are."""
    return (
        f"{table.title}: {table.score} in %, means over seeds. FS forget score, RS held-out, US "
        f"{table.utility}, then the highest after each attack on the {table.pool}."
    )


def _published(block: Published) -> Table:
    lines = [[name, *(_number(number) for number in row)] for name, row in block.rows.items()]
    return Table(
        f"Published, not comparable: {block.benchmark} on {block.model}",
        f"Reported by the paper ({block.table}, {block.score}); another model, benchmark or protocol "
        "than this run's.",
        _paper_headings(),
        lines,
    )


def _paper_headings() -> list[str]:
    return ["method", *(f"{name} {arrow}" for name, arrow in zip(COLUMNS, ARROWS, strict=True))]


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}"


# --- the formats ----------------------------------------


def markdown(record: RunRecord, against: str | None = None) -> str:
    """Return all tables as Markdown."""
    return "\n".join(_markdown(table) for table in tables(record, against))


def _markdown(table: Table) -> str:
    lines = [table.headings, *table.rows]
    body = [f"| {' | '.join(escape_markdown(cell) for cell in line)} |" for line in lines]
    rule = "|".join(["", ":--", *["--:"] * (len(table.headings) - 1), ""])
    return "\n".join(
        [
            f"### {escape_markdown(table.title)}",
            "",
            body[0],
            rule,
            *body[1:],
            "",
            escape_markdown(table.note),
            "",
        ]
    )


def escape_markdown(text: str) -> str:
    """Return the text so that Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#~&$])", r"\\\1", plain(text))


def latex(record: RunRecord, against: str | None = None) -> str:
    """Return all tables as LaTeX for booktabs."""
    head = "% \\usepackage{booktabs}\n"
    return head + "\n".join(_latex(table) for table in tables(record, against))


def _latex(table: Table) -> str:
    lines = [f"{' & '.join(escape_latex(cell) for cell in line)} \\\\" for line in table.rows]
    heading = " & ".join(escape_latex(cell) for cell in table.headings)
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering\\footnotesize",
            f"\\caption{{{escape_latex(table.title)}. {escape_latex(table.note)}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(table.headings) - 1)}}}",
            "\\toprule",
            f"{heading} \\\\",
            "\\midrule",
            *lines,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
            "",
        ]
    )


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "−": "$-$",
    "∞": r"$\infty$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
} | {char: f"\\{char}" for char in "{}$&#_%"}


def escape_latex(text: str) -> str:
    """Return the text so that LaTeX prints it as it is."""
    return "".join(LATEX.get(char, char) for char in plain(text))


def comma_separated(record: RunRecord, against: str | None = None) -> str:
    """Return the rows as CSV, shares in [0, 1]; an empty field was not measured.

    Beside a score: `_low`, `_high` of its interval, `_difference` to the baseline with its own
    `_difference_low`, `_difference_high`.
    """
    found = data(record, against)
    differences = {(c["method"], c["score"]): c for c in found["comparisons"]}
    lines = []
    for row in found["rows"]:
        intervals = row.pop("intervals")
        line = {**row}
        for name in columns(record):
            line[f"{name}_low"], line[f"{name}_high"] = intervals.get(name, (None, None))
            comparison = differences.get((row["method"], name), {})
            line[f"{name}_difference"] = comparison.get("difference")
            line[f"{name}_difference_low"] = comparison.get("low")
            line[f"{name}_difference_high"] = comparison.get("high")
        lines.append(line)
    return csv_text(list(lines[0]) if lines else [], (list(line.values()) for line in lines))


def csv_text(heading: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Return CSV whose texts no spreadsheet takes for formulas."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow([escape_csv(name) for name in heading])
    writer.writerows([escape_csv(value) for value in line] for line in lines)
    return target.getvalue()


def escape_csv(value: Any) -> Any:
    """Return text so that no spreadsheet takes it for a formula; numbers stay as they are."""
    if isinstance(value, str):
        text = plain(value)
        return f"'{text}" if text[:1] in {"=", "+", "-", "@"} else text
    return value


FORMATS: dict[str, Callable[[RunRecord, str | None], str]] = {
    "md": markdown,
    "csv": comma_separated,
    "latex": latex,
    "json": lambda record, against: dump_json(data(record, against)) + "\n",
}
