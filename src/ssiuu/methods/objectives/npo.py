"""Negative preference optimisation (NPO)."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from ssiuu.likelihood import AnswerLogprobs
from ssiuu.methods.base import Need, Normaliser, Objective, Origin, Through, View


def npo_loss(
    logprobs: AnswerLogprobs, reference: Float[Tensor, " B"], beta: float
) -> Float[Tensor, " B"]:
    """Return the NPO loss of each example.

        L(x, y) = -(2/beta) log sigmoid(-beta (log P(y|x) - log P_ref(y|x)))
                = (2/beta) log(1 + (P / P_ref)^beta)

    Its gradient is GA's times 2 P^beta / (P^beta + P_ref^beta): 1 at the start, 0 once forgotten.

    Source: Zhang et al. 2024, "Negative preference optimization", Eq. 3.
    Departures: none.
    """
    return 2 / beta * softplus(beta * (logprobs.sum - reference))


class NegativePreference(Objective):
    """NPO with a retain term, as the paper runs it."""

    name: ClassVar[str] = "npo"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Zhang et al. 2024 (COLM); retain term as in the paper's App. C.2."
    summary: ClassVar[str] = "NPO: negative preference optimisation with a retain term"
    normaliser: ClassVar[Normaliser] = "examples"
    needs: ClassVar[frozenset[Need]] = frozenset({"logprob"})
    through: ClassVar[Through] = "answer"

    beta: float = Field(default=0.1, gt=0, le=10, description="strength of the reference")

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `npo_loss`."""
        if view.reference is None:
            raise ValueError("NPO needs the reference log-probabilities")
        return npo_loss(view.logprobs, view.reference, self.beta)
