"""The numbers of a run outside the page: Markdown, LaTeX, CSV, JSON. The same numbers as there.

    print(FORMATS["md"](record, "gd"))

Text that comes from a run (labels, names) is escaped for each format: Markdown's marks, LaTeX's
special characters, and in CSV a leading = + - @ that a spreadsheet would run as a formula.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from ssiuu.analysis.beside import Beside, shared
from ssiuu.analysis.column import Model
from ssiuu.analysis.columns import columns, compared
from ssiuu.analysis.comparisons import baseline, compare, row_intervals
from ssiuu.analysis.evidence import constants
from ssiuu.analysis.prediction import prediction
from ssiuu.analysis.published import others
from ssiuu.analysis.rows import rows
from ssiuu.analysis.verdict import VERDICTS
from ssiuu.records.files import dump_json
from ssiuu.records.schema import Cell, RunRecord
from ssiuu.report.answer import answer
from ssiuu.report.beside import beside_table
from ssiuu.report.equal import at_equal_retention
from ssiuu.report.inside import inside_tables
from ssiuu.report.redacted import redaction
from ssiuu.report.tables import Table, column_tables, differences, paper, published
from ssiuu.report.text import plain
from ssiuu.report.tuned import tuning
from ssiuu.report.verdicts import fact_rows, fact_tables, verdict_table


def data(
    record: RunRecord, against: str | None = None, beside: Sequence[Beside] = ()
) -> dict[str, Any]:
    """Return the table as plain data, with intervals and comparisons (shares in [0, 1]).

    Raises:
        ConfigError: The run has no method with the label `against`.
        DataError: What is to stand beside it has nothing that the run has.
    """
    base = baseline(record, against)
    table = rows(record)
    for row, cell in zip(table["rows"], record.cells, strict=True):
        intervals = row_intervals(record, cell)
        row["intervals"] = {name: [c.low, c.high] for name, c in intervals.items()}
    comparisons = [
        {
            "method": c.label,
            "score": c.column,
            "difference": c.difference.value,
            "low": c.difference.low,
            "high": c.difference.high,
            "items": c.items,
            "seeds": c.seeds,
            "differs": c.differs,
            "better": c.better,
        }
        for c in compare(record, base)
    ]
    predictions = [
        c._asdict() | {"correlation": c.correlation and c.correlation._asdict()}
        for c in prediction([record])
    ]
    described = {
        column.key: {"heading": column.heading, "form": column.form, "wanted": column.direction}
        for column in columns(record)
    }
    words = [_verdict(Model(record, cell)) for cell in record.cells]
    more: dict[str, Any] = {
        "verdicts": words,
        "comparisons": comparisons,
        "prediction": predictions,
        "columns": described,
    }
    if record.header.redacted:
        more["redacted"] = record.header.redacted
    if beside:
        shared(record, beside)
        more["beside"] = [asdict(other) for other in beside]
    return {**table, "baseline": base, **more}


def _verdict(model: Model) -> dict[str, Any]:
    """Return the verdict on a model and its facts, with the p-values and what they rest on."""
    word, judged = model.judgement, model.judgement.judged
    return {
        "method": model.cell.method.label,
        "seed": model.cell.seed,
        "verdict": word.verdict,
        "answer": " ".join(answer(word)).replace("\u00a0", " "),
        "counts": {verdict: word.count(verdict) for verdict in VERDICTS},
        "least": judged.least if judged else None,
        "most": judged.most if judged else None,
        "power": judged.power if judged else None,
        "found": judged.found if judged else None,
        "calibration": constants().version,
        "facts": fact_rows(model),
        **({"broke_off": model.cell.failed.reason} if model.cell.failed else {}),
    }


def tables(record: RunRecord, against: str | None = None, beside: Sequence[Beside] = ()) -> list[Table]:
    """Return every table of a run: verdicts, scores, differences, inside, the paper's, the published.

    Raises:
        ConfigError: The run has no method with the label `against`.
        DataError: What is to stand beside it has nothing that the run has.
    """
    comparisons = compare(record, against)
    main, *more = column_tables(record, comparisons)
    words = [verdict_table(record), *fact_tables(record)]
    scores = [main, differences(record, comparisons), *more]
    scores += [beside_table(record, beside)] if beside else []
    more = [table for table in (at_equal_retention(record), tuning(record)) if table is not None]
    every = [*words, *scores, *inside_tables(record), *more, paper(record)]
    return [table for table in every if table.rows] + [published(block) for block in others(record)]


def markdown(record: RunRecord, against: str | None = None, beside: Sequence[Beside] = ()) -> str:
    """Return all tables as Markdown."""
    said = [f"{escape_markdown(text)}\n"] if (text := redaction(record.header)) else []
    return "\n".join([*said, *map(markdown_table, tables(record, against, beside))])


def markdown_table(table: Table) -> str:
    """Return one table as Markdown."""
    lines = table.lines
    body = [f"| {' | '.join(escape_markdown(cell) for cell in line)} |" for line in lines]
    rule = "|".join(["", ":--", *["--:"] * len(table.headings), ""])
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


def latex(record: RunRecord, against: str | None = None, beside: Sequence[Beside] = ()) -> str:
    """Return all tables as LaTeX for booktabs."""
    said = f"% {plain(text)}\n" if (text := redaction(record.header)) else ""
    return BOOKTABS + said + "\n".join(map(latex_table, tables(record, against, beside)))


BOOKTABS = "% \\usepackage{booktabs}\n"


def latex_table(table: Table) -> str:
    """Return one table as LaTeX for booktabs."""
    heading, *lines = [
        f"{' & '.join(escape_latex(cell) for cell in line)} \\\\" for line in table.lines
    ]
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering\\footnotesize",
            f"\\caption{{{escape_latex(table.title)}. {escape_latex(table.note)}}}",
            f"\\begin{{tabular}}{{l{'r' * len(table.headings)}}}",
            "\\toprule",
            heading,
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


def comma_separated(
    record: RunRecord, against: str | None = None, beside: Sequence[Beside] = ()
) -> str:
    """Return the rows as CSV, shares in [0, 1]; an empty field was not measured.

    Beside a score: `_low`, `_high` of its interval, `_difference` to the baseline with its own
    `_difference_low`, `_difference_high`.
    """
    table, every = data(record, against), columns(record)
    ended = [c.key for c in every if c.interval or (c.outcomes and c.shown)]
    against_base = {column.key for column in compared(record)}
    differences = {(c["method"], c["score"]): c for c in table["comparisons"]}
    lines = []
    for row in table["rows"]:
        intervals = row.pop("intervals")
        line = {**row}
        for key in ended:
            line[f"{key}_low"], line[f"{key}_high"] = intervals.get(key, (None, None))
            if key in against_base:
                comparison = differences.get((row["method"], key), {})
                line[f"{key}_difference"] = comparison.get("difference")
                line[f"{key}_difference_low"] = comparison.get("low")
                line[f"{key}_difference_high"] = comparison.get("high")
        lines.append(line)
    for other in beside if lines else ():
        found = {c.key: other.values.get(name) for name, c in shared(record, beside).items()}
        lines.append({**dict.fromkeys(lines[0]), "method": other.name, **found})
    return csv_text(list(lines[0]) if lines else [], (list(line.values()) for line in lines))


def verdicts_csv(record: RunRecord) -> str:
    """Return the verdict on every fact of every model as CSV, with its p-values."""
    lines = [
        {"method": cell.method.label, "seed": cell.seed, **row, **_margins(cell, str(row["fact"]))}
        for cell in record.cells
        for row in fact_rows(Model(record, cell))
    ]
    return csv_text(list(lines[0]) if lines else [], (list(line.values()) for line in lines))


def _margins(cell: Cell, fact: str) -> dict[str, float | None]:
    """Return a fact's margin over the alternatives before and after unlearning, nats a token."""
    found = cell.examination
    trace = found.facts.get(fact) if found else None
    levels = (
        {place.name: level for place, level in zip(found.places, trace.margin, strict=True)}
        if found and trace
        else {}
    )
    return {f"margin_{name}": levels.get(name) for name in ("before", "after")}


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


FORMATS: dict[str, Callable[..., str]] = {
    "md": markdown,
    "csv": comma_separated,
    "latex": latex,
    "json": lambda *given: dump_json(data(*given)) + "\n",
}
