"""Gradient difference (GD): gradient ascent on forget, descent on retain."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ssiuu.methods.base import Objective, Origin, Through, View
from ssiuu.methods.objectives.ga import ga_loss


class GradientDifference(Objective):
    """GD: L = -NLL(forget) + retain_weight * NLL(retain)."""

    name: ClassVar[str] = "gd"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Liu, Liu and Stone 2022, as in the paper's App. C.2."
    summary: ClassVar[str] = "GD: gradient ascent on forget, descent on retain"

    through: ClassVar[Through] = "constant"

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `ga_loss`; the retain term is added by the loop."""
        return ga_loss(view.logprobs)
