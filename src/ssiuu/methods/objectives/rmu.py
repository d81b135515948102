"""Representation misdirection for unlearning (RMU)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from ssiuu.attribution.hidden import block, hidden_states
from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.methods.base import Ask, Normaliser, Objective, Origin, View
from ssiuu.methods.components import Moments, as_one, later, mean_and_components, outside
from ssiuu.models.maps import stream_width


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


def _at_depth(count: int) -> str:
    """Return the settings for so many blocks: block 7 of 32, as published, and what is trained."""
    layer = 7 * count // 32
    trained = "|".join(str(n) for n in range(max(0, layer - 2), layer + 1))
    return rf"layer: {layer}, update: ['\.({trained})\.mlp\.down_proj\.weight$']"


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
        block(model, self.layer, f"{self.name}.layer", _at_depth)

    def updates(self, names: Sequence[str]) -> set[str]:
        """Return which parameters are trained.

        Raises:
            ConfigError: The patterns fit none.
        """
        trained = {n for n in names if any(re.search(pattern, n) for pattern in self.update)}
        if not trained:
            raise ConfigError(
                f"{self.name}.update: {self.update} fits no parameter, such as {names[-1]!r}."
            )
        return trained

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `rmu_loss`."""
        if view.hidden is None or view.hidden_mask is None:
            raise ValueError("RMU needs the hidden states")
        u = direction(view.hidden.shape[-1], self.direction_seed).to(view.hidden)
        return rmu_loss(view.hidden, view.hidden_mask, self.steering * u)


class OutsideMisdirection(Misdirection):
    """RMU-MCU: RMU of what states have beyond their mean and leading components on the forget rows.

        L(x) = sum over tokens of |h'_l(x) - c u|^2 / d,
        h' = h without mean and `components` - 1 components of h before

    Source: MCU 2026 (arXiv 2605.11685): mean + 7 components.
    Departures: those of RMU; the first token of a row does not count in mean and components.
    """

    name: ClassVar[str] = "rmu-mcu"
    source: ClassVar[str] = "MCU 2026 (arXiv 2605.11685), on Li et al. 2024."
    summary: ClassVar[str] = "RMU-MCU: RMU of what states have beyond their mean and leading components"

    components: int = Field(
        default=8, ge=1, description="mean and components of the states that the loss does not see"
    )

    def check(self, model: CausalLM) -> None:
        """Refuse a model without that block, or so many directions."""
        super().check(model)
        width = stream_width(model)
        if self.components >= width:
            raise ConfigError(
                f"{self.name}.components: must be below {width}, the width of the states, got "
                f"{self.components}."
            )

    @torch.no_grad()
    def prepare(self, ask: Ask) -> Float[Tensor, "d m"]:
        """Read mean and components off the rows to forget."""
        sums: Moments | None = None
        for batch in ask.batches(ask.rows["forget"]):
            states = hidden_states(ask.model, batch, self.layer)
            wide = states if states.dtype == torch.float64 else states.float()
            found = Moments.of(wide[later(batch.attention_mask.bool())])
            sums = found if sums is None else sums.add(found)
        assert sums is not None
        return as_one(mean_and_components(sums, self.components, self.name))

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `rmu_loss`; of what is left of the states."""
        assert view.hidden is not None
        return super().forget_loss(replace(view, hidden=outside(view.hidden, view.prepared)))
