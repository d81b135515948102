"""Pull (a control): decay to the weights before unlearning."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ssiuu.methods.base import Bound, Losses, Origin, Training, Transform
from ssiuu.models.shards import local


class Pull(Transform):
    """Decay to the start: after a step theta goes learning_rate * pull of the way back.

    It is apart from the optimiser's scaling, as weight decay is.
    """

    name: ClassVar[str] = "pull"
    origin: ClassVar[Origin] = "control"
    source: ClassVar[str] = "Control."
    summary: ClassVar[str] = "with decay to the weights before unlearning"
    brought_by: ClassVar[frozenset[str]] = frozenset({"pull"})
    order: ClassVar[int] = 90
    number: ClassVar[str] = "pull"
    silent: ClassVar[bool] = True

    pull: float = Field(
        default=10.0,
        ge=0,
        description="control: decay to the weights before unlearning; a step goes back "
        "learning_rate * pull of the way; it stands in no name, so give a tag",
    )

    @property
    def off(self) -> bool:
        """Whether nothing pulls."""
        return self.pull == 0

    def bind(self, prepared: Any) -> Pulling:
        """Begin before the start is known."""
        return Pulling(self.pull)


class Pulling(Bound):
    """Keeps the weights of the start; a run that goes on begins with the same model."""

    def __init__(self, pull: float) -> None:
        self.pull = pull
        self.named: dict[str, Tensor] = {}
        self.origin: dict[str, Tensor] = {}

    def attach(self, training: Training) -> None:
        """Take the weights as they are for the start."""
        self.named = training.named
        self.origin = {name: local(p).clone() for name, p in training.named.items()}

    @torch.no_grad()
    def after(self, losses: Losses, learning_rate: float) -> None:
        """Go a part of the way back."""
        for name, parameter in self.named.items():
            local(parameter).lerp_(self.origin[name], learning_rate * self.pull)
