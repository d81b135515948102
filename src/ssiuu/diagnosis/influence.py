"""Influence variation (Eq. 4 and 5): which neurons stopped helping, which began to oppose.

Before (theta) and after (theta') unlearning, over n forget examples:

    D+[i] = max(0, 1/n sum ( max_k A_theta[i,k] - max(max_k A_theta'[i,k], 0) ))    erased
    D-[i] = max(0, 1/n sum ( min_k A_theta[i,k] - min_k A_theta'[i,k] ))            added against

The inner max(., 0) stands only in D+: turning negative earns no credit for erasure. Without the outer
max(0, .) the sums are called net.

What a target cannot show: dP = P dlog P is 0 for all neurons once the answer is improbable, so under P
D- is 0 whatever was hidden. dlog p = (1 - p) dlogit for one token, so under log P a fact that was
known for sure has almost no attribution before, D+ is near 0 and the hide ratio near 1 whatever the
method did.

Nothing is held for all facts at once: attributions lie in a temporary file, a row a fact, and are read
a slice of neurons at a time, so the memory grows neither with the facts nor with the model's width.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssiuu.attribution.neuron import Extremes
from ssiuu.errors import OutputError
from ssiuu.models.sites import MODULES, Site
from ssiuu.records.schema import Band, FactText, Influence, InfluenceBands, RelationInfluence, Target

TOP = 100
TARGETS: tuple[Target, ...] = ("logprob", "probability")
RESAMPLES = 200
CONFIDENCE = 0.95
HELD = 1 << 19  # numbers of one kind that are in memory at once


class Baseline:
    """The extremes of one model by fact, in a temporary file that goes when this does."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed with the object
        weakref.finalize(self, self._file.close)
        self._rows: dict[str, int] = {}
        self._logprob: list[float] = []
        self._gaps: list[float] = []
        self.width = 0

    @classmethod
    def of(cls, batches: Iterable[Extremes]) -> Baseline:
        """Keep the rows of every batch.

        Raises:
            OutputError: The folder of temporary files is full.
        """
        baseline = cls()
        for batch in batches:
            rows = torch.stack([batch.highest, batch.lowest], 1).float().cpu().numpy()
            baseline.width = rows.shape[2]
            try:
                baseline._file.write(rows.tobytes())
            except OSError as error:
                raise OutputError(
                    f"cannot keep attributions in {tempfile.gettempdir()}: {error.strerror or error}. "
                    "Set TMPDIR to a folder with more space."
                ) from error
            baseline._rows |= {id: len(baseline._rows) + i for i, id in enumerate(batch.ids)}
            baseline._logprob += batch.logprob.tolist()
            if batch.gap is not None:
                baseline._gaps += batch.gap.tolist()
        return baseline

    @property
    def ids(self) -> list[str]:
        """The facts, in the order in which they came."""
        return list(self._rows)

    @property
    def gap(self) -> float | None:
        """Mean completeness gap over facts; None for gradient x activation."""
        return sum(self._gaps) / len(self._gaps) if self._gaps else None

    def probability(self, ids: Sequence[str]) -> Float[Tensor, " F"]:
        """Return P(y|x) of these facts."""
        return torch.tensor([self._logprob[self._rows[i]] for i in ids]).exp()

    def read(
        self, ids: Sequence[str], neurons: slice
    ) -> tuple[Float[Tensor, "F n"], Float[Tensor, "F n"]]:
        """Return max over k and min over k of A for log P, for some facts and neurons."""
        count = neurons.stop - neurons.start
        values = np.empty((len(ids), 2, count), np.float32)
        for i, id in enumerate(ids):
            for end in (0, 1):
                self._file.seek(4 * ((2 * self._rows[id] + end) * self.width + neurons.start))
                values[i, end] = np.frombuffer(self._file.read(4 * count), np.float32)
        both = torch.from_numpy(values)
        return both[:, 0], both[:, 1]

    def slices(self) -> Iterator[slice]:
        """Yield slices of neurons that fit in memory for all facts."""
        size = max(1, HELD // max(1, len(self._rows)))
        for start in range(0, self.width, size):
            yield slice(start, min(start + size, self.width))


def variation(
    before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]
) -> tuple[Float[Tensor, "F n"], Float[Tensor, "F n"]]:
    """Return the terms of D+ and D- of every example, before averaging and clipping.

    Args:
        before: max over k and min over k of A under theta, [F, n] each.
        after: The same under theta'.
    """
    return before[0] - after[0].clamp(min=0), before[1] - after[1]


def influence(
    before: Baseline,
    after: Baseline | Iterable[Extremes],
    sites: Sequence[Site],
    facts: Sequence[FactText] = (),
    seed: int = 0,
) -> dict[Target, Influence]:
    """Return D+ and D- under both targets; for integrated gradients under log P only.

    Args:
        before: The original model's attributions.
        after: The unlearned model's, over facts that are in `before`.
        sites: Where the neurons are.
        facts: The entity of each fact, which the resamples draw together, and its relation; a fact
            that is not here stands for itself.
        seed: Of the resamples.
    """
    after = after if isinstance(after, Baseline) else Baseline.of(after)
    known = {fact.id: fact for fact in facts}
    entities = [known[i].entity or i if i in known else i for i in after.ids]
    relations: dict[str, list[int]] = {}
    for row, id in enumerate(after.ids):
        if id in known and (relation := known[id].relation):
            relations.setdefault(relation, []).append(row)
    groups = [_weights([rows], len(after.ids)) for rows in relations.values()]
    draws = resamples(entities, RESAMPLES, seed)
    # Rows: all facts, then each relation, then each resample.
    weights = torch.cat([_weights([range(len(after.ids))], len(after.ids)), *groups, draws])
    gaps = [gap for gap in (before.gap, after.gap) if gap is not None]
    by_target = {}
    for target in TARGETS[:1] if gaps else TARGETS:
        sums = _Sums.over(before, after, target, weights)
        first = 1 + len(groups)
        by_target[target] = summarise(target, sums.mean[0], sums.mean[1], sums.facts, sites).model_copy(
            update={
                "attribution": "integrated" if gaps else "gradient",
                "completeness_gap": max(gaps, default=None),
                "facts_net": sums.facts_net,
                "relations": {
                    relation: _relation(sums, 1 + i, len(relations[relation]))
                    for i, relation in enumerate(relations)
                },
                "bands": _bands(sums, first, len(set(entities))) if len(set(entities)) > 1 else None,
            }
        )
    return by_target


def resamples(entities: Sequence[str], count: int, seed: int) -> Float[Tensor, "R F"]:
    """Return the weight of every fact in each resample of the entities; every row sums to 1."""
    names, place = np.unique(np.asarray(entities, dtype=str), return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)
    weights = torch.from_numpy(drawn[:, place].astype(np.float32))
    return weights / weights.sum(1, keepdim=True)


def _weights(groups: Iterable[Iterable[int]], facts: int) -> Float[Tensor, "G F"]:
    """Return the weights that average over each group of facts."""
    rows = []
    for group in groups:
        row = torch.zeros(facts)
        row[list(group)] = 1.0
        rows.append(row / row.sum())
    return torch.stack(rows)


@dataclass
class _Sums:
    """What weighted means over facts come to, over all neurons; [W, 2] stands for (D+, D-).

    `mean`: the means by neuron for the first row of weights, [2, N]. `all`, `net`: sums over neurons
    with and without the cut at 0. `top`: the largest neurons' values, [W, 2, 100].
    """

    mean: Tensor
    all: Tensor
    net: Tensor
    top: Tensor
    facts: dict[str, tuple[float, float]]
    facts_net: dict[str, tuple[float, float]]

    @classmethod
    def over(
        cls, before: Baseline, after: Baseline, target: Target, weights: Float[Tensor, "W F"]
    ) -> _Sums:
        """Go through the neurons, a slice at a time."""
        ids = after.ids
        ones = torch.ones(len(ids))
        # dP = P dlog P: the attribution of P is the one of log P times P.
        old = (before.probability(ids) if target == "probability" else ones).unsqueeze(1)
        new = (after.probability(ids) if target == "probability" else ones).unsqueeze(1)
        mean, total = [], torch.zeros(len(weights), 2, 2).double()
        by_fact = torch.zeros(len(ids), 2, 2).double()
        top = torch.zeros(len(weights), 2, 0)
        for neurons in after.slices():
            high, low = before.read(ids, neurons)
            high_after, low_after = after.read(ids, neurons)
            raw = torch.stack(variation((high * old, low * old), (high_after * new, low_after * new)))
            means = torch.einsum("wf,sfn->wsn", weights, raw)
            mean.append(means[0].double())
            for store, values in ((total, means), (by_fact, raw.transpose(0, 1))):
                store[:, 0] += values.clamp(min=0).sum(2, dtype=torch.float64)
                store[:, 1] += values.sum(2, dtype=torch.float64)
            top = torch.cat([top, means.clamp(min=0)], 2)
            top = top.topk(min(TOP, top.shape[2]), sorted=False).values
        clipped, net = (by_fact[:, i].tolist() for i in (0, 1))
        return cls(
            mean=torch.cat(mean, 1),
            all=total[:, 0],
            net=total[:, 1],
            top=top.sum(2, dtype=torch.float64),
            facts={id: (plus, minus) for id, (plus, minus) in zip(ids, clipped, strict=True)},
            facts_net={id: (plus, minus) for id, (plus, minus) in zip(ids, net, strict=True)},
        )


def _relation(sums: _Sums, row: int, facts: int) -> RelationInfluence:
    plus, minus = sums.all[row].tolist()
    plus_100, minus_100 = sums.top[row].tolist()
    return RelationInfluence(
        facts=facts,
        d_plus_100=plus_100,
        d_minus_100=minus_100,
        d_plus_all=plus,
        d_minus_all=minus,
        hide_ratio=_ratio(plus, minus),
    )


def _bands(sums: _Sums, first: int, entities: int) -> InfluenceBands:
    """Return the intervals of everything from the rows of weights that are resamples."""

    def of(values: Float[Tensor, " W"], least: float = 0.0, most: float = np.inf) -> Band:
        band = basic_interval(float(values[0]), values[first:].tolist())
        return Band(**{name: min(max(v, least), most) for name, v in band})

    shares = sums.all[:, 1] / sums.all.sum(1)
    return InfluenceBands(
        confidence=CONFIDENCE,
        resamples=len(sums.all) - first,
        entities=entities,
        d_plus_100=of(sums.top[:, 0]),
        d_minus_100=of(sums.top[:, 1]),
        d_plus_all=of(sums.all[:, 0]),
        d_minus_all=of(sums.all[:, 1]),
        net_plus=of(sums.net[:, 0], least=-np.inf),
        net_minus=of(sums.net[:, 1], least=-np.inf),
        hide_ratio=of(shares, most=1.0) if bool(shares.isfinite().all()) else None,
    )


def basic_interval(estimate: float, drawn: Sequence[float]) -> Band:
    """Return 2 estimate - quantile, and the estimate less the bias that the resamples show.

    Source: Davison and Hinkley 1997, "Bootstrap methods and their application", 5.2.
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Band(
        low=2 * estimate - float(high),
        corrected=2 * estimate - float(np.mean(drawn)),
        high=2 * estimate - float(low),
    )


def summarise(
    target: Target,
    plus: Float[Tensor, " N"],
    minus: Float[Tensor, " N"],
    facts: Mapping[str, tuple[float, float]],
    sites: Sequence[Site],
) -> Influence:
    """Sum up the means over facts: curves over the top m neurons, top 100, maps by module and layer."""
    count = plus.numel()
    # Eight points a decade, and the two that are printed.
    grid = sorted({min(count, round(10 ** (e / 8))) for e in range(0, 60)} | {min(TOP, count), count})
    net_plus, net_minus = _curve(plus, grid), _curve(minus, grid)
    plus, minus = plus.clamp(min=0), minus.clamp(min=0)
    curve_plus, curve_minus = _curve(plus, grid), _curve(minus, grid)
    top = grid.index(min(TOP, count))
    return Influence(
        target=target,
        neurons=count,
        m=grid,
        d_plus=curve_plus,
        d_minus=curve_minus,
        d_plus_100=curve_plus[top],
        d_minus_100=curve_minus[top],
        d_plus_all=curve_plus[-1],
        d_minus_all=curve_minus[-1],
        hide_ratio=_ratio(curve_plus[-1], curve_minus[-1]),
        map_plus=_map(plus, sites),
        map_minus=_map(minus, sites),
        facts=dict(facts),
        net_plus=net_plus[-1],
        net_minus=net_minus[-1],
        curve_net_plus=net_plus,
        curve_net_minus=net_minus,
    )


def _curve(values: Float[Tensor, " N"], grid: Sequence[int]) -> list[float]:
    """Return the sums over the top m neurons."""
    sums: list[float] = values.sort(descending=True).values.cumsum(0)[torch.tensor(grid) - 1].tolist()
    return sums


def _ratio(plus: float, minus: float) -> float | None:
    return minus / (plus + minus) if plus + minus > 0 else None


def _map(values: Float[Tensor, " N"], sites: Sequence[Site]) -> dict[str, list[float]]:
    """Return the mean of the top 100 neurons of every module and layer."""
    maps: dict[str, list[float]] = {m: [] for m in MODULES if any(s.module == m for s in sites)}
    for site, part in zip(sites, values.split([site.width for site in sites]), strict=True):
        maps[site.module].append(float(part.topk(min(TOP, part.numel())).values.mean()))
    return maps
