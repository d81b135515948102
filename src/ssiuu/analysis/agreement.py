"""Do the conclusions about D+ and D− hold under a second attribution? From the record alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ssiuu.records.schema import BothAttributions, Influence, RunRecord

HALF = 0.5  # a hide ratio above it: more was added against the answers than was taken away


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
    taus = {}
    for name in Agreement._fields[1:]:
        pairs = [(getattr(first[m], name), getattr(second[m], name)) for m in labels]
        taus[name] = _tau([(a, b) for a, b in pairs if a is not None and b is not None])
    return Agreement(len(labels), **taus)


def _tau(pairs: list[tuple[float, float]]) -> float | None:
    from scipy.stats import kendalltau

    if len({a for a, _ in pairs}) < 2 or len({b for _, b in pairs}) < 2:
        return None
    return float(kendalltau(*zip(*pairs, strict=True)).statistic)


def attributed_twice(record: RunRecord) -> dict[tuple[str, int], BothAttributions]:
    """Return what was attributed by both, by label and seed."""
    return {
        (cell.method.label, cell.seed): cell.diagnosis.evidence.attributions
        for cell in record.cells
        if cell.diagnosis and cell.diagnosis.evidence and cell.diagnosis.evidence.attributions
    }


def agreement(record: RunRecord) -> Agreement:
    """Compare the order of the models under both attributions."""
    by_model = {f"{label} {seed}": both for (label, seed), both in attributed_twice(record).items()}
    return rank_agreement(
        {name: both.gradient for name, both in by_model.items()},
        {name: both.integrated for name, both in by_model.items()},
    )


def conclusion(record: RunRecord) -> str:
    """Say whether both attributions lead to the same conclusions; nothing where there are not two."""
    pairs = [
        (both.gradient.hide_ratio, both.integrated.hide_ratio)
        for both in attributed_twice(record).values()
    ]
    ratios = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not ratios:
        return ""
    alike = sum((a > HALF) == (b > HALF) for a, b in ratios)
    order = agreement(record)
    orders = {"D+": order.d_plus_all, "D−": order.d_minus_all, "hide ratio": order.hide_ratio}
    known = {name: tau for name, tau in orders.items() if tau is not None}
    sentence = f"The hide ratio is on the same side of one half for {alike} of {len(ratios)} models."
    if known:
        taus = ", ".join(f"{name} {tau:.2f}" for name, tau in known.items()).replace("-", "−")
        sentence += f" Order of the {order.methods} models, Kendall's tau (1: the same): {taus}."
    else:
        sentence += " With one model there is no order to compare."
    if alike == len(ratios) and all(tau == 1 for tau in known.values()):
        return f"{sentence} The conclusions hold under both."
    return f"{sentence} The conclusions do not all hold under both: build on none that only one shows."
