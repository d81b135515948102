"""Which models of a large run stand on its page: the rest is told of, and left out.

A page of more than `MOST` models is more than anybody reads and a browser draws. What is written for
programs (tables as CSV or JSON, `verdicts.csv`) has all of them, whatever their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from ssiuu.analysis.across import LEVEL, Ground, Member
from ssiuu.analysis.column import Column, Model
from ssiuu.analysis.columns import columns
from ssiuu.analysis.front import axes_of, axis, layers, points_of
from ssiuu.analysis.scale import mean
from ssiuu.analysis.verdict import VERDICTS, judgement
from ssiuu.records.schema import Cell, RunRecord

MOST: Final = 100  # models on a page
SEEDS: Final = 5  # of a method, where there are too many methods to show more


class Shown(NamedTuple):
    """A run with the models that its page shows.

    `left_out`: what is said of the others; "" where it has all.
    """

    record: RunRecord
    left_out: str = ""


def few(record: RunRecord, baseline: str | None = None) -> Shown:
    """Return a run as its page shows it.

    Args:
        record: The run.
        baseline: Label of a method that is shown in any case, beside the controls; None: gd.
    """
    if len(record.cells) <= MOST:
        return Shown(record)
    by_label: dict[str, list[Cell]] = {}
    for cell in record.cells:
        by_label.setdefault(cell.method.label, []).append(cell)
    seeds = max(SEEDS, MOST // len(by_label))
    kept, least = _axes(record)
    order = _order(record, by_label, baseline or "gd", (kept, least))
    cells = [cell for label in order for cell in by_label[label][:seeds]][:MOST]
    shown = {id(cell) for cell in cells}
    small = record.model_copy(update={"cells": [c for c in record.cells if id(c) in shown]})
    methods = len({cell.method.label for cell in cells})
    return Shown(small, _said(record, len(cells), methods, len(by_label), seeds, (kept, least)))


def few_members(ground: Ground, against: str | None = None) -> Ground:
    """Return what compares as a page shows it: the methods that `few` would choose, and a remark.

    Args:
        ground: What compares.
        against: Of what was kept, as for `ssiuu.analysis.front.axis`.

    Raises:
        ConfigError: There is no such column.
    """
    if len(ground.members) <= MOST:
        return ground
    kept = axis(ground, against)
    found = layers(points_of(ground, kept))

    def rank(member: Member) -> tuple[int, int]:
        if member.control:
            return 0, 0
        return (1, found[member.name]) if member.name in found else (2, 0)

    chosen = {id(member) for member in sorted(ground.members, key=rank)[:MOST]}
    members = [member for member in ground.members if id(member) in chosen]
    remark = (
        f"This page shows {MOST} of {len(ground.members):,} rows: the controls first, then the methods "
        f"that no other one beats both in {kept.heading} and in what comes back, then those that these "
        "alone beat, and so on. ssiuu compare with --format csv prints all."
    )
    return replace(ground, members=members, remarks=[*ground.remarks, remark])


def _axes(record: RunRecord) -> tuple[Column | None, Column | None]:
    """Return what was kept, and what comes back after attacks."""
    kept = next(iter(axes_of(record)), None)
    return kept, next((column for column in columns(record) if column.key == LEVEL), None)


def _order(
    record: RunRecord,
    by_label: Mapping[str, list[Cell]],
    baseline: str,
    axes: tuple[Column | None, Column | None],
) -> list[str]:
    """Return the methods: controls, the baseline, then by layer; those without both numbers last."""
    points: dict[str, tuple[float, float]] = {}
    for label, cells in by_label.items():
        x, y = (_mean(record, cells, column) for column in axes)
        if x is not None and y is not None and cells[0].method.origin != "control":
            points[label] = x, y
    found = layers(points)

    def rank(label: str) -> tuple[int, int, float]:
        if by_label[label][0].method.origin == "control":
            return 0, 0, 0.0
        if label == baseline:
            return 1, 0, 0.0
        return (2, found[label], points[label][1]) if label in found else (3, 0, 0.0)

    return sorted(by_label, key=rank)


def _mean(record: RunRecord, cells: Iterable[Cell], column: Column | None) -> float | None:
    """Return the mean over seeds, less being better."""
    if column is None:
        return None
    values = [column.read(Model(record, cell)) for cell in cells]
    sign = -1 if column.direction == "higher" else 1
    found = mean(value for value in values if value is not None)
    return None if found is None else sign * found


def _said(
    record: RunRecord,
    shown: int,
    methods: int,
    of: int,
    seeds: int,
    axes: tuple[Column | None, Column | None],
) -> str:
    """Say what is left out, by which rule, what the verdicts of all are, and where all stand."""
    total, (kept, level) = len(record.cells), axes
    words = Counter(judgement(record, cell).verdict for cell in record.cells)
    tally = ", ".join(f"{words[verdict]} {verdict}" for verdict in VERDICTS if words[verdict])
    rule = "the controls first, the baseline, then the others in their order"
    if kept and level:
        rule = (
            "the controls first, the baseline, then the methods that no other one beats both in "
            f"{kept.heading} and in {level.heading} (means over seeds), then those that these alone "
            "beat, and so on"
        )
    return (
        f"This run has {total:,} models of {of:,} methods: {tally}. This page shows {shown} of them, "
        f"of {methods} methods: {rule}; of each at most {seeds} seeds. The other {total - shown:,} are "
        "left out of everything below. verdicts.csv beside this page has the verdict on every fact of "
        "all models, and ssiuu report DIR --format csv (or json) prints the numbers of all."
    )
