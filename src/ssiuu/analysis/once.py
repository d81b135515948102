"""What is of a whole run is found once, however often its models ask: records do not change."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from ssiuu.records.schema import RunRecord

T = TypeVar("T")


def once(find: Callable[[RunRecord], T]) -> Callable[[RunRecord], T]:
    """Return a function that finds something of a run once, and keeps it while the run is there.

    Args:
        find: What it finds depends on the run alone; callers do not change it.
    """
    kept: dict[int, tuple[weakref.ref[RunRecord], T]] = {}

    @wraps(find)
    def found(record: RunRecord) -> T:
        place = id(record)
        known = kept.get(place)
        if known is None or known[0]() is not record:
            known = weakref.ref(record, lambda _: kept.pop(place, None)), find(record)
            kept[place] = known
        return known[1]

    return found
