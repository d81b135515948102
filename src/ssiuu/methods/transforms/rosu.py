"""Retain-orthogonal surrogates: the point where a gradient is taken is retain-neutral to first order.

    delta = -rho d'/|d'|,   d' = d - (d . r / r . r) r,   d = dL_f(theta),   r = dL_r(theta)

Of all points within rho at which the retain loss is the same to first order, theta + delta is the one
where most is forgotten, to first order. The retain gradient is taken there and used at theta:

    G = dL_f(theta) + w dL_r(theta + delta)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.methods.base import Ask, Bound, Origin, Parts, Transform
from ssiuu.models.shards import local, norm_of_pieces, shard_sum


class RetainOrthogonal(Transform):
    """ROSU: hold the retain loss where forgetting leads, along what it does not depend on.

    Source: Cai et al. 2026, "Retain-neutral surrogates for min-max unlearning", arXiv 2605.05871: the
    step that gains most on forget at no first-order change on retain within a budget, the retain
    objective there, and its gradient carried back to theta.
    Departures: only what its abstract says is known here. The source amplifies its update along the
    retain-neutral direction, by how much is not known: here the forget gradient is the method's own.
    `rho` is SAM's of this project, not the source's. `rosu_at: forget` is ours: SAM's worst point for
    forgetting, rho d'/|d'|, with the inner step orthogonal to the retain gradient.
    """

    name: ClassVar[str] = "rosu"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Cai et al. 2026 (ROSU), arXiv 2605.05871, its surrogate alone."
    summary: ClassVar[str] = "with a gradient taken at a point nearby that is neutral to retain"
    order: ClassVar[int] = 61
    number: ClassVar[str] = "rho"
    knobs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        at: {"rosu_at": at} for at in ("retain", "forget")
    }

    rho: float = Field(default=0.01, ge=0, le=10, description="radius of the perturbation, L2 norm")
    rosu_at: Literal["retain", "forget"] = Field(
        default="retain",
        description="whose gradient is taken there: retain's, where forgetting leads, or forget's, as "
        "SAM takes it, where forgetting is worst",
    )

    @property
    def whose(self) -> Origin:
        """SAM with such an inner step is ours."""
        return "literature" if self.rosu_at == "retain" else "ours"

    @property
    def cost(self) -> float:
        """One more pass of the retain rows, or of the forget rows, and none of them joined."""
        return 1.7

    def fits(self, among: Parts) -> None:
        """Refuse an objective without a retain term, and two points at once."""
        if among.retain is None:
            raise ValueError("rosu: orthogonal to the retain gradient: a retain term is needed")
        if self.rosu_at == "forget" and any(part.name == "sam" for part in among.transforms):
            raise ValueError("rosu(forget) takes the place of sam's inner step: leave sam out")

    def prepare(self, ask: Ask) -> None:
        """Refuse to go without retain rows."""
        if not ask.rows["retain"]:
            raise ConfigError(
                f"{ask.label}: rosu needs retain gradients, and there are no retain rows."
            )

    def bind(self, prepared: Any) -> Surrogate:
        """Nothing is remembered from step to step."""
        return Surrogate(self.rho, self.rosu_at)


class Surrogate(Bound):
    """Moves the parameters along what of the forget gradient is orthogonal to retain's, and back."""

    retain_first = True

    def __init__(self, rho: float, at: Literal["retain", "forget"]) -> None:
        self.rho, self.sign = rho, 1.0 if at == "forget" else -1.0
        self.perturbs, self.displaces = at == "forget", at == "retain"
        self.now: dict[str, Tensor] = {}
        self.cosine = 0.0

    def begin(self) -> None:
        """Begin a step."""
        self.now, self.cosine = {}, 0.0

    def retained(self, name: str, gradient: Tensor) -> None:
        """Keep the retain gradient, which is added to others later."""
        self.now[name] = gradient.clone()

    @contextmanager
    def elsewhere(self, named: Mapping[str, Tensor]) -> Iterator[None]:
        """Move by rho along the forget gradient in `.grad` without its part along retain's."""
        before = {name: local(p).clone() for name, p in named.items()}
        try:
            with torch.no_grad():
                for name, part in self._orthogonal(named).items():
                    local(named[name]).add_(part, alpha=self.sign * self.rho)
            yield
        finally:
            with torch.no_grad():
                for name, parameter in named.items():
                    local(parameter).copy_(before[name])
            self.now = {}

    def _orthogonal(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return d'/|d'|; nothing where forget is all along retain."""
        forget = {name: local(p.grad) for name, p in named.items() if p.grad is not None}
        along, own, whole = 0.0, 0.0, 0.0
        for name, gradient in forget.items():
            whole += float(gradient.double().square().sum())
            if name in self.now:
                along += float((gradient.double() * self.now[name].double()).sum())
        for retain in self.now.values():
            own += float(retain.double().square().sum())
        along, own, whole = shard_sum(along, own, whole)
        self.cosine = along / (own * whole) ** 0.5 if own * whole > 0 else 0.0
        share = along / own if own else 0.0
        left = {name: gradient.clone() for name, gradient in forget.items()}
        for name, retain in self.now.items():
            left[name] = left[name] - share * retain if name in left else -share * retain
        length = norm_of_pieces(left.values())
        return {name: part / length for name, part in left.items()} if length > 0 else {}

    def told(self) -> dict[str, float]:
        """Return how aligned the two gradients are."""
        return {"rosu_cosine": self.cosine}
