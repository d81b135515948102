"""What unlearning led to: forgotten, not forgotten, or forgotten at the cost of what should stay.

Two limits say what the cost may be. `unlearn.max_kl`: the divergence from the original model on plain
text and on instructions, nats a token. `unlearn.min_retain`: of the facts to keep that the model knew
before (as a free answer or first among its options), the share it still knows. Both, because each alone
can be met by a broken model: one that ranks a hundred facts rightly and writes nonsense or nothing, or
one that writes as before and has lost what resembles the facts to forget.

A model that predicts plain text, or the answers to instructions, worse than a uniform guess over its
words has nothing to lose there: that divergence is shown and does not count. And since a model that
ends every answer at once still ranks, at least half of what it answered freely must still be answered
freely.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from ssiuu.analysis.verdict import answered
from ssiuu.evaluation.score import score_facts
from ssiuu.experiment.session import Session
from ssiuu.models import nf4
from ssiuu.models.load import round_to
from ssiuu.records.schema import Attempt, Divergence, FactScore, FactText, Outcome, Unlearning
from ssiuu.training.unlearn import ANSWERED

ASKED = 48  # facts to keep that are read, those set aside first
SAID = 0.5  # of what was answered freely, at least
NOT_FORGOTTEN = 10.0  # distance from passing, from here on


class Judge:
    """Says what a run led to. Made while the model has its original weights."""

    def __init__(self, session: Session) -> None:
        """Read, before the first step, what is known of the facts to keep."""
        self.session = session
        self.max_kl = session.recipe.unlearn.max_kl
        self.min_retain = session.recipe.unlearn.min_retain
        aside, trained = session.split.heldout, session.split.retain
        room = max(ASKED - len(aside), 0)
        trained = random.Random(session.split.seed).sample(trained, min(room, len(trained)))
        self.facts: Sequence[FactText] = [*aside, *trained]
        self.speaks, self.answers = session.divergences.speaks(session.model)
        scores = self._read(self.facts)
        counted = {fact.id for fact in aside or trained}
        self._known = {i for i in counted if answered(scores[i]) or scores[i].correct}
        self._said = {i for i, s in scores.items() if answered(s)}

    def settle(self, record: Unlearning, rounds: bool) -> Unlearning:
        """Round the weights to the type they are saved in, and read the score of what is left.

        Steps smaller than this type can hold are lost in it, and with them what was forgotten. Of a
        model in 4 bits there are no such weights in memory.
        """
        dtype = self.session.loaded.info.dtype
        rounds = rounds and not nf4.coded(self.session.model)
        if not rounds or dtype == "float32" or record.stopped != "threshold":
            return record
        round_to(self.session.model, dtype)
        stop, threshold = self.session.stop_rule()
        score = stop.read()
        logs = [*record.steps[:-1], record.steps[-1].model_copy(update={"forget_score": score})]
        if score <= threshold:
            return record.model_copy(update={"steps": logs})
        note = (
            f"In {dtype}, the type of the checkpoint, the forget score is {score:.2f} and not at the "
            f"{threshold:.2f} to stop at: the steps were smaller than this type can hold."
        )
        notes = [*record.notes, note]
        return record.model_copy(update={"steps": logs, "stopped": "max_steps", "notes": notes})

    def attempt(self, record: Unlearning, rate: float, growing: bool, seconds: float) -> Attempt:
        """Return what an attempt led to, read over a part of the texts."""
        moved = None if growing else self._moved(quick=True)
        still_known, still_said = (None, None) if growing else self.kept()
        score = record.last_score
        at_threshold = score is not None and score <= record.threshold
        return Attempt(
            learning_rate=rate,
            growing=growing,
            steps=len(record.steps),
            reached=record.stopped == "threshold" or (at_threshold and not growing),
            forget=score,
            answered=None if growing else self.session.answered(),
            kept=still_known,
            said=still_said,
            kl=moved.plain if moved else None,
            kl_instructions=moved.instructions if moved else None,
            seconds=round(seconds, 2),
        )

    def lost(self) -> str:
        """Return in words what is lost beyond the limits; nothing where nothing is.

        Over a part of the texts, which are read only where the facts are held.
        """
        cost = self._cost(*self.kept(), None) or self._cost(None, None, self._moved(quick=True))
        return "; ".join(cost)

    def passes(self, attempt: Attempt) -> bool:
        """Whether an attempt has forgotten within the limits."""
        return self.distance(attempt) == 0

    def distance(self, attempt: Attempt) -> float:
        """Return how far an attempt is from passing: 0 where it passes."""
        if not attempt.reached or attempt.answered is None or attempt.answered > ANSWERED:
            return NOT_FORGOTTEN + (attempt.forget if attempt.forget is not None else 1.0)
        most = max(*self._counted(attempt.kl, attempt.kl_instructions).values(), self.max_kl)
        return math.log(most / self.max_kl) + self._short(attempt.kept, attempt.said)

    def outcome(self, record: Unlearning) -> Outcome:
        """Return what the run led to, read over all texts and facts."""
        divergence = self._moved()
        score = record.last_score
        if score is None:
            score = self.session.stop_rule()[0].read()
        # The weights are those of the attempt that came nearest, which need not be the last.
        of = min(record.attempts[1:], key=self.distance, default=None)
        if of is not None and of.answered is not None:
            share, still_known, still_said = of.answered, of.kept, of.said
        else:
            share, (still_known, still_said) = self.session.answered(), self.kept()
        reasons = []
        forget_knowledge = self.session.knowledge.get("forget", {}).values()
        if forget_knowledge and not any(known.state == "known" for known in forget_knowledge):
            reasons.append("none of the facts was known before, so this shows nothing")
        elif record.stopped == "no steps" or (self.session.recipe.force and _began_there(record)):
            reasons.append("the forget score was at its threshold before step 1, so it shows nothing")
        if score > record.threshold:
            reasons.append(f"the forget score is {score:.2f}, above its {record.threshold:.2f}")
        if share > ANSWERED:
            reasons.append(f"{share:.0%} of the facts to forget are still answered when asked freely")
        state = "not forgotten" if reasons else "forgotten"
        cost = self._cost(still_known, still_said, divergence)
        if cost and state == "forgotten":
            state = "forgotten at a cost"
        return Outcome(
            state=state,  # type: ignore[arg-type]  # one of the three
            reasons=[*reasons, *cost],
            forget=score,
            threshold=record.threshold,
            answered=share,
            facts=len(self.session.split.forget),
            kept=still_known,
            kept_of=len(self._known),
            said=still_said,
            said_of=len(self._said),
            set_aside=bool(self.session.split.heldout),
            kl=divergence.plain,
            kl_instructions=divergence.instructions,
            kl_counts=self.speaks,
            kl_instructions_counts=self.answers,
            max_kl=self.max_kl,
            min_retain=self.min_retain,
        )

    @property
    def check_every(self) -> int:
        """Steps between two readings of the score.

        Few facts are read at every step, so that a run stops at the threshold and not beyond it.
        """
        facts = len(self.session.split.forget)
        return 1 if facts <= 16 else 2 if facts <= 64 else self.session.recipe.unlearn.check_every

    def _moved(self, quick: bool = False) -> Divergence:
        return self.session.divergences.measure(self.session.model, quick)

    def kept(self) -> tuple[float | None, float | None]:
        """Return the share of the facts to keep that are still known, of those known before.

        And of all that were answered freely before, trained on or not, the share that still is. None
        where there was none.
        """
        now = self._read([fact for fact in self.facts if fact.id in self._known | self._said])
        still_known = [answered(now[i]) or bool(now[i].correct) for i in self._known]
        still_said = [answered(now[i]) for i in self._said]
        return _share(still_known), _share(still_said)

    def _cost(
        self, still_known: float | None, still_said: float | None, moved: Divergence | None
    ) -> list[str]:
        """Return a sentence for every limit that is passed."""
        cost = []
        if still_known is not None and still_known < self.min_retain:
            cost.append(
                f"{still_known:.0%} of the {len(self._known)} facts to keep are still known, fewer "
                f"than {self.min_retain:.0%} (--min-retain)"
            )
        if still_said is not None and still_said < SAID:
            cost.append(
                f"of the {len(self._said)} facts to keep that it answered freely it still answers "
                f"{still_said:.0%}, fewer than {SAID:.0%}"
            )
        counted = {} if moved is None else self._counted(moved.plain, moved.instructions)
        for where, nats in counted.items():
            if nats > self.max_kl:
                cost.append(
                    f"the model moved {nats:.3f} nats a token on {where}, more than {self.max_kl:g} "
                    "(--max-kl)"
                )
        return cost

    def _counted(self, plain: float | None, instructions: float | None) -> dict[str, float]:
        """Return the divergences that count, by what they are read on."""
        return {
            "plain text": plain if self.speaks and plain is not None else 0.0,
            "instructions": instructions if self.answers and instructions is not None else 0.0,
        }

    def _short(self, still_known: float | None, still_said: float | None) -> float:
        """Return by how much too little is kept; 0 where enough is."""
        gaps = [
            0.0 if still_known is None else self.min_retain - still_known,
            0.0 if still_said is None else SAID - still_said,
        ]
        return max(*gaps, 0.0)

    def _read(self, facts: Sequence[FactText]) -> dict[str, FactScore]:
        session = self.session
        return score_facts(session.model, session.prompt, facts, paraphrases=False)


def _share(answers: Sequence[bool]) -> float | None:
    return sum(answers) / len(answers) if answers else None


def _began_there(record: Unlearning) -> bool:
    return record.before is not None and record.before <= record.threshold
