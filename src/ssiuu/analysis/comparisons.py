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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from ssiuu.analysis.rows import attack_names
from ssiuu.analysis.tofu import is_tofu
from ssiuu.analysis.verdict import common_pool, ranking
from ssiuu.errors import ConfigError, unknown
from ssiuu.records.schema import Attack, Cell, Evaluation, FactScore, Reading, RunRecord
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
    "forget_other": Score(lambda e: e.forget, lambda s: [s.other_form], "lower"),
    "forget_other_free": Score(lambda e: e.forget, lambda s: [s.other_free], "lower", ranked=False),
    "retain": Score(lambda e: e.retain, lambda s: [s.correct], "higher"),
    "heldout": Score(lambda e: e.heldout, lambda s: [s.correct], "higher"),
    "forget_rouge": Score(lambda e: e.forget, lambda s: _tofu_rouge(s), "lower", ranked=False),
    "heldout_rouge": Score(lambda e: e.heldout, lambda s: _tofu_rouge(s), "higher", ranked=False),
}


def _tofu_rouge(score: FactScore) -> list[float | None]:
    """Return the ROUGE-L recall of a sentence; short answers are scored by what they hold."""
    return [score.rouge] if score.truth_ratio is not None else []


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
    """Return the columns that have intervals in this run, in the order of the table."""
    scored = [name for name in SCORES if any(outcomes(cell, name) for cell in record.cells)]
    return [*scored, *attack_names(record)]


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
    points = strongest_points(attacks, name, pool)
    found: dict[Item, dict[int, float]] = {}
    for attack, place in points:
        for fact, value in _values(attack, place, pool).items():
            found.setdefault((fact, 0), {})[attack.seed] = value
    return {item: values for item, values in found.items() if len(values) == len(points)}


def reading_score(reading: Reading) -> float | None:
    """Return what a fact scores during an attack: ROUGE-L recall (TOFU), else ranked first or not."""
    if reading.rouge is not None:
        return reading.rouge
    return None if reading.correct is None else float(reading.correct)


def _values(attack: Attack, place: int, pool: Collection[str]) -> dict[str, float]:
    facts = attack.reads[place].facts
    found = {fact: reading_score(facts[fact]) for fact in pool if fact in facts}
    return {fact: value for fact, value in found.items() if value is not None}


def strongest_points(
    attacks: Iterable[Attack], name: str, pool: Collection[str]
) -> list[tuple[Attack, int]]:
    """Return the curves of an attack's best setting, one a seed, each with its strongest reading."""
    found = [[_top(attack, pool) for attack in curves] for curves in _settings(attacks, name)]
    scored = [[top for top in tops if top is not None] for tops in found]
    best = max(
        scored, key=lambda tops: sum(top[0] for top in tops) / len(tops) if tops else -1.0, default=[]
    )
    return [(attack, place) for _, attack, place in best]


def _top(attack: Attack, pool: Collection[str]) -> tuple[float, Attack, int] | None:
    """Return the highest score of a curve and its place; that of step 0 only where nothing follows."""
    places = range(1, len(attack.reads)) or range(len(attack.reads))
    values = {place: list(_values(attack, place, pool).values()) for place in places}
    levels = [(sum(found) / len(found), -place) for place, found in values.items() if found]
    return (max(levels)[0], attack, -max(levels)[1]) if levels else None


def _settings(attacks: Iterable[Attack], name: str) -> list[list[Attack]]:
    """Group the curves of an attack that differ by their seed."""
    groups: dict[str, list[Attack]] = {}
    for attack in attacks:
        if attack.name == name:
            setting = attack.model_dump_json(include={"learning_rate", "space"})
            groups.setdefault(setting, []).append(attack)
    return list(groups.values())


def entities(record: RunRecord) -> dict[str, str]:
    """Return the entity of each fact; a fact without one stands for itself."""
    split = record.header.split
    others = [fact for facts in split.others.values() for fact in facts]
    facts = [*split.forget, *split.retain, *split.heldout, *others]
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
    """Return the number of settings the strongest points of an attack were picked from, at least 1."""
    return len(_settings(cell.attacks, column)) or 1


def level(record: RunRecord, tables: Sequence[Outcomes], looks: int = 1) -> Estimate | None:
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
    attacks = [a for cell in record.cells for a in cell.attacks if a.name == column]
    scaled = score.ranked if score else bool(ranking(attacks)) and not is_tofu(record)
    chance = record.header.chance if scaled else None
    guessing = wanted == "lower" and chance is not None and higher <= chance
    if not differs(difference) or guessing:
        return None
    return (difference.value < 0) == (wanted == "lower")
