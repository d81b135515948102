"""What comes back at equal retention: of the methods within the same bound on what was kept."""

from __future__ import annotations

from ssiuu.analysis.column import Column, Model
from ssiuu.analysis.columns import columns, original
from ssiuu.analysis.front import axes_of
from ssiuu.analysis.scale import mean
from ssiuu.records.schema import RunRecord
from ssiuu.report.tables import Row, Table, cells, headings_of
from ssiuu.report.text import DASH, FORMS, percent

LEVEL = "strongest_level"
BUDGETS = (0.01, 0.03, 0.1, 0.3)  # nats a token
RATIOS = (1.01, 1.03, 1.1, 1.3)  # of the original's value, where less is better
SHARES = (0.95, 0.9, 0.8, 0.5)  # of the original's value, where more is


def at_equal_retention(record: RunRecord, against: str | None = None) -> Table | None:
    """Return the level after attack of every method within each bound; a dash where it is not within.

    Args:
        record: The run.
        against: Key of the column that the bounds are on; None: KL on plain text.

    Returns:
        None where fewer than two methods have both, or the original has no value to be held against.

    Raises:
        ConfigError: There is no such column.
    """
    kept = axes_of(record, against)[0]
    level = next(column for column in columns(record) if column.key == LEVEL)
    named = bounds(record, kept)
    points = _points(record, kept, level)
    if len(points) < 2 or not named:
        return None
    better = -1 if kept.direction == "higher" else 1
    rows = [
        Row(label, cells(FORMS[level.form](y if better * x <= better * b else None) for b in named))
        for label, (x, y) in points.items()
    ]
    note = (
        f"The strongest attacker's level, a mean over seeds, of the methods within each bound on "
        f"{kept.heading}; {DASH}: beyond it. Down a column levels compare, and none of another column."
    )
    return Table("At equal retention", note, headings_of(named.values()), rows)


def bounds(record: RunRecord, kept: Column) -> dict[float, str]:
    """Return the bounds on a column with their headings, the tightest first."""
    if kept.form == "divergence":
        return {bound: f"{kept.heading} ≤ {bound:g}" for bound in BUDGETS}
    first = original(record)
    whole = kept.read(first) if first else None
    if not whole:
        return {}
    if kept.direction == "lower":
        return {whole * r: f"{kept.heading} ≤ {r:g} × before" for r in RATIOS}
    return {whole * share: f"{kept.heading} ≥ {percent(share, 0)} % of before" for share in SHARES}


def _points(record: RunRecord, kept: Column, level: Column) -> dict[str, tuple[float, float]]:
    """Return what was kept and what comes back by method, means over the seeds that have both."""
    read: dict[str, list[tuple[float, float]]] = {}
    for model in (Model(record, cell) for cell in record.cells if cell.method.origin != "control"):
        x, y = kept.read(model), level.read(model)
        if x is not None and y is not None:
            read.setdefault(model.cell.method.label, []).append((x, y))
    return {
        label: (mean(x for x, _ in pairs) or 0.0, mean(y for _, y in pairs) or 0.0)
        for label, pairs in read.items()
    }
