"""Simple negative preference optimisation (SimNPO)."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from ssiuu.likelihood import AnswerLogprobs
from ssiuu.methods.base import Normaliser, Objective, Origin, Through, View


def simnpo_loss(logprobs: AnswerLogprobs, beta: float, delta: float) -> Float[Tensor, " B"]:
    """Return the SimNPO loss of each example.

        L(x, y) = -(2/beta) log sigmoid(-(beta/|y|) log P(y|x) - delta)

    NPO without a reference: the answer's length takes its place. Its gradient is GA's times
    (2/|y|) sigmoid(beta log P / |y| + delta).

    Source: Fan et al. 2024, "Simplicity prevails", Eq. 4.
    Departures: `delta` stands outside `beta`, as in the paper (the authors' code and
    open-unlearning multiply it by beta; all are the same at the default 0).
    """
    mean = logprobs.sum / logprobs.count
    return 2 / beta * softplus(beta * mean + delta)


class SimpleNegativePreference(Objective):
    """SimNPO: length-normalised NPO without a reference."""

    name: ClassVar[str] = "simnpo"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Fan et al. 2024 (NeurIPS 2025)."
    summary: ClassVar[str] = "SimNPO: NPO with the answer's length in place of a reference"
    normaliser: ClassVar[Normaliser] = "examples"
    through: ClassVar[Through] = "answer"

    beta: float = Field(default=4.5, gt=0, le=100, description="sharpness of the sigmoid")
    delta: float = Field(default=0.0, ge=0, description="margin of the reward, nats")
    forget_weight: float = Field(default=0.125, gt=0, description="weight of the forget loss")

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `simnpo_loss`; weighted by `forget_weight`."""
        return self.forget_weight * simnpo_loss(view.logprobs, self.beta, self.delta)
