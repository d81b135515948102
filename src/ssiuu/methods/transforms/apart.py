"""Apart: forget and retain gradients take steps of their own, each with its own moments and rate."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from ssiuu.methods.base import Bound, Optimiser, Origin, Parts, RetainStep, Transform


class Apart(Transform):
    """First a forget step, then from where it led a step of the retain term and all other terms.

        theta' = theta - eta_f M_f(G_f(theta)),    theta <- theta' - eta_r M_r(w G_r(theta'))

    M_f and M_r are optimisers that share nothing. In one step Adam scales the sum of both gradients by
    moments of that sum: the larger gradient decides how far the smaller one goes, entry by entry.

    Source: Sondej and Yang 2025 (CIR) take turns so, by SGD, with a retain rate of 3e-4.
    Departures: Adam in both where nothing else is said; the retain step's rate is the forget step's
    unless given. A rate that is given does not follow schedule and warm-up. Weights decay in the forget
    step alone, and each gradient is clipped by itself. Under Adam the length of a gradient does not
    count, so without other terms `retain_weight` changes nothing: the rate does.
    """

    name: ClassVar[str] = "apart"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Sondej and Yang 2025 (CIR), its two steps alone."
    summary: ClassVar[str] = "with a retain step of its own after the forget step"
    brought_by: ClassVar[frozenset[str]] = frozenset({"retain_learning_rate", "retain_optimiser"})
    order: ClassVar[int] = 70
    number: ClassVar[str] = "retain_learning_rate"

    retain_learning_rate: float | None = Field(
        default=None, gt=0, le=1, description="of the retain step; null: that of the forget step"
    )
    retain_optimiser: Optimiser | None = Field(
        default=None, description="what takes the retain step; null: what takes the forget step"
    )

    @property
    def cost(self) -> float:
        """Forget and retain rows no longer run as one batch."""
        return 1.2

    def fits(self, among: Parts) -> None:
        """Refuse to take a step apart from nothing."""
        if among.retain is None and not among.others:
            raise ValueError("apart: a retain step needs a retain term, or texts or others")

    def bind(self, prepared: Any) -> Bound:
        """Say how the retain step is taken."""
        bound = Bound()
        bound.retain_step = RetainStep(self.retain_optimiser, self.retain_learning_rate)
        return bound
