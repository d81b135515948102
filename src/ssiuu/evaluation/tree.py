"""Read many token sequences in one pass: what they begin with in common is read once.

    for tree, indices, paths in grown(model, [(question, answer), ...]):
        tree.read()
        tree.logprob(paths[0].predictors, answer)

The tokens are the nodes of a trie, laid out in a single row without padding. A node's position is
its depth, and it attends to itself and its ancestors only (tree attention, as in Miao et al. 2024,
SpecInfer). Answers hang below their question. A model that cannot be told what attends to what gets
a padded row for every leaf instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from ssiuu.causal import CausalLM
from ssiuu.evaluation.growing import Begun, behind, keeps_states
from ssiuu.likelihood import Batch, shared
from ssiuu.models.shards import alike, world

Pair = tuple[list[int], list[int]]  # token ids of a question and of an answer
NODES = 512  # tokens of a tree: a small one shares less, and late answers are read once a tree
PIECE = 256  # tokens read at once: fewer leave the processor idle, more cost attention, their square
# An accelerator is idle for longer: as many as a share of its memory has room for, by the bytes of a
# word after a token: logits, log p and what they are made of.
MOST_NODES, MOST_PIECE, READ, SHARE = 4096, 2048, 12.0, 1 / 16


class Sizes(NamedTuple):
    """Tokens of a tree, and of those that are read at once."""

    nodes: int
    piece: int


def sizes(device: torch.device, words: int) -> Sizes:
    """Return the sizes of trees on a device; they go by what memory it has, not by what is free.

    Args:
        device: Where the model lies.
        words: Of its vocabulary.
    """
    total = None if device.type == "cpu" else _memory(device)
    if total is None:
        return Sizes(NODES, PIECE)
    room = int(SHARE * total / (READ * words))
    nodes = max(NODES, min(MOST_NODES, room))
    return Sizes(nodes, max(PIECE, min(MOST_PIECE, nodes // 2)))


@cache
def _memory(device: torch.device) -> int | None:
    """Return the bytes of an accelerator's memory; None where it does not say."""
    told = getattr(torch.get_device_module(device), "mem_get_info", None)
    return None if told is None else int(told(device)[1])


@dataclass(frozen=True)
class Path:
    """Where a question and its answer are in the tree: nodes of the question, and the nodes after
    which the answer's tokens are predicted (of which the first is the question's last).
    """

    question: list[int]
    predictors: list[int]


class Tree:
    """Questions and answers of one model, read together.

    `logprobs`: log p of every token after each predicting node, nats, in fp32 or wider. `beside`: the
    same by what the last pass predicted from the same states in a second way
    (`ssiuu.diagnosis.readout.Readout.beside`), one more for each; nothing where it did not.
    """

    logprobs: Float[Tensor, "N V"]
    beside: Float[Tensor, "S N V"]

    def __init__(self, model: CausalLM) -> None:
        self.model = model
        self.logprobs = self.beside = torch.empty(0)
        self._ids: list[int] = []
        self._parents: list[int] = []
        self._depths: list[int] = []
        self._children: dict[tuple[int, int, bool], int] = {}
        self._rows: dict[int, int] = {}  # of `logprobs`, by node
        self._wanted: dict[int, None] = {}  # predicting nodes that are still unread
        self._read = 0
        self._cache: Any = None
        self._places: dict[int, tuple[int, int]] = {}  # of nodes in the cache: row and column

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, question: list[int], answer: list[int]) -> Path:
        """Add a question and all but the last token of its answer, which is only predicted.

        After a reading, answers may be added to the questions that are there, but no questions.
        """
        question_nodes = self._grow(-1, question, answer=False)
        predictors = [question_nodes[-1], *self._grow(question_nodes[-1], answer[:-1], answer=True)]
        self._wanted |= {node: None for node in predictors if node not in self._rows}
        return Path(question_nodes, predictors)

    def read(self) -> None:
        """Read the nodes that are new."""
        if not self._wanted:
            return
        wanted = sorted(self._wanted)  # as they are laid out
        logits = alike(self._read_packed(wanted) if self._packs() else self._read_padded(wanted))
        wide = logits if logits.dtype == torch.float64 else logits.float()
        every = wide - wide.logsumexp(-1, keepdim=True)  # in fp32 nearer than log_softmax
        logprobs, self.beside = every[0], every[1:]
        self._rows |= {node: len(self._rows) + i for i, node in enumerate(wanted)}
        self.logprobs = torch.cat([self.logprobs, logprobs]) if self._read else logprobs
        self._wanted, self._read = {}, len(self)

    def forget(self) -> None:
        """Forget what was read, so that it can be read once more, by other weights of the model."""
        self._wanted, self._rows = dict.fromkeys(self._rows), {}
        self.logprobs = self.beside = torch.empty(0)
        self._cache, self._places, self._read = None, {}, 0

    def rows(self, predictors: Sequence[int]) -> list[int]:
        """Return the rows of `logprobs` that belong to these nodes."""
        return [self._rows[node] for node in predictors]

    def logprob(self, predictors: Sequence[int], tokens: Sequence[int]) -> float:
        """Return the sum of log p of these tokens, nats."""
        return float(self.logprobs[self.rows(predictors), list(tokens)].sum())

    def begin(self, question: Sequence[int]) -> Begun:
        """Return what is needed to go on writing after a question of the last reading."""
        text = [self._ids[node] for node in question]
        token = int(self.logprobs[self._rows[question[-1]]].argmax())
        if self._cache is None:
            return Begun(text, [], token)
        places = torch.tensor([self._places[node] for node in question], device=self.model.device)
        rows, columns = places.T
        states = [
            state[rows, :, columns]
            for layer in self._cache.layers
            for state in (layer.keys, layer.values)
        ]
        return Begun(text, states, token)

    def _grow(self, node: int, tokens: Sequence[int], answer: bool) -> list[int]:
        """Return the nodes of these tokens below a node, new ones where there are none.

        Answers and questions share no nodes: those of an answer all predict.
        """
        path = []
        for token in tokens:
            key = node, token, answer
            if key not in self._children:
                self._children[key] = len(self)
                self._ids.append(token)
                self._parents.append(node)
                self._depths.append(self._depths[node] + 1 if node >= 0 else 0)
            node = self._children[key]
            path.append(node)
        return path

    def _ancestors(self, node: int) -> list[int]:
        """Return the nodes from the root to this one."""
        path = []
        while node >= 0:
            path.append(node)
            node = self._parents[node]
        return path[::-1]

    def _packs(self) -> bool:
        """Whether the model can read the tree in one row; a window must not cut off ancestors."""
        return takes_trees(self.model) and in_window(self.model, max(self._depths) + 1)

    def _read_packed(self, wanted: list[int]) -> Float[Tensor, "S N V"]:
        """Read the new nodes as one row, behind the cache of the others, a piece at a time."""
        self._cache = DynamicCache() if self._cache is None else self._cache
        self._places = {node: (0, node) for node in range(len(self))}
        size = sizes_of(self.model).piece
        pieces = range(self._read, len(self), size)
        piece_logits = [self._read_piece(s, min(s + size, len(self)), wanted) for s in pieces]
        return torch.cat(piece_logits, 1)

    def _read_piece(self, start: int, stop: int, wanted: list[int]) -> Float[Tensor, "S N V"]:
        """Read nodes that follow those in the cache; return the logits of the wanted among them."""
        model = self.model
        seen = np.zeros((stop - start, stop), bool)
        for node, row in enumerate(seen, start):
            parent = self._parents[node]
            if parent < start:
                row[self._ancestors(parent)] = True
            else:  # all that it sees
                row[:] = seen[parent - start]
            row[node] = True
        mask = torch.full(seen.shape, torch.finfo(model.dtype).min, dtype=model.dtype)
        mask[torch.from_numpy(seen)] = 0
        rows = [node - start for node in wanted if start <= node < stop]
        logits: Tensor = model(
            input_ids=torch.tensor([self._ids[start:stop]], device=model.device),
            attention_mask=mask[None, None].to(model.device),
            position_ids=torch.tensor([self._depths[start:stop]], device=model.device),
            **behind(model, self._cache),
            logits_to_keep=torch.tensor(rows, dtype=torch.long, device=model.device),
        ).logits
        return logits

    def _read_padded(self, wanted: list[int]) -> Float[Tensor, "S N V"]:
        """Read a row for every new leaf from its root on, padded on the right: nothing looks there."""
        leaves = sorted(set(range(self._read, len(self))) - set(self._parents))
        paths = [self._ancestors(leaf) for leaf in leaves]
        rows = [torch.tensor([self._ids[node] for node in path]) for path in paths]
        self._cache = DynamicCache() if keeps_states(self.model) else None
        self._places = {
            node: (row, column) for row, path in enumerate(paths) for column, node in enumerate(path)
        }
        places = [self._places[node] for node in wanted]
        columns = sorted({column for _, column in places})
        logits: Tensor = self.model(
            input_ids=pad_sequence(rows, batch_first=True).to(self.model.device),
            **({"use_cache": False} if self._cache is None else behind(self.model, self._cache)),
            logits_to_keep=torch.tensor(columns, device=self.model.device),
        ).logits
        sides: Tensor = logits.unflatten(0, (-1, len(rows)))
        return sides[:, [row for row, _ in places], [columns.index(column) for _, column in places]]


def sizes_of(model: CausalLM) -> Sizes:
    """Return the sizes of trees that a model reads, where it lies."""
    return sizes(model.device, int(model.config.get_text_config().vocab_size))


def takes_trees(model: CausalLM) -> bool:
    """Whether a model takes positions, and a mask for every pair of tokens.

    Sure where attention goes through the interface that transformers' models share, by a kernel
    that reads the mask. Left out are layers of other kinds, and models of more than text.
    """
    config = model.config
    layers = getattr(config, "layer_types", None) or ()
    return (
        getattr(model, "is_backend_compatible", bool)()  # a model made by hand has no such method
        and config._attn_implementation in ("eager", "sdpa")
        and config.get_text_config() is config
        and set(layers) <= {"full_attention", "sliding_attention"}
    )


def in_window(model: CausalLM, tokens: int) -> bool:
    """Whether a window of attention, where a model has one, leaves texts of so many tokens whole."""
    window = getattr(model.config, "sliding_window", None)
    return not window or tokens <= window


def run_shared(model: CausalLM, batches: Sequence[Batch]) -> list[Batch]:
    """Return batches to train on so that what their rows begin with in common is run once, where the
    model can be run so.
    """
    if world() > 1 or not takes_trees(model):
        return list(batches)
    return [shared(b) if in_window(model, b.input_ids.shape[1]) else b for b in batches]


def grown(model: CausalLM, pairs: Sequence[Pair]) -> Iterator[tuple[Tree, list[int], list[Path]]]:
    """Yield unread trees, with the indices of the pairs in each and their paths.

    A tree is full when it has as many tokens as `sizes` says besides its first question.

    Args:
        model: A causal LM in evaluation mode.
        pairs: Questions and answers; those that begin alike come into the same tree.
    """
    nodes = sizes_of(model).nodes
    tree, indices, paths = Tree(model), list[int](), list[Path]()
    for i in sorted(range(len(pairs)), key=lambda i: pairs[i]):
        if indices and len(tree) >= len(paths[0].question) + nodes:
            yield tree, indices, paths
            tree, indices, paths = Tree(model), [], []
        indices.append(i)
        paths.append(tree.add(*pairs[i]))
    if indices:
        yield tree, indices, paths
