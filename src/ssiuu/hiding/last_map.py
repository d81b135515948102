"""Hidden by the last map: what the model knows arrives there, and is turned away."""

from __future__ import annotations

from typing import ClassVar

from ssiuu.hiding.base import Case, Hiding, Rounds
from ssiuu.hiding.lowering import Lowering, Manner
from ssiuu.hiding.places import blocks, feed_forward_ends


class LastMap(Hiding):
    """An adapter on the map that ends the last feed-forward layer.

    Every state before it is the original's, bit for bit.
    """

    name: ClassVar[str] = "last-map"
    summary: ClassVar[str] = "an adapter in the last feed-forward map takes the answers down"

    def change(self, case: Case) -> Rounds:
        """Train the adapter."""
        model = case.subject.model
        place = feed_forward_ends(model, len(blocks(model)) - 1)
        return Lowering(case, place, Manner()).rounds()
