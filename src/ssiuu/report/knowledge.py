"""What a model knew before, in words. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ssiuu.records.schema import Knowledge, KnowledgeState, RunHeader

STATES: tuple[KnowledgeState, ...] = ("known", "unsure", "unknown", "cannot be scored")
UNTRAINED = "none", "given", "never-learned"
UNKNOWN: tuple[KnowledgeState, ...] = ("unknown", "cannot be scored")


def counts(knowledge: Mapping[str, Knowledge]) -> str:
    """Return how many facts are in which state: "10 known, 1 unsure, 1 unknown"."""
    states = Counter(known.state for known in knowledge.values())
    return ", ".join(f"{states[s]} {s}" for s in STATES if states[s])


def trains(header: RunHeader) -> bool:
    """Return whether a run trains any model on its facts; which methods is not known while it tunes."""
    return not header.methods or any(method.name not in UNTRAINED for method in header.methods)


def sentences(knowledge: Mapping[str, Mapping[str, Knowledge]], trained: bool = True) -> list[str]:
    """Return what a reader must know of what was known before; nothing where all was.

    Args:
        knowledge: By set, then by fact.
        trained: Whether a model is trained on these facts; an audit only asks.
    """
    notes = []
    forget, retain = knowledge.get("forget", {}), knowledge.get("retain", {})
    unknown = sum(known.state in UNKNOWN for known in forget.values())
    unsure = sum(known.state == "unsure" for known in forget.values())
    if forget and unknown + unsure == len(forget):
        notes.append(
            f"None of the {len(forget)} facts to forget was known before ({counts(forget)}): whatever "
            "is measured of them is no evidence of forgetting."
        )
    elif unknown:
        notes.append(
            f"{unknown} of {len(forget)} facts to forget were not known before: no evidence of "
            f"anything. They were {'trained on with the others' if trained else 'left out'}; every "
            f"score is over the other {len(forget) - unknown}."
        )
    if forget and unsure and unknown + unsure < len(forget):
        notes.append(f"Whether {unsure} of {len(forget)} facts to forget were known before is unsure.")
    sayers = [known for known in forget.values() if known.holds or known.holds_otherwise]
    otherwise = sum(not known.holds for known in sayers)
    if otherwise > len(sayers) / 2:
        notes.append(
            f"{otherwise} of the {len(sayers)} facts to forget that are said before are said only when "
            "asked in another form than the one that is asked and trained in here: is `prompt` the "
            "form that the model was taught in?"
        )
    lost = sum(known.state in UNKNOWN for known in retain.values())
    if lost:
        notes.append(
            f"{lost} of {len(retain)} facts to keep that were asked were not known before"
            f"{'; to train on them teaches them' if trained else ''}."
        )
    return notes
