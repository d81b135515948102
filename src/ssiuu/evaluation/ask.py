"""Ask a model questions: rank given options and write a free answer, from one reading of each.

The question is read once; its key-value cache serves every option and the free answer. An option's
first token is scored by the question's own last logits, so options of one token cost nothing more.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssiuu.likelihood import Prompt, length_sorted, token_logprobs


@dataclass(frozen=True)
class Question:
    """A question with its options (token ids; the first one is the right answer).

    `generate`: how many tokens of a free answer to write, 0 for none.
    """

    prompt: list[int]
    options: list[list[int]]
    generate: int = 0


@dataclass(frozen=True)
class Asked:
    """What came back: is the right answer ranked first, its log p (nats, sum), the free answer.

    `first` compares mean log-probabilities per token; None where there is nothing to rank.
    """

    first: bool | None
    logprob: float
    tokens: int
    free: list[int]


@torch.no_grad()
def ask(model: Any, prompt: Prompt, questions: Sequence[Question], batch_size: int = 64) -> list[Asked]:
    """Ask every question; answers come back in the order of the questions.

    Args:
        model: A causal LM with a key-value cache, in evaluation mode.
        prompt: Tells where a free answer ends (end of text, or end of its line).
        questions: What to ask.
        batch_size: Questions read at once.
    """
    answers: list[Asked | None] = [None] * len(questions)
    for indices in length_sorted([len(q.prompt) for q in questions], batch_size):
        chunk = [questions[i] for i in indices]
        for index, asked in zip(indices, _ask_batch(model, prompt, chunk), strict=True):
            answers[index] = asked
    return [a for a in answers if a is not None]


def _ask_batch(model: Any, prompt: Prompt, chunk: list[Question]) -> list[Asked]:
    device = next(model.parameters()).device
    width = max(len(q.prompt) for q in chunk)
    ids = torch.zeros((len(chunk), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, question in enumerate(chunk):
        ids[i, width - len(question.prompt) :] = torch.tensor(question.prompt)
        mask[i, width - len(question.prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    read = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
    )
    last = read.logits[:, -1].float()
    free = _free(model, prompt, chunk, read.past_key_values, mask, last)
    logprobs = last.log_softmax(-1)
    sums = [[float(logprobs[i, o[0]]) for o in q.options] for i, q in enumerate(chunk)]
    right = [(i, 0) for i, q in enumerate(chunk) if len(q.options[0]) > 1]
    if right:  # the rivals still need the original
        spare = copy.deepcopy(read.past_key_values)
        _add_rest(model, chunk, spare, mask, sums, right)
    _add_rest(model, chunk, read.past_key_values, mask, sums, _rivals(chunk, sums))
    return [
        Asked(_first(question, row), row[0], len(question.options[0]), answer)
        for question, row, answer in zip(chunk, sums, free, strict=True)
    ]


def _rivals(chunk: list[Question], sums: list[list[float]]) -> list[tuple[int, int]]:
    """Return the wrong options that may still win.

    A log-probability only falls with every further token, so an option whose first token alone
    puts its mean below the right answer's is beaten, and the rest of it need not be read.
    """
    return [
        (i, j)
        for i, question in enumerate(chunk)
        for j, option in enumerate(question.options)
        if j and len(option) > 1
        if sums[i][j] / len(option) >= sums[i][0] / len(question.options[0])
    ]


def _first(question: Question, sums: list[float]) -> bool | None:
    if len(sums) < 2:
        return None
    means = [total / len(o) for total, o in zip(sums, question.options, strict=True)]
    return means[0] > max(means[1:])


def _add_rest(
    model: Any,
    chunk: list[Question],
    cache: Any,
    mask: Int[Tensor, "B T"],
    sums: list[list[float]],
    pairs: list[tuple[int, int]],
) -> None:
    """Add the log-probability of the tokens after the first, for (question, option) pairs.

    Uses up the cache.
    """
    if not pairs:
        return
    rows = torch.tensor([i for i, _ in pairs], device=mask.device)
    cache.batch_select_indices(rows)
    rest = _continue(model, [chunk[i].options[j] for i, j in pairs], cache, mask[rows])
    for (i, j), value in zip(pairs, rest.tolist(), strict=True):
        sums[i][j] += value


def _continue(
    model: Any, options: list[list[int]], cache: Any, mask: Int[Tensor, "R T"]
) -> Float[Tensor, " R"]:
    """Return the log-probability of each option's tokens after its first, given the cache."""
    width = max(len(option) for option in options) - 1
    ids = torch.zeros((len(options), width), dtype=torch.long)
    targets = torch.zeros_like(ids)
    valid = torch.zeros_like(ids)
    for i, option in enumerate(options):
        ids[i, : len(option) - 1] = torch.tensor(option[:-1])
        targets[i, : len(option) - 1] = torch.tensor(option[1:])
        valid[i, : len(option) - 1] = 1
    ids, targets, valid = (t.to(mask.device) for t in (ids, targets, valid))
    logits = model(
        input_ids=ids,
        attention_mask=torch.cat([mask, valid], 1),
        position_ids=mask.sum(1, keepdim=True) + torch.arange(width, device=mask.device),
        past_key_values=cache,
        use_cache=True,
    ).logits
    return (token_logprobs(logits, targets) * valid).sum(1)


def _free(
    model: Any, prompt: Prompt, chunk: list[Question], cache: Any, mask: Tensor, last: Tensor
) -> list[list[int]]:
    """Return the greedy continuation of every question, cut where the answer ends."""
    limits = [q.generate for q in chunk]
    written: list[list[int]] = [[] for _ in chunk]
    if not any(limits):
        return written
    rows = torch.tensor([i for i, n in enumerate(limits) if n], device=mask.device)
    cache = copy.deepcopy(cache)  # the options still need the original
    cache.batch_select_indices(rows)
    mask, logits = mask[rows], last[rows]
    open_rows = set(rows.tolist())
    while True:
        token = logits.argmax(-1)
        for row, value in zip(rows.tolist(), token.tolist(), strict=True):
            if row in open_rows:
                written[row].append(value)
                if len(written[row]) >= limits[row] or ends(prompt, written[row]):
                    open_rows.discard(row)
        if not open_rows:
            return written
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        step = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        )
        logits = step.logits[:, -1].float()


def ends(prompt: Prompt, written: list[int]) -> bool:
    """Whether the answer ends here: end of text, or the end of its first line with words."""
    if written[-1] == prompt.tokenizer.eos_token_id:
        return True
    text = prompt.tokenizer.decode(written)
    return "\n" in text.lstrip()
