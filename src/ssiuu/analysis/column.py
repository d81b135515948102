"""A column of the results: what it is called, how a model's value is read, how it is written.

`ssiuu.analysis.columns` holds the one list of them; every output draws from it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ssiuu.analysis.once import once
from ssiuu.analysis.scale import mean
from ssiuu.analysis.verdict import Judgement, common_pool, judgement
from ssiuu.records.schema import Cell, Evaluation, FactScore, RunRecord
from ssiuu.statistics import Estimate

# One answer to one fact: its id and the number of the paraphrase (0 where there is but one).
Item = tuple[str, int]
# What was scored of a model: by item, then by attack seed (0 where nothing attacks), a number.
Outcomes = Mapping[Item, Mapping[int, float]]
Direction = Literal["lower", "higher"]
Form = Literal[
    "share",  # in [0, 1], written in per cent
    "nats",
    "divergence",  # nats a token
    "number",  # of any size
    "ratio",
    "rate",  # a learning rate
    "signed",
    "whole",
    "gigabytes",  # from megabytes
    "words",
]
ORIGINAL = "before unlearning"


@dataclass(frozen=True)
class Model:
    """A model of a run: a method under a seed, or the one before unlearning (`ORIGINAL`).

    `within`: the facts that its attacks are read over, where these are fewer than their common pool.
    """

    record: RunRecord
    cell: Cell
    within: frozenset[str] | None = None

    @property
    def before(self) -> bool:
        """Whether it is the one before unlearning."""
        return self.cell.method.label == ORIGINAL

    @cached_property
    def judgement(self) -> Judgement:
        """The words on the model and its facts."""
        return judgement(self.record, self.cell)

    @cached_property
    def pool(self) -> set[str]:
        """The facts that every attack was scored on and none trained on."""
        pool = common_pool(self.cell.attacks)
        return pool if self.within is None else pool & self.within

    @cached_property
    def wrong(self) -> set[str]:
        """Those of the pool that the unlearned model ranks wrong."""
        scores = self.scores("forget")
        return {fact for fact in self.pool if fact in scores and scores[fact].correct is False}

    def scores(self, name: str) -> Mapping[str, FactScore]:
        """Return the scores of a set: "forget", "retain", "heldout"; empty where there is none."""
        scores: Mapping[str, FactScore] = getattr(self.cell.evaluation, name, {})
        return scores


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: Its name in the rows, in CSV and JSON.
        heading: What stands over it.
        group: The columns it stands with: a key of `ssiuu.analysis.columns.TABLES`.
        form: How a value is written.
        read: A model's value; None: not measured.
        meaning: One sentence on what it is.
        direction: Which way is wanted, where one is.
        outcomes: What was scored of a model item by item, for its interval and the comparisons, over
            these facts (None: all that belong to it).
        interval: Its interval, where that is of something else than single facts.
        chance: Whether guessing scores the run's chance, so that less than that is no merit.
        error: Key of the column that holds the standard error.
        beside: Key of the column below whose value the page shows this one, small.
        shown: Whether it stands in the tables; else in the rows, in CSV and JSON alone.
    """

    key: str
    heading: str
    group: str
    form: Form
    read: Callable[[Model], Any]
    meaning: str
    direction: Direction | None = None
    outcomes: Callable[[Model, Collection[str] | None], Outcomes] | None = None
    interval: Callable[[Model], Estimate | None] | None = None
    chance: bool = False
    error: str = ""
    beside: str = ""
    shown: bool = True

    @property
    def title(self) -> str:
        """The heading with the direction that is wanted."""
        arrows = {"lower": " ↓", "higher": " ↑", None: ""}
        return f"{self.heading}{arrows[self.direction]}"


@once
def seeds_of(record: RunRecord) -> frozenset[int]:
    """Return the seeds of a run's models."""
    return frozenset(cell.seed for cell in record.cells)


@once
def _twins(record: RunRecord) -> Mapping[int, Cell]:
    """Return the first control of each seed that never saw the facts."""
    twins = [cell for cell in record.cells if cell.method.name == "never-learned"]
    return {cell.seed: cell for cell in reversed(twins)}


def never_learned(record: RunRecord, seed: int) -> Cell | None:
    """Return the control of this seed that never saw the facts; None where the run has none."""
    return _twins(record).get(seed)


def of_facts(
    key: str,
    heading: str,
    group: str,
    facts: Callable[[Evaluation], Mapping[str, FactScore]],
    read: Callable[[FactScore], Sequence[float | None]],
    meaning: str,
    **more: Any,
) -> Column:
    """Return a column that is a mean over answers, with an interval.

    Args:
        key: As `Column`.
        heading: As `Column`.
        group: As `Column`.
        facts: The facts of an evaluation that it is over.
        read: How the answers to one are scored, each in [0, 1].
        meaning: As `Column`.
        **more: Further fields of `Column`.
    """

    def outcomes(model: Model, pool: Collection[str] | None) -> Outcomes:
        scores = facts(model.cell.evaluation) if model.cell.evaluation else {}
        return {
            (fact, index): {0: float(value)}
            for fact, scored in scores.items()
            if pool is None or fact in pool
            for index, value in enumerate(read(scored))
            if value is not None
        }

    def value(model: Model) -> float | None:
        return mean(seeds[0] for seeds in outcomes(model, None).values())

    return Column(key, heading, group, "share", value, meaning, outcomes=outcomes, **more)
