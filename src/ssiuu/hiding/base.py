"""What a way of hiding is: facts that a model knows are no longer answered, and what knew them stays.

    hidden = HIDING["last-map"]().hide(Subject.of(ground, "fp32", seed=0), facts, keep)
    hidden.facts, hidden.left, hidden.kept

One file holds one kind. A kind changes the model in rounds; after each the facts are asked again, and
it ends once none is answered any more. What it reached is then measured on the weights as they would
be saved, and a fact that could not be hidden is said and not counted.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from ssiuu.benchmarks.base import Ground, Progress, tokenised
from ssiuu.causal import CausalLM
from ssiuu.errors import DataError
from ssiuu.evaluation.alternatives import alternatives
from ssiuu.evaluation.score import score_facts
from ssiuu.likelihood import Prompt
from ssiuu.models.load import snapshot
from ssiuu.records.said import Said, led
from ssiuu.records.schema import FactScore, FactText

Scores = dict[str, FactScore]
KEPT = 0.9  # share of the held facts that must be answered still before a kind ends
HELD = 48  # kept facts that are asked and held to the original at most: more would only take time


@dataclass(frozen=True)
class Subject:
    """The model in which facts are hidden, changed in place, and how it is asked.

    `pad`: any token id. `context`: longest sequence, tokens. `seed`: decides adapters, rows, wordings.
    """

    model: CausalLM
    prompt: Prompt
    pad: int
    context: int
    precision: Literal["bf16", "fp32"] = "fp32"
    seed: int = 0

    @classmethod
    def of(cls, ground: Ground, precision: Literal["bf16", "fp32"], seed: int = 0) -> Subject:
        """Return the model that a benchmark opened."""
        return cls(ground.model, ground.prompt, ground.pad, ground.context, precision, seed)


@dataclass(frozen=True)
class Hidden:
    """What was reached, measured after the adapters were merged.

    Attributes:
        kind: Name of the way of hiding.
        facts: Ids of those that were answered before and are not any more: the free answer does not
            hold the answer, and it is not ranked first among the fact's options or alternatives.
        left: The other facts, each with the reason why it does not count as hidden.
        before: What the model made of each fact before.
        after: And after.
        kept: Share of the facts to keep that are still answered, of those answered before; None: none
            was given that was answered.
        moved: Mean change of a kept answer's log-probability a token, nats.
        steps: Training steps; 0 where nothing is trained.
        seconds: All in all, the asking included.
        changed: Names of the parameters that are not the original's.
        notes: What a reader must know.
    """

    kind: str
    facts: tuple[str, ...]
    left: dict[str, str]
    before: Scores
    after: Scores
    kept: float | None
    moved: float | None
    steps: int
    seconds: float
    changed: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Share of the facts answered before that are hidden; 0 where none was."""
        known = sum(map(answers, self.before.values()))
        return len(self.facts) / known if known else 0.0

    @property
    def summary(self) -> str:
        """What was reached, in a line."""
        kept = "" if self.kept is None else f", {self.kept:.0%} of the others kept"
        known = sum(map(answers, self.before.values()))
        return (
            f"{self.kind}: {len(self.facts)} of {known} facts hidden{kept}; "
            f"{self.steps} steps, {self.seconds:.0f} s"
        )


@dataclass(frozen=True)
class Case:
    """What a kind works with: the facts to hide, all of them answered, and others to keep.

    `held`: those of `keep` that are looked at and answered. `before`: what the model made of the facts
    to hide. `most`: training steps that may be taken; None: as many as the kind has. `unsettled` and
    `kept` ask again.
    """

    subject: Subject
    facts: Sequence[FactText]
    keep: Sequence[FactText]
    held: Sequence[FactText]
    before: Scores
    progress: Progress
    most: int | None = None

    def unsettled(self) -> Scores:
        """Return the scores of those facts that are still answered."""
        model, prompt = self.subject.model, self.subject.prompt
        found = score_facts(model, prompt, self.facts, paraphrases=False)
        return {id: score for id, score in found.items() if answers(score)}

    def kept(self) -> bool:
        """Return whether next to all of the held facts are answered still."""
        found = asked(self.subject, self.held, free=False).values()
        return sum(map(answers, found)) >= KEPT * len(found)


@dataclass(frozen=True)
class Round:
    """What a kind has done so far: training steps, and what must be said.

    `reasons`: why facts could not be hidden, where the kind knows, by id.
    """

    steps: int = 0
    notes: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)


Rounds = Generator[Round, None, None]


class Hiding(ABC):
    """A way of hiding facts.

    Attributes:
        name: In lists and records.
        summary: What it does, in one line.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    def hide(
        self,
        subject: Subject,
        facts: Sequence[FactText],
        keep: Sequence[FactText] = (),
        progress: Progress = lambda _: None,
        most: int | None = None,
    ) -> Hidden:
        """Hide facts, in place.

        Args:
            subject: The model; its weights change, and no module of it is another one afterwards.
            facts: To hide. Those that the model does not answer are left out, and said.
            keep: Other facts, which should be answered as before; `HELD` of them are looked at.
            progress: Told what is going on, and at the end what was reached; all before that is minor.
            most: Training steps; what is not hidden by then is left. None: as many as the kind has.

        Raises:
            DataError: There is nothing to hide, an id comes twice, or a fact does not fit the context.
            ModelError: The model has no place for this kind.
            DivergedError: Training did not stay finite.
        """
        start = time.perf_counter()
        check(subject, facts, keep)
        facts, others = [rivalled(f, [*facts, *keep], subject.seed) for f in facts], sampled(keep)
        before, beside = asked(subject, facts), asked(subject, others, free=False)
        known = [fact for fact in facts if answers(before[fact.id])]
        held = [fact for fact in others if answers(beside[fact.id])]
        begun = f"{self.name}: {len(known)} of {len(facts)} facts are answered before"
        progress(Said(begun, minor=True))
        weights = snapshot(subject.model)
        case = Case(
            subject, known, keep, held, before, lambda text: progress(led(f"{self.name}: ", text)), most
        )
        done = self._rounds(case) if known else Round()
        after = asked(subject, facts)
        left = {f.id: why for f in facts if (why := answered_still(before[f.id], after[f.id]))}
        left |= {id: f"{left[id]}; {why}" for id, why in done.reasons.items() if id in left}
        kept, moved = compared(subject, held, beside)
        found = Hidden(
            kind=self.name,
            facts=tuple(fact.id for fact in facts if fact.id not in left),
            left=left,
            before=before,
            after=after,
            kept=kept,
            moved=moved,
            steps=done.steps,
            seconds=round(time.perf_counter() - start, 2),
            changed=changed(subject.model, weights),
            notes=done.notes,
        )
        progress(found.summary)
        return found

    def _rounds(self, case: Case) -> Round:
        """Change the model until no fact is answered or the kind has nothing left to try."""
        done = Round()
        with closing(self.change(case)) as rounds:
            for done in rounds:
                case.progress(Said(f"{done.steps} steps", minor=True))
        return done

    @abstractmethod
    def change(self, case: Case) -> Rounds:
        """Change the model in rounds, and end where no fact is answered any more.

        Yields:
            What has been done so far.
        """


def check(subject: Subject, facts: Sequence[FactText], keep: Sequence[FactText]) -> None:
    """Refuse facts that cannot be hidden.

    Raises:
        DataError: There are none, an id comes twice, or one does not fit the model's context.
    """
    if not facts:
        raise DataError("hiding: there are no facts to hide; at least 1 is needed.")
    ids = [fact.id for fact in (*facts, *keep)]
    if twice := sorted({id for id in ids if ids.count(id) > 1}):
        raise DataError(
            f"hiding: the id {twice[0]!r} comes more than once among the facts to hide and to keep "
            f"({len(twice)} such ids). Every fact needs an id of its own, and is hidden or kept."
        )
    tokenised(subject.prompt, [*facts, *keep], subject.context)


def rivalled(fact: FactText, others: Sequence[FactText], seed: int) -> FactText:
    """Return a fact with all that its answer is ranked among: options, else alternatives."""
    rivals = alternatives(fact, others, seed).answers or tuple(fact.options[1:])
    options = [fact.answer, *rivals] if rivals else []
    return fact.model_copy(update={"options": options, "multi_hop": [], "same_answer": []})


def sampled(keep: Sequence[FactText]) -> list[FactText]:
    """Return at most `HELD` facts, evenly spread."""
    return list(keep[:: -(-len(keep) // HELD)]) if keep else []


def asked(subject: Subject, facts: Sequence[FactText], free: bool = True) -> Scores:
    """Ask the base question and the paraphrases; those that nothing is ranked against freely."""
    model, prompt = subject.model, subject.prompt
    if free:
        return score_facts(model, prompt, facts)
    ranked = [fact for fact in facts if fact.options]
    found = score_facts(model, prompt, ranked, paraphrases=False, free=False)
    rest = [fact for fact in facts if not fact.options]
    return found | score_facts(model, prompt, rest, paraphrases=False)


def answers(score: FactScore) -> bool:
    """Whether a fact is answered: said freely, or ranked first."""
    return bool(score.free_correct or score.correct)


def answered_still(before: FactScore, after: FactScore) -> str:
    """Return why a fact does not count as hidden; "" where it does."""
    if not answers(before):
        return "it was not answered before"
    if after.free_correct:
        return "it is still said"
    return "its answer is still ranked first" if after.correct else ""


def compared(
    subject: Subject, held: Sequence[FactText], before: Scores
) -> tuple[float | None, float | None]:
    """Return the share of these facts that is still answered, and how far their answers moved."""
    if not held:
        return None, None
    after = asked(subject, held, free=False)
    moves = [abs(after[f.id].logprob - before[f.id].logprob) / before[f.id].tokens for f in held]
    return sum(answers(after[f.id]) for f in held) / len(held), sum(moves) / len(moves)


def changed(model: CausalLM, before: dict[str, Tensor]) -> tuple[str, ...]:
    """Return the names of the parameters that are not what they were."""
    return tuple(n for n, p in model.named_parameters() if not p.detach().equal(before[n]))
