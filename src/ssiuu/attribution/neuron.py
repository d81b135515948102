"""Neuron attribution (Eq. 1), reduced over tokens while the backward pass runs.

    A[i,k] = h[i,k] * dlog P(y|x) / dh[i,k]

for every neuron i (output unit of a linear map) and token k. dP = P dlog P, so the attribution of P
itself is P times this one; both targets come from one backward pass. Examples of a batch do not
touch each other, so the gradient of the sum of log P holds each example's own gradient.

Covered: every q, k, v, o, gate, up and down map. Not covered: embeddings, norms, biases apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssiuu.attribution.hidden import residuals
from ssiuu.causal import CausalLM
from ssiuu.likelihood import Batch, Example, answer_logprobs, collate, length_sorted
from ssiuu.models.shards import in_turns, world
from ssiuu.models.sites import Site

BATCH = 16


@dataclass(frozen=True)
class Extremes:
    """max over k and min over k of A[i,k] for log P, with log P itself; rows are examples.

    Shapes: `highest`, `lowest` [B, N], `logprob` [B]. `gap` [B]: what integrated gradients leave
    unexplained (see `ssiuu.attribution.integrated`); None for gradient x activation.
    """

    ids: tuple[str, ...]
    highest: Float[Tensor, "B N"]
    lowest: Float[Tensor, "B N"]
    logprob: Float[Tensor, " B"]
    gap: Float[Tensor, " B"] | None = None


def extremes(
    model: CausalLM,
    sites: Sequence[Site],
    examples: Sequence[Example],
    pad: int,
    watch: Watch | None = None,
) -> Iterator[Extremes]:
    """Yield the extremes of every example, a batch at a time, examples with similar lengths together.

    Args:
        model: In evaluation mode; its parameters need no gradient here.
        sites: Where the neurons are; N is the sum of their widths, in this order.
        examples: Questions with their answers.
        pad: Padding token id.
        watch: Shown every batch and its residual stream; see `ssiuu.attribution.hidden.residuals`.
    """

    def read(batch: Batch) -> tuple[Extremes, Any]:
        if watch is None:
            return portable(_batch(model, sites, batch)), None
        with residuals(model) as states:
            found = _batch(model, sites, batch)
        return portable(found), watch.look(batch, states)

    for found, seen in in_turns(batches(model, examples, pad), read):
        if watch is not None:
            watch.take(seen)
        yield found


class Watch(Protocol):
    """Who reads the residual stream of passes that are taken anyway."""

    def look(self, batch: Batch, states: Sequence[Float[Tensor, "B T _"]]) -> Any:
        """Return what is seen of one batch, on the process that reads it."""
        ...

    def take(self, seen: Any) -> None:
        """Take what was seen of a batch, on every process, in the order of the batches."""
        ...


def portable(found: Extremes) -> Extremes:
    """Return extremes as other processes can have them, where there are any."""
    if world() == 1:
        return found
    gap = None if found.gap is None else found.gap.cpu()
    return Extremes(found.ids, found.highest.cpu(), found.lowest.cpu(), found.logprob.cpu(), gap)


def batches(model: CausalLM, examples: Sequence[Example], pad: int) -> Iterator[Batch]:
    """Yield batches of examples with similar lengths, on the model's device."""
    device = next(model.parameters()).device
    for rows in length_sorted([len(e.prompt) + len(e.answer) for e in examples], BATCH):
        yield collate([examples[i] for i in rows], pad).to(device)


def _batch(model: CausalLM, sites: Sequence[Site], batch: Batch) -> Extremes:
    ends: dict[Site, tuple[Tensor, Tensor]] = {}
    placed = by_path(sites)
    keep = batch.attention_mask.bool()

    def sink(path: str, activation: Tensor, gradient: Tensor) -> None:
        # In fp32 at least: the product of two small bf16 numbers has few digits.
        kind = torch.promote_types(activation.dtype, torch.float32)
        low, high = token_extremes(activation.to(kind) * gradient.to(kind), keep)
        for site in placed[path]:
            ends[site] = site.take(high), site.take(low)

    with frozen(model), capture(model, placed, sink):
        logprob = answer_logprobs(model, batch).sum
        logprob.sum().backward()
    return Extremes(
        ids=batch.ids,
        highest=torch.cat([ends[site][0] for site in sites], 1),
        lowest=torch.cat([ends[site][1] for site in sites], 1),
        logprob=logprob.detach(),
    )


def by_path(sites: Iterable[Site]) -> dict[str, list[Site]]:
    """Return the sites of every map: several where it is a fused one."""
    placed: defaultdict[str, list[Site]] = defaultdict(list)
    for site in sites:
        placed[site.path].append(site)
    return dict(placed)


def token_extremes(
    attribution: Float[Tensor, "B T n"] | Float[Tensor, "BT n"], keep: Bool[Tensor, "B T"]
) -> tuple[Float[Tensor, "B n"], Float[Tensor, "B n"]]:
    """Return min and max over the real tokens; some models flatten rows and tokens into one."""
    by_token = attribution.reshape(*keep.shape, -1)
    # Rows are padded on the left, so the last token is a real one and may stand in for padding.
    real = torch.where(keep.unsqueeze(-1), by_token, by_token[:, -1:])
    low, high = real.aminmax(dim=1)
    return low, high


@contextmanager
def capture(
    model: CausalLM, paths: Iterable[str], sink: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """Hand every map's activation [B, T, out] and its gradient to `sink` during backward.

    No hook outlives the context, whatever happens in it.
    """

    def forward_hook(path: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
            activation = output.detach().clone()  # some blocks add to it in place
            output.register_hook(lambda gradient: sink(path, activation, gradient))

        return hook

    handles = [model.get_submodule(path).register_forward_hook(forward_hook(path)) for path in paths]
    # With frozen parameters the graph must begin somewhere: at the embeddings.
    handles.append(
        model.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: output.requires_grad_(True)
        )
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def frozen(model: CausalLM) -> Iterator[None]:
    """Take no gradients of parameters: only those of activations are wanted."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
