"""Integrated gradients along the activations, a second attribution beside gradient x activation.

All maps of one block are scaled together: each puts out a h'(a) where it would put out h'(a), a from
0 to 1, and everything after it is computed from that. Then

    A[i,k] = integral over a in [0, 1] of  h'[i,k](a) * dlog P(y|x) / d(a h'[i,k](a))

The integrand at a = 1 is gradient x activation. At a = 0 the block adds nothing to the residual
stream, so the attributions of a block sum to what it is worth, up to the error of the quadrature:

    sum over i, k of A[i,k] = log P(y|x) - log P(y|x without the block)        (completeness)

`Extremes.gap` is the sum of that error's size over the blocks, over the sum of the worths' sizes.

One block at a time, because one neuron or one map at a time costs 7 times as much or far more, and
with all blocks scaled at once the path runs through models that no longer resemble this one. Maps that
stand in a row (v and o, up and down) therefore share the credit of what they do together.

Cost: for each block `steps` backward passes through the blocks from there on and `steps` + 1 forward
passes. Source: Sundararajan et al. 2017, "Axiomatic attribution for deep networks", Eq. 1, with the
gates of Eq. 3 of Dai et al. 2022, "Knowledge neurons in pretrained transformers". Departures: a block
at a time; Gauss-Legendre nodes for the integral. Not covered: log P only, since P is no multiple of it
along the path; blocks that norm what they add (Gemma 2, OLMo 2) undo the scale, which `gap` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssiuu.attribution.neuron import Extremes, batches, by_path, frozen, portable, token_extremes
from ssiuu.causal import CausalLM
from ssiuu.likelihood import Batch, Example, answer_logprobs
from ssiuu.models.shards import in_turns
from ssiuu.models.sites import Site

STEPS = 6


def integrated_extremes(
    model: CausalLM, sites: Sequence[Site], examples: Sequence[Example], pad: int, steps: int = STEPS
) -> Iterator[Extremes]:
    """Yield the extremes of the integrated attribution; see `ssiuu.attribution.neuron.extremes`.

    Args:
        model: In evaluation mode.
        sites: Sorted by block, as `find_sites` returns them.
        examples: Questions with their answers.
        pad: Padding token id.
        steps: Nodes of the quadrature, at least 1.
    """
    yield from in_turns(
        batches(model, examples, pad), lambda batch: portable(_batch(model, sites, batch, steps))
    )


def _batch(model: CausalLM, sites: Sequence[Site], batch: Batch, steps: int) -> Extremes:
    keep = batch.attention_mask.bool()
    with torch.no_grad():
        whole = answer_logprobs(model, batch).sum
    highest, lowest = [], []
    missed = worth = torch.zeros_like(whole)
    for _, group in groupby(sites, lambda site: site.layer):
        block = list(group)
        paths = list(by_path(block))
        totals = _integral(model, paths, batch, steps)
        # What the block is worth: log P less log P without what its maps put out.
        with torch.no_grad(), scaled(model, paths, 0.0):
            share = whole - answer_logprobs(model, batch).sum
        by_token = [t.reshape(*keep.shape, -1).sum(-1) for t in totals.values()]
        attributed = torch.stack(by_token).sum(0).masked_fill(~keep, 0.0).sum(1)
        missed, worth = missed + (attributed - share).abs(), worth + share.abs()
        ends = {path: token_extremes(total, keep) for path, total in totals.items()}
        lowest += [site.take(ends[site.path][0]) for site in block]
        highest += [site.take(ends[site.path][1]) for site in block]
    return Extremes(batch.ids, torch.cat(highest, 1), torch.cat(lowest, 1), whole, missed / worth)


def _integral(model: CausalLM, paths: list[str], batch: Batch, steps: int) -> dict[str, Tensor]:
    """Return A of every unit of the maps at every position: [B, T, out] by path."""
    totals: dict[str, Tensor] = {}
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    # From [-1, 1] to [0, 1]: the nodes move, the weights halve.
    for scale, weight in zip((nodes + 1) / 2, weights / 2, strict=True):

        def sink(path: str, output: Tensor, gradient: Tensor, weight: float = float(weight)) -> None:
            term = weight * output * gradient
            totals[path] = totals[path] + term if path in totals else term

        with frozen(model), scaled(model, paths, float(scale), sink):
            answer_logprobs(model, batch).sum.sum().backward()
    return totals


@contextmanager
def scaled(
    model: CausalLM,
    paths: Iterable[str],
    scale: float,
    sink: Callable[[str, Tensor, Tensor], None] | None = None,
) -> Iterator[None]:
    """Multiply what some maps put out while the context is open.

    Args:
        model: The model.
        paths: Of the maps.
        scale: The factor.
        sink: Handed each map's output before the factor, and the gradient after it, while a backward
            pass runs; the graph begins at the first of the maps.
    """

    def forward_hook(path: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor:
            product = output * scale
            if sink is not None:
                plain = output.detach()
                # The maps are first multiplied here, so that the graph may as well begin here.
                if not product.requires_grad:
                    product.requires_grad_(True)
                product.register_hook(lambda gradient: sink(path, plain, gradient))
            return product

        return hook

    handles = [model.get_submodule(path).register_forward_hook(forward_hook(path)) for path in paths]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
