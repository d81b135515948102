"""The tables of a run as headings and rows of cells; page, Markdown and LaTeX write the same ones.

    for table in column_tables(record, compare(record)):
        print(table.title, [heading.text for heading in table.headings])

Which columns there are, what they are called and how they are read stands in `ssiuu.analysis.columns`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

from ssiuu.analysis.column import Column, Model
from ssiuu.analysis.columns import INSIDE, MAIN, TABLES, columns, compared, models, shown
from ssiuu.analysis.comparisons import Comparison, interval
from ssiuu.analysis.divergence import DAMAGED, WORDS
from ssiuu.analysis.published import COLUMNS, Published, paper_table
from ssiuu.analysis.scores import score_of
from ssiuu.records.schema import RunRecord
from ssiuu.report.text import (
    DASH,
    attack_units,
    failures,
    kl,
    named,
    percent,
    points,
    ratio,
    span,
    written,
)
from ssiuu.statistics import Estimate

MARKS = {"lower": "↓", "higher": "↑"}
ORIGINS = {
    "paper": "the Ssiuu paper",
    "literature": "literature",
    "ours": "this project",
    "control": "control",
    "given": "given",
}
NOTES = {
    "Utility": "Accuracies in % on public tasks, by lm-eval with its own prompts and examples, with "
    "95 % intervals; utility: their mean, US in the paper's columns.",
    "The strongest attacker": "The attack, what it trains and the learning rate with the highest "
    "level, each curve's highest point averaged over the attack's seeds. Way back: how far from the "
    "unlearned model to the original. Over control: above the never-learned model under the same "
    "attack, above guessing where there is none.",
    INSIDE: "Log-probabilities in nats; D+ and D−: attribution target log-probability.",
}


class Entry(NamedTuple):
    """One value as text.

    `error`: half its 95 % interval; `ends`: the interval's ends; `compared`: with the baseline, where
    it was; `beside`: what the page shows below it, each with what it is; `published`: the paper's.
    """

    text: str
    error: str = ""
    ends: str = ""
    compared: Comparison | None = None
    beside: tuple[tuple[str, str], ...] = ()
    published: str = ""

    def __str__(self) -> str:
        """Return all of it on one line, but for what stands beside it."""
        parts = [self.text, self.error, f"({self.ends})" if self.ends else ""]
        if self.compared and self.compared.direction:
            parts.append(MARKS[self.compared.direction])
        return " ".join(part for part in parts if part) + (
            f" / {self.published}" if self.published else ""
        )


class Heading(NamedTuple):
    """What stands over a column; `key` names it in the page, `group` the columns it stands with."""

    text: str
    key: str = ""
    group: str = ""
    words: bool = False


class Row(NamedTuple):
    """A row: what it is about, a remark on that, and its cells."""

    name: str
    cells: Sequence[Entry]
    remark: str = ""
    reference: bool = False


class Table(NamedTuple):
    """A table; over its first column stands `first`, over its cells `headings`."""

    title: str
    note: str
    headings: Sequence[Heading]
    rows: Sequence[Row]
    first: str = "method"

    @property
    def lines(self) -> list[list[str]]:
        """Headings and rows as texts."""
        headings = [self.first, *(heading.text for heading in self.headings)]
        return [headings, *([row.name, *map(str, row.cells)] for row in self.rows)]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The groups of columns that stand together, each with its number of columns."""
        runs = groupby(heading.group for heading in self.headings)
        return [(group, len(list(columns))) for group, columns in runs]

    @property
    def edges(self) -> set[int]:
        """The columns with a line before them: the first of a group, or all where there is but one."""
        counts = [count for _, count in self.groups]
        return {0, *accumulate(counts)} if len(counts) > 1 else set(range(len(self.headings)))


# --- of the columns ----------------------------------------


def column_tables(
    record: RunRecord, comparisons: Sequence[Comparison], joined: bool = False
) -> list[Table]:
    """Return the tables of a run's columns, the main one first.

    Args:
        record: The run.
        comparisons: Comparisons with the baseline.
        joined: What is inside stands in the main table, and what belongs beside a value below it.
    """
    titles: dict[str, list[Column]] = {MAIN: []}
    for column in shown(record):
        title = TABLES.get(column.group, column.group)
        if not (joined and column.beside):
            titles.setdefault(MAIN if joined and title == INSIDE else title, []).append(column)
    notes = {MAIN: main_note(record, comparisons), **NOTES, **score_of(record).notes(record)}
    members = (a.note for cell in record.cells for a in cell.attacks if a.values)
    notes["Membership inference"] = f"{next(members, '')}. AUC of each score; 0.5: not told apart."
    return [
        column_table(record, title, notes.get(title, ""), group, comparisons)
        for title, group in titles.items()
    ]


def column_table(
    record: RunRecord,
    title: str,
    note: str,
    group: Sequence[Column],
    comparisons: Iterable[Comparison] = (),
) -> Table:
    """Return a table of some columns, a row a model that has a value in one of them."""
    marks = {(comparison.label, comparison.column): comparison for comparison in comparisons}
    every = columns(record)
    rows = [
        Row(
            named(model),
            [
                _cell(model, column, every, marks.get((model.cell.method.label, column.key)))
                for column in group
            ],
            record.header.model.name if model.before else ORIGINS[model.cell.method.origin],
            model.before,
        )
        for model in models(record)
        if any(column.read(model) is not None for column in group)
    ]
    headings = [Heading(c.title, c.key, c.group, c.form == "words") for c in group]
    return Table(title, note, headings, rows)


def _cell(
    model: Model, column: Column, every: Sequence[Column], comparison: Comparison | None
) -> Entry:
    text, error = written(column, model), ""
    for other in every:
        if other.key == column.error:
            # As it is written: the value, a blank, and the sign with half its interval.
            text, _, error = kl(column.read(model), other.read(model)).partition(" ")
    ends = None if model.before else interval(model, column)
    beside = ((other.heading, written(other, model)) for other in every if other.beside == column.key)
    return Entry(text, error, _ends(column, ends) if ends else "", comparison, tuple(beside))


def _ends(column: Column, estimate: Estimate) -> str:
    if column.form == "share":
        return span(estimate.low, estimate.high)
    return f"{ratio(estimate.low)} to {ratio(estimate.high)}"


def main_note(record: RunRecord, comparisons: Sequence[Comparison]) -> str:
    """Say what the numbers of the main table are."""
    moved = (
        "KL: from the original's predictions to this model's, nats a token, on plain text and on "
        f"answers to instructions{_texts(record)}, ± half its 95 % interval; above {DAMAGED} on plain "
        f"text: {WORDS}. PPL: perplexity on the same."
    )
    shares = "Shares in %, with 95 % intervals"
    attacks = f"attack columns: highest on the common pool, {attack_units(record)}"
    broken = [f"{sentence} " for sentence in failures(record)]
    return f"{''.join(broken)}{shares}; {attacks}. {moved} {marking(comparisons)}".strip()


def _texts(record: RunRecord) -> str:
    """Say how much text a divergence is over; nothing where none was scored."""
    scored = [cell.evaluation.divergence for cell in record.cells if cell.evaluation]
    first = next((divergence for divergence in scored if divergence), None)
    if first is None:
        return ""
    instructions = f" and {first.instruction_rows} instructions" if first.instruction_rows else ""
    return f" ({first.rows} texts of {first.tokens} tokens{instructions}, version {first.text_version})"


def marking(comparisons: Sequence[Comparison]) -> str:
    """Say what a mark beside a number means, and how many of them are expected by chance."""
    if not comparisons:
        return ""
    return (
        f"Marked ↓ or ↑: lower or higher than {comparisons[0].baseline}, where the 95 % interval of "
        f"the paired difference excludes 0. Of {len(comparisons)} such comparisons about "
        f"{max(1, round(0.05 * len(comparisons)))} would be marked by chance if no method differed."
    )


def differences(record: RunRecord, comparisons: Sequence[Comparison]) -> Table:
    """Return what each method scores less the baseline, in percentage points."""
    by_method: dict[str, dict[str, Comparison]] = {}
    for comparison in comparisons:
        by_method.setdefault(comparison.label, {})[comparison.column] = comparison
    group = compared(record)
    rows = [
        Row(label, [_difference(cells.get(column.key)) for column in group])
        for label, cells in by_method.items()
    ]
    note = (
        "Percentage points with 95 % intervals from a bootstrap paired by fact, clustered by entity "
        "and crossed over seeds; attacks: each method at its own strongest point. Marked where the "
        "interval excludes 0. Levels after attack compare only at equal retention."
    )
    base = comparisons[0].baseline if comparisons else ""
    headings = [Heading(column.title, column.key) for column in group]
    return Table(f"Differences to {base}", note, headings, rows)


def _difference(comparison: Comparison | None) -> Entry:
    if comparison is None:
        return Entry(DASH)
    value, low, high = comparison.difference
    return Entry(points(value), ends=f"{points(low)} to {points(high)}", compared=comparison)


# --- of the paper ----------------------------------------


def paper(record: RunRecord) -> Table:
    """Return the run in the paper's columns, beside the paper's numbers where the cell is the same."""
    table = paper_table(record)
    rows = [
        Row(
            row.label,
            [
                _ours(estimate, number if table.same else None, bool(row.published))
                for estimate, number in zip(row.ours, row.published or EMPTY, strict=True)
            ],
        )
        for row in table.rows
    ]
    kind = table.kind
    whose = f"As the paper's {kind.name}: {kind.unit}"
    if record.header.score not in kind.scores:
        whose = f"By this run's own score, which the paper has not: {score_of(record).scale.unit}"
    note = (
        f"{whose} in %, means over seeds. FS forget score, RS "
        f"held-out, US {kind.utility}, then the highest after each attack on the {table.pool}."
    )
    if table.same:
        note += f" After the slash: published ({table.same.model}), same cell."
    return Table("In the paper's columns", note, PAPER, rows)


def published(block: Published) -> Table:
    """Return a block of the paper's that does not belong beside this run."""
    rows = [Row(name, cells(map(_number, row))) for name, row in block.rows.items()]
    return Table(
        f"Published, not comparable: {block.benchmark} on {block.model}",
        f"Reported by the paper ({block.table}, {block.score}); another model, benchmark or protocol "
        "than this run's.",
        PAPER,
        rows,
    )


def _ours(estimate: Estimate | None, number: float | None, beside: bool) -> Entry:
    text, ends = (
        (percent(estimate.value), span(estimate.low, estimate.high)) if estimate else (DASH, "")
    )
    return Entry(text, ends=ends, published=_number(number) if beside else "")


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}"


def cells(texts: Iterable[str]) -> list[Entry]:
    """Return cells of plain texts."""
    return [Entry(text) for text in texts]


def headings_of(texts: Iterable[str]) -> list[Heading]:
    """Return headings of plain texts."""
    return [Heading(text) for text in texts]


PAPER = headings_of(f"{column.heading} {MARKS[column.direction]}" for column in COLUMNS)
EMPTY: tuple[None, ...] = (None,) * len(COLUMNS)
