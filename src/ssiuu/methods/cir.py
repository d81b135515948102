"""Collapse of irrelevant representations: GD without the directions that retain texts share."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ssiuu.methods.base import Origin
from ssiuu.methods.gd import GradientDifference


class Collapse(GradientDifference):
    """The CIR / RepSelect idea on GD: both sides of the forget gradient are projected.

        G <- (I - U U^T) G (I - V V^T)

    V: the leading directions of a linear map's inputs over the retain set; U: of its output
    gradients. See ssiuu.methods.projection.

    Source: Sondej and Yang 2025, "Collapse of irrelevant representations"; RepSelect, 2026.
    Departures: the directions are the retain texts', taken once; RepSelect takes the forget texts'
    own and renews them every epoch. Every linear map is trained, not the feed-forward ones alone.
    GD's loss instead of the authors'; no per-token mask, no LoRA adversary.
    """

    name: ClassVar[str] = "cir"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Sondej and Yang 2025 (CIR) and RepSelect (2026), the projections alone."
    summary: ClassVar[str] = "CIR: GD without the shared directions of inputs and output gradients"

    projection: int | None = Field(default=32, ge=1, description="directions of inputs taken out")
    projection_outputs: int | None = Field(
        default=8, ge=1, description="directions of output gradients taken out"
    )

    def _projections(self) -> str:
        return ""  # they are the method, not a suffix

    @property
    def whose(self) -> Origin:
        """The idea is the literature's."""
        return self.origin

    @property
    def description(self) -> str:
        """Its projections are no extension of it."""
        return f"{self.summary}. {self.source}"
