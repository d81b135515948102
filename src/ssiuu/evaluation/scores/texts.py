"""Texts, as MUSE scores them: how much of what follows is written as it stands.

An excerpt is gone on with for as many tokens as its right continuation has, a question is answered in
at most 32 tokens up to a line end; both are scored by ROUGE-L F1. Which of the two a fact is, its
`relation` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ssiuu.analysis.scores.texts import TextColumns
from ssiuu.causal import CausalLM
from ssiuu.evaluation.ask import write
from ssiuu.evaluation.match import holds
from ssiuu.evaluation.rouge import rouge_f1
from ssiuu.evaluation.scores.base import Score, Stop
from ssiuu.evaluation.scores.sentences import mismatched_rouge
from ssiuu.evaluation.sequence import SequenceScore, score_sequences
from ssiuu.likelihood import ONE_LINE, Ending, Example, Prompt
from ssiuu.likelihood.prompt import WHOLE_TURN
from ssiuu.records.schema import FactScore, FactText, Reading

EXCERPT: Final = "excerpt"  # the relation of a fact that is a text with its continuation
ANSWER: Final = 32  # tokens of the answer to a question, at most


class Texts(Score, TextColumns):
    """ROUGE-L F1 of continuations and of answers."""

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
        """See `Score`: nothing is ranked, and a text is asked in one form."""
        sequences, texts = _sequences(model, prompt, facts), written(model, prompt, facts)
        return {
            fact.id: FactScore(
                correct=None,
                logprob=answer.logprob,
                tokens=answer.tokens,
                free_text=text,
                free_correct=holds(fact.answer, text),
                rouge=rouge_f1(fact.answer, text),
                extraction_strength=answer.extraction_strength,
                exact_memorisation=answer.exact_memorisation,
            )
            for fact, answer, text in zip(facts, sequences, texts, strict=True)
        }

    def read(self, model: CausalLM, prompt: Prompt, facts: Sequence[FactText]) -> dict[str, Reading]:
        """Read log-probability and ROUGE-L F1; keys are fact ids."""
        return {i: self.reading_of(s) for i, s in self.score(model, prompt, facts).items()}

    def reading(self, fact: FactText, score: FactScore) -> Reading:
        """Return log-probability and ROUGE-L F1."""
        return self.reading_of(score)

    @staticmethod
    def reading_of(score: FactScore) -> Reading:
        """Return what of a score is read during an attack."""
        return Reading(correct=None, logprob=score.logprob, rouge=score.rouge)

    def stop(self, model: CausalLM, prompt: Prompt, facts: Sequence[FactText], seed: int) -> Stop:
        """Return the mean ROUGE-L F1; gone is what other texts go on like by chance."""

        def mean() -> float:
            return sum(rouges(model, prompt, facts)) / len(facts)

        return Stop("rouge_f1", mean, mismatched_rouge(facts, seed, rouge_f1))


def rouges(model: CausalLM, prompt: Prompt, facts: Sequence[FactText]) -> list[float]:
    """Return the ROUGE-L F1 of what is written after every question."""
    pairs = zip(facts, written(model, prompt, facts), strict=True)
    return [rouge_f1(fact.answer, text) for fact, text in pairs]


def written(model: CausalLM, prompt: Prompt, facts: Sequence[FactText]) -> list[str]:
    """Return what the model greedily writes after every question."""
    joints = [prompt.joint(fact.question, [fact.answer]) for fact in facts]
    long = [fact.relation == EXCERPT for fact in facts]
    endings = [Ending(WHOLE_TURN) if whole else ONE_LINE for whole in long]
    limits = [len(j.answers[0]) if whole else ANSWER for j, whole in zip(joints, long, strict=True)]
    found = write(model, prompt, [joint.alone for joint in joints], limits, endings=endings)
    return [prompt.text(ids, ending) for ids, ending in zip(found, endings, strict=True)]


def _sequences(model: CausalLM, prompt: Prompt, facts: Sequence[FactText]) -> list[SequenceScore]:
    joints = [prompt.joint(fact.question, [fact.answer]) for fact in facts]
    return score_sequences(model, [Example("", joint.prompt, joint.answers[0]) for joint in joints])
