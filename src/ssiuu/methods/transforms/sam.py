"""Sharpness-aware minimisation (SAM) of the forget loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ssiuu.methods.base import Bound, Origin, Transform
from ssiuu.models.shards import local, norm


class SharpnessAware(Transform):
    """SAM: the forget gradient is taken where the forget loss is worst nearby.

        g = dL(theta + rho d/|d|)/dtheta,    d = dL(theta)/dtheta

    Source: Fan et al. 2025, "Towards LLM unlearning resilient to relearning attacks", Eq. 5.
    Departures: none; only the forget term is perturbed, as there.
    """

    name: ClassVar[str] = "sam"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Fan et al. 2025 (ICML)."
    summary: ClassVar[str] = "with the forget gradient taken at the worst point nearby"
    order: ClassVar[int] = 60
    published_on: ClassVar[frozenset[str]] = frozenset({"npo"})
    number: ClassVar[str] = "rho"

    rho: float = Field(default=0.01, gt=0, le=10, description="radius of the perturbation, L2 norm")

    def bind(self, prepared: Any) -> Perturbation:
        """Nothing is remembered."""
        return Perturbation(self.rho)


class Perturbation(Bound):
    """Moves the parameters along the forget gradient, and back again exactly."""

    perturbs = True

    def __init__(self, rho: float) -> None:
        self.rho = rho

    @contextmanager
    def elsewhere(self, named: Mapping[str, Tensor]) -> Iterator[None]:
        """Move by rho along the gradient."""
        before = {name: local(p).clone() for name, p in named.items()}
        length = norm(p.grad for p in named.values() if p.grad is not None)
        try:
            with torch.no_grad():
                for parameter in named.values():
                    if parameter.grad is not None and length > 0:
                        local(parameter).add_(local(parameter.grad), alpha=self.rho / length)
            yield
        finally:
            with torch.no_grad():
                for name, parameter in named.items():
                    # Copied back: to add and to take away again does not give the same number.
                    local(parameter).copy_(before[name])
