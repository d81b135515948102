"""Questions of a few choices: ranked as answers, and by the letter that stands before each."""

from __future__ import annotations

from collections.abc import Sequence

from ssiuu.analysis.scores.choices import ChoiceColumns
from ssiuu.causal import CausalLM
from ssiuu.evaluation.score import score_facts
from ssiuu.evaluation.scores.ranking import Ranking
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import FactScore, FactText


class Choices(ChoiceColumns, Ranking):
    """Scored as in ranking; in further sets nothing is written: a letter says no more than its rank."""

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
        """See `Score`."""
        return score_facts(model, prompt, facts, paraphrases, free and not normalise, other)
