"""Two gradients from one backward pass, beside one autograd an example; what is left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from architectures import LAYOUTS, build_architecture
from ssiuu.attribution.parameter import SecondGradient, SplitGradients
from ssiuu.likelihood import Batch, Example, answer_logprobs, collate
from ssiuu.methods import make
from ssiuu.models.lora import Lora, adapted
from ssiuu.training.prepare import Prepared
from ssiuu.training.step import Step

PAD = 1
VOCABULARY = 76


def shaken(model: Any) -> Any:
    """In float64, with biases and norms that are not 0 and 1."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.double().eval()


def llama(make_model: Any, tied: bool) -> Any:
    model = make_model(double=True)
    if tied:
        model.config.tie_word_embeddings = True
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


def gpt2(tied: bool = True) -> Any:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.3,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=0,
    )
    return shaken(GPT2LMHeadModel(config))


def neox() -> Any:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=0,
    )
    return shaken(GPTNeoXForCausalLM(config))


def qwen() -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    return shaken(Qwen2ForCausalLM(config))


# Norms of Qwen compute in fp32 whatever the model's type.
MODELS: dict[str, tuple[Callable[[Any], Any], float]] = {
    "llama": (lambda make_model: llama(make_model, tied=False), 1e-9),
    "llama, tied": (lambda make_model: llama(make_model, tied=True), 1e-9),
    "gpt2, tied": (lambda _: gpt2(), 1e-9),
    "gpt2, untied": (lambda _: gpt2(tied=False), 1e-9),
    "gpt-neox": (lambda _: neox(), 1e-6),
    "qwen2": (lambda _: qwen(), 1e-4),
}


@pytest.fixture(params=MODELS)
def case(request: Any, make_model: Any) -> Iterator[tuple[Any, float]]:
    build, tolerance = MODELS[request.param]
    yield build(make_model), tolerance


def batches_of(examples: Sequence[Example], micro: int) -> list[Batch]:
    return [collate(examples[i : i + micro], PAD) for i in range(0, len(examples), micro)]


def log_p(model: Any, e: Example) -> Tensor:
    """log P(y|x) of one example from one unpadded forward."""
    logits = model(input_ids=torch.tensor([e.prompt + e.answer])).logits[0][len(e.prompt) - 1 : -1]
    return torch.stack([z.log_softmax(-1)[y] for z, y in zip(logits, e.answer, strict=True)]).sum()


def explicit(model: Any, examples: Sequence[Example], weights: Sequence[float]) -> dict[str, Tensor]:
    """Sum over examples of c_x dlogP_x/dphi."""
    named = dict(model.named_parameters())
    total = {n: torch.zeros_like(p) for n, p in named.items()}
    for e, c in zip(examples, weights, strict=True):
        found = torch.autograd.grad(log_p(model, e), list(named.values()))
        total = {n: t + c * g for (n, t), g in zip(total.items(), found, strict=True)}
    return total


def collected(
    model: Any, examples: Sequence[Example], weights: Sequence[float], micro: int
) -> SecondGradient:
    """Run sum of log P backward, batch by batch, and collect sum of c log P beside it."""
    second = SecondGradient(model, dict(model.named_parameters()))
    left = list(weights)
    for batch in batches_of(examples, micro):
        with second.listening():
            loss = answer_logprobs(model, batch).sum.sum()
        here, left = left[: len(batch.ids)], left[len(batch.ids) :]
        second.scale = torch.tensor(here, dtype=torch.float64)
        loss.backward()
    return second


def close(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name],
            value,
            rtol=tolerance,
            atol=tolerance * max(1e-3, float(value.abs().max())),
            msg=lambda m, n=name: f"{n}: {m}",
        )
    assert max(float(v.abs().max()) for v in wanted.values()) > 1e-2


def hooks(model: torch.nn.Module) -> int:
    modules = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
    after = sum(len(p._post_accumulate_grad_hooks or ()) for p in model.parameters())
    return modules + after


# --- what is collected --------------------------------------------------------------------------


@pytest.mark.parametrize("micro", [5, 2, 1])
def test_both_gradients_are_the_explicit_ones(
    case: tuple[Any, float], make_examples: Any, micro: int
) -> None:
    """The first is left as it was; the second has every parameter, tied ones once."""
    model, tolerance = case
    examples, weights = make_examples(5), [0.5, -2.0, 1e-3, 0.0, 7.0]
    second = collected(model, examples, weights, micro)
    first = {n: p.grad for n, p in model.named_parameters()}
    close(second.gradients, explicit(model, examples, weights), tolerance)
    close(first, explicit(model, examples, [1.0] * 5), tolerance)


def test_equal_weights_scale_the_first_gradient(case: tuple[Any, float], make_examples: Any) -> None:
    model, _ = case
    second = collected(model, make_examples(4), [3.0] * 4, 2)
    close(second.gradients, {n: 3 * p.grad for n, p in model.named_parameters()}, 1e-9)


def test_only_the_parameters_asked_for_are_collected(exact_model: Any, make_examples: Any) -> None:
    wanted = {n: p for n, p in exact_model.named_parameters() if "layers.1.mlp" in n}
    second = SecondGradient(exact_model, wanted)
    with second.listening():
        loss = answer_logprobs(exact_model, collate(make_examples(2), PAD)).sum.sum()
    second.scale = torch.ones(2, dtype=torch.float64)
    loss.backward()
    close(second.gradients, {n: p.grad for n, p in wanted.items()}, 1e-9)


def test_without_a_scale_nothing_is_collected(exact_model: Any, make_examples: Any) -> None:
    second = SecondGradient(exact_model, dict(exact_model.named_parameters()))
    with second.listening():
        loss = answer_logprobs(exact_model, collate(make_examples(2), PAD)).sum.sum()
    loss.backward()
    assert not second.gradients


def test_a_pass_outside_the_context_is_not_watched(exact_model: Any, make_examples: Any) -> None:
    """DPO's refusals run through the same model and count only in the first gradient."""
    examples, others = make_examples(2), make_examples(2, seed=1)
    second = SecondGradient(exact_model, dict(exact_model.named_parameters()))
    with second.listening():
        here = answer_logprobs(exact_model, collate(examples, PAD)).sum.sum()
    there = answer_logprobs(exact_model, collate(others, PAD)).sum.sum()
    second.scale = torch.tensor([2.0, 3.0], dtype=torch.float64)
    (here + there).backward()
    close(second.gradients, explicit(exact_model, examples, [2.0, 3.0]), 1e-9)


@pytest.mark.parametrize("target", ["probability", "logprob"])
def test_a_step_reads_both_in_other_architectures(
    case: tuple[Any, float], make_examples: Any, target: str
) -> None:
    """A_1 = phi sum of dP or dlogP, under NPO away from its reference."""
    model, tolerance = case
    examples = make_examples(4, answer=(1, 2))
    exact = copy.deepcopy(model)
    logs = {e.id: float(log_p(exact, e).detach()) for e in examples}
    weights = [torch.tensor(logs[e.id]).exp().item() for e in examples]
    g = explicit(exact, examples, weights if target == "probability" else [1.0] * 4)
    spec = {"name": "ssiuu", "backbone": "npo", "backbone_options": {"beta": 0.5}, "target": target}
    start = Prepared(logprob={i: v - 1.0 + 0.5 * n for n, (i, v) in enumerate(logs.items())})
    step = Step(model, make(spec), 1e-3, prepared=start)
    step(batches_of(examples, 3), batches_of(make_examples(2, seed=1), 2))
    assert step.bound("ssiuu").regulariser is not None
    for name, parameter in exact.named_parameters():
        wanted = (parameter.detach() * g[name]).view(-1)
        found = step.bound("ssiuu").regulariser.reference[name]
        limit = max(tolerance, 1e-6) * float(wanted.abs().max())  # P above is rounded to fp32
        torch.testing.assert_close(found, wanted, rtol=0, atol=limit)


@pytest.mark.parametrize(("backbone", "start"), [("npo", -3.0), ("npo", 1000.0), ("wga", 0.0)], ids=str)
def test_the_effective_space_bears_every_backbone(
    tiny_model: Any, make_examples: Any, backbone: str, start: float
) -> None:
    """Also where no weight an example stands for the loss: WGA, and NPO far below its reference."""
    examples = make_examples(3, answer=(1, 2))
    made = Prepared(logprob={e.id: start for e in examples})
    spec = {"name": "ssiuu", "backbone": backbone, "target": "logprob"}
    with adapted(tiny_model, Lora(2, 8.0)):
        step = Step(tiny_model, make(spec), 1e-3, effective=True, prepared=made)
        for _ in range(2):
            outcome = step(batches_of(examples, 2), batches_of(make_examples(2, seed=1), 2))
        assert 0 < outcome.gradient_norm < float("inf")


# --- what is left behind ------------------------------------------------------------------------


def test_no_hook_outlives_the_context(exact_model: Any, make_examples: Any) -> None:
    before = hooks(exact_model)
    second = SecondGradient(exact_model, dict(exact_model.named_parameters()))
    with second.listening():
        assert hooks(exact_model) > before
        answer_logprobs(exact_model, collate(make_examples(2), PAD))
    assert hooks(exact_model) == before


def test_no_hook_outlives_an_error_forward(exact_model: Any) -> None:
    before = hooks(exact_model)
    second = SecondGradient(exact_model, dict(exact_model.named_parameters()))
    bad = collate([Example("bad", [5], [6])], PAD)
    bad.input_ids[0, 0] = 10_000
    with pytest.raises(IndexError), second.listening():
        answer_logprobs(exact_model, bad)
    assert hooks(exact_model) == before


LOUD = {"name": "ssiuu", "backbone": "npo", "lambda": 1.0}


def test_no_hook_outlives_an_error_in_a_step(
    exact_model: Any, make_examples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the forward pass fails, and where the last backward pass does."""
    examples = make_examples(4)
    start = Prepared(logprob={e.id: -3.0 for e in examples})
    step = Step(exact_model, make(LOUD), 1e-3, prepared=start)
    before = hooks(exact_model)
    batches = batches_of(examples, 2)
    kept = int(batches[1].input_ids[0, -1])
    batches[1].input_ids[0, -1] = 10_000
    with pytest.raises(IndexError):
        step(batches, [])
    assert hooks(exact_model) == before
    batches[1].input_ids[0, -1] = kept

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(step.shaping, "shape", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            step(batches, [])
    assert hooks(exact_model) == before


def test_a_step_after_an_error_counts_its_own_rows_alone(exact_model: Any, make_examples: Any) -> None:
    """What was collected before the error is not added to the next step's attribution."""
    examples = make_examples(4)
    start = Prepared(logprob={e.id: -3.0 for e in examples})
    found = []
    for fails in (False, True):
        model = copy.deepcopy(exact_model)
        step = Step(model, make(LOUD), 1e-3, prepared=start)
        batches = batches_of(examples, 2)
        if fails:
            kept = int(batches[1].input_ids[0, -1])
            batches[1].input_ids[0, -1] = 10_000
            with pytest.raises(IndexError):
                step(batches, [])
            batches[1].input_ids[0, -1] = kept
        step(batches, [])
        assert step.bound("ssiuu").regulariser is not None
        found.append(step.bound("ssiuu").regulariser.reference)
    close(found[1], found[0], 1e-9)


class Scaling(torch.nn.Module):
    """Multiplies with its weight."""

    def __init__(self, weight: torch.nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Borrowed(torch.nn.Module):
    """Multiplies with the weight of a module that it never calls."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x * self.inner.weight


@pytest.mark.parametrize("strength", [{"lambda": 1.0}, {"rho": 0.5}, {"gate": True}])
def test_a_parameter_used_outside_its_module_has_its_gradient_all_the_same(
    make_model: Any, make_examples: Any, strength: dict[str, Any]
) -> None:
    """It is noticed in the forward pass, and a second backward pass takes the place of the hooks."""
    examples = make_examples(3)
    start = Prepared(logprob={e.id: -3.0 for e in examples})
    ends = []
    for borrow in (False, True):
        model = make_model(double=True)
        scaling = Scaling(model.model.norm.weight)
        model.model.norm = Borrowed(scaling) if borrow else scaling
        spec = {"name": "ssiuu", "backbone": "npo", **strength}
        step = Step(model, make(spec), 1e-3, prepared=start)
        before = hooks(model)
        for _ in range(2):
            step(batches_of(examples, 3), batches_of(make_examples(2, seed=1), 2))
        assert hooks(model) == before
        ends.append({n.replace("inner.", ""): p.detach() for n, p in model.named_parameters()})
    close(ends[1], ends[0], 1e-9)


class Flat(torch.nn.Module):
    """Puts rows and tokens into one dimension before a module, as OPT does, and apart after it."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        flat: Tensor = self.inner(x.reshape(-1, x.shape[-1]))
        return flat.view(*x.shape[:-1], -1)


@pytest.mark.parametrize("count", [1, 3])
def test_rows_and_tokens_in_one_dimension_are_noticed(
    exact_model: Any, make_examples: Any, count: int
) -> None:
    """Also where one row of as many tokens as there are rows might be taken for a row each."""
    exact_model.model.layers[0].mlp = Flat(exact_model.model.layers[0].mlp)
    second = SecondGradient(exact_model, dict(exact_model.named_parameters()))
    with second.listening():
        answer_logprobs(exact_model, collate(make_examples(count), PAD))
    assert not second.heard(count)
    split = SplitGradients(exact_model, dict(exact_model.named_parameters()))
    with split.watching(1, count, lambda *_: None):
        answer_logprobs(exact_model, collate(make_examples(count), PAD))
        assert not split.heard


@pytest.mark.parametrize("layout", [*LAYOUTS, "mixtral", "qwen2_moe", "mamba", "jamba"])
@pytest.mark.parametrize("target", ["probability", "logprob"])
def test_a_step_reads_both_whatever_the_blocks_are_made_of(
    layout: str, make_examples: Any, target: str
) -> None:
    """A_1 = phi sum of dP or dlogP of every parameter, experts and state-space weights among them."""
    model = build_architecture(layout)
    exact = copy.deepcopy(model)
    examples = make_examples(3, answer=(1, 2))
    weights = [float(log_p(exact, e).exp().detach()) for e in examples]
    g = explicit(exact, examples, weights if target == "probability" else [1.0] * 3)
    logs = {e.id: float(log_p(exact, e).detach()) for e in examples}
    spec = {"name": "ssiuu", "backbone": "npo", "target": target}
    step = Step(model, make(spec), 1e-3, prepared=Prepared(logprob=logs))
    step(batches_of(examples, 3), batches_of(make_examples(2, seed=1), 2))
    assert step.bound("ssiuu").regulariser is not None
    whole = max(float((p.detach() * g[n]).abs().max()) for n, p in exact.named_parameters())
    for name, parameter in exact.named_parameters():
        wanted = (parameter.detach() * g[name]).view(-1)
        found = step.bound("ssiuu").regulariser.reference[name]
        torch.testing.assert_close(found.float(), wanted, rtol=0.01, atol=1e-3 * whole, msg=name)


@pytest.mark.parametrize("layout", ["mixtral", "qwen2_moe", "jamba"])
def test_forget_and_retain_gradients_of_every_expert_add_up(layout: str, make_examples: Any) -> None:
    """GD in one batch of both: each expert's slice has what its own tokens of either set give it."""
    model = build_architecture(layout)
    forget, retain = make_examples(3), make_examples(4, seed=1)
    counts = [sum(len(e.answer) for e in rows) for rows in (forget, retain)]
    weights = [1 / counts[0]] * 3, [-1 / counts[1]] * 4
    wanted = explicit(model, [*forget, *retain], [*weights[0], *weights[1]])
    step = Step(model, make("gd"), 1e-3)
    step([collate(forget, PAD)], [collate(retain, PAD)])
    whole = max(float(g.abs().max()) for g in wanted.values())
    experts = 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-4 * whole, msg=name)
        experts += sum(float(expert.abs().max()) > 0 for expert in wanted[name]) * (
            "experts" in name and parameter.dim() == 3
        )
    assert experts >= 8


@pytest.mark.parametrize("layout", ["gpt2", "falcon", "gemma3", "mixtral", "mamba"])
def test_both_gradients_under_autocast(layout: str, make_examples: Any) -> None:
    """The attribution of a step in bf16 is that of fp32, up to bf16's rounding."""
    found = []
    for precision in ("fp32", "bf16"):
        model = build_architecture(layout)
        step = Step(model, make("ssiuu"), 1e-3, precision)
        step([collate(make_examples(3, answer=(1, 2)), PAD)], [])
        assert step.bound("ssiuu").regulariser is not None
        found.append(torch.cat([a.float() for a in step.bound("ssiuu").regulariser.reference.values()]))
    alike = torch.nn.functional.cosine_similarity(found[0], found[1], dim=0)
    assert float(alike) > 0.98


def test_dropout_is_off_in_a_step(make_examples: Any) -> None:
    """A run can be repeated, and the model in training is the one that is read."""
    ends = []
    for _ in range(2):
        model = build_architecture("gpt2")
        assert model.config.resid_pdrop > 0
        step = Step(model, make("gd"), 1e-3)
        step([collate(make_examples(2), PAD)], [collate(make_examples(2, seed=1), PAD)])
        ends.append(torch.cat([p.detach().view(-1) for p in model.parameters()]))
    assert torch.equal(*ends)
