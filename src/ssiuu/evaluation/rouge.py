"""ROUGE-L recall of a written answer, as TOFU scores it."""

from __future__ import annotations

from functools import cache
from typing import Any


def rouge_recall(answer: str, text: str) -> float:
    """Return LCS(answer, text) / |answer|, in words after Porter's stemmer.

    Args:
        answer: The right answer.
        text: What the model wrote.

    Source: Lin 2004, "ROUGE: A package for automatic evaluation of summaries"; package rouge-score.
    """
    return float(_scorer().score(answer, text)["rougeL"].recall)


@cache
def _scorer() -> Any:
    from rouge_score import rouge_scorer  # takes a second to import

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
