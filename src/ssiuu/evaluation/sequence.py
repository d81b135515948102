"""One reading of an answer for every score of it.

    scores = score_sequences(model, examples)
    scores[0].logprob, scores[0].extraction_strength, scores[0].exact_memorisation

What questions and answers begin with in common is read once. Of the logits nothing is kept but a few
numbers a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssiuu.causal import CausalLM
from ssiuu.evaluation.tree import Path, Tree, grown
from ssiuu.likelihood import Example
from ssiuu.models.shards import dealt


@dataclass(frozen=True)
class SequenceScore:
    """What a model makes of one answer, token by token, on the CPU.

    `logprobs`: log p(y_t | x, y_<t), nats. `hits`: is y_t the likeliest token. `highest`: log p of the
    likeliest token. `mean` and `std`: of log p(z | x, y_<t) over tokens z drawn from the model itself
    (for Min-K++), where asked for.
    """

    logprobs: Float[Tensor, " A"]
    hits: Bool[Tensor, " A"]
    highest: Float[Tensor, " A"]
    mean: Float[Tensor, " A"] | None = None
    std: Float[Tensor, " A"] | None = None

    def without(self, last: int) -> SequenceScore:
        """Return the score of the answer less its last tokens: no earlier one depends on them."""
        count = self.tokens - last
        moments = (None if m is None else m[:count] for m in (self.mean, self.std))
        return SequenceScore(self.logprobs[:count], self.hits[:count], self.highest[:count], *moments)

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
    def gap(self) -> float:
        """How much likelier another token is where the answer is least likely to be gone on with, nats.

        0 where every token is the likeliest: greedy decoding writes the answer.
        """
        return float((self.highest - self.logprobs).max())

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
    model: CausalLM, examples: Sequence[Example], moments: bool = False
) -> list[SequenceScore]:
    """Score answers given their prompts (teacher-forced), in the order of the examples.

    Args:
        model: A causal LM in evaluation mode.
        examples: Prompts and answers; what they begin with in common is read once.
        moments: Take mean and standard deviation of the log-probability too.
    """

    def read(unread: tuple[Tree, list[int], list[Path]]) -> dict[int, SequenceScore]:
        tree, indices, paths = unread
        tree.read()
        scores: dict[int, SequenceScore] = {}
        highest, best = tree.logprobs.max(-1)
        spread = _moments(tree.logprobs) if moments else ()
        for i, path in zip(indices, paths, strict=True):
            rows, answer = tree.rows(path.predictors), torch.tensor(examples[i].answer)
            logprobs = tree.logprobs[rows, answer].cpu()
            hits = best[rows].cpu() == answer
            columns = (column[rows].cpu() for column in (highest, *spread))
            scores[i] = SequenceScore(logprobs, hits, *columns)
        return scores

    scores: dict[int, SequenceScore] = {}
    for part in dealt(grown(model, [(e.prompt, e.answer) for e in examples]), read):
        scores |= part
    return [scores[i] for i in range(len(examples))]


def _moments(logprobs: Float[Tensor, "N V"]) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return E[log p(z)] and the standard deviation of log p(z) for z drawn from p."""
    means, deviations = [], []
    for row in logprobs:  # one at a time: it needs copies
        p = row.exp()
        means.append(p @ row)
        deviations.append((p @ (row - means[-1]).square()).sqrt())
    return torch.stack(means), torch.stack(deviations)
