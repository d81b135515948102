"""OpenUnlearning's overall scores: memorisation, privacy and utility, and harmonic means of them.

Source: Dorna et al. 2025, "OpenUnlearning" (arXiv 2506.12618), appendix F.1; every part is in [0, 1],
and high is wanted. "We scale all metrics with init finetuned model", so a score is over that of the
model before unlearning, whose memorisation is 0 and whose utility is 1, as in the paper's Table 3.

Departures: the paper does not print how a membership score becomes a part of privacy, and none of its
authors' code does it; `alignment` is the form that others took (`docs/open-unlearning.md`). The paper's
utility is the harmonic mean with fluency, which a classifier gives; there is none here.
"""

from __future__ import annotations

from collections.abc import Sequence


def harmonic(parts: Sequence[float]) -> float:
    """Return n / (sum of 1 / part), and 0 where a part is 0; parts are at least 0."""
    from scipy.stats import hmean  # takes most of a second to import

    return float(hmean(parts))


def knowledge(ratios: Sequence[float]) -> float:
    """Return the mean of P(right) / (P(right) + P(wrong)) = 1 / (1 + t): 1/2 where they are alike.

    Args:
        ratios: Truth ratios t = P(wrong) / P(right), the geometric ones.

    Source: appendix C.3, "we modify it so that it quantifies extent of knowledge".
    """
    return sum(1 / (1 + t) for t in ratios) / len(ratios)


def forgotten(now: float, before: float) -> float | None:
    """Return 1 - now / before, at least 0: how much of a score is gone.

    None where there was nothing before, so that nothing can be gone.
    """
    return max(0.0, 1 - now / before) if before > 0 else None


def memorisation(now: Sequence[float], before: Sequence[float]) -> float | None:
    """Return the harmonic mean of what is gone of every score: 1 where all of each is.

        HM(1 - ES, 1 - EM, 1 - P(reworded answer), 1 - truth ratio)

    each divided by what it was before unlearning, and the truth ratio as `knowledge`.

    Args:
        now: The four of the model.
        before: The same of the model before unlearning.

    Returns:
        None where a score was 0 before.
    """
    parts = [forgotten(score, start) for score, start in zip(now, before, strict=True)]
    known = [part for part in parts if part is not None]
    return harmonic(known) if len(known) == len(parts) else None


def kept(now: float, before: float) -> float | None:
    """Return now / before, at most 1; None where there was nothing to keep."""
    return min(1.0, now / before) if before > 0 else None


def alignment(auc: float, retrained: float, before: float) -> float | None:
    """Return how near a membership score is to that of a model without the forget set.

        1 - |AUC - AUC_retrained| / |AUC_before - AUC_retrained|, at least 0

    1: as if never learned; 0: as far as before unlearning, or farther, on either side.

    Returns:
        None where the model before unlearning is told from others no better than the retrained one.

    Source: gnueaj/unlearning-depth-score, `privacy_eval.py`, for OpenUnlearning's "how closely the
    unlearned model's behavior on the specific MIA metric aligns with that of a gold-standard retain
    model". Departures from the paper: it gives the model before unlearning 0, Table 3 has 0.10.
    """
    way = abs(before - retrained)
    return max(0.0, 1 - abs(auc - retrained) / way) if way > 0 else None
