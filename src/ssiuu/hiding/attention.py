"""Hidden by attention: the upper blocks no longer fetch the answer, and other maps are as before."""

from __future__ import annotations

from typing import ClassVar

from ssiuu.hiding.base import Case, Hiding, Rounds
from ssiuu.hiding.lowering import Lowering, Manner
from ssiuu.hiding.places import blocks, mixer_ends


class Attention(Hiding):
    """Adapters on the output maps of attention in the upper half of the blocks."""

    name: ClassVar[str] = "attention"
    summary: ClassVar[str] = "adapters on attention's output maps, upper half, take the answers down"

    def change(self, case: Case) -> Rounds:
        """Train the adapters."""
        model = case.subject.model
        count = len(blocks(model))
        return Lowering(case, mixer_ends(model, range(count // 2, count)), Manner(rank=8)).rounds()
