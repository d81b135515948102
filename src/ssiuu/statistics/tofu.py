"""TOFU's scores, from log-probabilities to model utility and forget quality.

Definitions: Maini et al. 2024, "TOFU: A Task of Fictitious Unlearning for LLMs" (arXiv 2401.06121),
section 2.2, in the form of its published code. Log-probabilities are nats a token: log P(y|x) / |y|,
and the end token is one of y's. `docs/scores.md` says whose definition each is.

Everything stays in logarithms up to the last step, so that nothing underflows. Departures: the small
constants that published code adds to denominators are left out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from ssiuu.statistics.aggregates import harmonic

LARGEST = 700.0  # exp of more than about 709 is no double


def probability(logprob: float) -> float:
    """Return P(y|x)^(1/|y|), the geometric mean of the token probabilities."""
    return math.exp(logprob)


def normalised_probability(right: float, wrong: Sequence[float], epsilon: float = 0.0) -> float:
    """Return P(right) / (P(right) + sum of P(wrong) + epsilon), each P as in `probability`.

    This is TOFU's probability on real authors and world facts.
    """
    if epsilon:
        return math.exp(right) / (sum(math.exp(p) for p in (right, *wrong)) + epsilon)
    # The largest is taken out of all, or every power might be 0.
    top = max(right, *wrong)
    return math.exp(right - top) / sum(math.exp(p - top) for p in (right, *wrong))


def truth_ratio(right: float, wrong: Sequence[float]) -> float:
    """Return the mean of P(wrong) over P(right): above 1 where the wrong answers are likelier.

        t = (1/n sum_i P(wrong_i)) / P(right)

    Args:
        right: Of the paraphrased answer; of the answer itself where there is no paraphrase.
        wrong: Of the perturbed answers, at least one.

    Source: the paper's definition, and what its published code takes model utility of.
    Departures: held below 1e304, so that a record stays finite.
    """
    top = max(wrong)
    mean = top + math.log(sum(math.exp(p - top) for p in wrong) / len(wrong))
    return math.exp(min(mean - right, LARGEST))


def truth_ratio_geometric(right: float, wrong: Sequence[float], epsilon: float = 0.0) -> float:
    """Return the truth ratio with the geometric mean of P(wrong): exp(mean of wrong - right).

    With `epsilon` the denominator is P(right) + epsilon.

    Source: what TOFU's published code takes forget quality of, and what OpenUnlearning takes everything
    of. Arguments and departures as in `truth_ratio`, which it is never above.
    """
    if epsilon:
        return math.exp(sum(wrong) / len(wrong)) / (math.exp(right) + epsilon)
    return math.exp(min(sum(wrong) / len(wrong) - right, LARGEST))


def forget_truth_ratio(ratios: Sequence[float], epsilon: float = 0.0) -> float:
    """Return the mean of min(t, 1/t): 1 where right and wrong are alike.

    With `epsilon` it is min(t, 1 / (t + epsilon)).
    """
    if epsilon:
        return sum(min(t, 1 / (t + epsilon)) for t in ratios) / len(ratios)
    return sum(min(t, 1 / t) if t > 0 else 0.0 for t in ratios) / len(ratios)


def kept_truth_ratio(ratios: Sequence[float]) -> float:
    """Return the mean of max(0, 1 - t): 1 where the wrong answers are out of the question."""
    return sum(max(0.0, 1 - t) for t in ratios) / len(ratios)


def model_utility(scores: Sequence[float]) -> float:
    """Return the harmonic mean; TOFU takes that of {probability, ROUGE, truth ratio} x {retain,
    real authors, world facts}. It is 0 where one score is.
    """
    return harmonic(scores)


def forget_quality(ratios: Sequence[float], never_learned: Sequence[float]) -> float:
    """Return the p-value of the two-sample Kolmogorov-Smirnov test between truth ratios.

    High: nothing tells the model from one that never learned the forget set.

    Args:
        ratios: `truth_ratio_geometric` of the forget set under the unlearned model.
        never_learned: Of the same questions under the never-learned control.
    """
    from scipy.stats import ks_2samp

    with warnings.catch_warnings():
        # With many ties there is no exact p-value; the asymptotic one it then takes will do.
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation", RuntimeWarning)
        return float(ks_2samp(ratios, never_learned).pvalue)


def privleak(auc: float, retrained: float) -> float | None:
    """Return how far membership inference is from what it finds on a model retrained without the set.

        100 ((1 - AUC) - (1 - AUC_retrained)) / (1 - AUC_retrained)

    0: as if never learned. Below 0 the forget set still looks trained on, above 0 it stands out as what
    no untouched model would find unlikely. None where the retrained model knows every member.

    Args:
        auc: Chance that a forget fact scores above a non-member, by Min-K 40 %.
        retrained: The same under the never-learned control.

    Source: Shi et al. 2024, "MUSE", whose AUC is 1 less this one, and OpenUnlearning.
    """
    return 100 * (retrained - auc) / (1 - retrained) if retrained < 1 else None
