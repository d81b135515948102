"""What the model before says of the rows, asked once before the first step for all parts together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ssiuu.attribution.hidden import hidden_states
from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.likelihood import Example, answer_logits, answer_logprobs
from ssiuu.methods.base import Ask, Loss, Rows
from ssiuu.methods.method import Method
from ssiuu.models.shards import is_cut

Asked = dict[Rows, Mapping[str, Tensor]]  # distributions of rows by id, for each set of rows

CACHE_LIMIT = 4 << 30  # bytes of reference distributions kept in memory; above, they are taken anew


@dataclass
class Prepared:
    """What the model before said, and what each part made of it.

    `logprob`, `refusal_logprob`: log P of the rows to forget by id, nats. `distributions`: log p of
    every word at every answer token, [A, V] by id, kept or asked of a frozen copy, for each set of
    rows. `hidden`: [T, d] by id of the retain rows; `hidden_length`: their mean length over all tokens.
    `parts`: what each part's `prepare` returned, by its name.
    """

    logprob: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, Example] = field(default_factory=dict)
    refusal_logprob: dict[str, float] = field(default_factory=dict)
    distributions: Asked = field(default_factory=dict)
    hidden: dict[str, Tensor] = field(default_factory=dict)
    hidden_length: float | None = None
    parts: dict[str, Any] = field(default_factory=dict)


class Frozen(Mapping[str, Tensor]):
    """The distributions of rows under a frozen copy of the model, taken anew whenever asked for.

    In place of a dict of them, where that would not fit in memory; equal to it up to rounding.
    """

    def __init__(self, ask: Ask, examples: Sequence[Example]) -> None:
        self.ask, self.rows = ask, {e.id: e for e in examples}

    def __getitem__(self, id: str) -> Float[Tensor, "A V"]:
        device = next(self.ask.model.parameters()).device
        with torch.autocast(device.type, enabled=False):  # as they were taken before the first step
            return _distributions(self.ask, [self.rows[id]])[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def prepare_parts(
    model: CausalLM,
    method: Method,
    forget: Sequence[Example],
    retain: Sequence[Example],
    pad: int,
    refusals: Sequence[Example] = (),
    shared: Sequence[Example] = (),
    texts: Sequence[Example] = (),
    progress: Callable[[str], None] = lambda _: None,
    asked: Asked | None = None,
) -> Prepared:
    """Ask the model, before it changes, for all that the parts of a method need.

    Args:
        model: In evaluation mode.
        method: What will be run.
        forget: Rows to forget.
        retain: Rows to keep.
        pad: Padding token id.
        refusals: The forget questions with a refusal for an answer, under the same ids.
        shared: What directions are read off; the retain rows if empty.
        texts: Texts to stay as they are on, where the method has that term.
        progress: Told where a second model is kept in memory.
        asked: Distributions that were asked for before, of the same weights: those of the same rows are
            not asked for again, and other ones take their place.

    Raises:
        ConfigError: Something that a part needs is missing.
    """
    rows: dict[Rows, Sequence[Example]] = {"forget": forget, "retain": retain, "texts": texts}
    ask = Ask(model, method.label, pad, rows, shared or retain, progress)
    prepared = Prepared()
    needs = method.objective.needs
    if "logprob" in needs:
        prepared.logprob = reference_logprobs(ask, forget)
    if method.objective.replaces:
        if not refusals:
            raise ConfigError(f"{method.label}: there are no refusals to prefer.")
        prepared.refusals = {e.id: e for e in refusals}
    if "refusal" in needs:
        prepared.refusal_logprob = reference_logprobs(ask, refusals)
    prepared.distributions = _all_distributions(ask, _wanted(method), asked)
    if method.retain is not None and "hidden" in method.retain.needs:
        layer = method.retain.looks(method.objective)
        assert layer is not None
        prepared.hidden = _hidden(ask, retain, layer)
        lengths = [torch.linalg.vector_norm(h, dim=-1) for h in prepared.hidden.values()]
        prepared.hidden_length = float(torch.cat(lengths).mean()) if lengths else None
    for part in method.all:
        if (prepared_part := part.prepare(ask)) is not None:
            prepared.parts[part.name] = prepared_part
    return prepared


def _wanted(method: Method) -> list[Rows]:
    """Return the sets of rows whose distributions some loss of the method needs."""
    losses: list[tuple[Loss, Rows]] = [(method.objective, "forget")]
    losses += [(term, term.rows) for term in (method.retain, *method.others) if term is not None]
    needed = {rows for loss, rows in losses if "distribution" in loss.needs}
    every: tuple[Rows, ...] = ("forget", "retain", "texts")
    return [rows for rows in every if rows in needed]


@torch.no_grad()
def reference_logprobs(ask: Ask, examples: Sequence[Example]) -> dict[str, float]:
    """Return log P(y|x) of every example under the model as it is, by id, nats."""
    logprobs: dict[str, float] = {}
    for batch in ask.batches(examples):
        sums = answer_logprobs(ask.model, batch).sum.tolist()
        logprobs |= dict(zip(batch.ids, sums, strict=True))
    return logprobs


def _all_distributions(ask: Ask, wanted: Sequence[Rows], asked: Asked | None) -> Asked:
    """Return the distributions of each set of rows; those asked for before, where they are of these."""
    asked = {} if asked is None else asked
    if any(rows not in asked or {*asked[rows]} != {e.id for e in ask.rows[rows]} for rows in wanted):
        asked.clear()
        asked |= _taken(ask, wanted)
    return {rows: asked[rows] for rows in wanted}


def _taken(ask: Ask, wanted: Sequence[Rows]) -> Asked:
    """Return the distributions of each set of rows: kept, or asked of one frozen copy of the model."""
    tokens = sum(len(e.answer) for rows in wanted for e in ask.rows[rows])
    # float32, whatever the model computes in.
    need = 4 * ask.model.config.vocab_size * tokens
    if need <= CACHE_LIMIT:
        return {rows: _distributions(ask, ask.rows[rows]) for rows in wanted}
    if is_cut(ask.model):
        raise ConfigError(
            f"{ask.label}: the reference's distributions of {tokens} answer tokens would take "
            f"{need / 1e9:.1f} GB, and a model in shards is not held twice: use fewer rows."
        )
    frozen = copy.deepcopy(ask.model).requires_grad_(False)
    size = sum(p.numel() * p.element_size() for p in frozen.parameters())
    ask.progress(
        f"the reference's distributions of {tokens} answer tokens would take {need / 1e9:.1f} GB: they "
        f"are asked of a frozen copy of the model at every step ({size / 1e9:.1f} GB, and slower)"
    )
    frozen_ask = replace(ask, model=frozen)
    return {rows: Frozen(frozen_ask, ask.rows[rows]) for rows in wanted}


@torch.no_grad()
def _distributions(ask: Ask, examples: Sequence[Example]) -> dict[str, Float[Tensor, "A V"]]:
    distributions = {}
    for batch in ask.batches(examples):
        logprobs = answer_logits(ask.model, batch).log_softmax(-1)
        for i, name in enumerate(batch.ids):
            distributions[name] = logprobs[i, batch.answer_mask[i]].clone()
    return distributions


@torch.no_grad()
def _hidden(ask: Ask, examples: Sequence[Example], layer: int) -> dict[str, Float[Tensor, "T d"]]:
    states_of = {}
    for batch in ask.batches(examples):
        states = hidden_states(ask.model, batch, layer)
        for i, name in enumerate(batch.ids):
            states_of[name] = states[i, batch.attention_mask[i].bool()].clone()
    return states_of
