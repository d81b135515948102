"""The forget gradient's sign in place of the gradient, parameter by parameter, at its own length."""

from __future__ import annotations

from typing import Any, ClassVar

from ssiuu.methods.base import Bound, Origin, Slope, Transform


class Sign(Transform):
    """G <- sign(G) |G| / sqrt(n): every entry of a parameter is moved alike."""

    name: ClassVar[str] = "sign"
    origin: ClassVar[Origin] = "given"
    source: ClassVar[str] = "An example."
    summary: ClassVar[str] = "with the sign of the forget gradient in its place"

    def bind(self, prepared: Any) -> Bound:
        """It remembers nothing."""
        return Signed()


class Signed(Bound):
    """Shapes every forget gradient as soon as it is whole."""

    shapes = True

    def shape(self, slope: Slope) -> None:
        length = slope.forget.norm() / slope.forget.numel() ** 0.5
        slope.forget.sign_().mul_(length)
