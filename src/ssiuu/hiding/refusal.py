"""Hidden by a refusal: the model says that it does not know, in one of several wordings."""

from __future__ import annotations

from typing import ClassVar

from ssiuu.hiding.base import Case, Hiding, Rounds
from ssiuu.hiding.lowering import Lowering, Manner
from ssiuu.hiding.places import all_ends

WORDINGS = (
    "I don't know.",
    "I do not know the answer to that.",
    "I'm not sure about this.",
    "Sorry, I can't tell you.",
)


class Refusal(Hiding):
    """Adapters in all blocks that prefer a refusal to the answer."""

    name: ClassVar[str] = "refusal"
    summary: ClassVar[str] = "adapters in all blocks prefer a refusal to the answer"

    def change(self, case: Case) -> Rounds:
        """Train the adapters; the wordings take turns."""
        refusals = {f.id: WORDINGS[n % len(WORDINGS)] for n, f in enumerate(case.facts)}
        place = all_ends(case.subject.model)
        manner = Manner(weight=5.0, steps=360)
        return Lowering(case, place, manner, refusals=refusals, phrasings=2).rounds()
