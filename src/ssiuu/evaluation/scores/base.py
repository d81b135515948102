"""What a score is: how facts are read, also during an attack, and when they are gone.

    class Rude(Score):
        name, summary = "rude", "share of rude answers"

        def score(self, model, prompt, facts, ...): ...

        def read(self, model, prompt, facts): ...

        def stop(self, model, prompt, facts, seed): ...

It has columns too, which reports show wherever the record names it (`ssiuu.analysis.score`); there a
package adds its own, by the entry-point group `ssiuu.scores`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ssiuu.analysis.score import ScoreColumns
from ssiuu.causal import CausalLM
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import Evaluation, FactScore, FactText, Reading, Split

ReadFacts = Callable[[CausalLM, Prompt, Sequence[FactText]], dict[str, Reading]]


@dataclass(frozen=True)
class Stop:
    """What ends unlearning: a score of the facts to forget, and where it is low enough.

    `kind`: its name in the record. `free`: whether it already is the share of facts answered freely.
    """

    kind: str
    read: Callable[[], float]
    threshold: float
    free: bool = False


class Score(ScoreColumns, ABC):
    """How models are scored on the facts of a benchmark, and what reports show of it.

    Attributes:
        loss_ends: Whether membership inference by loss and zlib counts the end token of an answer.
    """

    loss_ends: ClassVar[bool] = False

    @abstractmethod
    def score(
        self,
        model: CausalLM,
        prompt: Prompt,
        facts: Sequence[FactText],
        paraphrases: bool = False,
        free: bool = True,
        normalise: bool = False,
        other: Prompt | None = None,
    ) -> dict[str, FactScore]:
        """Score facts; keys are fact ids.

        Args:
            model: The model, in evaluation mode.
            prompt: How questions become tokens.
            facts: What is asked.
            paraphrases: Ask a fact's further questions too.
            free: Write an answer to the base question, where nothing but that asks for one.
            normalise: Take the probability over the right and the wrong answers, where there is one.
            other: Another form to ask the base question in as well.
        """

    @abstractmethod
    def read(self, model: CausalLM, prompt: Prompt, facts: Sequence[FactText]) -> dict[str, Reading]:
        """Read the base questions only, as during an attack; keys are fact ids."""

    @abstractmethod
    def stop(self, model: CausalLM, prompt: Prompt, facts: Sequence[FactText], seed: int) -> Stop:
        """Return what ends unlearning.

        Args:
            model: The model as it will be while it is read.
            prompt: How questions become tokens.
            facts: The facts to forget.
            seed: Of what is drawn for the threshold.
        """

    def evaluate(self, model: CausalLM, prompt: Prompt, split: Split) -> Evaluation:
        """Score all sets: forget by every question there is, the others by the base question.

        Free answers are written for all but the retain facts, which were trained on. The forget facts
        are asked in another form too (`Prompt.other`): what is gone only where it was learned is not
        gone. In further sets a probability is normalised (TOFU's).
        """
        start = time.perf_counter()

        def scored(facts: Sequence[FactText], **how: Any) -> dict[str, FactScore]:
            wanted = [fact for fact in facts if fact.scored]
            scores = self.score(model, prompt, wanted, **how)
            return {fact.id: scores[fact.id] for fact in wanted}

        return Evaluation(
            forget=scored(split.forget, paraphrases=True, other=prompt.other()),
            retain=scored(split.retain, free=False),
            heldout=scored(split.heldout),
            others={name: scored(facts, normalise=True) for name, facts in split.others.items()},
            seconds=round(time.perf_counter() - start, 2),
        )

    def reading(self, fact: FactText, score: FactScore) -> Reading:
        """Return the reading of a fact that its score holds already."""
        return Reading(correct=score.correct, logprob=score.logprob)


def chance(facts: Sequence[FactText]) -> float | None:
    """Return the accuracy of guessing among a fact's options; None where nothing is ranked."""
    counts = [len(fact.options) for fact in facts if fact.options]
    return sum(1 / n for n in counts) / len(counts) if counts else None
