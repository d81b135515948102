"""The causal test: does the answer come back when the spurious neurons are taken out?

The neurons with the largest D- (those that began to oppose the answer) are ablated in the unlearned
model, and the forget facts are read again. Beside each such set stand random sets of as many neurons
of the same maps: ablating anything changes a model, and only what goes beyond that counts.

zero: the neuron's output is 0. mean: its output is its mean over other facts. Both bring nothing of
the original model along, so an answer that returns was still there: hidden. restore: the neuron's row
of weights (and bias) is the one before unlearning, which also undoes erasure that happened in it, so
an answer that returns tells where the change is and not of which kind. The counterpart restores the
neurons with the largest D+ (those that stopped helping).

Covered: q, k, v, o, gate, up and down maps, apart or fused, stored as [out, in] or [in, out]. Not
covered: norms and embeddings; neurons that oppose the answer only together with others of low rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssiuu import statistics
from ssiuu.attribution.neuron import Extremes, batches
from ssiuu.causal import CausalLM
from ssiuu.diagnosis.influence import Baseline, variation
from ssiuu.errors import ConfigError
from ssiuu.evaluation.scores.base import ReadFacts
from ssiuu.evaluation.scores.ranking import read_by_ranking
from ssiuu.likelihood import Batch, Example, Prompt, last_columns
from ssiuu.models.hooks import hooked
from ssiuu.models.shards import dealt, edited
from ssiuu.models.sites import Site
from ssiuu.records.schema import (
    Ablation,
    Causal,
    CausalCurve,
    CausalPoint,
    EstimateRecord,
    FactText,
    Level,
    Reading,
    Side,
)
from ssiuu.statistics import bootstrap_ratio, next_draw

GRID = (1, 10, 100, 1000)  # and all neurons of that side
HEADLINE = 100  # neurons of the one number
PLAN: tuple[tuple[Side, Ablation], ...] = (
    ("minus", "zero"),
    ("minus", "mean"),
    ("minus", "restore"),
    ("plus", "restore"),
)
BUDGET = 100  # readings of the facts: 4 curves, 5 points, 1 top set and 4 random ones

Units = dict[Site, Int[Tensor, " m"]]  # which output units of each map
Readings = Mapping[str, Reading]


def neuron_influence(before: Baseline, after: Iterable[Extremes]) -> dict[Side, Float[Tensor, " N"]]:
    """Return D- and D+ of every neuron under log P, clipped at 0 (Eq. 4 and 5)."""
    plus = minus = torch.zeros(())
    count = 0
    for batch in after:
        for row, id in enumerate(batch.ids):
            read = before.read([id], slice(0, before.width))
            here = slice(row, row + 1)
            terms = variation(read, (batch.highest[here].cpu(), batch.lowest[here].cpu()))
            plus, minus = plus + terms[0][0].double(), minus + terms[1][0].double()
            count += 1
    return {"minus": (minus / count).clamp(min=0), "plus": (plus / count).clamp(min=0)}


def causal_test(
    model: CausalLM,
    prompt: Prompt,
    facts: Sequence[FactText],
    sites: Sequence[Site],
    influence: Mapping[Side, Float[Tensor, " N"]],
    original: Readings,
    before: Mapping[str, Tensor],
    means: Mapping[Site, Tensor] | None = None,
    seed: int = 0,
    budget: int = BUDGET,
    reading: ReadFacts = read_by_ranking,
) -> Causal:
    """Ablate the top m neurons and random ones, and read the facts each time.

    Args:
        model: The unlearned model; it is the same, bit for bit, afterwards.
        prompt: How questions become tokens.
        facts: The forget facts.
        sites: Where the neurons are.
        influence: D- and D+ of every neuron, in the order of the sites.
        original: Readings of the facts before unlearning.
        before: The sites' parameters before unlearning, by name.
        means: Mean output of every site over other facts; None leaves mean ablation out.
        seed: Of the random neurons.
        budget: Most readings of all facts; decides how many random sets are drawn.
        reading: How the facts are read.

    Raises:
        ConfigError: The budget leaves fewer than two random sets a point.
    """
    plan = [(side, mode) for side, mode in PLAN if mode != "mean" or means is not None]
    # Each point is read once with the top neurons and `draws` times with random ones.
    draws = budget // (len(plan) * (len(GRID) + 1)) - 1
    if draws < 2:
        least = 3 * len(plan) * (len(GRID) + 1)
        raise ConfigError(f"budget: must be at least {least} readings of the facts, got {budget}.")
    generator = torch.Generator().manual_seed(seed)
    unlearned = reading(model, prompt, facts)

    def read(wanted: tuple[Ablation, Units]) -> Readings:
        mode, units = wanted
        with _ablation(model, mode, units, before, means):
            return reading(model, prompt, facts)

    asked: list[tuple[Ablation, Units]] = []
    for side, mode in plan:
        for m in grid(influence[side]):
            top = top_units(influence[side], sites, m)
            # From the same maps, so that what a map does by itself is no evidence.
            asked += [(mode, random_units(top, generator)) for _ in range(draws)] + [(mode, top)]
    found = iter(dealt(asked, read))
    curves = []
    for side, mode in plan:
        points = []
        for m in grid(influence[side]):
            *others, at_top = islice(found, draws + 1)
            points.append(_point(m, facts, original, unlearned, at_top, others))
        curves.append(CausalCurve(side=side, mode=mode, points=points))
    headline = [p.share for p in curves[0].points if p.m == HEADLINE]
    return Causal(
        facts=len(facts),
        draws=draws,
        original=mean_level(original, facts),
        unlearned=mean_level(unlearned, facts),
        curves=curves,
        share=headline[0] if headline else None,
    )


def grid(values: Float[Tensor, " N"]) -> list[int]:
    """Return the sizes of one curve: the grid, and all neurons above 0."""
    count = int((values > 0).sum())
    return sorted({m for m in GRID if m < count} | ({count} if count else set()))


def top_units(values: Float[Tensor, " N"], sites: Sequence[Site], m: int) -> Units:
    """Return the m neurons with the largest values, by site."""
    chosen = torch.zeros(values.numel(), dtype=torch.bool)
    chosen[values.argsort(descending=True, stable=True)[:m].cpu()] = True
    parts = chosen.split([site.width for site in sites])
    return {s: part.nonzero().squeeze(1) for s, part in zip(sites, parts, strict=True) if part.any()}


def random_units(like: Units, generator: torch.Generator) -> Units:
    """Return as many neurons of every site, drawn without replacement from all of its neurons."""
    return {
        site: torch.randperm(site.width, generator=generator)[: len(units)]
        for site, units in like.items()
    }


@torch.no_grad()
def mean_outputs(
    model: CausalLM, sites: Sequence[Site], examples: Sequence[Example], pad: int
) -> dict[Site, Float[Tensor, " width"]]:
    """Return every site's mean output over all real tokens of the examples."""
    device = next(model.parameters()).device

    def read(batch: Batch) -> tuple[int, dict[Site, Tensor]]:
        keep, sums = batch.attention_mask.bool(), dict[Site, Tensor]()

        def add(site: Site, module: Any, inputs: Any, output: Tensor) -> None:
            by_token = output.reshape(*keep.shape, -1)  # some models flatten rows and tokens into one
            total = site.take(by_token[keep].double().sum(0)).cpu()
            sums[site] = sums[site] + total if site in sums else total

        with hooked((model.get_submodule(site.path), partial(add, site)) for site in sites):
            model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                logits_to_keep=last_columns(0, device),  # nobody reads them
                use_cache=False,
            )
        return int(keep.sum()), sums

    totals: dict[Site, Tensor] = {}
    count = 0
    for tokens, sums in dealt(batches(model, examples, pad), read):
        count += tokens
        totals = {site: totals[site] + part if totals else part for site, part in sums.items()}
    return {site: (total / count).to(device) for site, total in totals.items()}


@contextmanager
def ablated(
    model: CausalLM, units: Units, means: Mapping[Site, Float[Tensor, " width"]] | None = None
) -> Iterator[None]:
    """Put 0, or their mean, in place of the output of these neurons."""

    def replace(
        site: Site, chosen: Tensor, value: Tensor | float, module: Any, inputs: Any, output: Tensor
    ) -> Tensor:
        output = output.clone()
        places = site.places(output.shape[-1])[chosen]
        output[..., places] = value if isinstance(value, float) else value.to(output)
        return output

    hooks = [
        (
            model.get_submodule(site.path),
            partial(replace, site, chosen, 0.0 if means is None else means[site][chosen]),
        )
        for site, chosen in units.items()
    ]
    with hooked(hooks):
        yield


@contextmanager
def restored(model: CausalLM, units: Units, before: Mapping[str, Tensor]) -> Iterator[None]:
    """Give these neurons their weights (and biases) of before; the present ones come back.

    Args:
        model: Changed in place within the context.
        units: Which neurons.
        before: Parameters by name.
    """
    present: list[tuple[Tensor, Site, Tensor, Tensor]] = []
    try:
        for site, chosen in units.items():
            for name, parameter in model.get_submodule(site.path).named_parameters():
                with edited(parameter) as whole:
                    rows = site.by_output(whole)
                    places = site.places(len(rows))[chosen]
                    present.append((parameter, site, places, rows[places].clone()))
                    rows[places] = site.by_output(before[f"{site.path}.{name}"])[places].to(rows)
        yield
    finally:
        for changed, site, places, kept in present:
            with edited(changed) as whole:
                site.by_output(whole)[places] = kept


def mean_level(readings: Readings, facts: Sequence[FactText]) -> Level:
    """Return the mean over the facts."""
    right = [bool(c) for f in facts if (c := readings[f.id].correct) is not None]
    return Level(
        logprob=sum(readings[f.id].logprob for f in facts) / len(facts),
        accuracy=sum(right) / len(right) if right else None,
    )


def _ablation(
    model: CausalLM,
    mode: Ablation,
    units: Units,
    before: Mapping[str, Tensor],
    means: Mapping[Site, Tensor] | None,
) -> AbstractContextManager[None]:
    if mode == "restore":
        return restored(model, units, before)
    return ablated(model, units, means if mode == "mean" else None)


def _point(
    m: int,
    facts: Sequence[FactText],
    original: Readings,
    unlearned: Readings,
    top: Readings,
    others: Sequence[Readings],
) -> CausalPoint:
    """Sum up one top set and its random ones."""
    levels = [mean_level(other, facts) for other in others]
    accuracies = [x.accuracy for x in levels if x.accuracy is not None]
    random = [sum(other[f.id].logprob for other in others) / len(others) for f in facts]
    # What the top set brings back beyond the mean random one, over what unlearning took, of each
    # fact.
    back = [top[f.id].logprob - r for f, r in zip(facts, random, strict=True)]
    lost = [original[f.id].logprob - unlearned[f.id].logprob for f in facts]
    entities = [f.entity or f.id for f in facts]
    share = bootstrap_ratio([[back]], [[lost]], entities) if len(set(entities)) > 1 else None
    return CausalPoint(
        m=m,
        top=mean_level(top, facts),
        random_logprob=as_record(next_draw([x.logprob for x in levels])),
        random_accuracy=as_record(next_draw(accuracies)) if accuracies else None,
        share=as_record(share) if share else None,
    )


def as_record(estimate: statistics.Estimate) -> EstimateRecord:
    """Return an estimate as a record."""
    return EstimateRecord(**estimate._asdict())
