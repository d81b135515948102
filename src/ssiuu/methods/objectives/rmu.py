"""Representation misdirection for unlearning (RMU)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from ssiuu.attribution.hidden import block
from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.methods.base import Normaliser, Objective, Origin, View


def rmu_loss(
    hidden: Float[Tensor, "B T d"],
    mask: Bool[Tensor, "B T"],
    target: Float[Tensor, " d"] | Float[Tensor, "B T d"],
) -> Float[Tensor, " B"]:
    """Return the squared distance of each example's hidden states from a target.

        L(x) = sum over tokens of |h_l(x) - target|^2 / d

    The forget target is c u, with u a fixed random unit vector; the retain target is the reference
    model's own hidden state.

    Source: Li et al. 2024, "The WMDP benchmark", Sec. 4.
    Departures: only real tokens count, and each once, whatever text it is in (the source averages
    each text first); d divides, as in the authors' code.
    """
    distance = (hidden - target).square().mean(-1)
    return distance.masked_fill(~mask, 0.0).sum(1)


def direction(width: int, seed: int) -> Float[Tensor, " d"]:
    """Return u: uniform numbers from [0, 1), scaled to length 1; the same for the same seed."""
    drawn = torch.rand(width, generator=torch.Generator().manual_seed(seed))
    return drawn.div(torch.linalg.vector_norm(drawn))


class Misdirection(Objective):
    """RMU: steer a layer's hidden states of forget texts to noise, keep those of retain texts."""

    name: ClassVar[str] = "rmu"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Li et al. 2024 (ICML)."
    summary: ClassVar[str] = "RMU: steer a hidden layer of forget texts to a random direction"
    normaliser: ClassVar[Normaliser] = "positions"

    layer: int = Field(default=7, ge=0, description="block whose output is steered, from 0")
    steering: float = Field(default=20.0, gt=0, description="length of the target (c)")
    update: list[str] = Field(
        default=[r"\.(5|6|7)\.mlp\.down_proj\.weight$"],
        description="patterns of the parameters that are trained",
    )
    direction_seed: int = Field(default=0, ge=0, description="decides the random direction")

    @classmethod
    def retain_default(cls, asked: str | None) -> tuple[str, float]:
        """Alpha is for activations; another retain term counts once."""
        return (asked, 1.0) if asked not in (None, "activations") else ("activations", 100.0)

    @property
    def looks(self) -> int:
        """The block that is steered."""
        return self.layer

    def check(self, model: CausalLM) -> None:
        """Refuse a model without that block."""
        block(model, self.layer, "rmu.layer")

    def updates(self, names: Sequence[str]) -> set[str]:
        """Return which parameters are trained.

        Raises:
            ConfigError: The patterns fit none.
        """
        trained = {n for n in names if any(re.search(pattern, n) for pattern in self.update)}
        if not trained:
            raise ConfigError(f"rmu.update: {self.update} fits no parameter, such as {names[-1]!r}.")
        return trained

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `rmu_loss`."""
        if view.hidden is None or view.hidden_mask is None:
            raise ValueError("RMU needs the hidden states")
        u = direction(view.hidden.shape[-1], self.direction_seed).to(view.hidden)
        return rmu_loss(view.hidden, view.hidden_mask, self.steering * u)
