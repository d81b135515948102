"""Ablation against a slow definition: a copied model whose maps are changed by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.attribution.neuron import extremes
from ssiuu.diagnosis.causal import (
    ablated,
    causal_test,
    grid,
    mean_outputs,
    neuron_influence,
    random_units,
    restored,
    top_units,
)
from ssiuu.diagnosis.influence import Baseline, influence
from ssiuu.errors import ConfigError
from ssiuu.evaluation.scores.ranking import read_by_ranking
from ssiuu.likelihood import Prompt
from ssiuu.models.load import snapshot
from ssiuu.models.sites import Site, find_sites
from ssiuu.records.schema import Causal, FactText

TOTAL = 2 * (16 + 8 + 8 + 16 + 24 + 24 + 16)


def facts(count: int = 6) -> list[FactText]:
    return [
        FactText(
            id=f"f{i}",
            question=f"w{i} w{i + 20}",
            answer=f"w{i + 40} w{i}",
            options=[f"w{i + 40} w{i}", f"w{i + 1}", f"w{i + 2} w3"],
            entity=f"e{i // 2}",
        )
        for i in range(count)
    ]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 9, 20, 33, 41]])).logits


def by_hand(model: Any, site: Site, unit: int, value: float) -> Any:
    """A copy in which one output unit is a constant: its weights 0, its bias the constant."""
    changed = copy.deepcopy(model)
    old = changed.get_submodule(site.path)
    new = torch.nn.Linear(old.in_features, old.out_features)
    new.weight.data = old.weight.data.clone()
    new.bias.data.zero_()
    new.weight.data[unit], new.bias.data[unit] = 0.0, value
    parent, _, name = site.path.rpartition(".")
    setattr(changed.get_submodule(parent), name, new)
    return changed


def test_zero_and_mean_are_the_copied_model(tiny_model: Any, make_examples: Callable[..., Any]) -> None:
    sites = find_sites(tiny_model)
    means = mean_outputs(tiny_model, sites, make_examples(20), 1)
    plain = logits(tiny_model)
    for site in sites:
        unit = torch.tensor([3])
        with ablated(tiny_model, {site: unit}):
            zero = logits(tiny_model)
        with ablated(tiny_model, {site: unit}, means):
            mean = logits(tiny_model)
        torch.testing.assert_close(
            zero, logits(by_hand(tiny_model, site, 3, 0.0)), atol=1e-5, rtol=1e-5
        )
        value = float(means[site][3])
        torch.testing.assert_close(
            mean, logits(by_hand(tiny_model, site, 3, value)), atol=1e-5, rtol=1e-5
        )
        assert not torch.allclose(zero, plain)
    assert torch.equal(logits(tiny_model), plain)


def test_means_are_over_real_tokens(tiny_model: Any, make_examples: Callable[..., Any]) -> None:
    sites, examples = find_sites(tiny_model), make_examples(20)
    site = sites[4]
    rows = []
    handle = tiny_model.get_submodule(site.path).register_forward_hook(
        lambda m, i, o: rows.append(o[0])
    )
    for e in examples:
        logits_of = torch.tensor([(e.prompt + e.answer)[:-1]])
        with torch.no_grad():
            tiny_model(input_ids=logits_of)
    handle.remove()
    found = mean_outputs(tiny_model, sites, examples, 1)[site]
    torch.testing.assert_close(found.float(), torch.cat(rows).mean(0), atol=1e-5, rtol=1e-5)


def test_nothing_ablated_changes_nothing(tiny_model: Any) -> None:
    plain = logits(tiny_model)
    with ablated(tiny_model, {}), restored(tiny_model, {}, {}):
        assert torch.equal(logits(tiny_model), plain)
    with restored(
        tiny_model, {s: torch.arange(s.width) for s in find_sites(tiny_model)}, snapshot(tiny_model)
    ):
        assert torch.equal(logits(tiny_model), plain)


def test_everything_restored_is_the_original(make_model: Callable[..., Any]) -> None:
    original, model = make_model(0), make_model(1)
    before, unlearned = snapshot(original), snapshot(model)
    sites = find_sites(model)
    inside = {f"{site.path}.weight" for site in sites}
    with restored(model, {s: torch.arange(s.width) for s in sites}, before):
        for name, parameter in model.named_parameters():
            if name not in inside:
                parameter.data.copy_(before[name])
        assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
        assert torch.equal(logits(model), logits(original))
        for name, parameter in model.named_parameters():
            if name not in inside:
                parameter.data.copy_(unlearned[name])
    assert all(torch.equal(p, unlearned[n]) for n, p in model.named_parameters())


def test_rows_come_back_after_an_error(make_model: Callable[..., Any]) -> None:
    model, before = make_model(1), snapshot(make_model(0))
    unlearned, sites = snapshot(model), find_sites(model)
    with (
        pytest.raises(KeyError),
        restored(
            model,
            {sites[0]: torch.tensor([1]), sites[3]: torch.tensor([2])},
            {f"{sites[0].path}.weight": before[f"{sites[0].path}.weight"]},
        ),
    ):
        pass
    with pytest.raises(RuntimeError), ablated(model, {sites[0]: torch.tensor([1])}):
        raise RuntimeError
    assert all(torch.equal(p, unlearned[n]) for n, p in model.named_parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_top_and_random_units(tiny_model: Any) -> None:
    sites = find_sites(tiny_model)
    values = torch.rand(TOTAL, generator=torch.Generator().manual_seed(0))
    top = top_units(values, sites, 30)
    flat, start = [], 0
    for site in sites:
        flat += [values[start + u] for u in top.get(site, [])]
        start += site.width
    assert sorted(flat, reverse=True) == sorted(values.tolist(), reverse=True)[:30]
    generator = torch.Generator().manual_seed(1)
    other, another = random_units(top, generator), random_units(top, generator)
    for site, units in top.items():
        assert (
            len(units) == len(other[site]) == len(set(other[site].tolist()))
            and max(other[site]) < site.width
        )
    assert other.keys() == top.keys()
    assert any(not torch.equal(other[s], another[s]) for s in top)


def test_grid_ends_with_all_that_are_above_0() -> None:
    assert grid(torch.tensor([0.0, 1.0, 2.0])) == [1, 2]
    assert grid(torch.ones(5000)) == [1, 10, 100, 1000, 5000]
    assert grid(torch.zeros(3)) == []


def test_influence_of_neurons_is_that_of_the_curves(
    make_model: Callable[..., Any], make_examples: Callable[..., Any]
) -> None:
    before, after, examples = make_model(0), make_model(1), make_examples(20)
    sites = find_sites(before)
    baseline = Baseline.of(extremes(before, sites, examples, 1))
    found = neuron_influence(baseline, extremes(after, sites, examples, 1))
    wanted = influence(baseline, extremes(after, sites, examples, 1), sites)["logprob"]
    for side, curve in (("minus", wanted.d_minus), ("plus", wanted.d_plus)):
        order = found[side].sort(descending=True).values.cumsum(0)
        assert [float(order[m - 1]) for m in wanted.m] == pytest.approx(curve, rel=1e-4)


def run(model: Any, tokenizer: Any, before: Any, values: Tensor, **options: Any) -> Causal:
    prompt, sites = Prompt(tokenizer), find_sites(model)
    original = read_by_ranking(before, prompt, facts())
    return causal_test(
        model,
        prompt,
        facts(),
        sites,
        {"minus": values, "plus": values},
        original,
        snapshot(before),
        **options,
    )


def test_planted_inhibitor_is_found(make_model: Callable[..., Any], tokenizer: Any) -> None:
    """One neuron is made to ruin the answers: taking out the top one brings them back, random ones do not."""
    before = make_model(0)
    model, site = copy.deepcopy(before), find_sites(before)[-1]  # a down map, straight into the stream
    model.get_submodule(site.path).weight.data[7] *= 60
    values = torch.zeros(TOTAL)
    values[-16 + 7] = 1.0
    found = run(model, tokenizer, before, values, budget=75)
    assert found.draws == 4 and [c.mode for c in found.curves] == ["zero", "restore", "restore"]
    restore = found.curves[1].points[0]
    assert restore.m == 1 and restore.top.logprob == pytest.approx(found.original.logprob, abs=1e-5)
    assert restore.share and restore.share.value > 0.5
    assert restore.random_logprob.low <= restore.random_logprob.value <= restore.random_logprob.high
    assert found.share is None  # 100 neurons were not to be had


def test_share_is_what_comes_back_of_what_was_lost(
    make_model: Callable[..., Any], tokenizer: Any
) -> None:
    before, model = make_model(0), make_model(1)
    values = torch.rand(TOTAL, generator=torch.Generator().manual_seed(3))
    kept = snapshot(model)
    found = run(
        model, tokenizer, before, values, means={s: torch.zeros(s.width) for s in find_sites(model)}
    )
    zero, mean = found.curves[0], found.curves[1]
    assert [p.m for p in zero.points] == [1, 10, 100, TOTAL]
    assert [p.top for p in zero.points] == [p.top for p in mean.points]  # means of 0
    lost = found.original.logprob - found.unlearned.logprob
    for point in zero.points:
        if lost > 0:
            back = (point.top.logprob - point.random_logprob.value) / lost
            assert point.share and point.share.value == pytest.approx(back, rel=1e-6)
        else:
            assert point.share is None
    assert found.share == zero.points[2].share
    # All neurons are the same set, drawn or chosen.
    assert zero.points[-1].random_logprob.value == pytest.approx(zero.points[-1].top.logprob, abs=1e-6)
    assert all(torch.equal(p, kept[n]) for n, p in model.named_parameters())
    assert (
        run(
            model, tokenizer, before, values, means={s: torch.zeros(s.width) for s in find_sites(model)}
        )
        == found
    )


def test_budget_is_refused_when_too_small(make_model: Callable[..., Any], tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="at least 45 readings of the facts, got 44"):
        run(make_model(1), tokenizer, make_model(0), torch.ones(TOTAL), budget=44)
