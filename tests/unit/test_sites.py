"""Sites: which unit of which map is q, k, v, o, gate, up or down, told from what it can influence."""

from __future__ import annotations

import re
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from architectures import LAYOUTS, PARTLY, build_architecture
from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError, ModelError
from ssiuu.likelihood import Example, collate
from ssiuu.methods import make
from ssiuu.methods.directions import (
    Subspace,
    check_directions,
    project_out,
    random_bases,
    retain_bases,
    untouched,
)
from ssiuu.methods.transforms.klue import feed_forward_sites, knowledge_neurons
from ssiuu.models.sites import Site, coverage, final_norm, find_sites, known_sites, left_out
from ssiuu.training.step import Step

GATED = ["llama", "qwen3", "gemma2", "phi3", "stablelm"]


def outputs_and_input(model: Any, sites: list[Site], reader: str) -> tuple[dict[str, Tensor], Tensor]:
    """Run two tokens; return what every map puts out and what the map that reads them is given."""
    seen: dict[str, Tensor] = {}
    given: list[Tensor] = []
    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda _, __, output, path=path: seen.__setitem__(path, output)
        )
        for path in {site.path for site in sites}
    ]
    handles.append(
        model.get_submodule(reader).register_forward_pre_hook(lambda _, x: given.append(x[0]))
    )
    model(input_ids=torch.tensor([[5, 9]]))
    for handle in handles:
        handle.remove()
    return seen, given[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_q_k_and_v_are_told_apart_by_what_reaches_which_token(layout: str) -> None:
    """Attention to one token is 1, so only v counts there; k and v of a token count later; q does not."""
    model = build_architecture(layout, double=True)
    block = [site for site in find_sites(model) if site.layer == 1]
    attention = [site for site in block if site.module in "qkv"]
    reader = next(site.path for site in block if site.module == "o")
    assert [site.module for site in attention] == ["q", "k", "v"]
    seen, given = outputs_and_input(model, attention, reader)
    weights = torch.randn(given.shape[-1], dtype=given.dtype)
    touched: dict[str, dict[str, Tensor]] = {}
    for name, token in (("first", 0), ("second", 1)):
        grads = torch.autograd.grad(
            (given[0, token] * weights).sum(), [*seen.values()], retain_graph=True
        )
        touched[name] = {path: g[0].abs() > 1e-12 for path, g in zip(seen, grads, strict=True)}
    for site in attention:
        alone = site.take(touched["first"][site.path])[0]
        later = site.take(touched["second"][site.path])[0]
        itself = site.take(touched["second"][site.path])[1]
        assert itself.all()
        assert later.all() if site.module in "kv" else not later.any()
        assert alone.all() if site.module == "v" else not alone.any()


@pytest.mark.parametrize("layout", GATED)
def test_up_is_the_factor_that_is_linear(layout: str) -> None:
    model = build_architecture(layout, double=True)
    pair = [site for site in find_sites(model) if site.layer == 1 and site.module in ("gate", "up")]
    down = next(site.path for site in find_sites(model) if site.layer == 1 and site.module == "down")
    seen, given = outputs_and_input(model, pair, down)
    grads = torch.autograd.grad(given.sum(), [*seen.values()])
    slopes = dict(zip(seen, grads, strict=True))
    for site in pair:
        linear = site.take(slopes[site.path]) * site.take(seen[site.path])
        assert torch.allclose(linear, given) == (site.module == "up")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_unit_of_every_map_belongs_to_one_site(layout: str) -> None:
    model = build_architecture(layout)
    sites = find_sites(model)
    gated = any(site.module == "gate" for site in sites)
    assert len(sites) == 2 * (7 if gated else 6)
    assert left_out(model, sites) == []
    units: dict[str, list[int]] = {}
    for site in sites:
        module = model.get_submodule(site.path)
        assert site.transposed == isinstance(module, Conv1D)
        out = module.weight.shape[1 if site.transposed else 0]
        taken = site.take(torch.arange(out)).tolist()
        assert len(taken) == site.width
        units.setdefault(site.path, []).extend(taken)
    for path, taken in units.items():
        weight = model.get_submodule(path).weight
        transposed = isinstance(model.get_submodule(path), Conv1D)
        assert sorted(taken) == list(range(weight.shape[1 if transposed else 0]))


def test_units_in_words() -> None:
    assert Site("a", "q", 0, 16).units == "0:16"
    assert Site("a", "k", 0, 8, start=4, groups=2).units == "4:8 in each of 2 groups"


def test_what_is_left_out_is_named() -> None:
    model = build_architecture("llama")
    model.model.layers[1].mlp.router = torch.nn.Linear(16, 4)
    assert left_out(model, find_sites(model)) == ["model.layers.1.mlp.router.weight"]


# --- refusals -----------------------------------------------------------------------------------


def test_a_model_without_known_maps_is_refused_with_the_names_it_has() -> None:
    strange = torch.nn.ModuleDict({"strange": torch.nn.Linear(2, 2)})
    model = Mock(spec=CausalLM, named_modules=strange.named_modules)
    with pytest.raises(ModelError, match=r"1 linear maps \(strange\).*known name: Wqkv, c_attn, c_fc"):
        find_sites(model)


def test_fused_maps_in_an_unknown_order_are_refused() -> None:
    model = build_architecture("gpt_neox")
    model.config.model_type = "codegen"
    with pytest.raises(ModelError, match=r"not known for models of type 'codegen'. Known: bloom"):
        find_sites(model)


def test_a_width_that_does_not_fit_is_refused() -> None:
    model = build_architecture("phi3")
    model.config.num_key_value_heads = 3
    with pytest.raises(ModelError, match="32 outputs do not divide into 4 heads of q and 3"):
        find_sites(model)


def test_several_towers_are_refused() -> None:
    model = build_architecture("llama")
    tower = torch.nn.ModuleDict({"up_proj": torch.nn.Linear(16, 4)})
    model.tower = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([tower])})
    with pytest.raises(ModelError, match=r"block 0 has several up maps.*Several towers"):
        find_sites(model)


# --- what is not looked into --------------------------------------------------------------------


def test_experts_that_are_modules_are_left_out() -> None:
    model = build_architecture("llama")
    before = find_sites(model)
    assert coverage(model, before) is None
    expert = torch.nn.ModuleDict({"up_proj": torch.nn.Linear(16, 4)})
    model.model.layers[0].mlp.experts = torch.nn.ModuleList([expert])
    assert find_sites(model) == before
    assert left_out(model, before) == ["model.layers.0.mlp.experts.0.up_proj.weight"]
    said = coverage(model, before)
    assert said is not None and "model.layers.*.mlp.experts.*.up_proj.weight" in said


@pytest.mark.parametrize(
    ("layout", "modules", "said"),
    [
        ("mixtral", "qkvo", "attention only"),
        ("qwen2_moe", "qkvo gate up down", "known maps only"),
        ("jamba", "qkvo gate up down", "known maps only"),
    ],
)
def test_what_experts_and_other_mixers_are_is_said(layout: str, modules: str, said: str) -> None:
    """With their share of the numbers in the blocks' matrices."""
    model = build_architecture(layout)
    sites = find_sites(model)
    wanted = {*"qkvo", *modules.split()[1:]}
    assert {site.module for site in sites} == wanted
    text = coverage(model, sites)
    assert text is not None and said in text and "experts.gate_up_proj" in text
    matrices = {n: p for n, p in model.named_parameters() if ".layers." in n and p.dim() > 1}
    seen = sum(
        p.numel() for n, p in matrices.items() if n.rpartition(".")[0] in {s.path for s in sites}
    )
    share = seen / sum(p.numel() for p in matrices.values())
    assert f"{share:.0%} of the numbers" in text and share < 0.7
    stacked = sum(p.numel() for n, p in matrices.items() if p.dim() == 3 and "experts" in n)
    assert f"({stacked / sum(p.numel() for p in matrices.values()):.0%})" in text


@pytest.mark.parametrize("layout", ["mamba", "mamba2", "rwkv"])
def test_a_model_without_attention_has_no_sites(layout: str) -> None:
    model = build_architecture(layout)
    assert known_sites(model) == []
    with pytest.raises(ModelError, match="no neurons found in"):
        find_sites(model)


@pytest.mark.parametrize("layout", LAYOUTS | PARTLY)
def test_the_final_norm_stands_before_the_output_embedding(layout: str) -> None:
    """What it puts out is what the head is given, but for models that have another map there."""
    model = build_architecture(layout)
    norm, given = final_norm(model), []
    if layout == "opt 350m":
        assert norm is None
        return
    assert norm is not None
    out: list[Tensor] = []
    norm.register_forward_hook(lambda _, __, output: out.append(output))
    head = model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        model(input_ids=torch.tensor([[5, 9]]), use_cache=False)
    torch.testing.assert_close(out[0], given[0])


# --- what else uses them ------------------------------------------------------------------------


def batches() -> list[Any]:
    rows = [Example(f"{i}", [3 + i, 9, 4], [20 + i, 6]) for i in range(12)]
    return [collate(rows[:6], 2), collate(rows[6:], 2)]


@pytest.mark.parametrize("layout", ["gpt2", "gpt_neox", "phi", "phi3", "opt"])
def test_projection_takes_its_directions_out_on_the_right_side(layout: str) -> None:
    """What is left of a gradient is orthogonal to the shared inputs and outputs, however it is stored."""
    model = build_architecture(layout)
    bases = retain_bases(model, batches(), 2, 2)
    paths = {site.path for site in find_sites(model)}
    assert set(bases) == {f"{path}.weight" for path in paths}
    for name, basis in bases.items():
        weight = model.get_parameter(name)
        gradient = project_out(torch.randn_like(weight), basis)
        gradient = gradient.T if basis.transposed else gradient  # [out, in]
        assert basis.transposed == (layout == "gpt2")
        torch.testing.assert_close(
            gradient @ basis.inputs, torch.zeros(gradient.shape[0], 2), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            basis.outputs.T @ gradient, torch.zeros(2, gradient.shape[1]), atol=1e-5, rtol=0
        )


def test_a_transposed_gradient_is_projected_as_its_transpose() -> None:
    inputs, outputs = torch.linalg.qr(torch.randn(5, 2)).Q, torch.linalg.qr(torch.randn(3, 1)).Q
    gradient = torch.randn(3, 5)
    stored = gradient.T.contiguous()
    wanted = project_out(gradient.clone(), Subspace(inputs, outputs))
    torch.testing.assert_close(project_out(stored, Subspace(inputs, outputs, True)).T, wanted)


@pytest.mark.parametrize("layout", ["phi", "phi3", "gpt_neox"])
def test_klue_marks_a_share_of_the_feed_forward_rows(layout: str) -> None:
    model = build_architecture(layout)
    rows = [Example(f"{i}", [3 + i, 9, 4], [20 + i, 6]) for i in range(4)]
    marked = knowledge_neurons(model, make("klue").part("klue"), rows, 2)
    sites = [s for s in find_sites(model) if s.module in ("gate", "up", "down")]
    assert set(marked) == {f"{site.path}.weight" for site in sites}
    for name, mask in marked.items():
        assert mask.shape == (model.get_parameter(name).shape[0],)
    total = sum(int(mask.sum()) for mask in marked.values())
    assert total == round(0.1 * sum(site.width for site in sites))


def test_klue_without_known_feed_forward_neurons_is_refused() -> None:
    for layout in ("mixtral", "mamba"):
        with pytest.raises(ConfigError, match=r"^klue: .*Ma?[a-z]*ForCausalLM has none that is known"):
            feed_forward_sites(build_architecture(layout))
    assert {site.module for site in feed_forward_sites(build_architecture("qwen2_moe"))} == {
        "gate",
        "up",
        "down",
    }


@pytest.mark.parametrize("layout", ["mamba", "mixtral", "qwen2_moe", "jamba", "codegen"])
def test_projection_takes_directions_out_of_every_map_it_can(layout: str) -> None:
    """Whatever a map computes: its inputs' leading directions go, and what has none is named."""
    model = build_architecture(layout)
    check_directions(model, 2, 2)
    bases = retain_bases(model, batches(), 2, 2)
    drawn = random_bases(model, 2, 2)
    assert drawn.keys() == bases.keys()
    maps = {
        f"{path}.weight": module
        for path, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and any(c.isdigit() for c in path.split("."))
    }
    narrow = {name for name in maps if min(maps[name].weight.shape) <= 2}
    assert set(bases) == {n for n in maps if not n.endswith("dt_proj.weight")} - narrow
    name = next(iter(bases))
    seen: list[Tensor] = []
    module = model.get_submodule(name.rpartition(".")[0])
    handle = module.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    rows = batches()
    with torch.no_grad():
        for batch in rows:
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    handle.remove()
    real = torch.cat([x[b.attention_mask.bool()] for x, b in zip(seen, rows, strict=True)]).double()
    _, vectors = torch.linalg.eigh(real.T @ real)
    found = bases[name].inputs
    assert found is not None
    torch.testing.assert_close(
        found @ found.T, (vectors[:, -2:] @ vectors[:, -2:].T).float(), atol=1e-4, rtol=0
    )
    others = untouched(model, bases)
    blocks = {n for n, p in model.named_parameters() if p.dim() > 1 and re.search(r"\.\d+\.", n)}
    assert set(others) == blocks - set(bases)
    assert layout == "codegen" or others


def test_more_directions_than_the_maps_have_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"projection: must be below 16, the narrowest input"):
        check_directions(build_architecture("llama"), 16, None)
    with pytest.raises(ConfigError, match=r"projection_outputs: must be below 48, the widest output"):
        check_directions(build_architecture("mamba"), None, 48)


def test_rows_are_refused_where_weights_have_none() -> None:
    model = build_architecture("gpt2")
    with pytest.raises(ConfigError, match=r"klue: GPT2LMHeadModel stores its weights as \[in, out\]"):
        knowledge_neurons(model, make("klue").part("klue"), [Example("0", [3, 4], [5])], 2)
    with pytest.raises(ConfigError, match="ssiuu-neuron: GPT2LMHeadModel"):
        Step(model, make("ssiuu-neuron-logprob"), 1e-3, "fp32")
