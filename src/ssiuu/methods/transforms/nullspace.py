"""Null space: adapters that act on nothing that the rows to keep put into a map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.methods.base import Ask, Bound, Losses, Origin, Training, Transform
from ssiuu.methods.directions import Subspace, energy_bases, project_out
from ssiuu.models.lora import weight_of
from ssiuu.models.shards import local


class NullSpace(Transform):
    """NSRU's adapters: W + s B A (I - V V^T), V the directions of the retain rows' inputs.

    Every step is constrained so, that of the retain term too. An adapter's A is kept in the null space
    from its drawing on: its gradient and what the optimiser makes of it are projected. That is the same
    as training a free A behind the projector, since the projector is its own square.

    Source: Ju et al. 2026, "Null-space constrained low-rank adaptation for response-specified LLM
    unlearning" (NSRU), arXiv 2606.10989, its parametrisation alone.
    Departures: how the source chooses V is not known here: V holds `nullspace` of the retain inputs'
    second moment, uncentred. Its loss (a safe answer is learnt, the old one suppressed, retain kept) is
    not known in its form; dpo, altpo and idknll, each with retain, are its nearest here.
    """

    name: ClassVar[str] = "nullspace"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Ju et al. 2026 (NSRU), arXiv 2606.10989, its adapters alone."
    summary: ClassVar[str] = "with adapters in the null space of the retain rows' inputs"
    brought_by: ClassVar[frozenset[str]] = frozenset({"nullspace"})
    order: ClassVar[int] = 80
    number: ClassVar[str] = "nullspace"

    nullspace: float = Field(
        default=0.99,
        gt=0,
        lt=1,
        description="share of the retain inputs' second moment whose directions an adapter cannot see",
    )

    def prepare(self, ask: Ask) -> dict[str, Subspace]:
        """Read the directions off the retain rows, or what stands for them."""
        return energy_bases(ask.model, ask.batches(ask.shared), self.nullspace)

    def bind(self, prepared: Any) -> Confining:
        """Keep adapters out of these directions."""
        return Confining(prepared)


class Confining(Bound):
    """Keeps A of every adapter in the null space; a map whose inputs are not known keeps no adapter."""

    corrects = True

    def __init__(self, bases: Mapping[str, Subspace] | None) -> None:
        self.bases = bases
        self.inner: dict[str, Tensor] = {}

    def attach(self, training: Training) -> None:
        """Project every A as it is drawn.

        Raises:
            ConfigError: There are no adapters.
        """
        sides = {name: weight_of(name)[1] for name in training.named}
        if "inputs" not in sides.values():
            raise ConfigError(
                "nullspace: it confines adapters, and there are none: set unlearn.lora.rank."
            )
        self.inner = {name: p for name, p in training.named.items() if sides[name] == "inputs"}
        self._confine({name: local(p) for name, p in self.inner.items()})

    def finish(self, named: Mapping[str, Tensor]) -> None:
        """Project the gradients of A, so that moments and norm are of what can move."""
        found = {name: local(p.grad) for name, p in self.inner.items() if p.grad is not None}
        self._confine(found)

    def correct(self, moves: Mapping[str, Tensor]) -> Iterable[str]:
        """Project what the optimiser has made of them."""
        self._confine({name: moves[name] for name in self.inner})
        return self.inner.keys()

    def after(self, losses: Losses, learning_rate: float) -> None:
        """Project A itself, which a retain step of its own may have moved."""
        self._confine({name: local(p) for name, p in self.inner.items()})

    @torch.no_grad()
    def _confine(self, parts: Mapping[str, Tensor]) -> None:
        for name, part in parts.items():
            basis = None if self.bases is None else self.bases.get(weight_of(name)[0])
            if basis is not None:
                project_out(part, basis.of("inputs"))
            elif self.bases is not None:
                part.zero_()
