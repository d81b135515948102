"""Influence variation (Eq. 4 and 5): which neurons stopped helping, which began to oppose.

Before (theta) and after (theta') unlearning, over n forget examples:

    D+[i] = max(0, 1/n sum ( max_k A_theta[i,k] - max(max_k A_theta'[i,k], 0) ))    erased
    D-[i] = max(0, 1/n sum ( min_k A_theta[i,k] - min_k A_theta'[i,k] ))            added against

The inner max(., 0) stands only in D+: turning negative earns no credit for erasure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ssiuu.attribution.neuron import Extremes
from ssiuu.models.sites import MODULES, Site
from ssiuu.records.schema import Influence, Target

TOP = 100
TARGETS: tuple[Target, ...] = ("logprob", "probability")


@dataclass
class Baseline:
    """The extremes before unlearning, by fact id (fp32 on the CPU)."""

    facts: dict[str, tuple[Tensor, Tensor, Tensor]]

    @classmethod
    def of(cls, batches: Iterable[Extremes]) -> Baseline:
        """Keep the rows of every batch."""
        facts = {}
        for batch in batches:
            for row, id in enumerate(batch.ids):
                facts[id] = (batch.highest[row], batch.lowest[row], batch.logprob[row])
        return cls(facts)


def variation(
    before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return one example's terms of D+ and D-, before averaging and clipping.

    Args:
        before: max over k and min over k of A under theta, [N] each.
        after: The same under theta'.
    """
    return before[0] - after[0].clamp(min=0), before[1] - after[1]


def influence(
    before: Baseline, after: Iterable[Extremes], sites: Sequence[Site]
) -> dict[Target, Influence]:
    """Return D+ and D- under both targets; the memory does not grow with the facts of `after`."""
    width = sum(site.width for site in sites)
    sums = {t: (torch.zeros(width).double(), torch.zeros(width).double()) for t in TARGETS}
    facts: dict[Target, dict[str, tuple[float, float]]] = {t: {} for t in TARGETS}
    for batch in after:
        for row, id in enumerate(batch.ids):
            high, low, logprob = before.facts[id]
            for target in TARGETS:
                # dP = P dlog P: the attribution of P is the one of log P times P.
                old = logprob.exp() if target == "probability" else torch.ones(())
                new = batch.logprob[row].exp() if target == "probability" else torch.ones(())
                plus, minus = variation(
                    (high * old, low * old), (batch.highest[row] * new, batch.lowest[row] * new)
                )
                sums[target][0].add_(plus)
                sums[target][1].add_(minus)
                facts[target][id] = (
                    float(plus.clamp(min=0).sum(dtype=torch.float64)),
                    float(minus.clamp(min=0).sum(dtype=torch.float64)),
                )
    return {
        t: summarise(t, sums[t][0] / len(facts[t]), sums[t][1] / len(facts[t]), facts[t], sites)
        for t in TARGETS
    }


def summarise(
    target: Target,
    plus: Float[Tensor, " N"],
    minus: Float[Tensor, " N"],
    facts: dict[str, tuple[float, float]],
    sites: Sequence[Site],
) -> Influence:
    """Clip at 0 and sum up: curves over the top m neurons, top 100, maps by module and layer."""
    plus, minus = plus.clamp(min=0), minus.clamp(min=0)
    curve_plus = plus.sort(descending=True).values.cumsum(0)
    curve_minus = minus.sort(descending=True).values.cumsum(0)
    count = plus.numel()
    grid = sorted({min(count, round(10 ** (e / 8))) for e in range(0, 60)} | {min(TOP, count), count})
    total = float(curve_plus[-1] + curve_minus[-1])
    return Influence(
        target=target,
        neurons=count,
        m=grid,
        d_plus=[float(curve_plus[m - 1]) for m in grid],
        d_minus=[float(curve_minus[m - 1]) for m in grid],
        d_plus_100=float(curve_plus[min(TOP, count) - 1]),
        d_minus_100=float(curve_minus[min(TOP, count) - 1]),
        d_plus_all=float(curve_plus[-1]),
        d_minus_all=float(curve_minus[-1]),
        hide_ratio=float(curve_minus[-1]) / total if total > 0 else None,
        map_plus=_map(plus, sites),
        map_minus=_map(minus, sites),
        facts=facts,
    )


def _map(values: Float[Tensor, " N"], sites: Sequence[Site]) -> dict[str, list[float]]:
    """Return the mean of the top 100 neurons of every module and layer."""
    maps: dict[str, list[float]] = {m: [] for m in MODULES if any(s.module == m for s in sites)}
    for site, part in zip(sites, values.split([site.width for site in sites]), strict=True):
        maps[site.module].append(float(part.topk(min(TOP, part.numel())).values.mean()))
    return maps
