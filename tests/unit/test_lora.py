"""LoRA as the training space: merged exactly, the same for every method, both spaces of attribution."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from architectures import LAYOUTS, PARTLY, build_architecture
from ssiuu.attacks.retrain import trained_maps
from ssiuu.errors import ConfigError
from ssiuu.likelihood import Batch, Example, answer_logprobs, collate
from ssiuu.methods import METHODS, make
from ssiuu.models.lora import Lora, adapted, adapters
from ssiuu.models.maps import adaptable, query_value
from ssiuu.records.schema import MethodInfo, Unlearning
from ssiuu.training.prepare import prepare_parts
from ssiuu.training.step import Step
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

PAD = 1
TRAINED = sorted(
    name
    for name in METHODS
    if make(name).trains
    and getattr(make(name).objective, "adapts", True)
    # Its Fisher weighs entries of weights: refused with adapters (test_retain_neutral.py).
    and name != "fdcu"
)
BREAKING: dict[str, Any] = {
    "layers": [0, 1],
    "input_directions": 2,
    "output_directions": 2,
    "loss_limit": None,
}
SMALL: dict[str, dict[str, Any]] = {
    "rmu": {"layer": 1, "update": [r"\.[01]\.mlp\.down_proj\.weight$"]},
    "collapse": {"projection": 2, "projection_outputs": 2},
    "cir": BREAKING,
    "mcu": {**BREAKING, "components": 2},
    "rmu-mcu": {"layer": 1, "update": [r"\.[01]\.mlp\.down_proj\.weight$"], "components": 2},
    "repselect-steps": {"components": 2, "collect": 1},
}


def batch(examples: list[Example]) -> Batch:
    return collate(examples, PAD)


def weights(model: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def run(model: Any, name: str, rows: Any, lora: Lora, **more: Any) -> Unlearning:
    method = make({"name": name, **SMALL.get(name, {})})
    info = MethodInfo(
        label=method.label,
        name=method.name,
        origin=method.whose,
        description=method.description,
        hyperparameters=method.options,
    )
    settings = Settings(1e-2, 3, None, 3, 3, -1.0, 0.0, 0, "fp32", lora)
    refusals = [Example(e.id, e.prompt, [5, 6]) for e in rows[0]]
    stop = StopRule("ranking", lambda: 1.0)
    return unlearn_examples(model, method, info, *rows, settings, stop, PAD, refusals=refusals, **more)


@pytest.fixture
def rows(make_examples: Any) -> tuple[list[Example], list[Example]]:
    return make_examples(5, answer=(1, 2)), make_examples(6, seed=1)


def test_merging_changes_no_answer(exact_model: Any, make_examples: Any) -> None:
    examples = batch(make_examples(4))
    with adapted(exact_model, Lora(2, 8.0)):
        assert {n.split(".")[-3] for n, p in exact_model.named_parameters() if p.requires_grad} == {
            "lora_A",
            "lora_B",
        }
        with torch.no_grad():
            for adapter in adapters(exact_model):
                adapter.up.normal_()
            before = answer_logprobs(exact_model, examples).tokens
    after = answer_logprobs(exact_model, examples).tokens.detach()
    torch.testing.assert_close(after, before)
    assert all(p.requires_grad for p in exact_model.parameters())
    assert not adapters(exact_model)


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_trains_adapters(tiny_model: Any, rows: Any, name: str) -> None:
    """Only linear maps change, by at most the adapter's rank; names and shapes stay."""
    before = weights(tiny_model)
    run(tiny_model, name, rows, Lora(1, 2.0))
    after = weights(tiny_model)
    assert after.keys() == before.keys()
    moved = {n for n in after if not torch.equal(after[n], before[n])}
    assert moved and all("_proj" in n for n in moved)
    if name in ("rmu", "rmu-mcu"):
        assert moved <= {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)}
    for n in moved:
        change = torch.linalg.svdvals((after[n] - before[n]).double())
        assert float(change[1]) < 1e-4 * float(change[0])


def test_the_adapter_alone_can_be_saved(tiny_model: Any, rows: Any, tmp_path: Any) -> None:
    from peft import PeftModel

    base = copy.deepcopy(tiny_model)
    run(tiny_model, "gd", rows, Lora(2, 4.0), adapter=tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    merged = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    for (name, one), two in zip(merged.named_parameters(), tiny_model.parameters(), strict=True):
        torch.testing.assert_close(one, two, msg=name)


@pytest.mark.parametrize("target", ["probability", "logprob"])
def test_the_effective_space_is_the_chain_rule(
    exact_model: Any, make_examples: Any, target: str
) -> None:
    """Against explicit loops: features W + s B A, the penalty handed down to A and B."""
    strength = 5e5 if target == "probability" else 0.5
    method = make({"name": "ssiuu", "lambda": strength, "target": target})
    forget = [make_examples(3, seed=t, answer=(1, 2)) for t in range(2)]
    with adapted(exact_model, Lora(2, 8.0)):
        for adapter in adapters(exact_model):
            adapter.up.data.normal_(std=0.3)
            adapter.up.data, adapter.down.data = adapter.up.double(), adapter.down.double()
        plain = copy.deepcopy(exact_model)
        step = Step(exact_model, method, 1e-12, effective=True)
        gd = Step(plain, make("gd"), 1e-12)
        found, influence = [], []
        for examples in forget:
            outcome = step([batch(examples)], [])
            gd([batch(examples)], [])
            found.append(_dense_gradient(plain, examples, target))
            influence.append({a.name: a.effective() * found[-1][a.name] for a in adapters(plain)})
        assert outcome.penalty_share is not None and outcome.penalty_share > 1e-3
        for mine, theirs in zip(adapters(exact_model), adapters(plain), strict=True):
            a, before, g = influence[1][mine.name], influence[0][mine.name], found[1][mine.name]
            penalty = 2 * strength * (a - before) * g * (a < 0)
            down = mine.scale * theirs.up.T @ penalty
            up = mine.scale * penalty @ theirs.down.T
            torch.testing.assert_close(mine.down.grad, theirs.down.grad + down, rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(mine.up.grad, theirs.up.grad + up, rtol=1e-6, atol=1e-9)


def _dense_gradient(model: Any, examples: list[Example], target: str) -> dict[str, Tensor]:
    """d(sum of P or log P)/d(W + s B A): that of the fixed weight, made trainable in a copy."""
    model = copy.deepcopy(model)
    fixed = {a.name: a.layer.base_layer.weight.requires_grad_(True) for a in adapters(model)}
    values = [answer_logprobs(model, batch([e])).sum for e in examples]
    total = torch.cat(values)
    total = total.exp().sum() if target == "probability" else total.sum()
    return dict(zip(fixed, torch.autograd.grad(total, list(fixed.values())), strict=True))


def test_projection_leaves_nothing_along_the_shared_directions(tiny_model: Any, rows: Any) -> None:
    method = make({"name": "ga", "projection": 3, "projection_outputs": 2})
    made = prepare_parts(tiny_model, method, *rows, PAD)
    with adapted(tiny_model, Lora(2, 4.0)):
        for adapter in adapters(tiny_model):
            adapter.up.data.normal_()
        Step(tiny_model, method, 1e-3, prepared=made)([batch(rows[0])], [])
        assert made.parts["projection"]
        for adapter in adapters(tiny_model):
            basis = made.parts["projection"][adapter.name]
            assert basis.inputs is not None and basis.outputs is not None
            assert float((adapter.down.grad @ basis.inputs).norm()) < 1e-4
            assert float((basis.outputs.T @ adapter.up.grad).norm()) < 1e-4
            assert float(adapter.down.grad.norm()) > 1e-3


def test_targets_that_fit_nothing_are_refused(tiny_model: Any) -> None:
    with (
        pytest.raises(ConfigError, match=r"unlearn\.lora\.targets.*nowhere.*Its blocks have down_proj"),
        adapted(tiny_model, Lora(2, 4.0, ("q_proj", "nowhere"))),
    ):
        pass
    with (
        pytest.raises(ConfigError, match=r"^attacks\.spaces: 'norm' fits no linear map"),
        adapted(tiny_model, Lora(2, 4.0, ("norm",), key="attacks.spaces")),
    ):
        pass


# --- adapters by structure ----------------------------------------------------------------------

# Maps that compute q and v, where they are not q_proj and v_proj; None: none that an adapter fits.
QUERY_VALUE = {
    "gpt2": {"c_attn"},
    "gpt_bigcode": {"c_attn"},
    "gpt_bigcode, all heads": {"c_attn"},
    "persimmon": {"query_key_value"},
    "codegen": {"qkv_proj"},
    "gpt_neox": {"query_key_value"},
    "bloom": {"query_key_value"},
    "falcon": {"query_key_value"},
    "falcon 7b": {"query_key_value"},
    "falcon 40b": {"query_key_value"},
    "mpt": {"Wqkv"},
    "phi3": {"qkv_proj"},
    "mamba": {"in_proj"},
    "mamba2": {"in_proj"},
    "jamba": {"q_proj", "v_proj", "in_proj", "out_proj"},
    "rwkv": {"key", "value", "receptance", "output"},
    "jetmoe": {"kv_proj"},
}


def moved_by_an_adapter(model: Any, lora: Lora) -> set[str]:
    """Put random adapters on and merge them: answers must stay; return the weights that changed."""
    before, ids = weights(model), torch.tensor([[5, 9, 20, 3]])
    with torch.no_grad():
        with adapted(model, lora):
            for adapter in adapters(model):
                adapter.up.normal_(std=0.1)
                shown = adapter.effective()
                assert shown.shape == (adapter.up.shape[0], adapter.down.shape[1])
            beside = model(input_ids=ids, use_cache=False).logits
            counted = len(adapters(model))
        merged = model(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(merged, beside, rtol=1e-3, atol=1e-3)
    after = weights(model)
    assert after.keys() == before.keys()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert len(moved) == counted
    return moved


@pytest.mark.parametrize("layout", LAYOUTS | PARTLY)
def test_query_and_value_maps_are_found_by_structure(layout: str) -> None:
    model = build_architecture(layout)
    chosen = query_value(model)
    moved = moved_by_an_adapter(model, Lora(2, 8.0, chosen.paths))
    assert moved == {f"{path}.weight" for path in chosen.paths}
    names = {path.rpartition(".")[2] for path in chosen.paths}
    assert names == QUERY_VALUE.get(layout, {"q_proj", "v_proj"})
    assert {path.split(".")[-3] for path in chosen.paths} == {"0", "1"}
    assert bool(chosen.notes) == (layout in QUERY_VALUE)


@pytest.mark.parametrize("layout", LAYOUTS | PARTLY)
def test_all_is_every_linear_map_inside_the_blocks(layout: str) -> None:
    model = build_architecture(layout)
    chosen = adaptable(model)
    wanted = {
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and re.search(r"\.\d\.", path)
        # used without being called, or with more than a product for an output
        if not path.endswith(("dt_proj", "mixer.out_proj", "feed_forward.router"))
    }
    assert moved_by_an_adapter(model, Lora(2, 8.0)) == wanted
    stacked = {"mixtral", "qwen2_moe", "jamba", "gpt_oss", "llama4", "jetmoe"}
    assert ("several maps in one tensor" in " ".join(chosen.notes)) == (layout in stacked)
    passed = {"mamba", "mamba2", "jamba", "llama4"}
    assert ("than by calling the map" in " ".join(chosen.notes)) == (layout in passed)


def test_a_model_without_maps_for_adapters_is_refused_under_the_key_that_was_set() -> None:
    model = build_architecture("llama")
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(ConfigError, match=r"^attacks\.spaces: lora-qv.*Use full"):
        trained_maps(model, "lora-qv")
    with pytest.raises(ConfigError, match=r"^unlearn\.lora\.targets"), adapted(model, Lora(2, 4.0)):
        pass


@pytest.mark.parametrize("target", ["probability", "logprob"])
def test_the_effective_space_of_weights_that_are_stored_across(target: str, make_examples: Any) -> None:
    """Steps of Ssiuu in the effective space on GPT-2's maps: its penalty moves both A and B."""
    model = build_architecture("gpt2")
    method = make({"name": "ssiuu", "lambda": 0.5, "target": target})
    with adapted(model, Lora(2, 8.0)):
        for adapter in adapters(model):
            adapter.up.data.normal_(std=0.3)
        step = Step(model, method, 1e-3, effective=True)
        for t in range(2):
            outcome = step([batch(make_examples(3, seed=t, answer=(1, 2)))], [])
        assert outcome.penalty_share is not None and outcome.penalty_share > 0
        step.close()


@pytest.mark.parametrize("knob", [{"gate": True}, {"rho": 0.5}, {"anchor": "initial"}])
def test_forms_without_an_effective_space_are_refused(tiny_model: Any, knob: Any) -> None:
    with (
        adapted(tiny_model, Lora(2, 4.0)),
        pytest.raises(ConfigError, match=r"attribution: adapter"),
    ):
        Step(tiny_model, make({"name": "ssiuu", **knob}), 1e-3, effective=True)
