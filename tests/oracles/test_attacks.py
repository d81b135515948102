"""The attacks against slow versions written from their definitions."""

from __future__ import annotations

import random
import zlib
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from architectures import build_architecture
from ssiuu.attacks.base import Curve
from ssiuu.attacks.membership import lowest_mean, membership_aucs, membership_scores
from ssiuu.attacks.quantise import int4, int8, nf4, normal_float, quantised
from ssiuu.attacks.retrain import retrain
from ssiuu.attacks.samples import leaks
from ssiuu.errors import ModelError
from ssiuu.evaluation.match import holds
from ssiuu.evaluation.sample import TOP_P, draw_tokens, sample_answers
from ssiuu.evaluation.score import FREE_MARGIN
from ssiuu.evaluation.scores.ranking import read_by_ranking
from ssiuu.evaluation.sequence import SequenceScore
from ssiuu.likelihood import Example, Prompt
from ssiuu.models.load import snapshot
from ssiuu.models.maps import stacked_weights, stored_across
from ssiuu.records.schema import FactText, Reading
from ssiuu.statistics.ranks import auc

# The 16 codes as printed in the appendix of the QLoRA paper, to five digits.
PRINTED = [-1.0, -0.69619, -0.52507, -0.39492, -0.28444, -0.18477, -0.09105, 0.0]
PRINTED += [0.07958, 0.16093, 0.24611, 0.33792, 0.44071, 0.56262, 0.72296, 1.0]


# --- quantisation -------------------------------------------------------------------------------


def by_loop(weight: Tensor, group: int, codes: list[float]) -> Tensor:
    """Round each value to the nearest code times the scale of its group, one value at a time."""
    out = weight.clone()
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], group):
            part = weight[row, start : start + group].tolist()
            scale = max(abs(value) for value in part)
            for place, value in enumerate(part):
                nearest = min(codes, key=lambda c: abs(c * scale - value))
                out[row, start + place] = nearest * scale
    return out


@pytest.mark.parametrize(("rows", "width"), [(3, 8), (5, 21), (1, 64), (4, 3)])
def test_quantisation_equals_the_loop(rows: int, width: int) -> None:
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(width)).double()
    whole = [n / 127 for n in range(-127, 128)]
    small = [n / 7 for n in range(-7, 8)]
    close = {"rtol": 0.0, "atol": 1e-12}
    torch.testing.assert_close(int8(weight), by_loop(weight, width, whole), **close)
    torch.testing.assert_close(int4(weight, 8), by_loop(weight, 8, small), **close)
    torch.testing.assert_close(nf4(weight, 8), by_loop(weight, 8, list(normal_float())), **close)


def test_normal_float_has_the_printed_codes() -> None:
    assert normal_float() == pytest.approx(PRINTED, abs=6e-6)


def test_quantising_again_or_nothing_changes_nothing() -> None:
    weight = torch.randn(4, 20, generator=torch.Generator().manual_seed(1))
    for form in (int8, int4, nf4):
        torch.testing.assert_close(form(form(weight)), form(weight))
        assert torch.equal(form(torch.zeros(2, 5)), torch.zeros(2, 5))
        assert torch.equal(form(3 * weight), form(weight) * 3) or torch.allclose(
            form(3 * weight), 3 * form(weight)
        )
    errors = [(form(weight) - weight).abs().mean() for form in (int8, nf4)]
    assert errors[0] < errors[1] / 5


@pytest.mark.parametrize(
    "layout", ["llama", "gpt2", "falcon", "opt 350m", "mixtral", "gpt_oss", "mamba"]
)
def test_each_format_begins_with_the_weights_as_they_were(layout: str) -> None:
    """Every map by its output channels, however it is stored, and each expert for itself."""
    model = build_architecture(layout)
    before = snapshot(model)

    def by_channel(form: Any, name: str) -> Any:
        """Return a parameter as the format makes it."""
        weight, path = before[name], name.removesuffix(".weight")
        head = model.get_output_embeddings()
        if weight.dim() == 3 and "experts" in name:
            across = layout == "gpt_oss"
            return torch.stack([form(w.T).T if across else form(w) for w in weight])
        module = model.get_submodule(path) if path != name else None
        if isinstance(module, Conv1D):
            return form(weight.T).T
        return form(weight) if isinstance(module, torch.nn.Linear) and module is not head else weight

    for name in quantised(model, ["int4", "int8"]):
        form = {"int4": int4, "int8": int8}[name]
        changed = 0
        for key, parameter in model.named_parameters():
            wanted = by_channel(form, key)
            torch.testing.assert_close(parameter.detach(), wanted, rtol=0, atol=0, msg=key)
            changed += not torch.equal(wanted, before[key])
        assert changed >= 6


def test_a_model_without_linear_maps_is_refused() -> None:
    model = build_architecture("llama")
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(ModelError, match="LlamaForCausalLM has no linear maps to quantise"):
        next(quantised(model, ["int8"]))


@pytest.mark.parametrize(
    ("layout", "across"), [("mixtral", False), ("gpt_oss", True), ("llama4", True), ("jetmoe", False)]
)
def test_how_experts_are_stored_is_known(layout: str, across: bool) -> None:
    model = build_architecture(layout)
    names = stacked_weights(model)
    assert names and all(stored_across(model, name) == across for name in names)


# --- membership ---------------------------------------------------------------------------------


def brute_force(higher: list[float], lower: list[float]) -> float:
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in higher for b in lower]
    return sum(wins) / len(wins)


@pytest.mark.parametrize("seed", range(6))
def test_auc_is_the_share_of_won_pairs(seed: int) -> None:
    rng = random.Random(seed)
    higher = [float(rng.randint(0, 6)) for _ in range(rng.randint(1, 20))]  # many ties
    lower = [float(rng.randint(0, 6)) for _ in range(rng.randint(1, 20))]
    assert auc(higher, lower) == pytest.approx(brute_force(higher, lower), abs=1e-12)
    assert auc(lower, higher) == pytest.approx(1 - brute_force(higher, lower), abs=1e-12)


def test_auc_of_nothing_is_not_scored() -> None:
    assert auc([], [1.0]) is None and auc([1.0], []) is None
    assert auc([2.0, 3.0], [0.0, 1.0]) == 1.0 and auc([1.0], [1.0]) == 0.5


def answer(logprobs: list[float], mean: list[float], std: list[float]) -> SequenceScore:
    kept = torch.zeros(len(logprobs), dtype=torch.bool)
    highest = torch.tensor(logprobs)
    return SequenceScore(torch.tensor(logprobs), kept, highest, torch.tensor(mean), torch.tensor(std))


def test_membership_scores_by_hand() -> None:
    read = answer([-1.0, -4.0, -2.0, -3.0, -5.0], [-2.0] * 5, [2.0, 1.0, 1.0, 1.0, 0.0])
    scores = membership_scores(read, "ababab")
    assert scores["loss"] == -3.0
    assert scores["zlib"] == -3.0 / len(zlib.compress(b"ababab"))
    assert scores["min-k 20%"] == -5.0 and scores["min-k 40%"] == -4.5
    # (-1+2)/2, -2, 0, -1, and 0 where nothing varies
    assert scores["min-k++ 20%"] == -2.0 and scores["min-k++ 40%"] == -1.5
    assert lowest_mean([-7.0], 0.2) == -7.0
    # The end token counts for loss and zlib alone.
    ended = membership_scores(read, "ababab", 1)
    assert ended["loss"] == -3.0 and ended["min-k 20%"] == -4.0 and ended["min-k++ 40%"] == -2.0
    sure, lost = (membership_scores(answer([logprob], [-1.0], [1.0]), "a") for logprob in (-0.1, -9.0))
    assert set(membership_aucs([sure], [lost]).values()) == {1.0}
    assert set(membership_aucs([sure], []).values()) == {None}


# --- sampled answers ----------------------------------------------------------------------------


def nucleus(probabilities: Tensor, top_p: float) -> set[int]:
    """Sort, and take tokens until their sum reaches top_p."""
    kept, total = set(), 0.0
    for token in probabilities.argsort(descending=True).tolist():
        if total >= top_p:
            break
        kept.add(token)
        total += float(probabilities[token])
    return kept


def sampled(model: Any, prompt: Prompt, example: Example, number: int, seed: int) -> list[int]:
    """One sample, without cache or batch: the whole text is read again for every token."""
    stream = random.Random(f"{seed}:{example.id}:{number}")
    written: list[int] = []
    while len(written) < len(example.answer) + FREE_MARGIN:
        with torch.no_grad():
            row = torch.tensor([example.prompt + written])
            chances = model(input_ids=row).logits[0, -1].float().softmax(-1)
        allowed = nucleus(chances, TOP_P)
        while True:
            target = stream.random()
            token = next(i for i, total in enumerate(chances.cumsum(0).tolist()) if total > target)
            if token in allowed:
                break
        written.append(token)
        if token == prompt.tokenizer.eos_token_id:
            break
        if "\n" in prompt.tokenizer.decode(written).lstrip():
            break
    return written


@pytest.mark.parametrize("seed", range(2))
def test_samples_equal_the_loop_whatever_the_batch(
    make_model: Any, make_examples: Any, tokenizer: Any, seed: int
) -> None:
    model, prompt, examples = make_model(seed), Prompt(tokenizer), make_examples(7, seed)
    wanted = {e.id: [sampled(model, prompt, e, n, seed) for n in range(3)] for e in examples}
    lengths = {len(ids) for found in wanted.values() for ids in found}
    assert len(lengths) > 2  # some end early, some at their limit
    for rows in (1, 6, 256):
        assert sample_answers(model, prompt, examples, 3, FREE_MARGIN, seed, rows) == wanted
    some = sample_answers(model, prompt, list(reversed(examples))[:4], 5, FREE_MARGIN, seed)
    for name, found in some.items():  # more samples, other company: the first ones stay
        assert found[:3] == wanted[name]
    assert sample_answers(model, prompt, examples, 3, FREE_MARGIN, seed + 9) != wanted


@pytest.mark.parametrize("layout", ["mamba", "jamba", "gemma3"])
def test_models_of_other_layers_are_sampled_alike(
    layout: str, make_examples: Any, tokenizer: Any
) -> None:
    """A state-space model, a mixture of both kinds of layers, and prompts longer than a window."""
    model, prompt = build_architecture(layout), Prompt(tokenizer)
    examples = make_examples(3, prompt=(4, 12))
    wanted = {e.id: [sampled(model, prompt, e, n, 0) for n in range(2)] for e in examples}
    assert sample_answers(model, prompt, examples, 2, FREE_MARGIN, 0) == wanted


def test_draws_have_the_distribution_of_the_nucleus() -> None:
    chances = torch.tensor([0.02, 0.5, 0.03, 0.35, 0.1])
    streams = [random.Random(f"draw {n}") for n in range(20_000)]
    found = draw_tokens(chances.expand(len(streams), -1), streams, top_p=0.9)
    counts = torch.tensor(found).bincount(minlength=5) / len(found)
    wanted = torch.tensor([0.0, 0.5, 0.0, 0.35, 0.1]) / 0.95
    torch.testing.assert_close(counts, wanted, atol=0.012, rtol=0.0)
    assert nucleus(chances, 0.9) == {1, 3, 4}


def test_a_fact_leaks_by_the_first_sample_that_holds_it(make_model: Any, tokenizer: Any) -> None:
    model, prompt = make_model(5), Prompt(tokenizer)
    facts, examples = [], []
    for n in range(12):
        fact = FactText(id=f"f{n}", question=f" w{n} w{n + 3}", answer=f"w{40 + n % 3}")
        facts.append(fact)
        examples.append(Example(fact.id, prompt.question(fact.question), prompt.answer(fact.answer)))
    # Make the answers likely enough to leak now and then.
    with torch.no_grad():
        for word in range(3):
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(f" w{40 + word}")] *= 1.9
    start = {f.id: Reading(correct=False, logprob=-1.0) for f in facts}
    reads = leaks(model, prompt, facts, examples, [1, 2, 6], start, 0)
    assert [r.step for r in reads] == [1, 2, 6]
    seen = set()
    for fact, example in zip(facts, examples, strict=True):
        texts = [prompt.text(sampled(model, prompt, example, n, 0)) for n in range(6)]
        for read in reads:
            wanted = any(holds(fact.answer, text) for text in texts[: read.step])
            assert read.facts[fact.id].correct is wanted
            seen.add((read.step, wanted))
    assert {(1, False), (6, True), (6, False)} <= seen


# --- retraining ---------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["full", "lora-qv", "lora-all"])
def test_adapters_end_up_in_the_weights_that_were_read(
    make_model: Any, make_examples: Any, tokenizer: Any, space: Any
) -> None:
    model, prompt = make_model(1), Prompt(tokenizer)
    before = snapshot(model)
    pool = [
        FactText(id=f"f{n}", question=f" w{n}", answer=f"w{n + 9}", options=[f"w{n + 9}", "w30"])
        for n in range(5)
    ]
    rows = make_examples(6)
    start = read_by_ranking(model, prompt, pool)
    curve = Curve("harmful_0.3", "harmful", 1e-2, 0.3, space, 0, (1, 3))
    found = retrain(
        model, curve, rows, start, lambda: read_by_ranking(model, prompt, pool), 4, "fp32", 1
    )
    assert [r.step for r in found.reads] == [0, 1, 3] and found.space == space
    assert found.tokens is not None and 0 < found.tokens <= 12 * 14
    names = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert set(before) == {n for n, _ in model.named_parameters()}
    if space == "lora-qv":
        assert names == {n for n in before if "q_proj" in n or "v_proj" in n}
    elif space == "lora-all":
        assert names == {n for n in before if "_proj" in n}
    else:
        assert names > {n for n in before if "_proj" in n}
    after = read_by_ranking(model, prompt, pool)
    last = found.reads[-1].facts
    for name, reading in after.items():
        assert reading.logprob == pytest.approx(last[name].logprob, abs=1e-4)
        assert reading.logprob != pytest.approx(start[name].logprob, abs=1e-3)


def test_equal_steps_train_on_equal_tokens(make_model: Any, make_examples: Any) -> None:
    rows = make_examples(8)
    curves = (
        Curve("benign", "benign", 1e-4, None, "full", 2, (5,)),
        Curve("benign", "benign", 1e-3, None, "lora-qv", 2, (5,)),
    )
    counts = {
        retrain(make_model(seed), curve, rows, {}, dict, 4, "fp32", 1).tokens
        for seed, curve in enumerate(curves)
    }
    assert len(counts) == 1


def test_a_diverging_curve_ends_with_a_note(make_model: Any, make_examples: Any) -> None:
    curve = Curve("benign", "benign", 1e30, points=(1, 8))
    found = retrain(make_model(0), curve, make_examples(6), {}, dict, 4, "fp32", 1)
    assert "diverged" in found.note and found.reads[-1].step < 8
