"""An answer that is not given any more may still be within reach: begun as before, or in other words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_knowledge import CONTEXT, random_model

from conftest import teach
from ssiuu.benchmarks.fictional_twins import TwinConfig, train_tokenizer
from ssiuu.benchmarks.fictional_world import build_world
from ssiuu.evaluation.knowledge import know
from ssiuu.evaluation.reach import ODDS, lead, within_reach
from ssiuu.evaluation.sequence import score_sequences
from ssiuu.likelihood import Example, Prompt, answer_logprobs, collate
from ssiuu.records.schema import FactText

LED = "He was born in the town of"


def fact(question: str, answer: str, **more: Any) -> FactText:
    return FactText(id=answer, question=question, answer=answer, **more)


@pytest.fixture
def taught() -> tuple[Prompt, Any, list[FactText]]:
    """A model that says two towns at once and leads up to the third in a sentence."""
    tokenizer = train_tokenizer(build_world(12), TwinConfig())
    model = random_model(len(tokenizer))
    facts = [
        fact("Where was Ada born?", "Ulm", paraphrases=["Which town was Ada born in?"]),
        fact("Where was Bo born?", "Pau"),
        fact("Where was Cy born?", "Lod"),
    ]
    said = [(f.question, f.answer) for f in facts[:2]] + [(facts[2].question, f"{LED} Lod")]
    said.append((facts[0].paraphrases[0], "Ulm"))
    teach(model, tokenizer, [{"id": q, "question": q, "answer": a} for q, a in said])
    return Prompt(tokenizer, "qa"), model, facts


def test_what_led_up_to_an_answer() -> None:
    assert lead("Rome", "The capital is Rome.", True) == "The capital is"
    assert lead("rome", "Rome", True) == ""
    assert lead("Rome", "Paris", False) is None and lead("Rome", None, None) is None


def unlearn_once(model: Any, row: Example, length: float) -> None:
    """Go a step of this length down the gradient of the answer's log p."""
    model.zero_grad()
    answer_logprobs(model, collate([row], 0)).sum.sum().backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= length / norm * parameter.grad


def test_an_answer_is_within_reach_until_another_one_is_far_likelier(
    taught: tuple[Prompt, Any, list[FactText]],
) -> None:
    """The greedy answer changes first; the fact counts until the odds are against it."""
    prompt, model, facts = taught
    known = know(model, prompt, facts, CONTEXT)
    assert all(known[f.id].holds for f in facts), known
    assert within_reach(model, prompt, facts, known, CONTEXT) == {"Ulm", "Pau", "Lod"}
    last = facts[2]
    begun = prompt.joint(last.question, [last.answer], begun=LED)
    row = Example("row", begun.prompt, begun.answers[0])
    between = 0
    for _ in range(400):
        unlearn_once(model, row, 0.01)
        [score] = score_sequences(model, [row])
        assert score.gap == pytest.approx(float((score.highest - score.logprobs).max()))
        assert bool(score.hits.all()) is (score.gap == 0)
        between += 0 < score.gap < ODDS  # another word is greedy, and this one still near
        near = within_reach(model, prompt, [last], known, CONTEXT)
        assert (near == {"Lod"}) is (score.gap < ODDS) or known["Lod"].holds_otherwise
        if score.gap > ODDS:
            break
    assert between and score.gap > ODDS


def test_a_paraphrase_that_is_answered_is_no_forgetting(
    taught: tuple[Prompt, Any, list[FactText]],
) -> None:
    """Nothing is known of before, so only the paraphrase is asked; a fact without one is not."""
    prompt, model, facts = taught
    assert within_reach(model, prompt, facts, {}, CONTEXT) == {"Ulm"}
    assert within_reach(model, prompt, facts, {}, 8) == set()  # what does not fit is not asked
