"""Disruption masking: keep of the forget gradient only what does not disrupt the retain set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.methods.base import Ask, Bound, Origin, Parts, Slope, Transform


@torch.no_grad()
def mask_disruption(
    forget: Float[Tensor, "*shape"], retain: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Zero the forget gradient, in place, wherever its step would raise the retain loss.

        G_f[j] <- G_f[j] where G_f[j] m[j] > 0, else 0

    m is the running mean of the retain gradient: a step along -G_f lowers the retain loss, to first
    order, exactly where both have the same sign.
    """
    return forget.masked_fill_(forget * retain <= 0, 0.0)


class DisruptionMask(Transform):
    """Disruption masking, the central part of MUDMAN.

    Source: Sondej et al. 2025, "Robust LLM unlearning with MUDMAN", Sec. 3.
    Departures: no meta-learned adversary; the gradient is not normalised; the retain step is the
    batch's own gradient, not its running mean; AdamW instead of plain steps, whose momentum also
    moves what is masked now; every parameter is trained, not chosen maps alone.
    """

    name: ClassVar[str] = "mask"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Sondej et al. 2025 (MUDMAN), its disruption masking alone."
    summary: ClassVar[str] = "with the forget gradient masked where it would disrupt retain"
    order: ClassVar[int] = 40
    published_on: ClassVar[frozenset[str]] = frozenset({"gd"})
    number: ClassVar[str] = "decay"

    decay: float = Field(
        default=0.95, ge=0, lt=1, description="of the running mean of the retain gradient"
    )

    def fits(self, among: Parts) -> None:
        """Refuse an objective without a retain term."""
        if among.retain is None:
            raise ValueError("the mask is the retain gradient's: a retain term is needed")

    def prepare(self, ask: Ask) -> None:
        """Refuse to go without retain rows."""
        if not ask.rows["retain"]:
            raise ConfigError(
                f"{ask.label}: the mask is the retain gradient's, and there are no retain rows."
            )

    def bind(self, prepared: Any) -> Masking:
        """Begin without a mean."""
        return Masking(self.decay)


class Masking(Bound):
    """Keeps the running mean of the retain gradient, and masks by it."""

    shapes = True
    retain_first = True

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.mean: dict[str, Tensor] = {}

    def retained(self, name: str, gradient: Tensor) -> None:
        """Take the retain gradient into its running mean."""
        if name in self.mean:
            self.mean[name].lerp_(gradient, 1 - self.decay)
        else:
            self.mean[name] = gradient.clone()

    def shape(self, slope: Slope) -> None:
        """See `mask_disruption`; without a retain gradient so far nothing is masked."""
        if slope.name in self.mean:
            mask_disruption(slope.forget, self.mean[slope.name])

    def state(self) -> dict[str, Tensor]:
        """Return the running means."""
        return self.mean

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up the running means."""
        self.mean = dict(state)

    def owner(self, key: str) -> str:
        """Return the parameter's name."""
        return key
