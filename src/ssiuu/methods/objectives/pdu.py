"""Primal-dual unlearning (PDU): flatten the answers' logits while the retain loss stays in bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from ssiuu.methods.base import Bound, Losses, Objective, Origin, Parts, View


def margin_loss(logits: Float[Tensor, "B A V"], mask: Bool[Tensor, "B A"]) -> Float[Tensor, " B"]:
    """Return the squared margin of each example's logits, summed over its answer tokens.

        L(x, y) = sum over t of (max z_t - mean z_t)^2

    It is 0 where every word is as likely as any other.

    Source: Entesari et al. 2025, "Constrained entropic unlearning: a primal-dual framework".
    Departures: none; a batch is divided by its answer tokens.
    """
    margin = logits.amax(-1) - logits.mean(-1)
    return margin.square().masked_fill(~mask, 0.0).sum(1)


class PrimalDual(Objective):
    """PDU: minimise the margin such that the retain loss is at most a limit.

    The retain term's weight is the constraint's multiplier. It begins at `retain_weight`, and after a
    step, once warmed up, it becomes max(0, multiplier + dual_rate * (retain loss - retain_limit)); with
    `dual_every` it is taken once in so many steps, of their mean retain loss.

    Source: Entesari et al. 2025, "Constrained entropic unlearning: a primal-dual framework". Its code
    has dual_rate 1 to 5, a first multiplier of 50 to 100 and a limit for each model and data set.
    Departures: warmed up by steps, not epochs; the source's dual step of an epoch takes the retain loss
    of the whole set at its end; a limit that is not given is the first step's loss. open-unlearning
    counts the logits one position behind those that predict the answer.
    """

    name: ClassVar[str] = "pdu"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Entesari et al. 2025."
    summary: ClassVar[str] = "PDU: flat logits under a bound on the retain loss, primal-dual"
    in_nats: ClassVar[bool] = False

    forget_weight: float = Field(default=1.0, gt=0, description="weight of the forget loss")
    retain_limit: float | None = Field(
        default=None, description="what the retain loss may be; null: what it is in the first step"
    )
    dual_rate: float = Field(default=1.0, ge=0, description="step size of the multiplier")
    dual_warmup: int = Field(default=5, ge=0, description="steps before the multiplier first changes")
    dual_every: int = Field(default=1, ge=1, description="steps between two changes of the multiplier")

    def fits(self, among: Parts) -> None:
        """Refuse to bound nothing."""
        if among.retain is None:
            raise ValueError("the multiplier is the retain term's weight: a retain term is needed")

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `margin_loss`; weighted by `forget_weight`."""
        if view.logits is None:
            raise ValueError("PDU needs the logits")
        return self.forget_weight * margin_loss(view.logits, view.logprobs.mask)

    def bind(self, prepared: Any) -> Multiplier:
        """Begin at the retain term's weight."""
        return Multiplier(self)


class Multiplier(Bound):
    """The dual variable of one run."""

    def __init__(self, settings: PrimalDual) -> None:
        self.settings, self.limit = settings, settings.retain_limit
        self.value: float | None = None
        self.steps = 0
        self.total, self.since = 0.0, 0  # of the retain loss, since the multiplier last changed

    def weigh(self, weight: float) -> float:
        """Return the multiplier."""
        self.value = weight if self.value is None else self.value
        return self.value

    def after(self, losses: Losses, learning_rate: float) -> None:
        """Take the dual step."""
        if losses.retain is None or self.value is None:
            return
        self.limit, self.steps = losses.retain if self.limit is None else self.limit, self.steps + 1
        if self.steps <= self.settings.dual_warmup:
            return
        self.total, self.since = self.total + losses.retain, self.since + 1
        if self.since == self.settings.dual_every:
            excess = self.total / self.since - self.limit
            self.value = max(0.0, self.value + self.settings.dual_rate * excess)
            self.total, self.since = 0.0, 0

    def told(self) -> dict[str, float]:
        """Return the multiplier."""
        return {} if self.value is None else {"multiplier": self.value}

    def state(self) -> dict[str, Tensor]:
        """Return multiplier, limit, steps, and what has come since it last changed."""
        if self.value is None or self.limit is None:
            return {}
        kept = [self.value, self.limit, self.steps, self.total, self.since]
        return {"dual": torch.tensor(kept, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what was saved."""
        if "dual" in state:
            self.value, self.limit, steps, self.total, since = state["dual"].tolist()
            self.steps, self.since = int(steps), int(since)
