"""Intervals of a run's scores, and which methods differ from a baseline by more than noise.

    for comparison in compare(record, "gd"):
        if comparison.differs: ...

Everything is computed from the outcome of each fact, paired by fact, clustered by entity, with
unlearning seeds and attack seeds crossed (`ssiuu.statistics.bootstrap`).

For an attack the outcomes are those at its strongest point, as in the table: of all its settings
(learning rates, and what was trained) the one whose curves' highest scores over the common pool have
the highest mean over attack seeds, and on each of its curves the reading with the highest score after
step 0. Each unlearned model has its own. The interval of a single level is widened for the number of
settings it was picked from. That of a difference is not: both sides were picked the same way.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssiuu.analysis.column import Column, Direction, Item, Model, Outcomes
from ssiuu.analysis.columns import columns, compared
from ssiuu.analysis.levels import looks
from ssiuu.analysis.once import once
from ssiuu.errors import ConfigError, unknown
from ssiuu.records.schema import Cell, RunRecord
from ssiuu.statistics import Estimate, Interval, bootstrap_difference, bootstrap_ratio, differs, wilson


@dataclass(frozen=True)
class Comparison:
    """One score of a method less that of the baseline, over the same facts and seeds.

    `items`: facts (or paraphrases) that both were scored on; `seeds`: unlearning seeds of both.
    `better` is None where the interval holds 0, and where both are at guessing or below.
    """

    label: str
    baseline: str
    column: str
    difference: Estimate
    items: int
    seeds: int
    differs: bool
    better: bool | None

    @property
    def direction(self) -> Direction | None:
        """Which way the method differs from the baseline; None where it does not."""
        if not self.differs:
            return None
        return "higher" if self.difference.value > 0 else "lower"


def outcomes(record: RunRecord, cell: Cell, key: str, pool: Collection[str] | None = None) -> Outcomes:
    """Return what one cell scored on each item of a column; empty where nothing was scored.

    Args:
        record: The run.
        cell: One method and seed.
        key: Of a column with outcomes.
        pool: Facts to look at; None: all, and for an attack the common pool.
    """
    column = next((c for c in columns(record) if c.key == key), None)
    return column.outcomes(Model(record, cell), pool) if column and column.outcomes else {}


@once
def entities(record: RunRecord) -> dict[str, str]:
    """Return the entity of each fact of the run; one without, and any other, stands for itself."""
    split = record.header.split
    others = [fact for facts in split.others.values() for fact in facts]
    facts = [*split.forget, *split.retain, *split.heldout, *others]
    return {fact.id: fact.id if fact.entity is None else f"entity {fact.entity}" for fact in facts}


# --- intervals ----------------------------------------


def row_intervals(record: RunRecord, cell: Cell) -> dict[str, Estimate]:
    """Return the interval of each score of one row, by key; what was not scored is left out."""
    model = Model(record, cell)
    intervals = {column.key: interval(model, column) for column in columns(record)}
    return {key: estimate for key, estimate in intervals.items() if estimate is not None}


def interval(model: Model, column: Column) -> Estimate | None:
    """Return a value with its 95 % interval; None where the column has none or nothing was scored."""
    if column.interval is not None:
        return column.interval(model)
    if column.outcomes is None or not column.shown:
        return None
    return score_level(
        model.record, [column.outcomes(model, None)], looks(model.cell.attacks, column.key)
    )


def score_level(record: RunRecord, tables: Sequence[Outcomes], looks: int = 1) -> Estimate | None:
    """Return the mean of a score over all that was scored, with its 95 % interval.

    A single accuracy has Wilson's interval; means over paraphrases or seeds are bootstrapped.

    Args:
        record: The run, for its facts and their entities.
        tables: Outcomes of one method, one table an unlearning seed; they need not share all facts,
            and a seed that was not scored is left out.
        looks: Number of settings this one was picked from; the interval is widened for that.

    Returns:
        None where nothing was scored, or where fewer than two entities were.
    """
    tables = [table for table in tables if table]
    items, seeds = sorted({item for table in tables for item in table}), _seeds(tables)
    if not items or not seeds:
        return None
    values = np.array([[_row(table, items, seed) for seed in seeds] for table in tables])
    # Wilson's interval is of independent outcomes: one seed, and one question a fact.
    once = len(tables) == len(seeds) == 1 and len(items) == len({fact for fact, _ in items})
    if once and np.isin(values, (0, 1)).all():
        return _estimate(wilson(int(values.sum()), values.size, looks=looks))
    owners = entities(record)
    names = [owners.get(fact, fact) for fact, _ in items]
    if len(set(names)) < 2:
        return None
    scored = np.isfinite(values)
    estimate = bootstrap_ratio(np.nan_to_num(values), scored, names, confidence=1 - 0.05 / looks)
    # A resample that holds no scored fact at all: so few that any share is possible.
    return estimate or Estimate(float(np.nanmean(values)), 0.0, 1.0)


def _seeds(tables: Iterable[Outcomes]) -> list[int]:
    """Return the attack seeds that every item of every table has."""
    by_item = [set(values) for table in tables for values in table.values()]
    return sorted(set.intersection(*by_item)) if by_item else []


def _row(table: Outcomes, items: Sequence[Item], seed: int) -> list[float]:
    return [table[item][seed] if item in table else math.nan for item in items]


def _estimate(interval: Interval) -> Estimate:
    # The ends of 0 of n and n of n are computed, not set.
    return Estimate(
        interval.share, min(interval.low, interval.share), max(interval.high, interval.share)
    )


# --- comparisons ----------------------------------------


def baseline(record: RunRecord, wanted: str | None = None) -> str | None:
    """Return the label of the method that others are compared with.

    Args:
        record: The run.
        wanted: A label; None: gd where the run has it, else the first method that trains.

    Raises:
        ConfigError: The run has no method with the wanted label.
    """
    labels = list(dict.fromkeys(cell.method.label for cell in record.cells))
    if wanted is not None:
        if wanted not in labels:
            raise ConfigError(unknown("method", wanted, labels, "--baseline"))
        return wanted
    trained = [cell.method.label for cell in record.cells if cell.method.origin != "control"]
    return "gd" if "gd" in labels else next(iter(trained), None)


def compare(record: RunRecord, against: str | None = None) -> list[Comparison]:
    """Compare every method with the baseline, column by column, over the seeds both have.

    Args:
        record: The run.
        against: Label of the baseline; None: see `baseline`.

    Raises:
        ConfigError: As `baseline`.
    """
    base = baseline(record, against)
    cells: dict[str, dict[int, Cell]] = {}
    for cell in record.cells:
        cells.setdefault(cell.method.label, {})[cell.seed] = cell
    if base is None:
        return []
    comparisons = [
        _compare(record, cells[label], cells[base], column)
        for label in cells
        if label != base
        for column in compared(record)
    ]
    return [comparison for comparison in comparisons if comparison is not None]


def _compare(
    record: RunRecord, method: Mapping[int, Cell], base: Mapping[int, Cell], column: Column
) -> Comparison | None:
    assert column.outcomes is not None
    pairs = [
        [column.outcomes(Model(record, cells[seed]), None) for cells in (method, base)]
        for seed in sorted(set(method) & set(base))
    ]
    tables = [table for pair in pairs if all(pair) for table in pair]
    items = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    seeds, owners = _seeds(tables), entities(record)
    names = [owners.get(fact, fact) for fact, _ in items]
    if not seeds or len(set(names)) < 2:
        return None
    stacked = np.array([[_row(table, items, seed) for seed in seeds] for table in tables])
    # Method and baseline alternate, pair by pair.
    first, second = stacked[::2], stacked[1::2]
    difference = bootstrap_difference(first, second, names)
    label, against = (next(iter(cells.values())).method.label for cells in (method, base))
    chance = record.header.chance if column.chance else None
    return Comparison(
        label=label,
        baseline=against,
        column=column.key,
        difference=difference,
        items=len(items),
        seeds=len(first),
        differs=differs(difference),
        better=_better(column, difference, max(first.mean(), second.mean()), chance),
    )


def _better(column: Column, difference: Estimate, higher: float, chance: float | None) -> bool | None:
    """Say whether a difference is for the better; None where both are at guessing or below."""
    # Nothing is known less than by guessing: what differs there is chance.
    guessing = column.direction == "lower" and chance is not None and higher <= chance
    if column.direction is None or not differs(difference) or guessing:
        return None
    return (difference.value < 0) == (column.direction == "lower")
