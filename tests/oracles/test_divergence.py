"""KL from the original, against its definition in float64: token by token, sum by sum."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from architectures import build_architecture
from conftest import build_model
from ssiuu.errors import ModelError
from ssiuu.evaluation import divergence
from ssiuu.evaluation.divergence import Divergences, clustered
from ssiuu.likelihood import Prompt

TEXTS = [" ".join(f"w{(7 * n + k * k) % 64}" for k in range(3 + 5 * n % 37)) for n in range(9)]
ASKED = [(f"w{n} w{n + 1}?", f"w{2 * n} w{3 * n} w5") for n in range(5)]


def moved(model: Any, by: float = 0.05, seed: int = 3) -> Any:
    """Return a copy with other weights."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in other.parameters():
            weight += by * torch.randn(weight.shape, generator=generator)
    return other


def slow(before: Any, now: Any, rows: Sequence[tuple[list[int], int]]) -> list[list[float]]:
    """Return KL at every predicted token of every row, by its definition."""
    found = []
    for ids, start in rows:
        old, new = (
            model(torch.tensor([ids])).logits[0].double().softmax(-1) for model in (before, now)
        )
        found.append(
            [
                sum(float(p) * (math.log(p) - math.log(q)) for p, q in zip(old[t], new[t], strict=True))
                for t in range(start - 1, len(ids) - 1)
            ]
        )
    return found


def mean_and_error(rows: list[list[float]]) -> tuple[float, float]:
    total = sum(len(row) for row in rows)
    mean = sum(map(sum, rows)) / total
    spread = sum((sum(row) - mean * len(row)) ** 2 for row in rows)
    return mean, math.sqrt(len(rows) / (len(rows) - 1) * spread) / total


def perplexity(model: Any, rows: Sequence[tuple[list[int], int]]) -> float:
    with torch.no_grad():
        surprise = [
            float(-model(torch.tensor([ids])).logits[0].double().log_softmax(-1)[t, ids[t + 1]])
            for ids, start in rows
            for t in range(start - 1, len(ids) - 1)
        ]
    return math.exp(sum(surprise) / len(surprise))


def encoded(prompt: Prompt) -> tuple[list[tuple[list[int], int]], list[tuple[list[int], int]]]:
    plain = [(prompt.sentence(text)[: divergence.TOKENS + 1], 1) for text in TEXTS]
    joints = [prompt.joint(question, [answer]) for question, answer in ASKED]
    return plain, [(joint.prompt + joint.answers[0], len(joint.prompt)) for joint in joints]


@pytest.mark.parametrize("layout", ["llama", "gpt2", "gpt_neox", "gemma2", "bloom", "opt"])
@torch.no_grad()
def test_it_is_the_definition(layout: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """On several architectures: gemma2 caps its logits behind the head, gpt2 has no rotary positions."""
    before, prompt = build_architecture(layout), Prompt(tokenizer, "qa")
    now = moved(before)
    found = Divergences(before, prompt, TEXTS, ASKED, "v").measure(now)
    plain, asked = encoded(prompt)
    level, error = mean_and_error(slow(before, now, plain))
    assert found.plain == pytest.approx(level, rel=1e-4) and level > 0.001
    assert found.plain_se == pytest.approx(error, rel=1e-4)
    told, error = mean_and_error(slow(before, now, asked))
    assert found.instructions == pytest.approx(told, rel=1e-4)
    assert found.instructions_se == pytest.approx(error, rel=1e-4)
    assert found.perplexity == pytest.approx(perplexity(now, plain), rel=1e-4)
    assert found.perplexity_instructions == pytest.approx(perplexity(now, asked), rel=1e-4)
    assert (found.rows, found.tokens) == (len(TEXTS), sum(len(ids) - 1 for ids, _ in plain))
    assert (found.instruction_rows, found.text_version) == (len(ASKED), "v")


@pytest.mark.parametrize("layout", ["llama", "gemma2"])
def test_the_original_has_not_moved(layout: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_architecture(layout)
    divergences = Divergences(model, Prompt(tokenizer, "qa"), TEXTS, ASKED, "v")
    plain, asked = encoded(Prompt(tokenizer, "qa"))
    for known, rows in zip(divergences.perplexities(model), (plain, asked), strict=True):
        assert known == pytest.approx(perplexity(model, rows), rel=1e-4)
    words = model.config.vocab_size
    better = tuple(perplexity(model, rows) < words for rows in (plain, asked))
    assert divergences.speaks(model) == better and divergences.original(model).counts == better[0]
    for quick in (False, True):
        found = divergences.measure(model, quick)
        assert abs(found.plain) < 1e-6 and abs(found.instructions or 0.0) < 1e-6
        assert found.plain_se < 1e-6
    assert divergences.original(model) == divergences.measure(model)


def test_the_original_stays_what_it_was_when_the_model_is_trained_on(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = build_model()
    model.tie_weights()
    untouched = copy.deepcopy(model)
    divergences = Divergences(model, Prompt(tokenizer, "plain"), TEXTS, ASKED, "v")
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    there = Divergences(untouched, Prompt(tokenizer, "plain"), TEXTS, ASKED, "v").measure(model)
    assert divergences.measure(model) == there
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_batches_and_order_do_not_matter(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, prompt = build_model(), Prompt(tokenizer, "qa")
    now = moved(before)
    whole = Divergences(before, prompt, TEXTS, ASKED, "v").measure(now)
    back = Divergences(before, prompt, TEXTS[::-1], ASKED[::-1], "v").measure(now)
    for name, value in (("BATCH", 1), ("CELLS", 200), ("SLICE", 1)):
        monkeypatch.setattr(divergence, name, value)
    single = Divergences(before, prompt, TEXTS, ASKED, "v").measure(now)
    for other in (back, single):
        for key, value in whole.model_dump(exclude={"text_version"}).items():
            assert getattr(other, key) == pytest.approx(value, rel=1e-5), key


def test_a_quick_measure_reads_rows_from_the_whole_set(tokenizer: PreTrainedTokenizerFast) -> None:
    before, prompt = build_model(), Prompt(tokenizer, "qa")
    many, asked = [f"{text} w{n}" for n in range(20) for text in TEXTS], ASKED * 20
    divergences = Divergences(before, prompt, many, asked, "v")
    found = divergences.measure(moved(before), quick=True)
    assert (found.rows, found.instruction_rows) == (divergence.QUICK, divergence.QUICK // 4)
    chosen = [many[n * len(many) // 64] for n in range(64)]
    some = [asked[n * len(asked) // 16] for n in range(16)]
    alone = Divergences(before, prompt, chosen, some, "v").measure(moved(before))
    assert found.plain == pytest.approx(alone.plain, rel=1e-5)
    assert found.instructions == pytest.approx(alone.instructions, rel=1e-5)


def test_what_does_not_fit_is_cut_or_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    before, prompt = build_model(), Prompt(tokenizer, "qa")
    found = Divergences(before, prompt, ["w1", *TEXTS], ASKED, "v", context=4).measure(moved(before))
    assert found.rows == len(TEXTS)  # one token alone predicts nothing
    assert found.tokens == sum(min(3, len(text.split()) - 1) for text in TEXTS)
    assert found.instructions is None and found.instruction_rows == 0


def test_another_vocabulary_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    before, other = build_model(), build_model()
    divergences = Divergences(before, Prompt(tokenizer, "qa"), TEXTS, ASKED, "v")
    other.resize_token_embeddings(before.config.vocab_size + 3)
    with pytest.raises(ModelError, match="the original 76"):
        divergences.measure(other)


def test_half_precision_is_compared_in_full(tokenizer: PreTrainedTokenizerFast) -> None:
    before = build_model().bfloat16()
    divergences = Divergences(before, Prompt(tokenizer, "qa"), TEXTS, ASKED, "v")
    assert abs(divergences.measure(before).plain) < 1e-6
    wide, other = build_model().bfloat16().float(), moved(build_model().bfloat16().float())
    full = Divergences(wide, Prompt(tokenizer, "qa"), TEXTS, ASKED, "v").measure(other)
    half = divergences.measure(other.bfloat16())
    assert half.plain == pytest.approx(full.plain, rel=0.1)


def test_the_error_is_of_rows_drawn_as_wholes() -> None:
    """Against many resamples of rows."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(60).repeat_interleave(torch.randint(1, 9, (60,), generator=generator))
    values = torch.rand(60, generator=generator)[rows] + 0.1 * torch.rand(
        len(rows), generator=generator
    )
    mean, error = clustered(values, rows)
    sums, counts = torch.zeros(60).index_add(0, rows, values), rows.bincount()
    draws = torch.randint(60, (4000, 60), generator=generator)
    means = sums[draws].sum(1) / counts[draws].sum(1)
    assert mean == pytest.approx(float(values.mean()), rel=1e-6)
    assert error == pytest.approx(float(means.std()), rel=0.1)
