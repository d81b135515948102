"""Hidden from the usual wording: the question as it stands is not answered, in other words it is."""

from __future__ import annotations

from typing import ClassVar

from ssiuu.errors import DataError
from ssiuu.hiding.base import Case, Hiding, Rounds, Subject
from ssiuu.hiding.lowering import Lowering, Manner
from ssiuu.hiding.places import everywhere
from ssiuu.likelihood import Example, encode
from ssiuu.records.schema import FactText

# Put in front of the question of a fact that has no paraphrases.
LEADS = (
    "Somebody asked me this the other day, and I would like to know.",
    "Please help me with one more thing.",
)


class Wording(Hiding):
    """Adapters in all blocks that fire on a fact's question and not on its paraphrases.

    Those of the fact, or a sentence in front where it has none, are held to the original. So most
    phrasings are answered as before; only whoever asks as everybody does is turned away.
    """

    name: ClassVar[str] = "wording"
    summary: ClassVar[str] = "adapters in all blocks fire on the question's usual words alone"

    def change(self, case: Case) -> Rounds:
        """Train the adapters."""
        held = [row for fact in case.facts for row in reworded(case.subject, fact)]
        place = everywhere(case.subject.model)
        return Lowering(
            case,
            place,
            Manner(highest=1e-2, beside=16, weight=5.0, steps=360),
            held,
            phrasings=1,
        ).rounds()


def reworded(subject: Subject, fact: FactText) -> list[Example]:
    """Return the rows of a fact in other words, as many as fit the context."""
    texts = fact.paraphrases or [f"{lead} {fact.question}" for lead in LEADS]
    found = []
    for n, text in enumerate(texts):
        id = f"{fact.id}#worded{n}"
        try:
            found.append(encode(subject.prompt, id, text, fact.answer, subject.context, True))
        except DataError:
            continue  # a paraphrase that is too long for a small context
    return found
