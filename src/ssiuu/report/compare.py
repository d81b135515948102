"""Several runs side by side as tables, in every format; as a page: `ssiuu.report.compare_page`.

    print(COMPARED["md"](grounds(runs)))

Nothing is averaged over what does not compare: that has a table of its own for each ground.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Sequence
from typing import Any

from ssiuu.analysis.across import LEVEL, Ground, Member, apart
from ssiuu.analysis.column import Column
from ssiuu.analysis.front import axis, front
from ssiuu.report.formats import (
    BOOKTABS,
    csv_text,
    escape_latex,
    escape_markdown,
    latex_table,
    markdown_table,
)
from ssiuu.report.tables import Entry, Heading, Row, Table
from ssiuu.report.text import DASH, FORMS, WIDTH, block_table, kl, plain, span

MAIN = (
    "verdict",
    "strongest",
    LEVEL,
    "recovery",
    "retain",
    "kl",
    "kl_instructions",
    "kept",
    "perplexity",
)
LEFT_OUT = ("Inside", "Membership inference")  # groups that say nothing of what was kept or came back
NOTE = (
    "Means over seeds. After attack: the highest level of the attacks that all of these models met, "
    "with its 95 % interval; recovery: that less the level before the attack. Front: no other method "
    "is better in both, what comes back and {kept}. Compare levels only at equal retention."
)


def remarks(grounds: Sequence[Ground]) -> list[str]:
    """Say all that does not compare: ground by ground, then within each."""
    several = len(grounds) > 1
    return [
        *apart(grounds),
        *(f"{g.name}: {remark}" if several else remark for g in grounds for remark in g.remarks),
    ]


def tables(grounds: Sequence[Ground], against: str | None = None) -> list[Table]:
    """Return every table: of all grounds where there are several, then two of each.

    Raises:
        ConfigError: A ground has no column `against`.
    """
    first = [matrix(grounds, against)] if len(grounds) > 1 else []
    each = [
        table for ground in grounds for table in (main_table(ground, against), rest(ground, against))
    ]
    return [table for table in [*first, *each] if table.rows]


def matrix(grounds: Sequence[Ground], against: str | None = None) -> Table:
    """Return every method on every ground: what was kept, and the highest level after attack."""
    columns = [
        (ground, column) for ground in grounds for column in (axis(ground, against), ground.level)
    ]
    members = {(g.name, member.name): member for g in grounds for member in g.members}
    names = dict.fromkeys(member.name for g in grounds for member in g.members if not member.before)
    rows = [
        Row(name, [_value(members.get((ground.name, name)), ground, c) for ground, c in columns])
        for name in names
    ]
    headings = [Heading(_heading(column), column.key, ground.name) for ground, column in columns]
    note = "What was kept, and the highest level after attack; numbers of two groups do not compare."
    return Table("Every method on everything", note, headings, rows)


def main_table(ground: Ground, against: str | None = None) -> Table:
    """Return what came back and what was kept of every model of a ground."""
    kept = axis(ground, against)
    wanted = dict.fromkeys([*MAIN[:4], ground.score.forget, kept.key, ground.score.kept, *MAIN[4:]])
    shown = {column.key: column for column in ground.shown if not column.beside}
    columns = [shown[key] for key in wanted if key in shown]
    best = {member.name for member in front(ground, kept)}
    rows = [
        Row(
            member.name,
            [
                *(_value(member, ground, column) for column in columns),
                Entry("yes" if member.name in best else DASH),
                Entry(DASH if member.before else str(len(member.models))),
            ],
            "" if member.before else ", ".join(member.runs),
            member.before,
        )
        for member in ground.members
    ]
    headings = [Heading(_heading(c), c.key, words=c.form == "words") for c in columns]
    note = NOTE.format(kept=kept.heading)
    return Table(ground.name, note, [*headings, Heading("front"), Heading("seeds")], rows)


def rest(ground: Ground, against: str | None = None) -> Table:
    """Return the further numbers of a ground, attack by attack among them."""
    above = {heading.key for heading in main_table(ground, against).headings}
    columns = [
        column
        for column in ground.shown
        if column.key not in above and column.group not in LEFT_OUT and not column.beside
    ]
    rows = [
        Row(member.name, [_value(member, ground, c) for c in columns], reference=member.before)
        for member in ground.members
        if columns
    ]
    headings = [Heading(c.title, c.key, c.group, c.form == "words") for c in columns]
    return Table(f"{ground.name}: further numbers", "", headings, rows)


def _heading(column: Column) -> str:
    return "after attack ↓" if column.key == LEVEL else column.title


def _value(member: Member | None, ground: Ground, column: Column) -> Entry:
    """Return a member's value, with its interval where it is the highest level."""
    value = member.read(column) if member else None
    if member is None or value is None:
        return Entry(DASH)
    if column.error and len(member.models) == 1:
        text, _, error = kl(value, member.read(ground.column(column.error))).partition(" ")
        return Entry(text, error)
    found = ground.highest(member) if column.key == LEVEL and column.form == "share" else None
    return Entry(FORMS[column.form](value), ends=span(found.low, found.high) if found else "")


# --- formats ----------------------------------------


def text(grounds: Sequence[Ground], against: str | None = None, width: int = WIDTH) -> str:
    """Return the main tables for a terminal, at most so many columns wide."""
    first = [named_groups(matrix(grounds, against))] if len(grounds) > 1 else []
    parts = [*first, *(main_table(ground, against) for ground in grounds)]
    said = [textwrap.fill(plain(remark), width) for remark in remarks(grounds)]
    tables = [block_table(table.title, *table.lines, width=width) for table in parts]
    return "\n".join([*tables, *said]) + "\n"


def markdown(grounds: Sequence[Ground], against: str | None = None) -> str:
    """Return all tables as Markdown, below what does not compare."""
    said = [escape_markdown(remark) + "\n" for remark in remarks(grounds)]
    return "\n".join([*said, *(markdown_table(t) for t in _whole(grounds, against))])


def latex(grounds: Sequence[Ground], against: str | None = None) -> str:
    """Return all tables as LaTeX for booktabs, below what does not compare."""
    said = [escape_latex(remark) + "\n" for remark in remarks(grounds)]
    return BOOKTABS + "\n".join([*said, *(latex_table(t) for t in _whole(grounds, against))])


def _whole(grounds: Sequence[Ground], against: str | None) -> list[Table]:
    every = tables(grounds, against)
    return [named_groups(table) if len(grounds) > 1 and table is every[0] else table for table in every]


def named_groups(table: Table) -> Table:
    """Return a table whose headings hold the names of their groups."""
    headings = [heading._replace(text=f"{heading.group}: {heading.text}") for heading in table.headings]
    return table._replace(headings=headings)


def comma_separated(grounds: Sequence[Ground], against: str | None = None) -> str:
    """Return one table of all grounds as CSV, shares in [0, 1]; an empty field was not measured.

    Rows with equal `ground` compare, and no others. An empty field of a ground that has no such column
    at all is one too.
    """
    best = [{member.name for member in front(g, axis(g, against))} for g in grounds]
    pairs = zip(grounds, best, strict=True)
    lines = [_line(ground, member, names) for ground, names in pairs for member in ground.members]
    heading = list(dict.fromkeys(key for line in lines for key in line))
    return csv_text(heading, ([line.get(key) for key in heading] for line in lines))


def _line(ground: Ground, member: Member, best: Collection[str]) -> dict[str, Any]:
    header, highest = next(iter(ground.headers.values())), ground.highest(member)
    return {
        "ground": ground.name,
        "benchmark": header.benchmark.name,
        "benchmark_version": header.benchmark.version,
        "benchmark_fingerprint": header.benchmark.fingerprint,
        "facts": ground.key.facts,
        "model": header.model.name,
        "model_fingerprint": header.model.fingerprint,
        "method": member.name,
        "origin": member.models[0].cell.method.origin,
        "runs": " ".join(member.runs),
        "seeds": None if member.before else len(member.models),
        "front": member.name in best,
        **{column.key: member.read(column) for column in ground.columns},
        f"{LEVEL}_low": highest.low if highest else None,
        f"{LEVEL}_high": highest.high if highest else None,
    }


COMPARED: dict[str, Callable[[Sequence[Ground], str | None], str]] = {
    "text": text,
    "md": markdown,
    "csv": comma_separated,
    "latex": latex,
}
