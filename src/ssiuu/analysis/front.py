"""The front: what comes back after attacks against what was kept, and who is not beaten in both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ssiuu.analysis.across import KL, Ground, Member
from ssiuu.analysis.column import Column
from ssiuu.analysis.columns import columns
from ssiuu.analysis.scores import score_of
from ssiuu.errors import ConfigError, unknown
from ssiuu.records.schema import RunRecord


def axis(ground: Ground, against: str | None = None) -> Column:
    """Return the column that the highest level is drawn against.

    Args:
        ground: What compares.
        against: Key of a column of numbers with a wanted direction; None: KL on plain text where all
            attacked models have it, else what the score says is kept.

    Raises:
        ConfigError: There is no such column.
    """
    kinds = axes(ground.columns)
    if against is not None:
        return _named(kinds, against)
    attacked_ones = [e for e in ground.members if not e.control and e.read(ground.level) is not None]
    moved = attacked_ones and all(e.read(kinds[KL]) is not None for e in attacked_ones)
    return kinds[KL if moved else ground.score.kept]


def axes(columns: Iterable[Column]) -> dict[str, Column]:
    """Return the columns that a level may be drawn against, by key."""
    return {c.key: c for c in columns if c.direction and c.form != "words"}


def _named(kinds: Mapping[str, Column], against: str) -> Column:
    if against not in kinds:
        raise ConfigError(unknown("column", against, kinds, "--against"))
    return kinds[against]


def axes_of(record: RunRecord, against: str | None = None) -> list[Column]:
    """Return what a run's level after attack is drawn against: one axis, and then both measures of what
    was kept, each once.

    Args:
        record: The run.
        against: As for `axis`; None: KL.

    Raises:
        ConfigError: There is no such column.
    """
    kinds = axes(columns(record))
    first = [] if against is None else [_named(kinds, against)]
    both = [kinds[key] for key in (KL, score_of(record).kept) if key in kinds]
    return [*first, *(column for column in both if column not in first)]


def front(ground: Ground, kept: Column) -> list[Member]:
    """Return the methods that no other one beats in both: what was kept, and what comes back."""
    sign = 1 if kept.direction == "lower" else -1
    points = {
        member.name: (sign * x, y)
        for member in ground.members
        if not member.control
        and (x := member.read(kept)) is not None
        and (y := member.read(ground.level)) is not None
    }

    def beaten(point: tuple[float, float]) -> bool:
        return any(o[0] <= point[0] and o[1] <= point[1] and o != point for o in points.values())

    return [e for e in ground.members if e.name in points and not beaten(points[e.name])]
