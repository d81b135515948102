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

from collections.abc import Sequence

from ssiuu.evaluation.sequence import SequenceScore
from ssiuu.statistics.ranks import auc

SHARES = (0.2, 0.4)
SCORES = ("loss", *(f"{name} {share:.0%}" for name in ("min-k", "min-k++") for share in SHARES))


def membership_scores(answer: SequenceScore) -> dict[str, float]:
    """Return every score of one answer read with its moments; higher says "member"."""
    columns = (answer.logprobs.tolist(), standard(answer))
    found = [answer.per_token, *(lowest(values, share) for values in columns for share in SHARES)]
    return dict(zip(SCORES, found, strict=True))


def standard(answer: SequenceScore) -> list[float]:
    """Return (log p - mean) / std of every token; 0 where the model is certain: nothing varies."""
    assert answer.mean is not None and answer.std is not None
    values = zip(answer.logprobs.tolist(), answer.mean.tolist(), answer.std.tolist(), strict=True)
    return [(value - mean) / std if std > 0 else 0.0 for value, mean, std in values]


def lowest(values: Sequence[float], share: float) -> float:
    """Return the mean of the lowest `share` of the values, at least one of them."""
    count = max(1, int(share * len(values)))
    return sum(sorted(values)[:count]) / count


def membership_aucs(
    members: Sequence[SequenceScore], others: Sequence[SequenceScore]
) -> dict[str, float | None]:
    """Return the AUC of every score; None where there is nothing to compare with."""
    inside = [membership_scores(answer) for answer in members]
    outside = [membership_scores(answer) for answer in others]
    return {name: auc([s[name] for s in inside], [s[name] for s in outside]) for name in SCORES}
