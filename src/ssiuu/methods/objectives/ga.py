"""Gradient ascent (GA)."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ssiuu.likelihood import AnswerLogprobs
from ssiuu.methods.base import Objective, Origin, Through, View


def ga_loss(logprobs: AnswerLogprobs) -> Float[Tensor, " B"]:
    """Return the negative NLL of each answer, nats.

        L(x, y) = log P(y|x) = sum over t of log p(y_t | x, y_<t)

    Source: Jang et al. 2023, "Knowledge unlearning for mitigating privacy risks in language models".
    Departures: none; a batch is divided by its answer tokens, as the field's cross-entropy is.
    """
    return logprobs.sum


class GradientAscent(Objective):
    """GA: ascend the NLL of the forget set, nothing else."""

    name: ClassVar[str] = "ga"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Jang et al. 2023 (ACL)."
    summary: ClassVar[str] = "GA: gradient ascent on the NLL of the forget set"

    through: ClassVar[Through] = "constant"
    retains: ClassVar[bool] = False

    @classmethod
    def retain_default(cls, asked: str | None) -> tuple[str, float]:
        """GA has no retain term."""
        return "none", 0.0

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `ga_loss`."""
        return ga_loss(view.logprobs)
