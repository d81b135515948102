"""Hidden by a map in the middle: the answer is turned away half-way, and the rest is as before."""

from __future__ import annotations

from typing import ClassVar

from ssiuu.hiding.base import Case, Hiding, Rounds
from ssiuu.hiding.lowering import Lowering, Manner
from ssiuu.hiding.places import blocks, feed_forward_ends


class MiddleMap(Hiding):
    """An adapter on the map that ends the feed-forward layer of the middle block."""

    name: ClassVar[str] = "middle-map"
    summary: ClassVar[str] = "an adapter in the feed-forward map of the middle block takes them down"

    def change(self, case: Case) -> Rounds:
        """Train the adapter; of two blocks the middle one is the first."""
        model = case.subject.model
        place = feed_forward_ends(model, (len(blocks(model)) - 1) // 2)
        return Lowering(case, place, Manner()).rounds()
