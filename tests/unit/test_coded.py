"""A model in nf4 from the first: what it holds and computes, and what is saved, beside one in bf16.

Wherever SSIUU_DEVICE says (`make test-gpu`).
"""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import ssiuu
from architectures import build_architecture
from known_facts import FORGET, RETAIN
from small_llama import small
from ssiuu.cli.check import command as check
from ssiuu.errors import ConfigError, InputError, ModelError
from ssiuu.experiment.memory import NF4, need
from ssiuu.experiment.recipe import resolve
from ssiuu.methods import make
from ssiuu.models import coded, nf4
from ssiuu.models.load import load, load_weights, save, save_weights, snapshot
from ssiuu.models.lora import Lora, adapted, adapters
from ssiuu.models.original import Original
from ssiuu.models.place import Placement
from ssiuu.models.size import Size
from ssiuu.models.weights import restore
from ssiuu.training.unlearn import check_numbers

NEEDS = pytest.mark.skipif(not nf4.there(), reason="bitsandbytes is not installed")
IDS = torch.arange(12)[None]
LORA = Lora(2, 4.0, base="nf4")
SHORT = ["force=true", "unlearn.lora.rank=2", "unlearn.max_steps=2", "unlearn.learning_rate=0.01"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in bf16 that is tied, in shards of a few tensors each."""
    model, tokenizer = small([row["question"] for row in (*FORGET, *RETAIN)])  # type: ignore[misc]
    place = tmp_path_factory.mktemp("coded") / "model"
    save(model.bfloat16(), tokenizer, place, dtype="bfloat16", shard=3e-5)
    assert (place / "model.safetensors.index.json").exists()
    return place


def read(folder: Path, dtype: Any) -> Any:
    return load(str(folder), placement=Placement.of("auto", dtype))


def fill(model: Any, seed: int) -> None:
    """Let the adapters that are in a model come to something."""
    for number, adapter in enumerate(adapters(model)):
        drawn = torch.Generator().manual_seed(100 * seed + number)
        adapter.up.data.copy_(0.3 * torch.randn(adapter.up.shape, generator=drawn))


def moved(model: Any, seed: int) -> None:
    """Train adapters, so to say."""
    with adapted(model, LORA):
        fill(model, seed)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS.to(model.device)).logits
    return found


def stored(folder: Path) -> dict[str, Tensor]:
    return {n: t for path in folder.glob("*.safetensors") for n, t in load_file(path).items()}


@NEEDS
def test_codes_are_those_of_a_model_that_was_read_in_full(folder: Path) -> None:
    ours, whole = read(folder, "nf4"), read(folder, "bf16")
    paths = nf4.holdable(whole.model)
    assert [*nf4.coded(ours.model)] == paths and len(paths) == 14
    assert ours.info == whole.info and type(ours.model) is type(whole.model)
    assert {p.dtype for p in ours.model.parameters()} == {torch.uint8, torch.bfloat16}
    with nf4.held(whole.model, paths):
        for path in paths:
            one, other = (m.get_submodule(path).weight for m in (ours.model, whole.model))
            assert torch.equal(one.data, other.data), path
            assert torch.equal(one.quant_state.absmax, other.quant_state.absmax), path
            assert torch.equal(one.quant_state.state2.absmax, other.quant_state.state2.absmax), path
        assert torch.equal(logits(ours.model), logits(whole.model))


@NEEDS
def test_nothing_is_there_in_full_while_it_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every map the codes are made before the next one is read, and none has a weight before."""
    at_once: list[int] = []
    plain = nf4.encode

    def encode(linear: Any, weight: Tensor) -> None:
        assert linear.weight is None
        plain(linear, weight)
        at_once.append(linear.weight.numel() * 2 - weight.numel())

    monkeypatch.setattr(nf4, "encode", encode)
    model = read(folder, "nf4").model
    assert at_once == [0] * 14
    total, inside = sum(p.numel() for p in model.parameters()), nf4.count(model)
    assert total < 0.8 * inside


@NEEDS
@pytest.mark.parametrize("shard", [pytest.param(1.0, marks=pytest.mark.slow), 3e-5])
def test_what_is_saved_is_what_is_saved_of_one_in_full(
    folder: Path, tmp_path: Path, shard: float
) -> None:
    ours, whole = read(folder, "nf4"), read(folder, "bf16")
    for seed in (1, 2):  # adapters of two stages, one on the other
        for each in (ours, whole):
            moved(each.model, seed)
    sizes = {"dtype": "bfloat16", "shard": shard}
    save(ours.model, ours.tokenizer, tmp_path / "ours", **sizes, source=ours.source)
    save(whole.model, whole.tokenizer, tmp_path / "whole", **sizes)
    one, other, before = (stored(tmp_path / "ours"), stored(tmp_path / "whole"), stored(folder))
    assert one.keys() == other.keys() == before.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert sum(not torch.equal(one[name], before[name]) for name in one) == 14
    configs = [json.loads((tmp_path / n / "config.json").read_text()) for n in ("ours", "whole")]
    assert configs[0] == configs[1]
    files = [len([*(tmp_path / name).glob("*.safetensors")]) for name in ("ours", "whole")]
    assert (files == [1, 1]) == (shard == 1) and min(files) > 0
    largest = max(path.stat().st_size for path in (tmp_path / "ours").glob("*.safetensors"))
    assert shard == 1 or largest < max(3e4, *(t.nbytes for t in one.values())) + 2000
    assert "as they were stored" in json.loads((tmp_path / "ours" / "ssiuu.json").read_text())["note"]
    torch.testing.assert_close(logits(read(tmp_path / "ours", "bf16").model), logits(whole.model))


def replaced(folder: Path, change: float) -> None:
    """Put other files in the places of a model's, of the same names and shapes; 0: of the same values."""
    for path in folder.glob("*.safetensors"):
        tensors = {name: t * (1 + change) for name, t in load_file(path).items()}
        save_file(tensors, folder / "other", {"format": "pt"})
        (folder / "other").replace(path)


@NEEDS
def test_adapters_are_not_merged_into_weights_that_were_put_there_since(
    folder: Path, tmp_path: Path
) -> None:
    place = shutil.copytree(folder, tmp_path / "model")
    loaded = read(place, "nf4")
    moved(loaded.model, 1)
    replaced(place, 0.0)  # a copy of the same is the same
    given: dict[str, Any] = {"dtype": "bfloat16", "source": loaded.source}
    save(loaded.model, loaded.tokenizer, tmp_path / "same", **given)
    said = r"model-00001-of-\d+.safetensors is not what the model was read from"
    replaced(place, 0.5)
    with pytest.raises(ModelError, match=said):
        save(loaded.model, loaded.tokenizer, tmp_path / "other", **given)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "same"]


@NEEDS
def test_weights_that_are_replaced_while_they_are_merged_are_seen(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, plain = shutil.copytree(folder, tmp_path / "model"), coded.check_finite
    loaded = read(place, "nf4")
    moved(loaded.model, 1)

    def late(*given: Any) -> None:
        monkeypatch.undo()
        replaced(place, 0.5)
        plain(*given)

    monkeypatch.setattr(coded, "check_finite", late)
    with pytest.raises(ModelError, match="is not what the model was read from"):
        save(loaded.model, loaded.tokenizer, tmp_path / "out", dtype="bfloat16", source=loaded.source)
    assert not (tmp_path / "out").exists() and not [*tmp_path.glob(".out*")]


@NEEDS
def test_adapters_stay_beside_the_codes_and_go_with_the_original(folder: Path, tmp_path: Path) -> None:
    loaded, whole = read(folder, "nf4"), read(folder, "bf16").model
    model, original = loaded.model, Original(loaded)
    before = logits(model)
    with adapted(whole, LORA):  # in codes for this time only
        fill(whole, 1)
        beside = logits(whole)
    assert original.distance() == 0
    moved(model, 1)
    assert torch.equal(logits(model), beside) and not torch.equal(beside, before)
    kept, twin = snapshot(model), copy.deepcopy(model)
    save_weights(model, tmp_path / "kept.safetensors")
    save_weights(whole, tmp_path / "another.safetensors")
    with original.in_place():
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model), beside)
    path = next(iter(nf4.coded(model)))
    own, changed = (nf4.whole(m.get_submodule(path)) for m in (read(folder, "nf4").model, model))
    share = original.distance()
    assert share > 0 and not torch.equal(own, changed)
    original.restore()
    assert torch.equal(nf4.whole(model.get_submodule(path)), own) and original.distance() == 0
    assert torch.equal(logits(model), before) and torch.equal(logits(twin), beside)
    restore(model, kept)
    assert torch.equal(logits(model), beside)
    original.restore()
    load_weights(model, tmp_path / "kept.safetensors")
    assert torch.equal(logits(model), beside) and original.distance() == share
    with pytest.raises(ModelError, match="does not fit the model, which is in 4 bits"):
        load_weights(model, tmp_path / "another.safetensors")


@NEEDS
def test_how_far_it_has_moved_is_told_as_of_a_usual_model(folder: Path) -> None:
    """Of weights that are what the codes stand for."""
    ours, whole = read(folder, "nf4"), read(folder, "bf16")
    for path, module in nf4.coded(ours.model).items():
        whole.model.get_submodule(path).weight.data.copy_(nf4.whole(module))
    before = {n: p.detach().double() for n, p in whole.model.named_parameters()}
    moved(ours.model, 1)
    changes = {f"{p}.weight": m.changes[0].whole() for p, m in nf4.coded(ours.model).items()}
    square = sum(float(c.double().square().sum()) for c in changes.values())
    total = sum(float(p.square().sum()) for p in before.values())
    assert nf4.distance(ours.model) == pytest.approx((square / total) ** 0.5, rel=1e-4)


@NEEDS
@pytest.mark.slow
def test_a_whole_run_leaves_the_files_alone_and_says_what_was_read(
    folder: Path, tmp_path: Path
) -> None:
    before = stored(folder)
    sets = ["dtype=nf4", *SHORT]
    given: Any = {"sets": sets, "keep_anyway": True, "method": "gd"}
    record = ssiuu.unlearn_model(folder, FORGET, tmp_path / "out", RETAIN, **given)
    assert any("read with maps in nf4" in note for note in record.notes)
    assert record.distance is not None and record.distance > 0
    assert all(torch.equal(t, before[n]) for n, t in stored(folder).items())
    after = stored(tmp_path / "out")
    assert sum(not torch.equal(after[name], before[name]) for name in before) == 14
    assert {t.dtype for t in after.values()} == {torch.bfloat16}
    knowledge = ssiuu.ask_model(folder, FORGET, sets=["dtype=nf4"])
    assert len(knowledge.knowledge) == len(FORGET)


@NEEDS
@pytest.mark.slow
def test_the_adapter_alone_is_saved_as_ever(folder: Path, tmp_path: Path) -> None:
    sets = [*SHORT, "precision=fp32", "unlearn.lora.merge=false"]
    for name, more in (("ours", ["dtype=nf4"]), ("whole", ["dtype=bf16", "unlearn.lora.base=nf4"])):
        given: Any = {"sets": [*sets, *more], "keep_anyway": True, "method": "gd"}
        ssiuu.unlearn_model(folder, FORGET, tmp_path / name, RETAIN, **given)
    ours, whole = (stored(tmp_path / name) for name in ("ours", "whole"))
    assert ours.keys() == whole.keys() and all(torch.equal(t, whole[n]) for n, t in ours.items())


WHOLE = "dtype: nf4 is for ssiuu ask and ssiuu unlearn with adapters"


@NEEDS
def test_what_needs_the_weights_in_full_is_refused(folder: Path, tmp_path: Path) -> None:
    sets, out = ["dtype=nf4"], tmp_path / "out"
    with pytest.raises(ConfigError, match=WHOLE):
        ssiuu.audit_models(folder, folder, FORGET, out, RETAIN, sets)
    with pytest.raises(ConfigError, match=WHOLE):
        check(None, sets)
    with pytest.raises(ConfigError, match=WHOLE):
        ssiuu.teach_model(folder, FORGET, out, sets=sets)
    with pytest.raises(ConfigError, match=r"set unlearn\.lora\.rank"):
        ssiuu.unlearn_model(folder, FORGET, out, RETAIN, sets=sets)
    ranked = [*sets, *SHORT]
    loaded = read(folder, "nf4").model
    for method in ("task-vector", "repselect"):
        with pytest.raises(ConfigError, match="changes the weights themselves, which are in 4 bits"):
            check_numbers(loaded, make(method))
    with pytest.raises(ConfigError, match=r"unlearn\.lora\.base: bf16 is in full"):
        resolve(None, [*ranked, "unlearn.lora.base=bf16"])
    model, tokenizer = small(["one two three"] * 3)
    with pytest.raises(InputError, match="is read map by map from a model's files"):
        ssiuu.ask_model(model, FORGET, sets=sets, tokenizer=tokenizer)
    assert not out.exists()


@NEEDS
def test_models_without_such_maps_or_stored_otherwise_are_refused(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = build_architecture("gpt2"), read(folder, "bf16").tokenizer
    save(model, tokenizer, tmp_path / "gpt2")
    with pytest.raises(
        ModelError, match="of which GPT2LMHeadModel has none inside its blocks: use bf16"
    ):
        read(tmp_path / "gpt2", "nf4")
    broken = read(folder, "bf16").model
    path = nf4.holdable(broken)[3]
    broken.get_submodule(path).weight.data.fill_(0.25)
    save(broken, tokenizer, tmp_path / "constant")
    with pytest.raises(ModelError, match=f"one value throughout .{path}.weight"):
        read(tmp_path / "constant", "nf4")


def test_without_the_package_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(ConfigError) as refused:
        resolve(None, ["dtype=nf4"])
    assert refused.value.problems == [
        "dtype: nf4 needs the package bitsandbytes: pip install 'ssiuu[nf4]', or use bf16."
    ]


def test_eight_billion_parameters_are_trained_in_twelve_gigabytes() -> None:
    """By what is counted on small models; Llama 3's shape at 8B."""
    width, keys, inner, words, blocks = 4096, 1024, 14336, 128_256, 32
    maps = [(width, width), (width, keys), (width, keys), (width, width), *[(width, inner)] * 3]
    inside, sides = blocks * sum(a * b for a, b in maps), blocks * sum(a + b for a, b in maps)
    size = Size(inside + 2 * words * width, sides, blocks, width, inner, words, inside)
    rows: Any = (make("gd"), size, "bf16", 32 * 64, 32 * 16)
    coded = need(*rows, rank=16, recomputed=True, nf4=True, coded=True)
    assert 2 * (size.parameters - inside) + NF4 * inside < coded < 12e9
    assert need(*rows, rank=16, recomputed=True, nf4=True) == 2 * size.parameters > 12e9
