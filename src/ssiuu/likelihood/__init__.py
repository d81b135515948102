"""log p(answer | question): the one place where tokens are shifted, masked and summed.

Batches are padded on the left, so that the answers of all rows end in the last column and only the
last columns need logits. A token's log-probability is always taken in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad as pad_left

from ssiuu.causal import CausalLM
from ssiuu.errors import DataError
from ssiuu.likelihood.prompt import ONE_LINE, Ending, Joint, Prompt, PromptStyle

__all__ = [
    "ONE_LINE",
    "AnswerLogprobs",
    "Batch",
    "Ending",
    "Example",
    "Joint",
    "Prompt",
    "PromptStyle",
    "Trie",
    "aligned",
    "answer_logits",
    "answer_logprobs",
    "collate",
    "encode",
    "join",
    "last_columns",
    "length_sorted",
    "shared",
    "token_logprobs",
]


TOGETHER = 1024  # tokens of rows that are run as a trie


@dataclass(frozen=True)
class Example:
    """A prompt and its answer as token ids; `id` names the fact in messages and records."""

    id: str
    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Trie:
    """Rows of a batch as one row: what they begin with in common stands in it once, and no padding.

    `ids`, `depths` [1, N]: tokens and their positions. `seen` [N, N]: what attends to what, itself and
    what comes before it. `predictors` [B, A]: that of each target; anything where masked.
    """

    ids: Int[Tensor, "1 N"]
    depths: Int[Tensor, "1 N"]
    seen: Bool[Tensor, "N N"]
    predictors: Int[Tensor, "B A"]

    def to(self, device: torch.device | str) -> Trie:
        """Return it on another device."""
        return Trie(*(tensor.to(device) for tensor in vars(self).values()))


@dataclass(frozen=True)
class Batch:
    """Rows padded on the left. The last column is never fed: it is only predicted.

    Shapes: `input_ids`, `attention_mask`, `position_ids` [B, T]; `targets`, `answer_mask` [B, A],
    where column a is predicted by the logits at position T - A + a. `counts`: whether its losses do; a
    batch that does not only keeps a process in step with others that have one more. `trie`: the same
    rows, through which the model is run in their place.
    """

    ids: tuple[str, ...]
    input_ids: Int[Tensor, "B T"]
    attention_mask: Int[Tensor, "B T"]
    position_ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B A"]
    answer_mask: Bool[Tensor, "B A"]
    counts: bool = True
    trie: Trie | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        tensors = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        trie = None if self.trie is None else self.trie.to(device)
        return Batch(ids=self.ids, counts=self.counts, trie=trie, **tensors)

    def total(self, losses: Float[Tensor, " B"]) -> Float[Tensor, ""]:
        """Return the sum of a loss over the rows; 0 where the batch does not count."""
        return losses.sum() if self.counts else 0.0 * losses.sum()


def encode(
    prompt: Prompt, id: str, question: str, answer: str, context: int, end: bool = False
) -> Example:
    """Tokenise one question and its answer.

    Args:
        prompt: The prompt style and tokenizer.
        id: Name of the fact, for messages.
        question: The question.
        answer: The answer.
        context: Longest sequence of the model, tokens.
        end: Put the end token behind the answer, as one of its tokens.

    Raises:
        DataError: The answer has no tokens, or the whole is longer than the context.
    """
    try:
        joint = prompt.joint(question, [answer])
    except DataError as error:
        raise DataError(f"{id}: {error}") from error
    example = Example(id, joint.prompt, joint.answers[0])
    if not example.answer:
        raise DataError(f"{id}: the answer {answer!r} has no tokens for this tokenizer.")
    if end:
        example = Example(id, example.prompt, example.answer + prompt.end)
    length = len(example.prompt) + len(example.answer)
    if length > context:
        raise DataError(
            f"{id}: question and answer have {length} tokens, and the model's context holds "
            f"{context}. Shorten the row or leave it out."
        )
    return example


def collate(examples: Sequence[Example], pad: int) -> Batch:
    """Pad examples on the left into one batch on the CPU.

    Args:
        examples: At least one example.
        pad: Any valid token id; padding is masked, whatever its id.
    """
    rows = [e.prompt + e.answer for e in examples]
    width = max(len(row) for row in rows)
    tail = max(len(e.answer) for e in examples)
    full = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    answer_mask = torch.zeros((len(rows), tail), dtype=torch.bool)
    for i, (row, example) in enumerate(zip(rows, examples, strict=True)):
        full[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
        answer_mask[i, tail - len(example.answer) :] = True
    attention = mask[:, :-1]
    return Batch(
        ids=tuple(e.id for e in examples),
        input_ids=full[:, :-1],
        attention_mask=attention,
        # Counted from the first real token on; padding stands at 0, and nothing looks there.
        position_ids=(attention.cumsum(1) - 1).clamp(min=0),
        targets=full[:, width - tail :],
        answer_mask=answer_mask,
    )


def shared(batch: Batch) -> Batch:
    """Return a batch that is run as a trie: a third fewer tokens where questions begin alike.

    The losses are those of the padded rows, up to rounding. Only for models that take positions, and a
    mask for every pair of tokens (`ssiuu.evaluation.tree.takes_trees`). Of more than `TOGETHER` tokens
    the batch stays as it is: attention costs their square.
    """
    if int(batch.attention_mask.sum()) > TOGETHER:
        return batch
    nodes: dict[tuple[int, int], int] = {}  # by the node before it and the token
    depths, seen = list[int](), torch.zeros(TOGETHER, TOGETHER, dtype=torch.bool)
    predictors = torch.zeros(batch.targets.shape, dtype=torch.long)
    for row, (tokens, there) in enumerate(zip(batch.input_ids, batch.attention_mask, strict=True)):
        path, node = list[int](), -1
        for token in tokens[there.bool()].tolist():
            key = node, token
            node = nodes.setdefault(key, len(nodes))
            path.append(node)
            if node == len(depths):
                depths.append(len(path) - 1)
                seen[node, path] = True
        answer = min(len(path), predictors.shape[1])
        predictors[row, -answer:] = torch.tensor(path[-answer:])
    ids = torch.tensor([[token for _, token in nodes]])
    made = Trie(ids, torch.tensor([depths]), seen[: len(nodes), : len(nodes)].clone(), predictors)
    return replace(batch, trie=made.to(batch.input_ids.device))


def join(first: Batch, second: Batch) -> Batch:
    """Return two batches as one, the rows of `first` on top; `shared` where both are."""
    joined: dict[str, Any] = {}
    for name in ("input_ids", "attention_mask", "position_ids", "targets", "answer_mask"):
        pair = getattr(first, name), getattr(second, name)
        width = max(t.shape[1] for t in pair)
        # On the left, where padding is.
        joined[name] = torch.cat([pad_left(t, (width - t.shape[1], 0)) for t in pair])
    both = Batch(ids=first.ids + second.ids, **joined)
    return both if first.trie is None or second.trie is None else shared(both)


@dataclass(frozen=True)
class AnswerLogprobs:
    """log p of every answer token, nats, 0 where masked; shapes [B, A]."""

    tokens: Float[Tensor, "B A"]
    mask: Bool[Tensor, "B A"]

    @property
    def sum(self) -> Float[Tensor, " B"]:
        """Log P(y|x) = sum over t of log p(y_t | x, y_<t), nats."""
        return self.tokens.sum(1)

    @property
    def count(self) -> Int[Tensor, " B"]:
        """Number of answer tokens."""
        return self.mask.sum(1)

    def __getitem__(self, rows: slice) -> AnswerLogprobs:
        """Return some of the rows."""
        return AnswerLogprobs(self.tokens[rows], self.mask[rows])


def answer_logits(model: CausalLM, batch: Batch) -> Float[Tensor, "B A V"]:
    """Return the logits that predict the answer tokens, in fp32 or wider; differentiable.

    Args:
        model: A causal LM whose forward takes `logits_to_keep`.
        batch: On the model's device.
    """
    if batch.trie is not None:
        logits = _trie_logits(model, batch.trie)
    else:
        logits = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            logits_to_keep=last_columns(batch.targets.shape[1], batch.input_ids.device),
            use_cache=False,
        ).logits
    return logits if logits.dtype == torch.float64 else logits.float()


def _trie_logits(model: CausalLM, trie: Trie) -> Float[Tensor, "B A V"]:
    mask = torch.zeros(trie.seen.shape, dtype=model.dtype, device=trie.seen.device)
    mask.masked_fill_(~trie.seen, torch.finfo(model.dtype).min)
    wanted, places = trie.predictors.unique(return_inverse=True)
    logits: Tensor = model(
        input_ids=trie.ids,
        attention_mask=mask[None, None],
        position_ids=trie.depths,
        logits_to_keep=wanted,
        use_cache=False,
    ).logits
    return logits[0][places]


def last_columns(count: int, device: torch.device) -> Int[Tensor, " count"]:
    """Return indices of the last columns, for `logits_to_keep`.

    A number there makes a slice, whose product with the head runs row by row, several times slower.
    """
    return torch.arange(-count, 0, device=device)


def answer_logprobs(
    model: CausalLM, batch: Batch, logits: Float[Tensor, "B A V"] | None = None
) -> AnswerLogprobs:
    """Return the log-probability of every answer token; differentiable.

    Args:
        model: See `answer_logits`.
        batch: On the model's device.
        logits: Of this batch, where they are there already.
    """
    logits = answer_logits(model, batch) if logits is None else logits
    chosen = token_logprobs(logits, batch.targets)
    return AnswerLogprobs(chosen.masked_fill(~batch.answer_mask, 0.0), batch.answer_mask)


def token_logprobs(logits: Float[Tensor, "*n V"], targets: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return log softmax(logits)[target] in fp32 (or wider), without keeping the whole softmax."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - wide.logsumexp(-1)


def aligned(
    rows: Sequence[Float[Tensor, _ * shape]], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T *shape"]:
    """Return rows of different lengths as one tensor, each where its mask is set; 0 elsewhere."""
    out = rows[0].new_zeros((*mask.shape, *rows[0].shape[1:]))
    for i, row in enumerate(rows):
        out[i, mask[i]] = row.to(out.device)
    return out


def length_sorted(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return batches of indices with similar lengths, so that little is padded."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    return [order[i : i + size] for i in range(0, len(order), size)]
