"""What one reading of an attack is worth: ranked first, recalled, given away, or its log-probability.

Levels on one scale compare with each other; chance and the original model's score only on theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ssiuu.records.schema import AttackCurve, FactScore, Reading


@dataclass(frozen=True)
class Scale:
    """A measure of facts, before an attack and during it.

    Attributes:
        unit: What a level on it is, in words.
        read: The worth of a reading; None: not scored.
        before: The same of a fact as a model was scored on it.
        chance: Whether guessing among the options scores the run's chance on it.
        share: Whether it runs from 0 to 1.
    """

    unit: str
    read: Callable[[Reading], float | None]
    before: Callable[[FactScore], float | None]
    chance: bool = False
    share: bool = True


RANKING = Scale("accuracy", lambda r: r.correct, lambda s: s.correct, chance=True)
WRITTEN = Scale("ROUGE-L recall", lambda r: r.rouge, lambda s: s.rouge)
FOLLOWED = Scale("ROUGE-L F1", lambda r: r.rouge, lambda s: s.rouge)
FREE = Scale("facts that leaked", lambda r: r.correct, lambda s: s.free_correct)
DEPTH = Scale("mean log p(answer), nats", lambda r: r.logprob, lambda s: s.logprob, share=False)


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what was scored, or None of nothing."""
    scored = [value for value in values if value is not None]
    return float(sum(scored) / len(scored)) if scored else None


def level(attack: AttackCurve, place: int, pool: Iterable[str], scale: Scale = RANKING) -> float | None:
    """Return the mean over `pool` at the reading with this index; None where nothing is scored."""
    facts, read = attack.reads[place].facts, scale.read
    return mean([read(facts[fact]) for fact in pool if fact in facts])
