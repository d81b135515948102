"""The front: what comes back after attacks against what was kept, and who is not beaten in both."""

from __future__ import annotations

from bisect import bisect_right
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
    found = layers(points_of(ground, kept))
    return [member for member in ground.members if found.get(member.name) == 0]


def points_of(ground: Ground, kept: Column) -> dict[str, tuple[float, float]]:
    """Return of every method that has both what was kept and what comes back, less being better."""
    sign = 1 if kept.direction == "lower" else -1
    return {
        member.name: (sign * x, y)
        for member in ground.members
        if not member.control
        and (x := member.read(kept)) is not None
        and (y := member.read(ground.level)) is not None
    }


def layers(points: Mapping[str, tuple[float, float]]) -> dict[str, int]:
    """Return how often one has to take away what nobody beats in both numbers, until it is the turn of
    each; of both less is better.

    Sorted by the first number, what beats a point has come before it: it belongs to the first layer
    whose least second number is above its own.
    """
    lowest: list[float] = []
    found: dict[tuple[float, float], int] = {}
    for point in sorted({*points.values()}):
        layer = bisect_right(lowest, point[1])
        lowest[layer : layer + 1] = [point[1]]
        found[point] = layer
    return {name: found[point] for name, point in points.items()}
