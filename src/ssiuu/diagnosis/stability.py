"""Stability of attributions through unlearning and an attack (the paper's Fig. 6).

For every neuron i and each of three models - original, unlearned, attacked - the means over facts of
max_k A[i,k] and of min_k A[i,k]: how they are distributed, how far two models agree over neurons, and
which neurons of the top D+ and D- the attack brings back. A neuron is back when more than half of its
change is undone:

    (A_attacked[i] - A_unlearned[i]) / (A_original[i] - A_unlearned[i]) > 1/2

Departures: the paper draws one attribution a neuron and does not say which token's; here are both
ends, those that D+ and D- are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from ssiuu.diagnosis.influence import Baseline
from ssiuu.models.sites import Site
from ssiuu.records.schema import Attributions, ReturnedNeuron, Stability, Target
from ssiuu.statistics.bootstrap import Floats

MODELS = ("original", "unlearned", "attacked")
# Attributions span many orders of magnitude: two bins a decade on each side of 0.
_DECADES = [10 ** (e / 2) for e in range(-12, 5)]
EDGES = [-e for e in reversed(_DECADES)] + _DECADES
TOPS = (10, 100, 1000)
BACK = 0.5
LEADING = 20


def stability(
    original: Baseline,
    unlearned: Baseline,
    attacked: Baseline,
    sites: Sequence[Site],
    attack: str,
    target: Target = "logprob",
) -> Stability:
    """Compare the attributions of three models over the facts that all have.

    Args:
        original: Before unlearning.
        unlearned: After it.
        attacked: After an attack on the unlearned model.
        sites: Where the neurons are.
        attack: Which attack, for the record.
        target: What is attributed.

    Raises:
        ValueError: The models share no fact.
    """
    models = dict(zip(MODELS, (original, unlearned, attacked), strict=True))
    ids = [i for i in original.ids if i in set(unlearned.ids) & set(attacked.ids)]
    if not ids:
        raise ValueError("need facts that all three models were asked about")
    means = {name: mean_extremes(model, ids, target) for name, model in models.items()}
    highest = {name: high for name, (high, _) in means.items()}
    lowest = {name: low for name, (_, low) in means.items()}
    # The changes that D+ and D- are: a turned neuron earns no credit for erasure.
    erased = highest["original"] - np.maximum(highest["unlearned"], 0)
    added = lowest["original"] - lowest["unlearned"]
    return Stability(
        target=target,
        attack=attack,
        facts=len(ids),
        edges=EDGES,
        highest=_side(highest, erased),
        lowest=_side(lowest, added),
        leading=_leading(lowest, added, sites),
    )


def mean_extremes(model: Baseline, ids: Sequence[str], target: Target) -> tuple[Floats, Floats]:
    """Return the means over facts of max_k A and min_k A, a value a neuron."""
    weights = model.probability(ids) if target == "probability" else torch.ones(len(ids))
    high: list[Floats] = []
    low: list[Floats] = []
    for neurons in model.slices():
        ends = model.read(ids, neurons)
        for means, values in zip((high, low), ends, strict=True):
            means.append((weights.unsqueeze(1) * values).mean(0, dtype=torch.float64).numpy())
    return np.concatenate(high), np.concatenate(low)


def _side(values: dict[str, Floats], change: Floats) -> Attributions:
    edges = [-np.inf, *EDGES, np.inf]
    pairs = list(combinations(MODELS, 2))
    returned = came_back(values["original"], values["unlearned"], values["attacked"])
    order = np.argsort(-change, kind="stable")
    # Where nothing has changed nothing can come back, so no m goes beyond that.
    changed = int((change > 0).sum())
    return Attributions(
        histogram={name: np.histogram(v, edges)[0].tolist() for name, v in values.items()},
        pearson={f"{a}-{b}": pearson(values[a], values[b]) for a, b in pairs},
        spearman={f"{a}-{b}": rank_correlation(values[a], values[b]) for a, b in pairs},
        returned={m: float(returned[order[:m]].mean()) for m in TOPS if m <= changed},
    )


def came_back(original: Floats, unlearned: Floats, attacked: Floats) -> NDArray[np.bool_]:
    """Return which neurons' attribution an attack brought back by more than half of its change."""
    lost = original - unlearned
    back: NDArray[np.bool_] = (attacked - unlearned) * np.sign(lost) > BACK * np.abs(lost)
    return back


def pearson(first: Floats, second: Floats) -> float | None:
    """Return the correlation of two vectors; None where one does not vary."""
    if first.size < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def rank_correlation(first: Floats, second: Floats) -> float | None:
    """Return the correlation of the ranks of two vectors; None where one does not vary."""
    if first.size < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    from scipy.stats import spearmanr  # takes most of a second to import

    return float(spearmanr(first, second).statistic)


def _leading(lowest: dict[str, Floats], added: Floats, sites: Sequence[Site]) -> list[ReturnedNeuron]:
    ends = np.cumsum([site.width for site in sites])
    neurons = []
    for neuron in np.argsort(-added, kind="stable")[:LEADING].tolist():
        if added[neuron] <= 0:
            break
        place = int(np.searchsorted(ends, neuron, side="right"))
        site = sites[place]
        unit = int(neuron - (ends[place] - site.width))
        values = {name: float(v[neuron]) for name, v in lowest.items()}
        neurons.append(ReturnedNeuron(module=site.module, layer=site.layer, unit=unit, **values))
    return neurons
