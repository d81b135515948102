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


@torch.no_grad()
def write(
    model: Any,
    prompt: Prompt,
    questions: Sequence[Sequence[int]],
    limits: Sequence[int],
    batch_size: int = 64,
) -> list[list[int]]:
    """Write a greedy answer to every question; answers of similar length are written together.

    Args:
        model: A causal LM with a key-value cache, in evaluation mode.
        prompt: Tells where an answer ends (end of text, or end of its line).
        questions: Token ids.
        limits: Most tokens of each answer, at least 1.
        batch_size: Answers written at once.
    """
    answers: list[list[int]] = [[] for _ in questions]
    for indices in length_sorted(limits, batch_size):
        read = read_questions(model, [questions[i] for i in indices])
        written = _free(model, prompt, [limits[i] for i in indices], read)
        for index, answer in zip(indices, written, strict=True):
            answers[index] = answer
    return answers


@dataclass(frozen=True)
class Read:
    """Questions that were read: their key-value cache and the logits after their last token."""

    cache: Any
    mask: Int[Tensor, "B T"]
    last: Float[Tensor, "B V"]

    def rows(self, indices: Sequence[int], keep: bool = True) -> tuple[Any, Int[Tensor, "R T"]]:
        """Return cache and mask of these questions; a question may stand several times.

        Args:
            indices: Rows to take.
            keep: Leave the cache as it is, so that it can be used again.
        """
        chosen = torch.tensor(indices, device=self.mask.device)
        cache = copy.deepcopy(self.cache) if keep else self.cache
        cache.batch_select_indices(chosen)
        return cache, self.mask[chosen]


def read_questions(model: Any, questions: Sequence[Sequence[int]]) -> Read:
    """Read questions (token ids) in one forward pass, padded on the left."""
    device = next(model.parameters()).device
    width = max(len(q) for q in questions)
    ids = torch.zeros((len(questions), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, question in enumerate(questions):
        ids[i, width - len(question) :] = torch.tensor(question)
        mask[i, width - len(question) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    read = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
    )
    return Read(read.past_key_values, mask, read.logits[:, -1].float())


def _ask_batch(model: Any, prompt: Prompt, chunk: list[Question]) -> list[Asked]:
    read = read_questions(model, [q.prompt for q in chunk])
    free = _free(model, prompt, [q.generate for q in chunk], read)
    logprobs = read.last.log_softmax(-1)
    sums = [[float(logprobs[i, o[0]]) for o in q.options] for i, q in enumerate(chunk)]
    right = [(i, 0) for i, q in enumerate(chunk) if len(q.options[0]) > 1]
    _add_rest(model, chunk, read, sums, right, keep=True)  # the rivals still need the cache
    _add_rest(model, chunk, read, sums, _rivals(chunk, sums), keep=False)
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
    read: Read,
    sums: list[list[float]],
    pairs: list[tuple[int, int]],
    keep: bool,
) -> None:
    """Add the log-probability of the tokens after the first, for (question, option) pairs."""
    if not pairs:
        return
    cache, mask = read.rows([i for i, _ in pairs], keep)
    rest = continuation(model, [chunk[i].options[j] for i, j in pairs], cache, mask)
    logprobs = (token_logprobs(rest.logits, rest.targets) * rest.valid).sum(1)
    for (i, j), value in zip(pairs, logprobs.tolist(), strict=True):
        sums[i][j] += value


@dataclass(frozen=True)
class Continuation:
    """What follows the first token of every answer; `valid` is 0 where an answer has ended."""

    logits: Float[Tensor, "R A V"]
    targets: Int[Tensor, "R A"]
    valid: Int[Tensor, "R A"]


def continuation(
    model: Any, answers: Sequence[Sequence[int]], cache: Any, mask: Int[Tensor, "R T"]
) -> Continuation:
    """Return the logits of each answer's tokens after its first, given the cache of its question.

    Args:
        model: A causal LM with a key-value cache.
        answers: Token ids; one has at least two.
        cache: Of the questions, one row an answer; used up.
        mask: Which tokens of the cache count.
    """
    width = max(len(answer) for answer in answers) - 1
    ids = torch.zeros((len(answers), width), dtype=torch.long)
    targets = torch.zeros_like(ids)
    valid = torch.zeros_like(ids)
    for i, answer in enumerate(answers):
        ids[i, : len(answer) - 1] = torch.tensor(answer[:-1])
        targets[i, : len(answer) - 1] = torch.tensor(answer[1:])
        valid[i, : len(answer) - 1] = 1
    ids, targets, valid = (t.to(mask.device) for t in (ids, targets, valid))
    logits = model(
        input_ids=ids,
        attention_mask=torch.cat([mask, valid], 1),
        position_ids=mask.sum(1, keepdim=True) + torch.arange(width, device=mask.device),
        past_key_values=cache,
        use_cache=True,
    ).logits
    return Continuation(logits, targets, valid)


def _free(model: Any, prompt: Prompt, limits: Sequence[int], read: Read) -> list[list[int]]:
    """Return the greedy continuation of every question, cut where the answer ends.

    A row leaves the batch when its answer has ended.
    """
    written: list[list[int]] = [[] for _ in limits]
    rows = [i for i, limit in enumerate(limits) if limit]
    if not rows:
        return written
    cache, mask = read.rows(rows)  # the options still need the original
    logits = read.last[rows]
    while True:
        token = logits.argmax(-1)
        left = []
        for place, (row, value) in enumerate(zip(rows, token.tolist(), strict=True)):
            written[row].append(value)
            if len(written[row]) < limits[row] and not ends(prompt, written[row]):
                left.append(place)
        if not left:
            return written
        if len(left) < len(rows):
            rows = [rows[place] for place in left]
            cache.batch_select_indices(torch.tensor(left, device=mask.device))
            mask, token = mask[left], token[left]
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
