"""Attribution of neurons against answers on paper, finite differences, captum and a slow integral."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor

from architectures import LAYOUTS, build_architecture
from ssiuu.attribution.integrated import integrated_extremes, scaled
from ssiuu.attribution.neuron import Extremes, capture, extremes, frozen
from ssiuu.likelihood import Example, answer_logprobs, collate
from ssiuu.models.sites import Site, find_sites

PAD = 2
EXACT = ["phi", "gpt2", "gpt_neox", "opt"]  # float64 throughout
NEARLY = ["bloom", "mpt", "falcon", "falcon 40b"]  # but for an fp32 step; they add in place


class Paper(torch.nn.Module):
    """logit of token 0 = (2, 3) . relu((1, -1) x), that of token 1 = 0; x = 1 for token 0, 2 for token 1."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(2, 1)
        block = torch.nn.ModuleDict(
            {
                "up_proj": torch.nn.Linear(1, 2, bias=False),
                "down_proj": torch.nn.Linear(2, 1, bias=False),
            }
        )
        self.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"mlp": block})])
        self.embedding.weight.data = torch.tensor([[1.0], [2.0]])
        block["up_proj"].weight.data = torch.tensor([[1.0], [-1.0]])
        block["down_proj"].weight.data = torch.tensor([[2.0, 3.0]])
        self.double()

    config = SimpleNamespace()
    device, dtype = torch.device("cpu"), torch.float64

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> None:
        """There is none: the last map's output is the logit."""

    def forward(self, input_ids: Tensor, logits_to_keep: Tensor, **_: Any) -> SimpleNamespace:
        block = self.layers[0]["mlp"]
        value = block["down_proj"](block["up_proj"](self.embedding(input_ids)).relu())
        return SimpleNamespace(logits=torch.cat([value, 0 * value], -1)[:, logits_to_keep])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# Token 1 (x = 2, logit 4) is asked for token 0, which (x = 1, logit 2) is asked for token 1.
ON_PAPER = Example("paper", [1], [0, 1])


def test_gradient_times_activation_on_paper() -> None:
    """Up 1 is on: 2 * 2 s(-4), then 1 * 2 (-s(2)). Up 2 is cut off by relu. Down: 4 s(-4), then -2 s(2)."""
    model = Paper()
    found = next(extremes(model, find_sites(model), [ON_PAPER], 0))
    helps, opposes = 4 * sigmoid(-4), -2 * sigmoid(2)
    assert found.highest[0].tolist() == pytest.approx([helps, 0, helps], abs=1e-12)
    assert found.lowest[0].tolist() == pytest.approx([opposes, 0, opposes], abs=1e-12)
    assert float(found.logprob[0]) == pytest.approx(math.log(sigmoid(4) * sigmoid(-2)), abs=1e-12)


def test_integrated_gradients_on_paper() -> None:
    """The logit is a^2 times itself, so up and down earn half each: (log s(4) - log s(0)) / 2."""
    model = Paper()
    found = next(integrated_extremes(model, find_sites(model), [ON_PAPER], 0, steps=20))
    helps = (math.log(sigmoid(4)) - math.log(0.5)) / 2
    opposes = (math.log(sigmoid(-2)) - math.log(0.5)) / 2
    assert found.highest[0].tolist() == pytest.approx([helps, 0, helps], abs=1e-9)
    assert found.lowest[0].tolist() == pytest.approx([opposes, 0, opposes], abs=1e-9)
    assert float(found.gap) < 1e-9


def rows(count: int = 3) -> list[Example]:
    answers = [[20, 6], [21], [22, 7, 8]]
    return [Example(f"{i}", [3 + i, 9, 4, 11][: 2 + i], answers[i % 3]) for i in range(count)]


def value(model: Any, example: Example) -> float:
    with torch.no_grad():
        return float(answer_logprobs(model, collate([example], PAD)).sum)


def differences(model: Any, site: Site, unit: int, example: Example, step: float) -> list[float]:
    """Return A[unit, k] for every token k by central differences in what the map puts out."""
    module = model.get_submodule(site.path)
    length, found = len(example.prompt + example.answer) - 1, []
    out = module.weight.shape[1 if site.transposed else 0]
    place = int(site.take(torch.arange(out))[unit])
    for token in range(length):
        seen: list[float] = []
        ends = []
        for sign in (1, -1):

            def move(_: Any, __: Any, output: Tensor, at: Any = (token, sign, seen)) -> Tensor:
                moved = output.reshape(length, -1).clone()
                token, sign, seen = at
                seen.append(float(moved[token, place]))
                moved[token, place] += sign * step
                return moved.view(output.shape)

            handle = module.register_forward_hook(move)
            ends.append(value(model, example))
            handle.remove()
        found.append(seen[0] * (ends[0] - ends[1]) / (2 * step))
    return found


@pytest.mark.parametrize("layout", ["llama", *EXACT, *NEARLY])
def test_finite_differences(layout: str, exact_model: Any) -> None:
    model = exact_model if layout == "llama" else build_architecture(layout, double=True)
    step, share = (1e-3, 1e-2) if layout in NEARLY else (1e-5, 1e-5)
    example = rows()[0]
    sites = find_sites(model)
    found = next(extremes(model, sites, [example], PAD))
    start = 0
    for number, site in enumerate(sites):
        unit = (5 * number + 3) % site.width
        wanted = differences(model, site, unit, example, step)
        close = {"rel": share, "abs": share / 100}
        assert float(found.highest[0, start + unit]) == pytest.approx(max(wanted), **close)
        assert float(found.lowest[0, start + unit]) == pytest.approx(min(wanted), **close)
        start += site.width
    assert start == found.highest.shape[1]


@pytest.mark.parametrize("layout", ["llama", "gpt2", "gpt_neox", "phi3"])
def test_captum(layout: str) -> None:
    """The same numbers from another implementation, for every neuron."""
    model = build_architecture(layout)
    example = rows()[2]
    batch = collate([example], PAD)
    sites = find_sites(model)
    found = next(extremes(model, sites, [example], PAD))

    def answer(input_ids: Tensor) -> Tensor:
        return answer_logprobs(model, batch).sum

    start = 0
    for site in sites:
        oracle = LayerGradientXActivation(answer, model.get_submodule(site.path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # token ids take no gradient
            wanted = site.take(oracle.attribute(batch.input_ids)[0])
        here = slice(start, start + site.width)
        torch.testing.assert_close(found.highest[0, here], wanted.amax(0), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.lowest[0, here], wanted.amin(0), rtol=1e-4, atol=1e-6)
        start += site.width


# --- integrated gradients -----------------------------------------------------------------------


def slow_integral(model: Any, site: Site, paths: list[str], example: Example, steps: int) -> Tensor:
    """Return A [T, width] by the midpoint rule over models whose block is scaled."""
    batch, total = collate([example], PAD), torch.zeros(())
    for i in range(steps):
        scale = (i + 0.5) / steps
        handles = [
            model.get_submodule(path).register_forward_hook(lambda _, __, output, a=scale: output * a)
            for path in paths
            if path != site.path
        ]
        kept: list[Tensor] = []

        def gate(_: Any, __: Any, output: Tensor, a: float = scale, kept: Any = kept) -> Tensor:
            gates = torch.full_like(output, a, requires_grad=True)
            kept.append(gates)
            return output * gates

        handles.append(model.get_submodule(site.path).register_forward_hook(gate))
        log_p = answer_logprobs(model, batch).sum.sum()
        for handle in handles:
            handle.remove()
        total = total + torch.autograd.grad(log_p, kept)[0] / steps  # d/dgate = h' * d/d(a h')
    return site.take(total.reshape(len(example.prompt + example.answer) - 1, -1))


@pytest.mark.parametrize("layout", ["llama", "gpt_neox"])
def test_integral_by_brute_force(layout: str, exact_model: Any) -> None:
    model = exact_model if layout == "llama" else build_architecture(layout, double=True)
    example, sites = rows()[0], find_sites(model)
    found = next(integrated_extremes(model, sites, [example], PAD, steps=24))
    start = 0
    for site in sites:
        here = slice(start, start + site.width)
        if site.module in ("v", "down"):
            paths = [other.path for other in sites if other.layer == site.layer]
            wanted = slow_integral(model, site, sorted(set(paths)), example, 100)
            torch.testing.assert_close(found.highest[0, here], wanted.amax(0), rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(found.lowest[0, here], wanted.amin(0), rtol=1e-3, atol=1e-4)
        start += site.width


def test_a_block_sums_to_what_it_is_worth_and_the_gap_closes(exact_model: Any) -> None:
    sites = find_sites(exact_model)
    gaps = [
        next(integrated_extremes(exact_model, sites, rows(1), PAD, steps=n)).gap.item()
        for n in (1, 4, 30)
    ]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3
    assert gaps[0] > 0.01  # so the gap can be seen at all


def test_a_block_that_norms_what_it_adds_shows_in_the_gap() -> None:
    """Gemma 2 undoes the scale, so the integral sees nothing of the block's worth."""
    model = build_architecture("gemma2")
    found = next(integrated_extremes(model, find_sites(model), rows(1), PAD, steps=4))
    assert float(found.gap) > 0.5


# --- invariances --------------------------------------------------------------------------------


def both(model: Any, examples: list[Example]) -> list[Extremes]:
    sites = find_sites(model)
    return [
        next(extremes(model, sites, examples, PAD)),
        next(integrated_extremes(model, sites, examples, PAD, steps=2)),
    ]


# One of each kind of map and of place; the others are of the same kinds.
QUICK = ("llama", "gemma2", "gpt2", "gpt_neox", "falcon 40b", "opt 350m", "bloom")


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in LAYOUTS]
)
def test_a_row_has_the_same_attribution_alone_and_padded(layout: str) -> None:
    model = build_architecture(layout)
    examples = rows()
    whole = both(model, examples)
    for example in examples:
        for together, alone in zip(whole, both(model, [example]), strict=True):
            row = together.ids.index(example.id)
            torch.testing.assert_close(together.highest[row], alone.highest[0], rtol=1e-3, atol=2e-5)
            torch.testing.assert_close(together.lowest[row], alone.lowest[0], rtol=1e-3, atol=2e-5)


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_no_hook_and_no_gradient_stays(tiny_model: Any) -> None:
    for _ in both(tiny_model, rows()):
        pass
    assert hooks(tiny_model) == 0
    assert all(p.requires_grad and p.grad is None for p in tiny_model.parameters())
    paths = [site.path for site in find_sites(tiny_model)]
    for context in (capture(tiny_model, paths, print), scaled(tiny_model, paths, 0.5, print)):
        with pytest.raises(KeyboardInterrupt), frozen(tiny_model), context:
            raise KeyboardInterrupt
    assert hooks(tiny_model) == 0
    assert all(p.requires_grad for p in tiny_model.parameters())
