"""JensUn: Jensen-Shannon divergence to a refusal on forget, to the model before on retain."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from ssiuu.likelihood import token_logprobs
from ssiuu.methods.base import Need, Objective, Origin, View


def jensun_loss(
    logits: Float[Tensor, "B A V"], instead: Int[Tensor, "B A"], mask: Bool[Tensor, "B A"]
) -> Float[Tensor, " B"]:
    """Return the divergence of each answer's positions from a refusal's tokens, nats.

        L(x, y) = sum over t of JS(p(. | x, y_<t), e(r_t))
                = sum over t of log 2 - ((1 + q_t) log(1 + q_t) - q_t log q_t) / 2

    with e(r_t) all on the refusal's token and q_t = p(r_t | x, y_<t): of a distribution and a single
    word the divergence is a function of that word's probability. It lies between 0 and log 2, and so
    does the slope, (q_t / 2) log((1 + q_t) / q_t), which vanishes where q_t does.

    Args:
        logits: Of the answer's positions.
        instead: The refusal's tokens, laid over the answer's again and again.
        mask: Which positions are an answer's.

    Source: Singh et al. 2025, "Unlearning that lasts" (arXiv 2509.02820), the forget loss.
    Departures: the answer's tokens alone; the authors' code also counts prompt and padding, and asks at
    every position for all tokens of the refusal at once, which is no distribution.
    """
    log_q = token_logprobs(logits, instead)
    q = log_q.exp()
    divergence = math.log(2) - ((1 + q) * torch.log1p(q) - q * log_q) / 2
    return divergence.masked_fill(~mask, 0.0).sum(1)


class JensenShannonUnlearning(Objective):
    """JensUn: bounded divergences on both sides; its own retain term is `js`."""

    name: ClassVar[str] = "jensun"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Singh et al. 2025 (arXiv 2509.02820)."
    summary: ClassVar[str] = "JensUn: Jensen-Shannon divergence to a refusal and, on retain, to before"
    needs: ClassVar[frozenset[Need]] = frozenset({"instead"})

    instead: str = Field(
        default="No idea", min_length=1, description="what every answer is drawn towards"
    )

    @classmethod
    def retain_default(cls, asked: str | None) -> tuple[str, float]:
        """The source has the same divergence on the retain rows, with equal weights."""
        return asked or "js", 1.0

    def refusal(self, id: str) -> str:
        """Return what every answer is drawn towards."""
        return self.instead

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `jensun_loss`."""
        if view.logits is None or view.instead is None:
            raise ValueError("JensUn needs the logits and the refusal's tokens")
        return jensun_loss(view.logits, view.instead, view.logprobs.mask)
