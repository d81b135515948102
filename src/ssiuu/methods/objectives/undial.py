"""UNDIAL: self-distillation with the answer's logit lowered."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from ssiuu.methods.base import Need, Objective, Origin, View


def undial_loss(
    logits: Float[Tensor, "B A V"],
    reference: Float[Tensor, "B A V"],
    targets: Int[Tensor, "B A"],
    mask: Bool[Tensor, "B A"],
    beta: float,
) -> Float[Tensor, " B"]:
    """Return the UNDIAL loss of each example: cross-entropy to the adjusted reference, nats.

        L(x, y) = sum over t of CE(softmax(z_ref,t - beta onehot(y_t)), softmax(z_t))

    Source: Dong et al. 2025, "UNDIAL", Eq. 3 (NAACL).
    Departures: only answer tokens count (the peer's code averages over prompt and padding too).
    """
    lowered = reference.scatter_add(
        -1, targets.unsqueeze(-1), torch.full_like(reference[..., :1], -beta)
    )
    entropy = -(lowered.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    return entropy.masked_fill(~mask, 0.0).sum(1)


class SelfDistillation(Objective):
    """UNDIAL: learn the reference's own distribution with the answer's logit lowered."""

    name: ClassVar[str] = "undial"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Dong et al. 2025 (NAACL)."
    summary: ClassVar[str] = "UNDIAL: self-distillation with the answer's logit lowered"
    needs: ClassVar[frozenset[Need]] = frozenset({"distribution"})

    beta: float = Field(default=10.0, gt=0, description="how far the answer's logit is lowered")

    @classmethod
    def retain_default(cls, asked: str | None) -> tuple[str, float]:
        """The source has no retain term; one that is asked for by another name than nll counts."""
        return asked or "nll", float(asked not in (None, "none", "nll"))

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `undial_loss`."""
        if view.logits is None or view.reference_logits is None or view.targets is None:
            raise ValueError("UNDIAL needs the logits, the reference's and the answer's tokens")
        return undial_loss(
            view.logits, view.reference_logits, view.targets, view.logprobs.mask, self.beta
        )
