"""Weighted gradient ascent (WGA)."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ssiuu.likelihood import AnswerLogprobs
from ssiuu.methods.base import Objective, Origin, View


def wga_loss(logprobs: AnswerLogprobs, beta: float) -> Float[Tensor, " B"]:
    """Return the WGA loss of each example.

        L(x, y) = sum over t of p_t^beta log p_t,    p_t = p(y_t | x, y_<t), p_t^beta a constant

    A token already unlikely is pushed less; beta = 0 is GA.

    Source: Wang et al. 2025, "Rethinking LLM unlearning objectives", Sec. 5 (ICLR).
    Departures: none; a batch is divided by its answer tokens.
    """
    weights = (beta * logprobs.tokens.detach()).exp()
    return (weights * logprobs.tokens).sum(1)


class WeightedGradientAscent(Objective):
    """WGA: gradient ascent weighted by each token's probability, with a retain term."""

    name: ClassVar[str] = "wga"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Wang et al. 2025 (ICLR)."
    summary: ClassVar[str] = "WGA: gradient ascent weighted by each token's probability"

    beta: float = Field(default=1.0, ge=0, le=10, description="power of the token's probability")

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `wga_loss`."""
        return wga_loss(view.logprobs, self.beta)
