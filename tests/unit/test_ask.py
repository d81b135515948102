"""`ask` shares one reading of a question and prunes; the oracle reads everything apart."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.evaluation import ask as module
from ssiuu.evaluation.ask import Asked, Question, ask
from ssiuu.likelihood import Prompt


def logits_after(model: Any, row: list[int]) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([row])).logits[0, -1]


def option_logprob(model: Any, question: Question, option: list[int]) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([question.prompt + option])).logits[0]
    start = len(question.prompt) - 1
    return sum(float(logits[start + t].log_softmax(-1)[o]) for t, o in enumerate(option))


def greedy(model: Any, prompt: Prompt, question: Question) -> list[int]:
    written: list[int] = []
    while len(written) < question.generate:
        token = int(logits_after(model, question.prompt + written).argmax())
        written.append(token)
        if token == prompt.tokenizer.eos_token_id:
            break
        if "\n" in prompt.tokenizer.decode(written).lstrip():  # the first line with words is over
            break
    return written


def oracle(model: Any, prompt: Prompt, question: Question) -> Asked:
    """Every option in a forward of its own, the free answer token by token without a cache."""
    sums = [option_logprob(model, question, option) for option in question.options]
    means = [s / len(o) for s, o in zip(sums, question.options, strict=True)]
    first = all(means[0] > other for other in means[1:]) if len(means) > 1 else None
    free = greedy(model, prompt, question)
    return Asked(first, sums[0], len(question.options[0]), free)


def some_questions(count: int, seed: int, vocabulary: int) -> list[Question]:
    rng = random.Random(seed)

    def tokens(low: int, high: int) -> list[int]:
        return [rng.randrange(3, vocabulary) for _ in range(rng.randint(low, high))]

    return [
        Question(
            prompt=tokens(2, 12),
            options=[tokens(1, 4) for _ in range(rng.choice([1, 2, 4, 6]))],
            generate=rng.choice([0, 1, 5, 8]),
        )
        for _ in range(count)
    ]


def with_likely_options(model: Any, prompt: Prompt, questions: list[Question]) -> list[Question]:
    """Put the greedy continuation first in every other question, so that both verdicts occur."""
    return [
        replace(q, options=[greedy(model, prompt, replace(q, generate=3)), *q.options[1:]])
        if i % 2
        else q
        for i, q in enumerate(questions)
    ]


def agree(found: list[Asked], wanted: list[Asked]) -> None:
    assert [a.first for a in found] == [a.first for a in wanted]
    assert [a.free for a in found] == [a.free for a in wanted]
    assert [a.tokens for a in found] == [a.tokens for a in wanted]
    assert [a.logprob for a in found] == pytest.approx([a.logprob for a in wanted], abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_oracle_at_any_batch_size(make_model: Any, tokenizer: Any, seed: int) -> None:
    model, prompt = make_model(seed), Prompt(tokenizer)
    questions = some_questions(16, seed, model.config.vocab_size)
    questions = with_likely_options(model, prompt, questions)
    wanted = [oracle(model, prompt, q) for q in questions]
    assert {a.first for a in wanted} == {True, False, None}
    assert {len(a.free) for a in wanted} >= {0, 1, 5}
    for size in (1, 5, 16):
        agree(ask(model, prompt, questions, batch_size=size), wanted)


def test_rivals_are_pruned_and_the_verdict_stays(
    make_model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt = make_model(7), Prompt(tokenizer)
    questions = some_questions(24, 7, model.config.vocab_size)
    questions = with_likely_options(model, prompt, questions)
    kept: list[int] = []
    rivals = module._rivals

    def counted(chunk: list[Question], sums: list[list[float]]) -> list[tuple[int, int]]:
        found = rivals(chunk, sums)
        kept.append(len(found))
        return found

    monkeypatch.setattr(module, "_rivals", counted)
    pruned = ask(model, prompt, questions)
    long = sum(len(o) > 1 for q in questions for o in q.options[1:])
    assert 0 < sum(kept) < long

    def everyone(chunk: list[Question], sums: list[list[float]]) -> list[tuple[int, int]]:
        pairs = [(i, j) for i, q in enumerate(chunk) for j in range(1, len(q.options))]
        return [(i, j) for i, j in pairs if len(chunk[i].options[j]) > 1]

    monkeypatch.setattr(module, "_rivals", everyone)
    agree(pruned, ask(model, prompt, questions))


def test_a_free_answer_ends_at_end_of_text_or_line(make_model: Any, tokenizer: Any) -> None:
    """The end of text ends an answer at once, a newline only after words."""
    prompt = Prompt(tokenizer)
    newline = tokenizer("\n")["input_ids"][0]
    for last in (tokenizer.eos_token_id, newline):
        model = make_model(1)
        with torch.no_grad():  # make `last` the winner soon, but not always
            model.lm_head.weight[last] = 2.5 * model.lm_head.weight.mean(0)
            model.lm_head.weight[last] += 1.6 * model.lm_head.weight[20]
        questions = some_questions(12, 3, model.config.vocab_size)
        questions = [replace(q, generate=8) for q in questions]
        found = ask(model, prompt, questions, batch_size=7)
        agree(found, [oracle(model, prompt, q) for q in questions])
        ended = [a for a in found if last in a.free]
        assert ended
        if last == tokenizer.eos_token_id:
            assert all(a.free.index(last) == len(a.free) - 1 for a in ended)
        assert {len(a.free) for a in found} > {8}


def test_a_single_option_is_not_ranked(tiny_model: Any, tokenizer: Any) -> None:
    question = Question([5, 6, 7], [[8, 9]])
    (asked,) = ask(tiny_model, Prompt(tokenizer), [question])
    assert asked.first is None
    assert asked.logprob == pytest.approx(option_logprob(tiny_model, question, [8, 9]), abs=1e-5)
    assert asked.free == []


def test_a_tie_is_not_first(tiny_model: Any, tokenizer: Any) -> None:
    (asked,) = ask(tiny_model, Prompt(tokenizer), [Question([5, 6, 7], [[8], [8]])])
    assert asked.first is False


def test_no_questions(tiny_model: Any, tokenizer: Any) -> None:
    assert ask(tiny_model, Prompt(tokenizer), []) == []
