"""Short answers: ranked among their options, said freely.

A row that brings wrong sentences beside its answer has the scores of sentences too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ssiuu.analysis.scores.ranking import RankingColumns
from ssiuu.analysis.verdict import answered
from ssiuu.causal import CausalLM
from ssiuu.evaluation.knowledge import LIKELY
from ssiuu.evaluation.score import score_facts
from ssiuu.evaluation.scores.base import Score, Stop, chance
from ssiuu.evaluation.scores.sentences import Sentences
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import FactScore, FactText, Reading

FREE_THRESHOLD = 0.05  # stop score where nothing can be ranked: share of free answers still right
SENTENCES = Sentences()


class Ranking(Score, RankingColumns):
    """Is the right answer ranked first among its options?"""

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
        """See `Score`: each fact in its form."""
        sentences, short = _by_form(facts)
        scores = score_facts(model, prompt, short, paraphrases, free, other)
        return scores | SENTENCES.score(model, prompt, sentences, paraphrases, free, normalise, other)

    def read(self, model: CausalLM, prompt: Prompt, facts: Sequence[FactText]) -> dict[str, Reading]:
        """Read ranking and log-probability, of sentences ROUGE-L too; keys are fact ids."""
        sentences, short = _by_form(facts)
        readings = SENTENCES.read(model, prompt, sentences) if sentences else {}
        for i, score in score_facts(model, prompt, short, paraphrases=False, free=False).items():
            readings[i] = Reading(correct=score.correct, logprob=score.logprob)
        return {fact.id: readings[fact.id] for fact in facts}

    def reading(self, fact: FactText, score: FactScore) -> Reading:
        """Return ranking and log-probability, of sentences ROUGE-L recalls too."""
        if fact.perturbed:
            return SENTENCES.reading(fact, score)
        return super().reading(fact, score)

    def stop(self, model: CausalLM, prompt: Prompt, facts: Sequence[FactText], seed: int) -> Stop:
        """Return the share ranked first, or, where most have no options, the share answered freely."""
        ranked = [fact for fact in facts if fact.options]
        if 2 * len(ranked) < len(facts):
            free = partial(answered_share, model, prompt, facts)
            return Stop("free", free, FREE_THRESHOLD, free=True)

        def first() -> float:
            return sum(bool(r.correct) for r in self.read(model, prompt, ranked).values()) / len(ranked)

        # A shade above chance, as 1/3 of the facts may not be a whole number.
        return Stop("ranking", first, (chance(facts) or 0.0) + 0.5 / len(ranked))


def read_by_ranking(model: CausalLM, prompt: Prompt, facts: Sequence[FactText]) -> dict[str, Reading]:
    """Read facts as `Ranking` does."""
    return Ranking().read(model, prompt, facts)


def answered_share(model: CausalLM, prompt: Prompt, facts: Sequence[FactText]) -> float:
    """Return the share of facts that are answered freely; see `answered_freely`."""
    return len(answered_freely(model, prompt, facts)) / len(facts)


def answered_freely(model: CausalLM, prompt: Prompt, facts: Sequence[FactText]) -> set[str]:
    """Return the ids of facts that are answered freely, in the prompt's form or another one.

    Where a fact has nothing to be ranked against, it also counts while its tokens are likely: the
    greedy answer alone changes long before the answer is gone.
    """
    scores = score_facts(model, prompt, facts, paraphrases=False, other=prompt.other())
    return {
        i
        for i, s in scores.items()
        if answered(s) or (s.correct is None and s.logprob / s.tokens >= LIKELY)
    }


def _by_form(facts: Sequence[FactText]) -> tuple[list[FactText], list[FactText]]:
    """Return the facts whose wrong answers are sentences, and the others."""
    return [f for f in facts if f.perturbed], [f for f in facts if not f.perturbed]
