"""Membership inference: can the forgotten facts be told from others by their token probabilities?

Scores of an answer y of n tokens, higher for "member":

    loss       1/n sum_t log p_t
    min-k      mean of the lowest k % of log p_t
    min-k++    mean of the lowest k % of (log p_t - mu_t) / sigma_t

where mu_t and sigma_t are mean and standard deviation of log p over the vocabulary, under the model's
own distribution at t. The AUC is the chance that a forget fact scores above a non-member: 0.5 is
"cannot be told apart"; far below 0.5 betrays the forgotten as well as far above.

Source: Min-K, Shi et al. 2024; Min-K++, Zhang et al. 2025. k % of n tokens is rounded down, at least
one. Departures: only answer tokens are scored, as only answers are trained on; short answers make
min-k the lowest token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ssiuu.likelihood import Example, answer_logits, collate, length_sorted
from ssiuu.statistics.ranks import auc

SHARES = (0.2, 0.4)
BATCH = 16


@dataclass(frozen=True)
class Tokens:
    """One answer's tokens: log p, and its mean and standard deviation over the vocabulary, nats."""

    logprob: list[float]
    mean: list[float]
    std: list[float]

    @property
    def standard(self) -> list[float]:
        """(log p - mean) / std; 0 where the model is certain, so that nothing varies."""
        values = zip(self.logprob, self.mean, self.std, strict=True)
        return [(value - mean) / std if std > 0 else 0.0 for value, mean, std in values]


@torch.no_grad()
def token_statistics(model: Any, examples: Sequence[Example], pad: int) -> dict[str, Tokens]:
    """Read every answer once; keys are ids.

    Args:
        model: In evaluation mode.
        examples: Questions with answers.
        pad: Padding token id.
    """
    device = next(model.parameters()).device
    found: dict[str, Tokens] = {}
    for rows in length_sorted([len(e.prompt) + len(e.answer) for e in examples], BATCH):
        batch = collate([examples[i] for i in rows], pad).to(device)
        logprobs = answer_logits(model, batch).log_softmax(-1)
        weights = logprobs.exp()
        mean = (weights * logprobs).sum(-1)
        # The centred form: the difference of two large squares would lose its digits.
        std = (weights * (logprobs - mean.unsqueeze(-1)).square()).sum(-1).sqrt()
        chosen = logprobs.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)
        for i, name in enumerate(batch.ids):
            mask = batch.answer_mask[i]
            values = (chosen[i, mask], mean[i, mask], std[i, mask])
            found[name] = Tokens(*(tensor.tolist() for tensor in values))
    return found


def membership_scores(tokens: Tokens) -> dict[str, float]:
    """Return every score of one answer; higher says "member"."""
    scores = {"loss": sum(tokens.logprob) / len(tokens.logprob)}
    for share in SHARES:
        scores[f"min-k {share:.0%}"] = lowest(tokens.logprob, share)
    for share in SHARES:
        scores[f"min-k++ {share:.0%}"] = lowest(tokens.standard, share)
    return scores


def lowest(values: Sequence[float], share: float) -> float:
    """Return the mean of the lowest `share` of the values, at least one of them."""
    count = max(1, int(share * len(values)))
    return sum(sorted(values)[:count]) / count


def membership_aucs(
    members: Mapping[str, Tokens], others: Mapping[str, Tokens]
) -> dict[str, float | None]:
    """Return the AUC of every score; None where there is nothing to compare with."""
    inside = [membership_scores(tokens) for tokens in members.values()]
    outside = [membership_scores(tokens) for tokens in others.values()]
    names = inside[0] if inside else {}
    return {name: auc([s[name] for s in inside], [s[name] for s in outside]) for name in names}
