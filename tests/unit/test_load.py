"""Somebody else's model folder: what is read of it, and what is refused with which sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssiuu.errors import ModelError
from ssiuu.experiment.session import Original
from ssiuu.models.load import fingerprint, from_object, load, save

Weights = dict[str, Tensor]


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Any, tokenizer: Any) -> Path:
    """A whole and healthy model folder; each test breaks its own."""
    save(tiny_model, tokenizer, tmp_path / "model")
    return tmp_path / "model"


def rewritten(folder: Path, change: Callable[[Weights], Weights]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def configured(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def sharded(folder: Path) -> dict[str, str]:
    """Split the weights into two files with an index; return its map."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, where = sorted(weights), {}
    for n, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{n}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    indexed(folder, where)
    return where


def indexed(folder: Path, where: dict[str, Any]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(str(folder))
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_folder_comes_back_as_it_was_saved(folder: Path, tiny_model: Any) -> None:
    loaded = load(str(folder))
    for (name, one), two in zip(tiny_model.named_parameters(), loaded.model.parameters(), strict=True):
        assert torch.equal(one, two), name
    assert loaded.folder == folder and not loaded.model.training


@pytest.mark.parametrize(
    ("prefix", "whose"),
    [
        ("_orig_mod.", "torch.compile"),
        ("module.", "DataParallel"),
        ("base_model.model.", "PEFT"),
        ("student.", "unexpected (student."),
    ],
)
def test_renamed_tensors_are_refused_by_name(folder: Path, prefix: str, whose: str) -> None:
    rewritten(folder, lambda w: {f"{prefix}{name}": t for name, t in w.items()})
    said = refused(folder)
    assert whose in said and f"{prefix}lm_head.weight" in said and "21 tensors are missing" in said


@pytest.mark.parametrize("lost", ["model.layers.1.", "lm_head.weight", "model.norm.weight"])
def test_lost_tensors_are_refused_by_name(folder: Path, lost: str) -> None:
    rewritten(folder, lambda w: {name: t for name, t in w.items() if not name.startswith(lost)})
    assert f"missing ({lost}" in refused(folder)


def test_tensors_too_many_or_of_another_shape_are_refused(folder: Path) -> None:
    rewritten(folder, lambda w: w | {"model.layers.7.mlp.up_proj.weight": torch.ones(2, 2)})
    assert "1 unexpected (model.layers.7.mlp.up_proj.weight)" in refused(folder)
    rewritten(folder, lambda w: {n: t for n, t in w.items() if "layers.7" not in n})
    configured(folder, intermediate_size=32)
    said = refused(folder)
    assert "6 of another shape" in said and "(24, 16) stored, (32, 16) wanted" in said


def test_a_body_saved_alone_is_whole_where_the_head_is_tied(
    tmp_path: Path, folder: Path, tiny_model: Any
) -> None:
    configured(folder, tie_word_embeddings=True)
    head = "lm_head.weight"
    rewritten(folder, lambda w: {n.removeprefix("model."): t for n, t in w.items() if n != head})
    model = load(str(folder)).model
    assert torch.equal(model.lm_head.weight, tiny_model.model.embed_tokens.weight)
    rewritten(folder, lambda w: w | {"model.norm.weight": w["norm.weight"] * 2})
    assert "there twice" in refused(folder)


def test_only_the_named_file_is_read_everywhere(folder: Path, tiny_model: Any) -> None:
    before = load(str(folder)).info.fingerprint
    other = {name: t + 1 for name, t in load_file(folder / "model.safetensors").items()}
    for stray in (
        "a.safetensors",
        "model_old.safetensors",
        "shard-00001-model-00001-of-00001.safetensors",
    ):
        save_file(other, folder / stray, {"format": "pt"})
    (folder / "pytorch_model.bin").write_bytes(b"no pickle is ever opened")
    loaded = load(str(folder))
    assert loaded.info.fingerprint == before
    original = Original(loaded)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(1)
    assert original.copy is None and original.distance() > 0
    original.restore()
    for one, two in zip(tiny_model.parameters(), loaded.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert original.distance() == 0


def test_an_index_says_what_is_read(folder: Path, tiny_model: Any) -> None:
    sharded(folder)
    loaded = load(str(folder))
    for one, two in zip(tiny_model.parameters(), loaded.model.parameters(), strict=True):
        assert torch.equal(one, two)
    original = Original(loaded)
    loaded.model.lm_head.weight.data.zero_()
    original.restore()
    assert torch.equal(loaded.model.lm_head.weight, tiny_model.lm_head.weight)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../outside.safetensors", "outside the folder"),
        ("/etc/outside.safetensors", "outside the folder"),
        ("C:\\outside.safetensors", "outside the folder"),
        ("link.safetensors", "outside the folder"),
        ("pytorch_model.bin", "no safetensors file"),
        ("gone.safetensors", "not there"),
        (7, "must be a name"),
    ],
)
def test_an_index_that_names_what_must_not_be_read(
    tmp_path: Path, folder: Path, name: object, said: str
) -> None:
    where: dict[str, Any] = sharded(folder)
    for outside in ("outside.safetensors", "model/pytorch_model.bin"):
        shutil.copy(folder / where["lm_head.weight"], tmp_path / outside)
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    indexed(folder, where | {"lm_head.weight": name})
    assert said in refused(folder)
    with pytest.raises(ModelError, match=said):
        fingerprint(folder)


def test_broken_indices_and_files(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cut short" in refused(folder)
    (folder / "model.safetensors").write_bytes(whole)
    where = sharded(folder)
    (folder / "model.safetensors").write_bytes(whole)
    assert "which of the two" in refused(folder)
    (folder / "model.safetensors").unlink()
    shutil.copy(folder / where["lm_head.weight"], folder / "twice.safetensors")
    indexed(folder, where | {"lm_head.weight": "twice.safetensors"})
    assert "which one is meant" in refused(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    assert "index.json cannot be read as JSON" in refused(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "weight_map" in refused(folder)


def test_the_hubs_cache_is_a_folder_of_links(tmp_path: Path, folder: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b/snapshots/1", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for n, path in enumerate(folder.iterdir()):
        shutil.copy(path, blobs / str(n))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(n))
    assert load(str(snapshot)).info.fingerprint == load(str(folder)).info.fingerprint


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(
    tmp_path: Path, folder: Path, tiny_model: Any, tokenizer: Any, value: float
) -> None:
    broken = "model.layers.1.mlp.up_proj.weight"
    rewritten(folder, lambda w: w | {broken: torch.full_like(w[broken], value)})
    assert broken in refused(folder) and "not finite" in refused(folder)
    tiny_model.model.norm.weight.data[3] = value
    with pytest.raises(ModelError, match=r"not finite.*model\.norm\.weight"):
        save(tiny_model, tokenizer, tmp_path / "out")
    with pytest.raises(ModelError, match=r"not finite.*model\.norm\.weight"):
        from_object(tiny_model, tokenizer)
    assert not (tmp_path / "out").exists()


def test_the_fingerprint_covers_config_and_tokenizer(folder: Path) -> None:
    found = {fingerprint(folder)}
    (folder / "ssiuu.json").write_text('{"note": "another"}')
    (folder / "README.md").write_text("words")
    assert fingerprint(folder) in found
    configured(folder, rope_theta=5000.0)
    found.add(fingerprint(folder))
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text() + "\n")
    found.add(fingerprint(folder))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    found.add(fingerprint(folder))
    rewritten(folder, lambda w: w | {"model.norm.weight": w["model.norm.weight"] * 2})
    found.add(fingerprint(folder))
    assert len(found) == 5


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised (bitsandbytes)"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "quantised (compressed"),
        ({"model_type": "llamma"}, "Did you mean 'llama'"),
        ({"model_type": None}, "model_type is missing"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, "code of its own"),
        ({"model_type": "t5"}, "t5 is an encoder-decoder model"),
        ({"model_type": "bart"}, "encoder-decoder model"),
        ({"model_type": "vit"}, "vit is not a causal language model"),
        ({"transformers_weights": "other.safetensors"}, "transformers_weights"),
        ({"hidden_size": "wide"}, "config.json"),
        ({"num_attention_heads": 0}, ""),
    ],
)
def test_configs_that_cannot_be_worked_on(folder: Path, values: dict[str, Any], said: str) -> None:
    configured(folder, **values)
    assert said in refused(folder)


def test_broken_configs(folder: Path) -> None:
    for text in ("{", "[]", "\x00", ""):
        (folder / "config.json").write_text(text)
        assert "config.json" in refused(folder)
    (folder / "config.json").unlink()
    assert "no config.json" in refused(folder)


def test_quantised_tensors_without_a_word_in_the_config(folder: Path) -> None:
    name = "model.layers.0.mlp.up_proj"
    plain = load_file(folder / "model.safetensors")
    for key, tensor in (
        (f"{name}.qweight", torch.zeros(2, 2, dtype=torch.int32)),
        (f"{name}.weight", plain[f"{name}.weight"].to(torch.float8_e4m3fn)),
        (f"{name}.weight", plain[f"{name}.weight"].to(torch.int8)),
    ):
        rewritten(folder, lambda _, key=key, tensor=tensor: plain | {key: tensor})  # type: ignore[misc]
        assert "quantised" in refused(folder) and name in refused(folder)


def test_encoders_are_refused_whatever_their_config_says(tmp_path: Path, tokenizer: Any) -> None:
    from transformers import BertConfig, BertLMHeadModel

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), num_hidden_layers=1, **sizes)
    save(BertLMHeadModel(config).eval(), tokenizer, tmp_path / "bert")
    assert "not a causal language model" in refused(tmp_path / "bert")


def test_tokenizers_that_do_not_fit(folder: Path, tokenizer: Any) -> None:
    from transformers import AutoTokenizer

    grown = AutoTokenizer.from_pretrained(folder)
    grown.add_tokens(["<new>"])
    grown.save_pretrained(folder)
    said = refused(folder)
    assert f"{len(tokenizer) + 1} tokens" in said and f"{len(tokenizer)} rows" in said
    assert "'<new>'" in said
    (folder / "tokenizer.json").write_text("{")
    assert "tokenizer cannot be read" in refused(folder)
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer" in refused(folder)


def test_a_special_token_beyond_the_embedding(folder: Path) -> None:
    """One for images that never is in a text is let pass, one that texts are padded with is not."""
    from transformers import AutoTokenizer

    grown = AutoTokenizer.from_pretrained(folder)
    grown.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    grown.save_pretrained(folder)
    assert load(str(folder)).tokenizer.convert_tokens_to_ids("<image_soft_token>") == len(grown) - 1
    grown.add_special_tokens({"pad_token": "[PAD]"})
    grown.save_pretrained(folder)
    assert "'[PAD]'" in refused(folder)


def test_names_that_lead_nowhere(tmp_path: Path, folder: Path) -> None:
    assert f"Did you mean '{folder}'" in refused(tmp_path / "modell")
    assert "is a file" in refused(folder / "config.json")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused(tmp_path / "empty")


def test_a_folder_whose_name_is_a_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.rename(folder.with_name("2024"))
    monkeypatch.chdir(folder.parent)
    assert load("2024").info.name == "2024"


def test_an_object_is_taken_as_it_is_and_left_so(tiny_model: Any, tokenizer: Any) -> None:
    half = tiny_model.bfloat16()
    first, again = from_object(half, tokenizer, "mine"), from_object(half, tokenizer)
    assert first.info.fingerprint == again.info.fingerprint
    assert (first.info.name, first.info.source, first.info.dtype) == ("mine", "object", "bfloat16")
    assert first.folder is None and next(half.parameters()).dtype == torch.bfloat16
    first.model.model.norm.weight.data.zero_()
    assert bool(half.model.norm.weight.any())
    assert from_object(first.model, tokenizer).info.fingerprint != first.info.fingerprint
    original = Original(again)
    again.model.model.norm.weight.data.zero_()
    original.restore()
    assert bool(again.model.model.norm.weight.any())


def test_objects_of_which_nothing_can_be_said(tiny_model: Any, tokenizer: Any) -> None:
    with pytest.raises(ModelError, match="transformers model is wanted"):
        from_object(torch.nn.Linear(2, 2), tokenizer)
    with pytest.raises(ModelError, match="not a causal language model"):
        from_object(tiny_model.model, tokenizer)
    tiny_model.resize_token_embeddings(len(tokenizer) - 5)
    with pytest.raises(ModelError, match="have none"):
        from_object(tiny_model, tokenizer)
