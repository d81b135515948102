"""Bytes a parameter as the table has them, what tokens add, and the size of a model by its configuration."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ssiuu.experiment import estimate
from ssiuu.experiment.memory import Form, activations, held, measured, need, of_recipe, table
from ssiuu.experiment.recipe import resolve
from ssiuu.methods import make
from ssiuu.models import nf4, room
from ssiuu.models.size import SMOLLM2, Size, size_of
from ssiuu.models.weights import snapshot

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"perf_{name}", ROOT / "perf" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def perf() -> ModuleType:
    return script("memory")


NEEDS = pytest.mark.skipif(not nf4.there(), reason="bitsandbytes is not installed")
WIDTH, LAYERS = 384, 3  # 5 million parameters, so that it takes two seconds a method
NAMES: list[tuple[str, Form]] = [("gd", "fp32"), ("ssiuu", "fp32"), ("masked", "fp32")]
NAMES += [("gd", "bf16"), ("ssiuu, 8 bits", "bf16"), ("ssiuu-gate", "bf16")]


def lean(perf: ModuleType, name: str, form: str, **sizes: Any) -> dict[str, float]:
    """What is held where a row is as short as can be."""
    found: dict[str, float] = perf.measured(name, form, WIDTH, LAYERS, count=1, tokens=2, **sizes)
    return found


@pytest.mark.parametrize(("name", "form"), NAMES)
def test_a_method_holds_what_the_table_says(perf: ModuleType, name: str, form: Form) -> None:
    found, wanted = lean(perf, name, form), measured(name, form)
    assert wanted is not None
    assert found["peak"] == pytest.approx(wanted.peak, rel=0.05)
    assert found["between"] == pytest.approx(wanted.between, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["fp32", "bf16"])
def test_every_method_holds_what_the_table_says(perf: ModuleType, form: Form) -> None:
    for name in perf.METHODS:
        wanted = measured(name, form)
        if wanted is None:
            continue
        found = perf.measured(name, form, perf.WIDTH, perf.LAYERS)
        assert found["peak"] == pytest.approx(wanted.peak, rel=0.05), name
        assert found["between"] == pytest.approx(wanted.between, rel=0.05), name


def test_the_table_has_every_method(perf: ModuleType) -> None:
    assert set(table()) == set(perf.METHODS)
    page = (ROOT / "docs/memory.md").read_text()
    for name in perf.METHODS:
        plain = measured(name, "fp32")
        assert plain is not None and f"| {name} | {plain.peak:.1f} | {plain.between:.1f} |" in page


@pytest.mark.parametrize(
    ("name", "form", "count", "tokens", "rank"),
    [
        ("gd", "fp32", 8, 64, None),
        ("ssiuu-gate", "bf16", 8, 64, None),
        ("ssiuu", "fp32", 2, 16, None),
        ("gd", "lora", 4, 64, 16),
        pytest.param("gd", "nf4", 4, 64, 16, marks=NEEDS),
    ],
)
def test_what_is_estimated_is_what_is_measured(
    perf: ModuleType, name: str, form: str, count: int, tokens: int, rank: int | None
) -> None:
    """Within 20 %, with few tokens and with so many that they are most of it."""
    model = perf.model_of(WIDTH, LAYERS)
    shapes = [m.weight.shape for n, m in model.named_modules() if hasattr(m, "weight") and "proj" in n]
    total = sum(p.numel() for p in model.parameters())
    maps = sum(map(math.prod, shapes))
    size = Size(
        total, sum(map(sum, shapes)), LAYERS, WIDTH, WIDTH * 8 // 3, model.config.vocab_size, maps
    )
    found = perf.measured(name, form, WIDTH, LAYERS, count, tokens)["peak"] * total
    kind: Form = "fp32" if form == "fp32" else "bf16"
    # Of each row half is an answer; the last token is only predicted.
    rows = (2 * count * (tokens - 1), count * tokens)
    said = need(make(name), size, kind, *rows, rank=rank, nf4=form == "nf4")
    assert said == pytest.approx(found, rel=0.2)


def test_a_copy_on_the_disk_takes_no_memory(perf: ModuleType) -> None:
    model = perf.model_of(WIDTH, LAYERS)
    total = sum(p.numel() for p in model.parameters())
    for offload, each in (("memory", 8.0), ("disk", 4.0)):
        room.choose(model, offload)
        with perf.counted(model) as storages:
            copies = snapshot(model)
            assert storages.peak / total == pytest.approx(each, rel=0.01)
        del copies


def test_what_is_put_together_holds_the_sum() -> None:
    plain, mask, penalty = (measured(n, "fp32") for n in ("gd", "gd+mask", "ssiuu"))
    assert plain is not None and mask is not None and penalty is not None
    both = held(make("ssiuu+mask"), "fp32")
    assert both.between == pytest.approx(mask.between + penalty.between - plain.between)
    assert held(make("npo"), "fp32").between == pytest.approx(16, rel=0.01)
    assert held(make({"name": "ssiuu", "memory": "int8"}), "fp32").between < penalty.between


def test_a_size_is_read_from_a_configuration_alone(tmp_path: Path) -> None:
    """Of Llama 3.2 1B's shape, no byte of whose weights is there."""
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    size = size_of(str(tmp_path))
    maps = 2 * (2048 + 2048) + 2 * (2048 + 512) + 3 * (2048 + 8192)
    weights = 2 * 2048 * (2048 + 512) + 3 * 2048 * 8192
    assert size == Size(1_235_814_400, 16 * maps, 16, 2048, 8192, 128256, 16 * weights)
    recipe, _ = resolve(None, [f"model={tmp_path}"])
    told = estimate.estimate(recipe)
    assert "on cpu (" in told and "GB are free now)" in told
    whole = of_recipe(recipe, size, 20)
    assert f"{whole / 1e9:.1f} GB of memory" in told and 20e9 < whole < 27e9
    thin, _ = resolve(None, [f"model={tmp_path}", "dtype=bf16", "unlearn.optimiser=adamw8bit"])
    assert of_recipe(thin, size, 20) < 14e9
    few, _ = resolve(None, [f"model={tmp_path}", "dtype=bf16", "unlearn.lora.rank=16"])
    assert need(few.made()[0], size, "bf16", 160, 40, rank=16) < 4e9


def test_the_default_model_is_as_large_as_is_said_before_it_is_here(monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    size = size_of("smollm2-135m")
    assert size == estimate.DEFAULT and size.words == SMOLLM2["vocab_size"]
    assert size_of("no/such-model-anywhere") is None
    assert size_of(str(ROOT)) is None


def test_activations_computed_again_are_few() -> None:
    size = Size(10**9, 10**6, 16, 2048, 8192, 128256, 9 * 10**8)
    kept, again = (activations(size, "bf16", 4096, 100, recomputed) for recomputed in (False, True))
    assert again < kept / 4
    assert torch.tensor(kept).isfinite()


@pytest.mark.slow
def test_a_model_of_the_shape_of_llama_1b_is_unlearned_within_20_gb() -> None:
    """Two steps and one evaluation, every weight trained, in a process of its own."""
    command = [sys.executable, ROOT / "perf/large.py", "--tokens", "12", "--facts", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout[done.stdout.index("{") :])
    assert told["parameters"] == 1_235_814_400
    assert max(told[part]["process_gb"] for part in ("unlearning", "evaluation")) < 20
    losses = [loss for pair in told["losses"] for loss in pair]
    assert len(losses) == 4 and all(map(math.isfinite, [*losses, *told["scored"].values()]))
