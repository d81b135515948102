"""What is ranked in bf16 first is decided as in fp32."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from architectures import build_architecture
from ssiuu.benchmarks.base import EvaluateConfig
from ssiuu.errors import ConfigError
from ssiuu.evaluation import first
from ssiuu.evaluation.ask import Question, ask, margins
from ssiuu.evaluation.first import check_first, decide, reading_first, rough_margins
from ssiuu.evaluation.score import score_facts
from ssiuu.likelihood import Prompt
from ssiuu.models.precision import autocast
from ssiuu.records.schema import FactText

COUNT = 160


@pytest.fixture
def prompt(tokenizer: Any) -> Prompt:
    return Prompt(tokenizer)


def questions(words: int, seed: int) -> list[Question]:
    """Return questions of some tokens with two to four options of one to three."""
    draw = random.Random(seed)

    def tokens(most: int) -> list[int]:
        return [draw.randrange(3, words) for _ in range(draw.randint(1, most))]

    return [
        Question([1, *tokens(6)], [tokens(3) for _ in range(draw.randint(2, 4))]) for _ in range(COUNT)
    ]


def unlearned(model: Any, rows: list[Question]) -> Any:
    """Raise the loss of the right answers by a few long steps: such a model is badly conditioned."""
    descent = torch.optim.SGD(model.parameters(), lr=0.3)
    for row in rows[:12]:
        ids = torch.tensor([row.prompt + row.options[0]])
        loss = model(input_ids=ids, labels=ids).loss
        (-loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        descent.step()
        descent.zero_grad()
    return model


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("worn", [False, True], ids=["as it was", "unlearned"])
@pytest.mark.parametrize("layout", ["llama", "gpt2", "gemma3"])
def test_no_question_is_decided_otherwise(
    layout: str, worn: bool, seed: int, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of none, though bf16 alone would decide some otherwise, and most are read in bf16 alone."""
    rows = questions(70, seed)
    model = build_architecture(layout)
    model = unlearned(model, rows) if worn else model
    counts: list[int] = []

    def counted(model: Any, asked: list[Question]) -> list[float]:
        counts.append(len(asked))
        return margins(model, asked)

    monkeypatch.setattr(first, "margins", counted)
    wanted = [answer.first for answer in ask(model, prompt, rows)]
    assert decide(model, rows) == wanted
    assert counts[0] == COUNT and sum(counts[1:]) < COUNT


def test_bf16_alone_decides_otherwise() -> None:
    """Else the test above would show nothing."""
    apart = 0
    for seed in range(6):
        model, rows = build_architecture("llama"), questions(70, seed)
        with torch.no_grad(), autocast("bf16", "cpu"):
            rough = margins(model, rows)
        apart += sum((a > 0) != (b > 0) for a, b in zip(rough, margins(model, rows), strict=True))
    assert apart > 0


def test_where_bf16_gives_no_number_all_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = build_architecture("llama"), questions(70, 3)
    wanted = [value > 0 for value in margins(model, rows)]

    def overflown(model: Any, asked: list[Question]) -> list[float]:
        lost = torch.is_autocast_enabled("cpu")
        return [float("nan")] * len(asked) if lost else margins(model, asked)

    monkeypatch.setattr(first, "margins", overflown)
    assert decide(model, rows) == wanted


def test_few_questions_and_those_without_options_are_not_read_in_bf16() -> None:
    model, rows = build_architecture("llama"), questions(70, 4)[:8]
    lone = Question([1, 5], [[7]])
    assert decide(model, [lone, *rows]) == [None, *(value > 0 for value in margins(model, rows))]


def test_scores_are_those_of_fp32(tiny_model: Any, prompt: Prompt) -> None:
    facts = [
        FactText(
            id=f"{n}",
            question=f"Where is {n}?",
            answer="Rome",
            options=["Rome", "Oslo", "Bern"],
            paraphrases=[f"The place of {n}?", f"{n} is where?"],
        )
        for n in range(24)
    ]
    plain = score_facts(tiny_model, prompt, facts, free=False)
    with reading_first("bf16"):
        found = score_facts(tiny_model, prompt, facts, free=False)
    for key, score in plain.items():
        assert found[key].paraphrases == score.paraphrases and found[key].correct == score.correct
        assert found[key].logprob == pytest.approx(score.logprob, rel=1e-5)


def test_what_has_no_bf16_or_nothing_else_is_refused(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first, "resolve_precision", lambda *_: "fp32")
    check_first("fp32", tiny_model)
    with pytest.raises(ConfigError, match=r"evaluate\.first: 'bf16' is not supported by this cpu"):
        check_first("bf16", tiny_model)
    with pytest.raises(ConfigError, match="held in bf16"):
        check_first("bf16", tiny_model.bfloat16())


def test_a_key_knows_of_a_first_reading_only_where_there_is_one() -> None:
    assert EvaluateConfig().decides == {"options": 3, "utility": False}
    assert EvaluateConfig(first="bf16").decides == {"options": 3, "utility": False, "first": "bf16"}


class TenDigits(TorchFunctionMode):
    """Products as an accelerator has them: in fp32, or of ten digits of each factor where that is set."""

    products = (torch.nn.functional.linear, torch.matmul, torch.bmm, torch.addmm, torch.Tensor.matmul)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.products and torch.get_float32_matmul_precision() == "high":
            args = [ten_digits(each) for each in args]
        return func(*args, **(kwargs or {}))


def ten_digits(given: Any) -> Any:
    """Round a tensor in fp32 to ten binary digits behind the first."""
    if not isinstance(given, torch.Tensor) or given.dtype != torch.float32:
        return given
    bits = given.contiguous().view(torch.int32)
    return bits.add(1 << 12).bitwise_and(-(1 << 13)).view(torch.float32)


@pytest.mark.parametrize("worn", [False, True], ids=["as it was", "unlearned"])
def test_no_question_is_decided_otherwise_where_tf32_comes_first(worn: bool, prompt: Prompt) -> None:
    rows = questions(70, 5)
    model = build_architecture("llama")
    model = unlearned(model, rows) if worn else model
    wanted = [answer.first for answer in ask(model, prompt, rows)]
    with TenDigits(), torch.no_grad(), reading_first("tf32"):
        rough, exact = rough_margins(model, rows), margins(model, rows)
        assert decide(model, rows) == wanted == [margin > 0 for margin in exact]
    assert rough != exact and rough == pytest.approx(exact, abs=0.1)
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_device_without_tf32_refuses_it(tiny_model: Any) -> None:
    with pytest.raises(ConfigError, match=r"this cpu has no 'tf32'\. Use 'fp32', or 'bf16'"):
        check_first("tf32", tiny_model)
    with pytest.raises(ConfigError, match="'tf32' reads near ties again in fp32, and the weights are"):
        check_first("tf32", tiny_model.bfloat16())
