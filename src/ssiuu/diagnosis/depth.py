"""Unlearning depth score (UDS): do the unlearned model's states still hold what the original reads?

The original model reads a question and its answer, with the states of another model put in place of
its own after one block. What the answer loses tells how much of the knowledge that block's states lack:

    drop_s[l] = 1/A (log P(y|x) under the original - the same with block l's states from model s)
    UDS = sum_l clip(drop_u[l], 0, drop_r[l]) / sum_l drop_r[l]    over l with drop_r[l] > 0.05 nats

with u the unlearned and r the never-learned model, so that each layer counts as much as the knowledge
it holds. 0: the states are as good as the original's. 1: they are as if the fact was never learned. One
model is read with another's states, so both must come of the same training.

Source: arXiv 2605.24614. Departures: it is known to us by a description, not by its code. The choices
made here are: states are put in at the positions that predict the answer's tokens (the prompt's last
and the answer's but its last), the answer is the gold one, the threshold is on the drop per token, and
the score is the mean over facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ssiuu.attribution.hidden import blocks
from ssiuu.attribution.neuron import batches
from ssiuu.causal import CausalLM
from ssiuu.diagnosis.causal import as_record
from ssiuu.likelihood import Batch, Example, answer_logprobs
from ssiuu.models.hooks import hooked
from ssiuu.models.shards import dealt
from ssiuu.records.schema import Depth
from ssiuu.statistics import bootstrap_mean

THRESHOLD = 0.05  # nats a token; a layer whose drop is smaller holds nothing of the fact

States = dict[str, Float[Tensor, "L A d"]]  # by id: after every block, where the answer is predicted
Drops = dict[str, Float[Tensor, " L"]]  # by id: what the answer loses by each block, nats a token


@torch.no_grad()
def answer_states(model: CausalLM, examples: Sequence[Example], pad: int) -> States:
    """Return the states after every block at the positions that predict the answer (on the CPU)."""

    def read(batch: Batch) -> States:
        width = batch.targets.shape[1]
        block_states: list[Tensor] = []

        with hooked((block, partial(_keep, block_states, width)) for block in blocks(model)):
            answer_logprobs(model, batch)
        stacked = torch.stack(block_states, 1)
        return {id: stacked[row][:, batch.answer_mask[row].cpu()] for row, id in enumerate(batch.ids)}

    found = dealt(batches(model, examples, pad), read)
    return {id: states for part in found for id, states in part.items()}


@torch.no_grad()
def drops(model: CausalLM, examples: Sequence[Example], states: States, pad: int) -> Drops:
    """Return what every answer loses when another model's states are put in, block by block."""
    layers = blocks(model)

    def read(batch: Batch) -> Drops:
        own = answer_logprobs(model, batch)
        lost = []
        for index, block in enumerate(layers):
            row_states = {row: states[id][index] for row, id in enumerate(batch.ids)}
            with _patched(block, batch, row_states):
                lost.append((own.sum - answer_logprobs(model, batch).sum) / own.count)
        stacked = torch.stack(lost, 1).cpu()
        return {id: stacked[row] for row, id in enumerate(batch.ids)}

    found = dealt(batches(model, examples, pad), read)
    return {id: lost for part in found for id, lost in part.items()}


def depth_score(unlearned: Drops, reference: Drops, entities: Mapping[str, str]) -> Depth:
    """Return the score of every fact and their mean, with an interval over entities."""
    facts = {id: fact_depth(unlearned[id], reference[id]) for id in reference}
    scored = {id: value for id, value in facts.items() if value is not None}
    names = [entities[id] for id in scored]
    mean = bootstrap_mean([[list(scored.values())]], names) if len(set(names)) > 1 else None
    return Depth(
        score=as_record(mean) if mean else None,
        reference=torch.stack(list(reference.values())).double().mean(0).tolist(),
        unlearned=torch.stack([unlearned[id] for id in reference]).double().mean(0).tolist(),
        facts=facts,
    )


def fact_depth(unlearned: Float[Tensor, " L"], reference: Float[Tensor, " L"]) -> float | None:
    """Return one fact's score; None where no layer of the never-learned model lacks it."""
    lacking = reference > THRESHOLD
    if not lacking.any():
        return None
    whole = reference[lacking].double()
    return float(torch.minimum(unlearned[lacking].double().clamp(min=0), whole).sum() / whole.sum())


def _keep(kept_states: list[Tensor], width: int, module: Any, inputs: Any, output: Any) -> None:
    kept_states.append(_first(output)[:, -width:].cpu())


def _first(output: Any) -> Tensor:
    """Return the hidden states of a block's output."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


@contextmanager
def _patched(block: Any, batch: Batch, rows: Mapping[int, Float[Tensor, "A d"]]) -> Iterator[None]:
    """Put these states in place of the block's own where the answer is predicted, row by row."""

    def replace(module: Any, inputs: Any, output: Any) -> Any:
        hidden = _first(output).clone()
        for row, states in rows.items():
            hidden[row, -batch.targets.shape[1] :][batch.answer_mask[row]] = states.to(hidden)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    with hooked([(block, replace)]):
        yield
