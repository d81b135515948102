"""How many facts a model knows at every place of an examination, on one and the same set of facts.

A fact is known at a place where its right answer beats 95 % of the decoys there: its conformal p-value
among them, by the contrast alone, is at most 5 %. So about 5 % of facts that were never learned pass at
any one place, and somewhat more at the strongest of several. Imports no torch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ssiuu.analysis.evidence import LEVEL, conformal
from ssiuu.records.schema import Examination


class Known(NamedTuple):
    """Shares of the same facts that are known: before, after, and at the strongest look.

    `place`: the name of that look, of `looks` that were taken; None where none was.
    """

    before: float
    after: float
    strongest: float | None
    place: str
    looks: int
    facts: int


def known(examination: Examination) -> Known | None:
    """Return what is known of the facts that were read before and after; None where none was.

    A look counts where all of these facts were read: an attack that diverged is none.
    """
    places = {place.name: n for n, place in enumerate(examination.places)}
    if not {"before", "after"} <= places.keys():
        return None
    ends = [places["before"], places["after"]]
    facts = [
        id
        for id, trace in examination.facts.items()
        if all(trace.contrast[n] is not None for n in ends)
    ]
    looks = [
        n
        for n, place in enumerate(examination.places)
        if place.attacker != "nobody"
        and all(examination.facts[id].contrast[n] is not None for id in facts)
    ]
    if not facts:
        return None
    before, after = (_share(examination, facts, n) for n in ends)
    levels = [(_share(examination, facts, n), -n) for n in looks]  # of equals the first
    strongest, at = max(levels, default=(None, 0))
    name = "" if strongest is None else examination.places[-at].name
    return Known(before, after, strongest, name, len(looks), len(facts))


def _share(examination: Examination, facts: list[str], place: int) -> float:
    """Return the share of these facts that are known at a place."""
    rows = [row for id in facts if (row := examination.facts[id].contrast[place])]
    decoys = np.sort(np.concatenate([row[1:] for row in rows]))
    return sum(conformal(row[0], decoys) <= LEVEL for row in rows) / len(rows)
