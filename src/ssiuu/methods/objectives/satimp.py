"""Saturation- and importance-weighted gradient ascent (SatImp)."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ssiuu.likelihood import AnswerLogprobs
from ssiuu.methods.base import Objective, Origin, View


def satimp_loss(logprobs: AnswerLogprobs, saturation: float, importance: float) -> Float[Tensor, " B"]:
    """Return the SatImp loss of each example.

        L(x, y) = sum over t of p_t^a (1 - p_t)^b log p_t,    p_t^a (1 - p_t)^b a constant

    A token that is unlikely already (saturation, a) or certain whatever the question (importance, b)
    is pushed less; b = 0 is WGA, and a = b = 0 is GA.

    Source: Yang et al. 2025, "Exploring criteria of loss reweighting to enhance LLM unlearning" (ICML).
    Departures: none; a batch is divided by its answer tokens.
    """
    p = logprobs.tokens.detach().exp()
    return (p**saturation * (1 - p) ** importance * logprobs.tokens).sum(1)


class SaturationImportance(Objective):
    """SatImp: gradient ascent weighted by what is left to forget and by what carries the fact."""

    name: ClassVar[str] = "satimp"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Yang et al. 2025 (ICML)."
    summary: ClassVar[str] = "SatImp: gradient ascent weighted by saturation and importance"

    saturation: float = Field(default=5.0, ge=0, le=100, description="power of p (a)")
    importance: float = Field(default=1.0, ge=0, le=100, description="power of 1 - p (b)")
    forget_weight: float = Field(default=0.1, gt=0, description="weight of the forget loss")

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `satimp_loss`; weighted by `forget_weight`."""
        return self.forget_weight * satimp_loss(view.logprobs, self.saturation, self.importance)
