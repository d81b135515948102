"""AltPO: prefer another plausible answer to the true one."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ssiuu.methods.base import Alternates, Need, Normaliser, Objective, Origin, Through, View
from ssiuu.methods.objectives.dpo import dpo_loss


class AlternatePreference(Objective):
    """AltPO: the loss of DPO, with another answer of the same kind where that has a refusal.

        L = -(2/beta) log sigmoid(beta [log P/P_ref (y') - log P/P_ref (y)])

    A fact has `count` rows, each with an alternate y' of its own; together they are an epoch.

    Source: Mekala et al. 2025, "Alternate preference optimization for unlearning factual knowledge in
    large language models" (COLING); five alternates a fact and beta 0.1 are the authors' code's.
    Departures: `made: lineup` takes the alternates from the fact's lineup: answers of other facts of
    its relation, numbers of its pattern, made-up names. The source has the model write them, at
    temperature 1, under the order to make another answer up: `made: model`, in words of ours, of which
    those that hold the true answer are dropped and lineup's take their place. Small models do not
    follow such an order. With open-unlearning's factor 2/beta, as in `dpo_loss`.
    """

    name: ClassVar[str] = "altpo"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Mekala et al. 2025 (COLING)."
    summary: ClassVar[str] = "AltPO: prefer other plausible answers to the true one, with a retain term"
    normaliser: ClassVar[Normaliser] = "examples"
    needs: ClassVar[frozenset[Need]] = frozenset({"logprob", "refusal"})
    through: ClassVar[Through] = "answer"

    beta: float = Field(default=0.1, gt=0, le=10, description="strength of the reference")
    count: int = Field(default=5, ge=1, le=24, description="alternates a fact")
    made: Literal["lineup", "model"] = Field(
        default="lineup",
        description="where they are from: answers of the fact's kind, or what the model makes up when "
        "told to (the source's; it wants a model that follows instructions)",
    )

    @property
    def alternates(self) -> Alternates:
        """As set."""
        return Alternates(self.count, self.made)

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `dpo_loss`, with an alternate for the refusal."""
        if view.refusal is None or view.reference is None or view.reference_refusal is None:
            raise ValueError("AltPO needs the alternates and the reference log-probabilities")
        return dpo_loss(view.refusal, view.logprobs, view.reference_refusal, view.reference, self.beta)
