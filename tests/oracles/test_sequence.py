"""Scores of one reading against a forward pass for every token, and against their definitions.

pytest tests/oracles/test_sequence.py
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ssiuu.evaluation import sequence, tree
from ssiuu.evaluation.ask import Question, ask, write
from ssiuu.evaluation.sequence import SequenceScore, score_sequences
from ssiuu.likelihood import Example, Prompt


def token_by_token(model: Any, example: Example) -> list[dict[str, float]]:
    """Return log p, whether the token is the likeliest, and both moments, each from its definition."""
    found = []
    for t, token in enumerate(example.answer):
        with torch.no_grad():
            logits = model(torch.tensor([example.prompt + example.answer[:t]])).logits[0, -1].double()
        p = [math.exp(x) for x in (logits - logits.logsumexp(0)).tolist()]
        mean = sum(q * math.log(q) for q in p)
        std = math.sqrt(sum(q * (math.log(q) - mean) ** 2 for q in p))
        hit = p[token] == max(p)
        found.append({"logprob": math.log(p[token]), "hit": hit, "mean": mean, "std": std})
    return found


def with_shared_prompts(model: Any, make_examples: Any, seed: int) -> list[Example]:
    """Return answers to some questions, several to one; some begin or end as the model would."""
    made = make_examples(12, seed, answer=(1, 6))
    examples = []
    for i, e in enumerate(made):
        prompt = made[i % 5].prompt
        (greedy,) = ask_greedy(model, prompt, 4)
        answer = [e.answer, greedy, e.answer + greedy][i % 3]
        examples.append(Example(e.id, prompt, answer))
    tail = examples[0]
    (ending,) = ask_greedy(model, tail.prompt + tail.answer, 3)
    return [*examples, Example("ends well", tail.prompt, tail.answer + ending)]


def ask_greedy(model: Any, prompt: list[int], count: int) -> list[list[int]]:
    text = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
    return [text[len(prompt) :]]


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_a_forward_for_every_token(
    make_model: Any, make_examples: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(seed)
    examples = with_shared_prompts(model, make_examples, seed)
    wanted = [token_by_token(model, e) for e in examples]
    for nodes in (256, 30, 1):
        monkeypatch.setattr(tree, "NODES", nodes)
        for score, tokens in zip(score_sequences(model, examples, moments=True), wanted, strict=True):
            assert score.hits.tolist() == [t["hit"] for t in tokens]
            columns = {"logprob": score.logprobs, "mean": score.mean, "std": score.std}
            for name, column in columns.items():
                assert column is not None
                assert column.tolist() == pytest.approx([t[name] for t in tokens], abs=1e-4)
            assert score.logprob == pytest.approx(sum(t["logprob"] for t in tokens), abs=1e-3)
            assert score.tokens == len(tokens)
    strengths = {round(s.extraction_strength, 3) for s in score_sequences(model, examples)}
    assert {0.0, 1.0} < strengths  # none, all and some of an answer


@pytest.mark.parametrize(
    ("hits", "strength", "exact"),
    [
        ("1111", 1.0, 1.0),
        ("0000", 0.0, 0.0),
        ("0111", 0.75, 0.75),
        ("1011", 0.5, 0.75),
        ("1110", 0.0, 0.75),
        ("1", 1.0, 1.0),
    ],
)
def test_extraction_strength_and_exact_memorisation_by_hand(
    hits: str, strength: float, exact: float
) -> None:
    none = torch.zeros(len(hits))
    found = SequenceScore(none, torch.tensor([h == "1" for h in hits]), none)
    assert found.extraction_strength == strength
    assert found.exact_memorisation == exact
    smallest = min(k for k in range(len(hits) + 1) if "0" not in hits[k:])  # the definition
    assert found.extraction_strength == 1 - smallest / len(hits)


def test_moments_by_hand() -> None:
    """A fair coin: log p is log 1/2 whatever falls. 3/4 and 1/4: mean and spread by hand."""
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    mean, std = sequence._moments(logits.log_softmax(-1))
    high, low = math.log(0.75), math.log(0.25)
    assert mean.tolist() == pytest.approx([math.log(0.5), 0.75 * high + 0.25 * low])
    assert std.tolist() == pytest.approx([0.0, math.sqrt(0.75 * 0.25) * (high - low)], abs=1e-6)


def test_no_moments_unless_asked_for(tiny_model: Any, make_examples: Any) -> None:
    (score,) = score_sequences(tiny_model, make_examples(1))
    assert score.mean is None and score.std is None
    assert score_sequences(tiny_model, []) == []


def test_written_answers_do_not_depend_on_their_batch(make_model: Any, tokenizer: Any) -> None:
    """Rows leave the batch when they have ended; the others go on as if alone."""
    model, prompt = make_model(3), Prompt(tokenizer)
    with torch.no_grad():  # make the end of text win at times
        model.lm_head.weight[0] = 2.5 * model.lm_head.weight.mean(0) + 1.6 * model.lm_head.weight[20]
    questions = [[3 + (7 * i + j) % 60 for j in range(2 + i % 5)] for i in range(14)]
    limits = [1 + (5 * i) % 9 for i in range(14)]
    wanted = [
        ask(model, prompt, [Question(q, [[5]], limit)])[0].free
        for q, limit in zip(questions, limits, strict=True)
    ]
    assert [len(w) for w in wanted] != limits  # some end before their limit
    for size in (1, 4, 14):
        assert write(model, prompt, questions, limits, size) == wanted
