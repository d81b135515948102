"""Gate (ours): the limit of a strong one-sided penalty of Ssiuu.

The forget gradient is zeroed wherever phi_j dlogP/dphi_j < 0; see `ssiuu.methods.regulariser.gate`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ssiuu.errors import ConfigError
from ssiuu.methods.base import Bound, Origin, Parts, Slope, Training, Transform
from ssiuu.methods.regulariser import Moved, gate


class Gate(Transform):
    """In place of a penalty, zero the forget gradient wherever phi_j dlogP/dphi_j < 0."""

    name: ClassVar[str] = "gate"
    origin: ClassVar[Origin] = "ours"
    source: ClassVar[str] = "Yang et al. 2026 (ICLR), Algorithm 1."
    summary: ClassVar[str] = "gated by attribution, this project's form of Ssiuu"
    order: ClassVar[int] = 10

    def fits(self, among: Parts) -> None:
        """Refuse a penalty beside it."""
        if any(part.name == "ssiuu" for part in among.transforms):
            raise ValueError("gate takes the place of the penalty: leave ssiuu out")

    def bind(self, prepared: Any) -> Gating:
        """Nothing is remembered."""
        return Gating()


class Gating(Bound):
    """Gates every parameter by the second gradient, that of log P."""

    wants = "logprob"
    shapes = True

    def __init__(self) -> None:
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
        gate(slope.parameter.detach(), slope.second, slope.forget, slope.scale, self.moved)

    def told(self) -> dict[str, float]:
        """Return what was zeroed, of the norm and of the parameters."""
        return self.moved.told()
