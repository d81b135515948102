"""The page of columns in the docs, from the list of columns.

python -m ssiuu.report.reference > docs/columns.md
"""

from __future__ import annotations

from collections.abc import Iterable

from ssiuu.analysis.column import Column
from ssiuu.analysis.columns import TABLES, every
from ssiuu.analysis.scale import RANKING
from ssiuu.analysis.score import ScoreColumns
from ssiuu.analysis.scores import BUILT_IN
from ssiuu.report.formats import escape_markdown

HEAD = """# The columns

Every number of a run, by the name it has in the rows (`ssiuu.rows`, CSV, JSON) and the heading it has
in terminal, page, Markdown and LaTeX. Made from `ssiuu.analysis.columns` by
`python -m ssiuu.report.reference`; what each score is stands in [scores](scores.md), what is behind an
interval in [numbers](numbers.md).

A run's tables show the columns that some model of the run has a value in; "data" marks those that stand
in CSV and JSON alone, and, where it says "beside", in the page too, small. An empty field was not
measured. With an interval: `<key>_low` and `<key>_high` in CSV; where methods are compared, also
`<key>_difference` with its own ends.
"""
UNITS = {
    "share": "share, written in %",
    "divergence": "nats a token",
    "nats": "nats",
    "gigabytes": "MB, written in GB",
    "words": "words",
}


def columns_page() -> str:
    """Return the page as Markdown."""
    standard = every(ScoreColumns(), [], {"<attack>": RANKING}, ["<task>"], ["<auc>"])
    groups = {group: [c for c in standard if c.group == group] for group in TABLES}
    parts = [HEAD, *(_section(group, members) for group, members in groups.items())]
    for score in BUILT_IN:
        if own := score().columns(["<set>"]):
            parts.append(_section(f"Score `{score.name}`", own, f"{score.summary}.\n\n"))
    return "\n".join(parts)


def _section(title: str, columns: Iterable[Column], words: str = "") -> str:
    lines = ["| heading | key | written as | interval | what it is |", "|---|---|---|---|---|"]
    return f"## {title}\n{words}" + "\n".join([*lines, *map(_line, columns), ""])


def _line(column: Column) -> str:
    place = f", beside `{column.beside}`" if column.beside else ""
    heading = escape_markdown(column.title) + ("" if column.shown else f" (data{place})")
    ends = "compared" if column.outcomes and column.shown else "yes" if column.interval else ""
    form = UNITS.get(column.form, "number")
    return f"| {heading} | `{column.key}` | {form} | {ends} | {escape_markdown(column.meaning)} |"


if __name__ == "__main__":
    print(columns_page(), end="")
