"""The verdict: erased, hidden, not removed or undecided, from the record alone. Imports no torch.

The rules are explained in docs/verdict.md. They rest on an examination of the model
(`ssiuu.analysis.evidence`), never on the method's name. "Erased" means: had it been hidden, this
examination would have found it. It is evidence, not proof.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ssiuu.analysis.evidence import (
    FEW,
    LEVEL,
    POWER,
    Constants,
    FactJudged,
    Judged,
    bounds,
    constants,
    judge,
)
from ssiuu.analysis.scale import level, mean
from ssiuu.records.schema import (
    AttackCurve,
    Cell,
    Evaluation,
    Examination,
    FactScore,
    RunRecord,
    Verdict,
)
from ssiuu.statistics import Interval, wilson

VERDICTS: tuple[Verdict, ...] = ("erased", "hidden", "not removed", "undecided")


def accuracy(scores: Iterable[FactScore]) -> float | None:
    """Return the share ranked first on the base question, over the facts that were scored."""
    return mean(score.correct for score in scores)


def way_back(before: float, after: float, attacked: float) -> float | None:
    """Return the share of a lost log-probability that an attack restored; None if none was lost."""
    lost = before - after
    return (attacked - after) / lost if lost > 0 else None


def common_pool(attacks: Iterable[AttackCurve]) -> set[str]:
    """Return the facts that every attack was scored on and none trained on."""
    attacks = list(attacks)
    if not attacks:
        return set()
    pool = set.intersection(*(set(attack.pool) for attack in attacks))
    return pool - {fact for attack in attacks for fact in attack.trained}


def ranking(attacks: Iterable[AttackCurve]) -> list[AttackCurve]:
    """Return the attacks whose readings say whether the answer is ranked first.

    Others are shown beside the verdict: chance and the original score are no measure for them.
    """
    return [attack for attack in attacks if attack.scored in ("written", "ranking")]


def attack_accuracy(attack: AttackCurve, read: int, pool: Iterable[str]) -> float | None:
    """Return the accuracy over `pool` at the read with this index; None if nothing is scored."""
    return level(attack, read, pool)


class FactVerdict(NamedTuple):
    """The word on one fact, with the p-values that it rests on (`ssiuu.analysis.evidence`)."""

    verdict: Verdict
    said: bool
    judged: FactJudged | None = None


class Judgement(NamedTuple):
    """The words on one model and its facts. `judged`: None where no examination was made."""

    verdict: Verdict
    facts: Mapping[str, FactVerdict]
    judged: Judged | None

    def count(self, verdict: Verdict) -> int:
        """Return how many facts have this verdict."""
        return sum(fact.verdict == verdict for fact in self.facts.values())


class _Kept(NamedTuple):
    """A word that was found, with the very objects that it rests on."""

    cell: weakref.ref[Cell]
    grounds: tuple[Evaluation | None, Examination | None, Constants]
    word: Judgement


_kept: dict[int, _Kept] = {}  # by the cell's identity
KEPT = 1000  # words, so that a run of any size does not fill the memory with them


def judgement(record: RunRecord, cell: Cell) -> Judgement:
    """Judge one model and its facts (docs/verdict.md); once, for records do not change."""
    place, grounds = id(cell), (record.original, record.planted, constants())
    if (kept := _kept.get(place)) and kept.cell() is cell:
        if all(one is other for one, other in zip(kept.grounds, grounds, strict=True)):
            return kept.word
    elif len(_kept) >= KEPT:
        del _kept[next(iter(_kept))]
    word = _judgement(record, cell)
    _kept[place] = _Kept(weakref.ref(cell, lambda _: _kept.pop(place, None)), grounds, word)
    return word


def _judgement(record: RunRecord, cell: Cell) -> Judgement:
    if record.original is None or cell.evaluation is None:
        return Judgement("undecided", {}, None)
    found = cell.examination
    judged = judge(found, record.planted) if found else None
    facts = {
        fact: fact_word(answered(after), judged.facts.get(fact) if judged else None)
        for fact, after in cell.evaluation.forget.items()
    }
    return Judgement(model_word(list(facts.values()), judged), facts, judged)


def answered(score: FactScore) -> bool:
    """Return whether a fact is said freely, in one form or the other."""
    return bool(score.free_correct or score.other_free)


def fact_word(said: bool, judged: FactJudged | None, promised: float = LEVEL) -> FactVerdict:
    """Return the word on one fact; `said`: whether the model says it freely.

    What it says, and what is likelier than decoys without any attack, is not removed. Not said, and
    told from what was never learned: hidden; told from what is hidden: erased; from neither or from
    both: undecided. `promised`: both error rates.
    """
    if judged is None or judged.erased is None or judged.after is None:
        return FactVerdict("not removed" if said else "undecided", said, judged)
    if said and (judged.first or min(judged.after, judged.erased) <= promised):
        return FactVerdict("not removed", said, judged)
    known = judged.erased <= promised
    gone = judged.hidden is not None and judged.hidden <= promised
    if known == gone or said:
        return FactVerdict("undecided", said, judged)
    return FactVerdict("hidden" if known else "erased", said, judged)


def model_word(facts: Sequence[FactVerdict], judged: Judged | None) -> Verdict:
    """Return the word on a model: of how many of its facts something is left, with its interval."""
    still = sum(fact.verdict == "not removed" for fact in facts)
    if facts and _least(still, len(facts)) > FEW * len(facts):
        return "not removed"
    if judged is None or judged.least is None or judged.most is None:
        return "undecided"
    if judged.least > FEW * judged.read:
        return "not removed" if 2 * still >= judged.least else "hidden"
    sure = judged.power is not None and judged.power >= POWER and not judged.short
    if sure and judged.most < FEW * judged.read and not still:
        return "erased"
    return "undecided"


def _least(still: int, facts: int) -> int:
    """Return how many facts are said that were not guessed, at least (95 %)."""
    return bounds(still, facts, None)[0] or 0


def strongest(cell: Cell) -> tuple[AttackCurve, int, float] | None:
    """Return the attack, the read and the accuracy of the highest level over the common pool."""
    pool = common_pool(cell.attacks)
    best = None
    for attack in ranking(cell.attacks):
        for index in range(1, len(attack.reads)):
            level = attack_accuracy(attack, index, pool)
            if level is not None and (best is None or level > best[2]):
                best = (attack, index, level)
    return best


def level_interval(cell: Cell) -> Interval | None:
    """Return the strongest attack's level with an interval widened for the number of curves."""
    best = strongest(cell)
    if best is None:
        return None
    attack, index, level = best
    facts = attack.reads[index].facts
    pool = [i for i in common_pool(cell.attacks) if facts[i].correct is not None]
    return wilson(round(level * len(pool)), len(pool), looks=len(ranking(cell.attacks)))
