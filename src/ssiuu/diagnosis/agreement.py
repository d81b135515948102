"""Do two attributions order the methods alike? Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from scipy.stats import kendalltau

from ssiuu.records.schema import Influence


class Agreement(NamedTuple):
    """Kendall's tau-b of the methods' order under two attributions; None where it has no value.

    1 is the same order, -1 the reverse, 0 no relation. It is over `methods` methods only: with four,
    two orders drawn by lot are the same or the reverse once in twelve times.
    """

    methods: int
    d_plus_all: float | None
    d_minus_100: float | None
    d_minus_all: float | None
    hide_ratio: float | None


def rank_agreement(first: Mapping[str, Influence], second: Mapping[str, Influence]) -> Agreement:
    """Compare the order of the methods that both hold, by label."""
    labels = sorted(first.keys() & second.keys())
    found = {}
    for name in Agreement._fields[1:]:
        pairs = [(getattr(first[m], name), getattr(second[m], name)) for m in labels]
        found[name] = _tau([(a, b) for a, b in pairs if a is not None and b is not None])
    return Agreement(len(labels), **found)


def _tau(pairs: list[tuple[float, float]]) -> float | None:
    if len({a for a, _ in pairs}) < 2 or len({b for _, b in pairs}) < 2:
        return None
    return float(kendalltau(*zip(*pairs, strict=True)).statistic)
