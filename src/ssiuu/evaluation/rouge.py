"""ROUGE-L of a written answer, as TOFU (recall) and MUSE (F1) score it, in any script."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from ssiuu.evaluation.match import holds
from ssiuu.evaluation.segments import words


def rouge_recall(answer: str, text: str) -> float:
    """Return LCS(answer, text) / |answer|, in words after Porter's stemmer.

    Source: Lin 2004, "ROUGE: A package for automatic evaluation of summaries"; package rouge-score.
    Departures: none for ASCII text with a word in it. The package knows no other letters; here a word
    that has some is a word (of scripts without blanks: each grapheme), and an answer without any word
    (★) counts as found or not.
    """
    return _rouge(answer, text, "recall")


def rouge_f1(answer: str, text: str) -> float:
    """Return the harmonic mean of `rouge_recall` and LCS(answer, text) / |text|.

    Source and departures as there.
    """
    return _rouge(answer, text, "fmeasure")


def rouge_recall_package(answer: str, text: str) -> float:
    """Return ROUGE-L recall as the package rouge-score gives it: letters outside ASCII part words."""
    from rouge_score import rouge_scorer

    return float(_package(rouge_scorer).score(answer, text)["rougeL"].recall)


@cache
def _package(rouge_scorer: Any) -> Any:
    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)


def _rouge(answer: str, text: str, kind: Literal["recall", "fmeasure"]) -> float:
    scorer, tokenizer = _scorer()
    if not tokenizer.tokenize(answer):
        return float(holds(answer, text))
    return float(getattr(scorer.score(answer, text)["rougeL"], kind))


@cache
def _scorer() -> tuple[Any, Any]:
    from rouge_score import rouge_scorer, tokenizers  # takes a second to import

    class Words(tokenizers.Tokenizer):  # type: ignore[misc]
        """Words in any script; those of ASCII as the package makes them, stemmed."""

        english = tokenizers.DefaultTokenizer(use_stemmer=True)

        def tokenize(self, text: str) -> list[str]:
            return [
                token
                for word in words(text)
                for token in (self.english.tokenize(word) if word.isascii() else [word])
            ]

    tokenizer = Words()
    return rouge_scorer.RougeScorer(["rougeL"], tokenizer=tokenizer), tokenizer
