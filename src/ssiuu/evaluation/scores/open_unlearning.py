"""TOFU's scores by the conventions of OpenUnlearning, so that its tables can be continued.

Source: locuslab/open-unlearning, src/evals/metrics (Dorna et al. 2025, arXiv 2506.12618).
`docs/open-unlearning.md` says of every number where the two agree.
"""

from __future__ import annotations

from typing import ClassVar

from ssiuu.analysis.scores.open_unlearning import EPSILON, OpenUnlearningColumns
from ssiuu.evaluation.rouge import rouge_recall_package
from ssiuu.evaluation.scores.sentences import Conventions, Sentences

TOKENS = 200  # of a written answer, at most


class OpenUnlearning(OpenUnlearningColumns, Sentences):
    """Probabilities over 1e-10 more, answers of up to 200 tokens, the package's words."""

    conventions: ClassVar[Conventions] = Conventions(
        epsilon=EPSILON, tokens=TOKENS, rouge=rouge_recall_package, least=True
    )
    loss_ends: ClassVar[bool] = True
