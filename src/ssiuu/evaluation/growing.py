"""Texts that grow by a token at a time: from the keys and values that were kept, or read again.

Keeping is right where every layer keeps the keys and values of all tokens. A model of other layers
(state-space, linear attention, convolutions), or with a cache of its own, is read again from the
text's first token on for every token written: slow, and right for any causal model.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ssiuu.causal import CausalLM
from ssiuu.models.shards import alike

_KEEPS: WeakKeyDictionary[CausalLM, bool] = WeakKeyDictionary()
NEAR = 0.02  # of the logits' deviation: rounding is far below, another state far above


@dataclass(frozen=True)
class Begun:
    """A text that was read, to go on from: its tokens and the likeliest next one.

    `states`: keys and values of layer after layer, each [T, H, D]; none where they are not kept.
    """

    text: list[int]
    states: list[Tensor]
    token: int


@runtime_checkable
class Growing(Protocol):
    """Texts of one model that grow together."""

    def step(self, left: Sequence[int], tokens: Sequence[int]) -> Float[Tensor, "R V"]:
        """Go on with the texts at these places, each by its token; return the next logits."""
        ...


class Kept:
    """Texts that go on from their keys and values, padded on the left."""

    def __init__(self, model: CausalLM, states: DynamicCache, mask: Int[Tensor, "R T"]) -> None:
        self.model, self.states, self.mask = model, states, mask

    def step(self, left: Sequence[int], tokens: Sequence[int]) -> Float[Tensor, "R V"]:
        """See `Growing`."""
        device = self.mask.device
        if len(left) < len(self.mask):
            chosen = torch.tensor(left, device=device)
            self.states.batch_select_indices(chosen)
            self.mask = self.mask[chosen]
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        logits: Tensor = self.model(
            input_ids=torch.tensor([[token] for token in tokens], device=device),
            attention_mask=self.mask,
            position_ids=self.mask.sum(1, keepdim=True) - 1,
            **behind(self.model, self.states),
        ).logits
        return alike(logits[:, -1])


class Again:
    """Texts that are read again from their beginning for every token."""

    def __init__(self, model: CausalLM, texts: Sequence[list[int]]) -> None:
        self.model, self.texts = model, list(texts)

    def step(self, left: Sequence[int], tokens: Sequence[int]) -> Float[Tensor, "R V"]:
        """See `Growing`."""
        pairs = zip(left, tokens, strict=True)
        self.texts = [[*self.texts[place], token] for place, token in pairs]
        return next_logits(self.model, self.texts)


def growing(model: CausalLM, begun: Sequence[Begun]) -> Growing:
    """Return texts that were read, to go on with together."""
    if not all(b.states for b in begun):
        return Again(model, [b.text for b in begun])
    states = [_stacked(s).transpose(1, 2) for s in zip(*(b.states for b in begun), strict=True)]
    mask = _stacked([torch.ones_like(b.states[0][:, 0, 0], dtype=torch.long) for b in begun])
    return Kept(model, DynamicCache(list(zip(states[::2], states[1::2], strict=True))), mask)


def next_logits(model: CausalLM, texts: Sequence[list[int]]) -> Float[Tensor, "R V"]:
    """Return the logits after each text, read without a cache and padded on the right."""
    device = next(model.parameters()).device
    rows = pad_sequence([torch.tensor(text) for text in texts], batch_first=True).to(device)
    lasts = [len(text) - 1 for text in texts]
    columns = sorted(set(lasts))
    logits: Tensor = model(
        input_ids=rows, use_cache=False, logits_to_keep=torch.tensor(columns, device=device)
    ).logits
    return alike(logits[range(len(texts)), [columns.index(last) for last in lasts]])


def behind(model: CausalLM, states: DynamicCache) -> dict[str, Any]:
    """Return the arguments by which a model reads on behind keys and values, and adds its own to them.

    transformers 5.24 renamed `past_key_values`, and lets the old name go in 5.40.
    """
    return {_name_of_states(type(model)): states, "use_cache": True}


@cache
def _name_of_states(kind: Any) -> str:
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"


def keeps_states(model: CausalLM) -> bool:
    """Whether the keys and values of a text serve to go on with it; tried once a model."""
    if model not in _KEEPS:
        _KEEPS[model] = _tried(model)
    return _KEEPS[model]


@torch.no_grad()
def _tried(model: CausalLM) -> bool:
    """Go on with two tokens by a third, and compare with reading all three."""
    ids = torch.tensor([[0, 1, 2]], device=next(model.parameters()).device)
    states = DynamicCache()
    try:
        model(input_ids=ids[:, :2], **behind(model, states))
        whole = all(type(layer) is DynamicLayer for layer in states.layers)
        if not states.layers or not whole or states.get_seq_length() != 2:
            return False
        cached = Kept(model, states, torch.ones_like(ids[:, :2])).step([0], [2])
    except Exception:  # a model that takes no such cache may fail anywhere in it
        return False
    read_whole = next_logits(model, ids.tolist())
    if not bool(read_whole.isfinite().all()):
        return True  # nothing can be told from these weights
    return float((cached - read_whole).abs().max()) <= NEAR * float(read_whole.std())


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    return pad_sequence(list(rows), batch_first=True, padding_side="left")
