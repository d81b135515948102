"""CE-U: cross-entropy to the model's own distribution without the answer's token."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from ssiuu.methods.base import Objective, Origin, View


def ceu_loss(
    logits: Float[Tensor, "B A V"],
    targets: Int[Tensor, "B A"],
    mask: Bool[Tensor, "B A"],
    skip: int = 0,
) -> Float[Tensor, " B"]:
    """Return the CE-U loss of each example, nats.

        L(x, y) = sum over t > skip of CE(q_t, softmax(z_t)),    q_t = softmax(z_t without y_t), held

    Its gradient at the logits is softmax(z_t) - q_t: p at the answer's token, and what the others gain
    goes to them in the proportions they have. It vanishes with p, so nothing is pushed on for ever.

    Args:
        logits: Of the answer's positions.
        targets: The answer's tokens.
        mask: Which of them are there.
        skip: First tokens of every answer that are left out; of an answer no longer than that the last
            one stays.

    Source: Yang 2025, "CE-U: Cross entropy unlearning" (arXiv 2503.01224).
    Departures: an answer of `skip` tokens or fewer keeps its last one, where the source's code has
    nothing to train on.
    """
    lowest = torch.finfo(logits.dtype).min
    others = logits.detach().scatter(-1, targets.unsqueeze(-1), lowest).softmax(-1)
    entropy = -(others * logits.log_softmax(-1)).sum(-1)
    counted = mask & (mask.cumsum(1) > mask.sum(1, keepdim=True).sub(1).clamp(max=skip))
    return entropy.masked_fill(~counted, 0.0).sum(1)


class CrossEntropyUnlearning(Objective):
    """CE-U: learn what the model says beside the answer."""

    name: ClassVar[str] = "ceu"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Yang 2025 (arXiv 2503.01224)."
    summary: ClassVar[str] = "CE-U: cross-entropy to the model's own words without the answer's"

    skip: int = Field(default=1, ge=0, description="first tokens of an answer that are left out")

    @classmethod
    def retain_default(cls, asked: str | None) -> tuple[str, float]:
        """The source has no retain term; one that is asked for by another name than nll counts."""
        return asked or "nll", float(asked not in (None, "none", "nll"))

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `ceu_loss`."""
        if view.logits is None or view.targets is None:
            raise ValueError("CE-U needs the logits and the answer's tokens")
        return ceu_loss(view.logits, view.targets, view.logprobs.mask, self.skip)
