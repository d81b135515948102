"""Membership inference: can the forgotten facts be told from others by their token probabilities?

Scores of an answer y of n tokens, higher for "member":

    loss       1/n sum_t log p_t
    zlib       the same over the bytes that zlib makes of the answer
    min-k      mean of the lowest k % of log p_t
    min-k++    mean of the lowest k % of (log p_t - mu_t) / sigma_t

where mu_t and sigma_t are mean and standard deviation of log p over the vocabulary, under the model's
own distribution at t; `membership_reference` and `membership_gradient` have a score more each. The AUC
is the chance that a forget fact scores above a non-member: 0.5 is "cannot be told apart"; far below 0.5
betrays the forgotten as well as far above.

Source: zlib, Carlini et al. 2021; Min-K, Shi et al. 2024; Min-K++, Zhang et al. 2025. k % of n tokens
is rounded down, at least one. Departures: only answer tokens are scored, as only answers are trained
on; short answers make min-k the lowest token.
"""

from __future__ import annotations

import time
import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel

from ssiuu.attacks.base import Attack, Axis, Curve, Victim
from ssiuu.benchmarks.base import Progress
from ssiuu.evaluation.sequence import SequenceScore, score_sequences
from ssiuu.likelihood import Example
from ssiuu.records import schema
from ssiuu.records.schema import Evaluation, FactText
from ssiuu.statistics.ranks import auc

C = TypeVar("C", bound=BaseModel)
SHARES = (0.2, 0.4)
SCORES = ("loss", "zlib", *(f"{name} {share:.0%}" for name in ("min-k", "min-k++") for share in SHARES))
NON_MEMBERS = (
    "AUC of the {members} forget facts in the pool against {others} held-out facts, which the original "
    "model knows and unlearning never trained on; 0.5: the forgotten cannot be told from them"
)
OUTSIDE = (
    "AUC of the {members} forget facts against {others} questions of the same kind that no model here "
    "was trained on; 0.5: the forgotten cannot be told from them, 1: plainly trained on"
)
LACKING = "Membership inference was not scored, for there is nothing to compare with: {lacking}"
TRAINED_ON = ". Held-out retain questions will not do: the model was fine-tuned on them"


class MembershipConfig(RootModel[bool]):
    """Whether it is tried."""

    model_config = ConfigDict(frozen=True)

    root: bool = Field(default=False, description="loss, Min-K, Min-K++ against held-out facts")


class Inference(Attack[C]):
    """Tells members from non-members by a score of every answer, higher for a member.

    Attributes:
        told: Names of the scores, which have a column each.
    """

    axis = Axis("score", "score", "values")
    control = True
    told: ClassVar[tuple[str, ...]]

    @abstractmethod
    def scores(self, victim: Victim, facts: Sequence[FactText]) -> list[dict[str, float]]:
        """Return the scores of every answer, by the names of `told`."""

    def said(self) -> str:
        """Return what a reader of the numbers must know beside whom they tell apart."""
        return ""

    def void(self, found: Sequence[Mapping[str, float]]) -> str:
        """Return why such scores tell nothing of anybody; empty where they may."""
        return ""

    def fits(self, victim: Victim) -> list[str]:
        """Return that there is nobody to compare with, where that is so."""
        lacking = _lacking(victim)
        return [f"{LACKING.format(lacking=lacking)}."] if lacking else []

    def uses(self, victim: Victim, curve: Curve) -> list[Any]:
        """Return the non-members, and the members where they are others than the facts to forget."""
        facts = [*_compared(victim)[1], *(victim.ground.members or [])]
        return [[fact.id, fact.question, fact.answer] for fact in facts]

    def carry_out(
        self,
        victim: Victim,
        curve: Curve,
        scores: Evaluation,
        progress: Progress,
        state: Path | None = None,
    ) -> schema.AttackCurve:
        """Compare members and non-members."""
        progress(curve.name)
        begin = time.perf_counter()
        ground, sets = victim.ground, _compared(victim)
        start = victim.before(scores, _forgotten(victim))
        if lacking := _lacking(victim):
            note = LACKING.format(lacking=lacking)
            return self.record(curve, start, (), begin, values=dict.fromkeys(self.told), note=note)
        # In one go: a reference model is read into the model's place once.
        found = self.scores(victim, [fact for facts in sets for fact in facts])
        if why := self.void(found):
            return self.record(curve, start, (), begin, values=dict.fromkeys(self.told), note=why)
        members, others = found[: len(sets[0])], found[len(sets[0]) :]
        note = NON_MEMBERS if ground.non_members is None else OUTSIDE
        return self.record(
            curve,
            start,
            (),
            begin,
            values=membership_aucs(members, others, self.told),
            note=note.format(members=len(members), others=len(others)) + self.said(),
        )


class Membership(Inference[MembershipConfig]):
    """Who cannot get the facts back may still see that they were taken.

    It costs next to nothing, and of the original it says what is to be lost.
    """

    name = "membership"
    summary = "tell forgotten from held-out facts: loss, Min-K, Min-K++ (AUC)"
    Config = MembershipConfig
    strong = True
    told = SCORES

    def curves(self) -> list[Curve]:
        """Return one curve, which has no places."""
        return self.once(wanted=self.config.root)

    def scores(self, victim: Victim, facts: Sequence[FactText]) -> list[dict[str, float]]:
        """Return every score that a reading of the answers gives."""
        ground = victim.ground
        last = len(ground.prompt.end) if ground.score.loss_ends else 0
        answers = score_sequences(ground.model, rows(victim, facts), moments=True)
        pairs = zip(answers, facts, strict=True)
        return [membership_scores(answer, fact.answer, last) for answer, fact in pairs]


def rows(victim: Victim, facts: Sequence[FactText]) -> list[Example]:
    """Return the answers as the loss counts them: with the end token where the score says so."""
    return victim.ground.examples(facts, victim.ground.score.loss_ends)


def _forgotten(victim: Victim) -> list[FactText]:
    """Return the facts that it is about: all of those to forget, where there are non-members."""
    ground = victim.ground
    return victim.pool if ground.non_members is None else ground.split.forget


def _lacking(victim: Victim) -> str:
    """Return what there is not that facts could be compared with; empty where it is there."""
    if lacking := victim.ground.lacking:
        return lacking + TRAINED_ON
    return "" if _compared(victim)[1] else "there are no held-out facts"


def _compared(victim: Victim) -> tuple[list[FactText], list[FactText]]:
    """Return members and non-members."""
    ground = victim.ground
    outside = ground.split.heldout if ground.non_members is None else ground.non_members
    return _forgotten(victim) if ground.members is None else ground.members, outside


def membership_scores(answer: SequenceScore, text: str, last: int = 0) -> dict[str, float]:
    """Return every score of one answer; higher says "member".

    Args:
        answer: Read with its moments.
        text: Of the answer.
        last: How many of its tokens, at its end, count for loss and zlib alone.
    """
    words = answer.without(last)
    columns = (words.logprobs.tolist(), standard(words))
    scores = [
        answer.per_token,
        answer.per_token / len(zlib.compress(text.encode())),
        *(lowest_mean(values, share) for values in columns for share in SHARES),
    ]
    return dict(zip(SCORES, scores, strict=True))


def standard(answer: SequenceScore) -> list[float]:
    """Return (log p - mean) / std of every token; 0 where the model is certain: nothing varies."""
    assert answer.mean is not None and answer.std is not None
    values = zip(answer.logprobs.tolist(), answer.mean.tolist(), answer.std.tolist(), strict=True)
    return [(value - mean) / std if std > 0 else 0.0 for value, mean, std in values]


def lowest_mean(values: Sequence[float], share: float) -> float:
    """Return the mean of the lowest `share` of the values, at least one of them."""
    count = max(1, int(share * len(values)))
    return sum(sorted(values)[:count]) / count


def membership_aucs(
    members: Sequence[Mapping[str, float]],
    others: Sequence[Mapping[str, float]],
    names: Sequence[str] = SCORES,
) -> dict[str, float | None]:
    """Return the AUC of every score; None where there is nothing to compare with."""
    return {name: auc([s[name] for s in members], [s[name] for s in others]) for name in names}
