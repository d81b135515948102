"""One reading of an answer for every score of it.

    scores = score_sequences(model, examples)
    scores[0].logprob, scores[0].extraction_strength, scores[0].exact_memorisation

Answers to the same question share one reading of the question. Of the logits nothing is kept but
a few numbers a token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssiuu.evaluation.ask import Read, continuation, read_questions
from ssiuu.likelihood import Example, length_sorted, token_logprobs

QUESTIONS = 32  # questions read at once
POSITIONS = 1024  # answer tokens in memory at once: each has a row of logits


@dataclass(frozen=True)
class SequenceScore:
    """What a model makes of one answer, token by token, on the CPU.

    `logprobs`: log p(y_t | x, y_<t), nats. `hits`: is y_t the likeliest token. `mean` and `std`: of
    log p(z | x, y_<t) over tokens z drawn from the model itself (for Min-K++), where asked for.
    """

    logprobs: Float[Tensor, " A"]
    hits: Bool[Tensor, " A"]
    mean: Float[Tensor, " A"] | None = None
    std: Float[Tensor, " A"] | None = None

    @property
    def tokens(self) -> int:
        """|y|, the number of tokens."""
        return len(self.logprobs)

    @property
    def logprob(self) -> float:
        """Log P(y|x), nats."""
        return float(self.logprobs.sum())

    @property
    def per_token(self) -> float:
        """Log P(y|x) / |y|, nats."""
        return self.logprob / self.tokens

    @property
    def extraction_strength(self) -> float:
        """1 - k/|y| with the smallest k from which on every token is the likeliest.

        Source: Carlini et al. 2021; Dorna et al. 2025 (OpenUnlearning). Departures: 0, not 1/|y|,
        where even the last token is not the likeliest.
        """
        misses = (~self.hits).nonzero()
        return 1 - (int(misses[-1]) + 1) / self.tokens if len(misses) else 1.0

    @property
    def exact_memorisation(self) -> float:
        """Share of tokens that are the likeliest. Source: Tirumala et al. 2022."""
        return float(self.hits.float().mean())


@torch.no_grad()
def score_sequences(
    model: Any, examples: Sequence[Example], moments: bool = False
) -> list[SequenceScore]:
    """Score answers given their prompts (teacher-forced), in the order of the examples.

    Args:
        model: A causal LM with a key-value cache, in evaluation mode.
        examples: Prompts and answers; equal prompts are read once.
        moments: Take mean and standard deviation of the log-probability too.
    """
    answers: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        answers[tuple(example.prompt)].append(index)
    questions = list(answers)
    found: dict[int, SequenceScore] = {}
    for chunk in length_sorted([len(q) for q in questions], QUESTIONS):
        read = read_questions(model, [questions[i] for i in chunk])
        pairs = [(row, index) for row, i in enumerate(chunk) for index in answers[questions[i]]]
        for batch in _batches(pairs, examples):
            rows = [row for row, _ in batch]
            texts = [examples[index].answer for _, index in batch]
            scores = _score_batch(model, read, rows, texts, moments)
            found |= zip((index for _, index in batch), scores, strict=True)
    return [found[i] for i in range(len(examples))]


def _batches(
    pairs: list[tuple[int, int]], examples: Sequence[Example]
) -> Iterator[list[tuple[int, int]]]:
    """Yield (question, answer) pairs with answers of similar length, as many as fit."""
    left = sorted(pairs, key=lambda pair: len(examples[pair[1]].answer), reverse=True)
    while left:
        size = max(1, POSITIONS // len(examples[left[0][1]].answer))
        yield left[:size]
        left = left[size:]


def _score_batch(
    model: Any, read: Read, rows: list[int], answers: list[list[int]], moments: bool
) -> list[SequenceScore]:
    """Score one answer for each of these rows of the questions read."""
    first = torch.tensor([answer[0] for answer in answers], device=read.mask.device)
    parts = [_judge(read.last[rows, None], first[:, None], moments)]
    if max(map(len, answers)) > 1:
        rest = continuation(model, answers, *read.rows(rows))
        parts.append(_judge(rest.logits, rest.targets, moments))
    columns = [torch.cat(column, 1).cpu() for column in zip(*parts, strict=True)]
    return [
        SequenceScore(*(column[i, : len(answer)] for column in columns))
        for i, answer in enumerate(answers)
    ]


def _judge(
    logits: Float[Tensor, "R A V"], targets: Int[Tensor, "R A"], moments: bool
) -> tuple[Tensor, ...]:
    """Return log p of the targets, whether each is the likeliest, and the moments; each [R, A]."""
    judged = (token_logprobs(logits, targets), logits.argmax(-1) == targets)
    if not moments:
        return judged
    pairs = [_moments(row) for row in logits]  # one row at a time: it needs copies of its logits
    return *judged, *(torch.stack(column) for column in zip(*pairs, strict=True))


def _moments(logits: Float[Tensor, "A V"]) -> tuple[Float[Tensor, " A"], Float[Tensor, " A"]]:
    """Return E[log p(z)] and the standard deviation of log p(z) for z drawn from p."""
    logprobs = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)
    probabilities = logprobs.exp()
    mean = (probabilities * logprobs).sum(-1)
    variance = (probabilities * (logprobs - mean[:, None]).square()).sum(-1)
    return mean, variance.sqrt()
