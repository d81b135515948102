"""Gradient ascent down to a floor, with a retain weight that grows while the retain loss does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ssiuu.methods.base import Bound, Losses, Objective, Origin, View


class Hinge(Objective):
    """L(x, y) = max(log P(y|x) / |y| - floor, 0): an answer that is unlikely is left alone."""

    name: ClassVar[str] = "hinge"
    origin: ClassVar[Origin] = "given"
    source: ClassVar[str] = "An example."
    summary: ClassVar[str] = "Hinge: gradient ascent that ends at a floor"
    normaliser: ClassVar = "examples"
    through: ClassVar = "answer"  # a function of each answer's log P: a second gradient costs nothing

    floor: float = Field(default=-6.0, le=0, description="log p a token of an answer left alone")
    patience: float = Field(default=0.1, ge=0, description="rise of the retain weight, a nat a step")

    def forget_loss(self, view: View) -> Tensor:
        """Return what is left above the floor, [B]."""
        return (view.logprobs.sum / view.logprobs.count - self.floor).clamp(min=0)

    def bind(self, prepared: Any) -> Patience:
        return Patience(self.patience)


class Patience(Bound):
    """Adds to the retain weight what the retain loss has risen above its first value."""

    def __init__(self, rise: float) -> None:
        self.rise, self.added, self.first = rise, 0.0, float("nan")

    def weigh(self, weight: float) -> float:
        return weight + self.added

    def after(self, losses: Losses, learning_rate: float) -> None:
        if losses.retain is not None:
            self.first = losses.retain if math.isnan(self.first) else self.first
            self.added = max(0.0, self.added + self.rise * (losses.retain - self.first))

    def told(self) -> dict[str, float]:
        return {"retain weight added": self.added}

    def state(self) -> dict[str, Tensor]:
        return {"hinge": torch.tensor([self.added, self.first], dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.added, self.first = state["hinge"].tolist()
