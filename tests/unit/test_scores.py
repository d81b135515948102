"""Scores: one class for models and for reports, and what ends unlearning by each."""

from __future__ import annotations

from typing import Any

import pytest

from ssiuu.analysis.scores import SCORES
from ssiuu.evaluation.scores.base import Score, Stop
from ssiuu.evaluation.scores.ranking import FREE_THRESHOLD, Ranking
from ssiuu.evaluation.scores.rouge import Rouge
from ssiuu.evaluation.scores.sentences import Sentences, mismatched_rouge
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import FactText


def fact(n: int, options: int) -> FactText:
    answers = [f"w{n + 10 * i}" for i in range(max(options, 1))]
    return FactText(id=f"f{n}", question=f"w{n}?", answer=answers[0], options=answers[:options])


@pytest.mark.parametrize("score", [Ranking, Sentences, Rouge])
def test_a_score_shows_the_columns_of_its_name(score: type[Score]) -> None:
    assert issubclass(score, SCORES.get(score.name))
    names = [column.key for column in score().columns(["further"])]
    assert names == [column.key for column in SCORES.get(score.name)().columns(["further"])]


def stop_of(score: Score, model: Any, tokenizer: Any, facts: list[FactText]) -> Stop:
    return score.stop(model, Prompt(tokenizer), facts, seed=0)


@pytest.mark.parametrize("score", [Ranking(), Rouge()])
def test_ranking_ends_a_shade_above_chance_where_half_can_be_ranked(
    tiny_model: Any, tokenizer: Any, score: Score
) -> None:
    """Two of four facts have options, 3 and 2 of them: chance is the mean of 1/3 and 1/2."""
    facts = [fact(0, 3), fact(1, 2), fact(2, 0), fact(3, 0)]
    found = stop_of(score, tiny_model, tokenizer, facts)
    assert (found.kind, found.free) == ("ranking", False)
    assert found.threshold == pytest.approx((1 / 3 + 1 / 2) / 2 + 0.5 / 2)
    reads = score.read(tiny_model, Prompt(tokenizer), facts[:2])
    assert found.read() == sum(bool(r.correct) for r in reads.values()) / 2
    few = stop_of(score, tiny_model, tokenizer, [*facts, fact(4, 0)])
    assert (few.kind, few.free, few.threshold) == ("free", True, FREE_THRESHOLD)
    assert 0 <= few.read() <= 1


def test_sentences_end_where_answers_to_other_questions_are(tiny_model: Any, tokenizer: Any) -> None:
    facts = [fact(n, 3) for n in range(4)]
    found = stop_of(Sentences(), tiny_model, tokenizer, facts)
    assert (found.kind, found.threshold) == ("rouge", mismatched_rouge(facts, 0))
    reads = Sentences().read(tiny_model, Prompt(tokenizer), facts)
    assert found.read() == sum(r.rouge or 0.0 for r in reads.values()) / 4
