"""Intervals of a run's scores, and which methods differ from a baseline by more than noise.

    for comparison in compare(record, "gd"):
        if comparison.differs: ...

Everything is computed from the outcome of each fact, paired by fact, clustered by entity, with
unlearning seeds and attack seeds crossed (`ssiuu.statistics.bootstrap`).

For an attack the outcomes are those at its strongest point: of all its curves (learning rates and
whatever else but the seed) and all readings after step 0, the one with the highest accuracy over the
common pool, averaged over attack seeds; each unlearned model has its own. The interval of a single
level is widened for the number of curves it was picked from. That of a difference is not: both
sides were picked the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from ssiuu.diagnosis.verdict import attack_accuracy, common_pool
from ssiuu.errors import ConfigError, unknown
from ssiuu.records.schema import Attack, Cell, Evaluation, FactScore, RunRecord
from ssiuu.report.rows import attack_names
from ssiuu.statistics import (
    Estimate,
    Interval,
    bootstrap_difference,
    bootstrap_ratio,
    differs,
    wilson,
)

# One answer to one fact: its id and the number of the paraphrase (0 where there is but one).
Item = tuple[str, int]
# What was scored of a cell: by item, then by attack seed (0 where nothing attacks), a number.
Outcomes = Mapping[Item, Mapping[int, float]]
Wanted = Literal["lower", "higher"]


class Score(NamedTuple):
    """A column of the table: the facts it is over, how one is scored, and which way is wanted.

    `ranked`: guessing scores the run's chance, so that less than that is no merit.
    """

    facts: Callable[[Evaluation], Mapping[str, FactScore]]
    read: Callable[[FactScore], Sequence[float | None]]
    wanted: Wanted
    ranked: bool = True


SCORES: dict[str, Score] = {
    "forget": Score(lambda e: e.forget, lambda s: [s.correct], "lower"),
    "forget_paraphrase": Score(lambda e: e.forget, lambda s: s.paraphrases, "lower"),
    "forget_free": Score(lambda e: e.forget, lambda s: [s.free_correct], "lower", ranked=False),
    "retain": Score(lambda e: e.retain, lambda s: [s.correct], "higher"),
    "heldout": Score(lambda e: e.heldout, lambda s: [s.correct], "higher"),
}


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
    def direction(self) -> Literal["lower", "higher"] | None:
        """Which way the method differs from the baseline; None where it does not."""
        if not self.differs:
            return None
        return "higher" if self.difference.value > 0 else "lower"


def columns(record: RunRecord) -> list[str]:
    """Return the columns that have intervals, in the order of the table."""
    return [*SCORES, *attack_names(record)]


# --- from a record to outcomes ----------------------------------------


def outcomes(cell: Cell, column: str, pool: Collection[str] | None = None) -> Outcomes:
    """Return what one cell scored on each item of a column; empty where nothing was scored.

    Args:
        cell: One method and seed.
        column: A key of `SCORES`, or the name of an attack.
        pool: Facts to look at; None: all, and for an attack the common pool.
    """
    if column in SCORES:
        return _evaluated(cell.evaluation, SCORES[column], pool)
    return _attacked(cell.attacks, column, common_pool(cell.attacks) if pool is None else pool)


def _evaluated(evaluation: Evaluation | None, score: Score, pool: Collection[str] | None) -> Outcomes:
    if evaluation is None:
        return {}
    return {
        (fact, index): {0: float(value)}
        for fact, scored in score.facts(evaluation).items()
        if pool is None or fact in pool
        for index, value in enumerate(score.read(scored))
        if value is not None
    }


def _attacked(attacks: Iterable[Attack], name: str, pool: Collection[str]) -> Outcomes:
    curve, read = strongest_point(attacks, name, pool)
    found: dict[Item, dict[int, float]] = {}
    for attack in curve:
        for fact in pool:
            reading = attack.reads[read].facts.get(fact)
            if reading is not None and reading.correct is not None:
                found.setdefault((fact, 0), {})[attack.seed] = float(reading.correct)
    return {item: values for item, values in found.items() if len(values) == len(curve)}


def strongest_point(
    attacks: Iterable[Attack], name: str, pool: Collection[str]
) -> tuple[list[Attack], int]:
    """Return the curve of this attack, one record a seed, and the reading where it is strongest."""
    best: tuple[float, list[Attack], int] = (-1.0, [], 0)
    for curve in _curves(attacks, name):
        for read in range(1, min(len(attack.reads) for attack in curve)):
            levels = [attack_accuracy(attack, read, pool) for attack in curve]
            scored = [level for level in levels if level is not None]
            if len(scored) == len(levels) and sum(scored) / len(scored) > best[0]:
                best = (sum(scored) / len(scored), curve, read)
    return best[1], best[2]


def _curves(attacks: Iterable[Attack], name: str) -> list[list[Attack]]:
    """Group the records of an attack that differ by nothing but their seed."""
    own = {"seed", "trained", "pool", "reads", "seconds"}
    groups: dict[str, list[Attack]] = {}
    for attack in attacks:
        if attack.name == name:
            groups.setdefault(attack.model_dump_json(exclude=own), []).append(attack)
    return list(groups.values())


def entities(record: RunRecord) -> dict[str, str]:
    """Return the entity of each fact; a fact without one stands for itself."""
    split = record.header.split
    facts = [*split.forget, *split.retain, *split.heldout]
    return {fact.id: fact.id if fact.entity is None else f"entity {fact.entity}" for fact in facts}


# --- intervals ----------------------------------------


def row_intervals(record: RunRecord, cell: Cell) -> dict[str, Estimate]:
    """Return the interval of each score of one row of the table; what was not scored is left out."""
    found = {
        column: level(record, [outcomes(cell, column)], looks(cell, column))
        for column in columns(record)
    }
    return {column: estimate for column, estimate in found.items() if estimate is not None}


def looks(cell: Cell, column: str) -> int:
    """Return the number of curves the strongest point of an attack was picked from, at least 1."""
    return len(_curves(cell.attacks, column)) or 1


def level(record: RunRecord, tables: Sequence[Outcomes], looks: int = 1) -> Estimate | None:
    """Return the mean of a score over all that was scored, with its 95 % interval.

    A single accuracy has Wilson's interval; means over paraphrases or seeds are bootstrapped.

    Args:
        record: The run, for its facts and their entities.
        tables: Outcomes of one method, one table an unlearning seed; they need not share all facts,
            and a seed that was not scored is left out.
        looks: Number of curves this one was picked from; the interval is widened for that.

    Returns:
        None where nothing was scored, or where fewer than two entities were.
    """
    tables = [table for table in tables if table]
    items, seeds = sorted({item for table in tables for item in table}), _seeds(tables)
    if not items or not seeds:
        return None
    values = np.array([[_row(table, items, seed) for seed in seeds] for table in tables])
    once = len(tables) == len(seeds) == 1 and len(items) == len({fact for fact, _ in items})
    if once and np.isin(values, (0, 1)).all():
        return _estimate(wilson(int(values.sum()), values.size, looks=looks))
    owners = entities(record)
    names = [owners[fact] for fact, _ in items]
    if len(set(names)) < 2:
        return None
    scored = np.isfinite(values)
    found = bootstrap_ratio(np.nan_to_num(values), scored, names, confidence=1 - 0.05 / looks)
    # A resample that holds no scored fact at all: so few that any share is possible.
    return found or Estimate(float(np.nanmean(values)), 0.0, 1.0)


def _seeds(tables: Iterable[Outcomes]) -> list[int]:
    """Return the attack seeds that every item of every table has."""
    found = [set(values) for table in tables for values in table.values()]
    return sorted(set.intersection(*found)) if found else []


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
    found = [
        _compare(record, cells[label], cells[base], column)
        for label in cells
        if label != base
        for column in columns(record)
    ]
    return [comparison for comparison in found if comparison is not None]


def _compare(
    record: RunRecord, method: Mapping[int, Cell], base: Mapping[int, Cell], column: str
) -> Comparison | None:
    pairs = [
        (outcomes(method[seed], column), outcomes(base[seed], column))
        for seed in sorted(set(method) & set(base))
    ]
    tables = [table for pair in pairs if all(pair) for table in pair]
    items = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    seeds, owners = _seeds(tables), entities(record)
    names = [owners[fact] for fact, _ in items]
    if not seeds or len(set(names)) < 2:
        return None
    stacked = np.array([[_row(table, items, seed) for seed in seeds] for table in tables])
    first, second = stacked[::2], stacked[1::2]
    difference = bootstrap_difference(first, second, names)
    label, against = (next(iter(cells.values())).method.label for cells in (method, base))
    return Comparison(
        label=label,
        baseline=against,
        column=column,
        difference=difference,
        items=len(items),
        seeds=len(first),
        differs=differs(difference),
        better=_better(record, column, difference, max(first.mean(), second.mean())),
    )


def _better(record: RunRecord, column: str, difference: Estimate, higher: float) -> bool | None:
    score = SCORES.get(column)
    wanted: Wanted = score.wanted if score else "lower"
    chance = record.header.chance if score is None or score.ranked else None
    guessing = wanted == "lower" and chance is not None and higher <= chance
    if not differs(difference) or guessing:
        return None
    return (difference.value < 0) == (wanted == "lower")
