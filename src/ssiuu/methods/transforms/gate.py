"""Gate: the forget gradient is zeroed, or divided, wherever phi_j dlogP/dphi_j < 0.

Zeroed (ours) it is the limit of a strong one-sided penalty of Ssiuu. Divided it is a part of FDCU:

    G <- G / (1 + kappa h),    h = 1 where phi dlogP/dphi <= 0 on the batch, 0 elsewhere

See `ssiuu.methods.regulariser.gate`. Where the product is exactly 0 (a weight that is 0) the one keeps
the gradient and the other divides it; elsewhere the first is the second's limit for a large kappa.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from ssiuu.errors import ConfigError
from ssiuu.methods.base import Bound, Origin, Parts, Slope, Training, Transform
from ssiuu.methods.regulariser import Moved, gate


class Gate(Transform):
    """In place of a penalty, zero or divide the forget gradient wherever phi_j dlogP/dphi_j < 0.

    Source: arXiv 2609.39279 (FDCU) divides, with kappa 20; to zero is ours.
    Departures: FDCU acts on its own few blocks (`ssiuu.methods.transforms.fisher`).
    """

    name: ClassVar[str] = "gate"
    origin: ClassVar[Origin] = "ours"
    source: ClassVar[str] = "Yang et al. 2026 (ICLR), Algorithm 1."
    summary: ClassVar[str] = "gated by attribution, this project's form of Ssiuu"
    order: ClassVar[int] = 10
    number: ClassVar[str] = "strength"

    strength: float | None = Field(
        default=None,
        ge=0,
        description="kappa: what is gated is divided by 1 + kappa, 20 in FDCU; null: it is zeroed",
    )

    @property
    def options(self) -> dict[str, Any]:
        """The strength, where there is one."""
        return {} if self.strength is None else super().options

    @property
    def heads(self) -> bool:
        """Only where it zeroes it is a form of Ssiuu."""
        return self.strength is None

    @property
    def whose(self) -> Origin:
        """To divide is FDCU's."""
        return "ours" if self.strength is None else "literature"

    @property
    def phrase(self) -> str:
        """By how much what is divided."""
        return (
            f"with the forget gradient divided by 1 + {self.strength:g} where a parameter opposes the "
            "answer (FDCU's)"
        )

    def fits(self, among: Parts) -> None:
        """Refuse a penalty beside it."""
        if any(part.name == "ssiuu" for part in among.transforms):
            raise ValueError("gate takes the place of the penalty: leave ssiuu out")

    def bind(self, prepared: Any) -> Gating:
        """Nothing is remembered."""
        return Gating(self.strength)


class Gating(Bound):
    """Gates every parameter by the second gradient, that of log P."""

    wants = "logprob"
    shapes = True

    def __init__(self, strength: float | None = None) -> None:
        self.strength = strength
        self.moved = Moved()

    def attach(self, training: Training) -> None:
        """Refuse the effective space of adapters."""
        if training.effective:
            raise ConfigError("gate: it has no effective space; set unlearn.lora.attribution: adapter.")

    def begin(self) -> None:
        """Count anew."""
        self.moved = Moved()

    def shape(self, slope: Slope) -> None:
        """See `gate`."""
        assert slope.second is not None
        gate(
            slope.parameter.detach(), slope.second, slope.forget, slope.scale, self.moved, self.strength
        )

    def told(self) -> dict[str, float]:
        """Return what was zeroed, of the norm and of the parameters."""
        return self.moved.everywhere().told()
