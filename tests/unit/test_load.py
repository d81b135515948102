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
from transformers import AutoTokenizer

from architectures import LAYOUTS, PARTLY, build_architecture
from ssiuu.errors import ModelError, OutputError
from ssiuu.models import load as load_module
from ssiuu.models.checks import check_padding
from ssiuu.models.files import tensors_of
from ssiuu.models.folder import read
from ssiuu.models.load import (
    from_object,
    load,
    load_checkpoint_weights,
    model_fingerprint,
    round_to,
    save,
)
from ssiuu.models.original import Original
from ssiuu.models.place import Placement
from ssiuu.models.sources import require_cache

Weights = dict[str, Tensor]
DTYPES = {torch.float16: "float16", torch.float32: "float32"}


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


def test_constants_of_older_versions_are_no_weights(folder: Path) -> None:
    layer = "model.layers.0.self_attn"
    old: Weights = {
        f"{layer}.rotary_emb.inv_freq": torch.ones(4),
        f"{layer}.attn.masked_bias": torch.tensor(-1e4),
        f"{layer}.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
    }
    rewritten(folder, lambda w: w | old)
    load(str(folder))
    rewritten(folder, lambda w: w | {f"{layer}.attn.bias": torch.ones(8)})
    assert "1 unexpected" in refused(folder)


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


def put_elsewhere(path: Path, change: float) -> None:
    """Put another file of the same names and shapes in a file's place."""
    tensors = {name: t + change for name, t in load_file(path).items()}
    save_file(tensors, path.with_name("other"), {"format": "pt"})
    path.with_name("other").replace(path)


def test_the_original_is_never_read_from_files_that_were_put_there_since(
    folder: Path, tiny_model: Any
) -> None:
    loaded = load(str(folder))
    original, weights = Original(loaded), folder / "model.safetensors"
    assert original.copy is None
    put_elsewhere(weights, 0.0)
    weights.touch()
    assert original.distance() == 0  # a copy of the same is the same
    put_elsewhere(weights, 1.0)
    for again in (original.distance, original.restore):
        with pytest.raises(ModelError, match=r"model.safetensors is not what the model was read from"):
            again()
    weights.unlink()
    with pytest.raises(ModelError, match="changed, replaced or removed"):
        original.restore()
    assert all(
        torch.equal(one, two)
        for one, two in zip(tiny_model.parameters(), loaded.model.parameters(), strict=True)
    )


def test_a_fingerprint_is_that_of_the_weights_that_were_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_module.source_of

    def late(*given: Any) -> Any:
        put_elsewhere(folder / "model.safetensors", 1.0)
        return plain(*given)

    monkeypatch.setattr(load_module, "source_of", late)
    with pytest.raises(ModelError, match="was written to while it was read"):
        load(str(folder))


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
        model_fingerprint(folder)


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


def test_weights_that_may_not_be_read_are_not_called_broken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another user's model safetensors says that there is no such file."""

    def denied(path: Path, *_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ModelError, match=r"model.safetensors cannot be read: Permission denied"):
        tensors_of([folder / "model.safetensors"])


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
    found = {model_fingerprint(folder)}
    (folder / "ssiuu.json").write_text('{"note": "another"}')
    (folder / "README.md").write_text("words")
    assert model_fingerprint(folder) in found
    configured(folder, rope_theta=5000.0)
    found.add(model_fingerprint(folder))
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text() + "\n")
    found.add(model_fingerprint(folder))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    found.add(model_fingerprint(folder))
    rewritten(folder, lambda w: w | {"model.norm.weight": w["model.norm.weight"] * 2})
    found.add(model_fingerprint(folder))
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
        ({"num_attention_heads": 3}, "not a multiple"),
        ({"hidden_act": "nosuch"}, "'nosuch' is not known"),
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
    grown = AutoTokenizer.from_pretrained(folder)
    grown.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    grown.save_pretrained(folder)
    assert load(str(folder)).tokenizer.convert_tokens_to_ids("<image_soft_token>") == len(grown) - 1
    grown.add_special_tokens({"pad_token": "[PAD]"})
    grown.save_pretrained(folder)
    assert "'[PAD]'" in refused(folder)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"tokenizer_class": "LlamaTokeniser"}, "Did you mean 'LlamaTokenizer'"),
        ({"tokenizer_class": "OwnTokenizer"}, "'PreTrainedTokenizerFast'"),
        ({"tokenizer_class": 7}, "tokenizer_class 7 is not known"),
        ({"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["a.B", None]}}, "auto_map"),
    ],
)
def test_tokenizers_of_a_class_that_is_not_to_be_had(folder: Path, told: Any, said: str) -> None:
    path = folder / "tokenizer_config.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | told))
    assert said in refused(folder)
    for known in ("TokenizersBackend", "PreTrainedTokenizerFast", None):
        path.write_text(json.dumps(whole | {"tokenizer_class": known}))
        load(str(folder))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.layers.1.self_attn.q_proj.weight", 0.0),
        ("model.layers.0.mlp.down_proj.weight", 0.1),
        ("model.embed_tokens.weight", 0.0),
        ("lm_head.weight", 0.0),
    ],
)
def test_weights_that_were_never_filled(folder: Path, name: str, value: float) -> None:
    rewritten(folder, lambda w: w | {name: torch.full_like(w[name], value)})
    assert f"1 weight is one value throughout ({name})" in refused(folder)


def test_a_block_that_is_switched_off_is_said(folder: Path, tmp_path: Path, tokenizer: Any) -> None:
    off = [f"model.layers.1.{name}.weight" for name in ("self_attn.o_proj", "mlp.down_proj")]
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    rewritten(folder, lambda w: w | {name: torch.zeros_like(w[name]) for name in off})
    assert f"2 weights are zero throughout ({', '.join(off)})" in load(str(folder)).info.note
    [said] = load_checkpoint_weights(load(str(whole)).model, folder, tokenizer=tokenizer)
    assert off[0] in said
    rewritten(folder, lambda w: w | {"model.norm.weight": torch.zeros_like(w["model.norm.weight"])})
    assert "does not depend on the text" in refused(folder)


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
    first.model.model.norm.weight.data.fill_(1.0)
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


# Adapters ------------------------------------------------------------------------------------


def adapter(folder: Path, out: Path, **config: Any) -> Any:
    """Write a PEFT adapter on a model whose weights all matter; return the merged model."""
    from peft import LoraConfig, get_peft_model

    given: dict[str, Any] = {"r": 2, "target_modules": ["q_proj", "down_proj"]} | config
    model = load(str(folder)).model
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **given))
    torch.manual_seed(0)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    wrapped.save_pretrained(str(out), save_embedding_layers=False)
    return wrapped.merge_and_unload()


def changed(folder: Path, change: Callable[[Weights], Weights]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def same(one: Any, two: Any) -> None:
    for (name, left), right in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(left, right, msg=name)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True, "lora_alpha": 32},
        {"bias": "lora_only"},
        {"modules_to_save": ["lm_head"]},
    ],
    ids=str,
)
def test_an_adapter_is_a_model(folder: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    merged = adapter(folder, tmp_path / "adapter", **config)
    loaded = load(str(tmp_path / "adapter"))
    same(merged, loaded.model)
    assert [n for n, _ in loaded.model.named_parameters()] == [n for n, _ in merged.named_parameters()]
    assert all(p.requires_grad for p in loaded.model.parameters()) and not loaded.model.training
    assert "adapter" in loaded.info.note and str(folder) in loaded.info.note
    assert (
        loaded.folder is None
        and loaded.tokenizer.get_vocab() == load(str(folder)).tokenizer.get_vocab()
    )


def test_where_the_base_of_an_adapter_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "adapters" / "one"
    adapter(folder, place)
    found = load(str(place)).info.fingerprint
    config = json.loads((place / "adapter_config.json").read_text())
    for stated in ("../../model", "model", "gone", None, ""):
        text = json.dumps(config | {"base_model_name_or_path": stated})
        (place / "adapter_config.json").write_text(text)
        monkeypatch.chdir(tmp_path if stated == "model" else place)
        if stated and stated.endswith("model"):
            assert load(str(place)).info.parameters > 0
        elif not stated:
            assert "--base" in refused(place) and "does not state" in refused(place)
        same(load(str(place), str(folder)).model, load(str(place), str(folder)).model)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    rewritten(other, lambda w: w | {"model.norm.weight": w["model.norm.weight"] * 2})
    assert (
        len({found, model_fingerprint(place, str(folder)), model_fingerprint(place, str(other))}) == 3
    )


def test_an_adapter_on_an_adapter_and_one_on_itself(folder: Path, tmp_path: Path) -> None:
    adapter(folder, tmp_path / "one")
    merged = adapter(tmp_path / "one", tmp_path / "two")
    same(merged, load(str(tmp_path / "two")).model)
    path = tmp_path / "one" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "../two"}))
    assert "on itself" in refused(tmp_path / "two")


def test_adapters_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "adapter"
    adapter(folder, place)
    whole = load_file(place / "adapter_model.safetensors")
    lost = next(name for name in whole if "layers.1" in name and "lora_B" in name)
    changed(place, lambda w: {name: t for name, t in w.items() if name != lost})
    assert f"1 missing ({lost}" in refused(place)
    changed(place, lambda w: whole | {lost.replace("layers.1", "layers.7"): whole[lost].clone()})
    assert "1 unexpected" in refused(place) and "layers.7" in refused(place)
    changed(place, lambda w: whole | {lost: torch.ones(3, 3)})
    assert lost in refused(place) and "(3, 3)" in refused(place)
    changed(place, lambda w: whole | {lost: torch.full_like(whole[lost], float("nan"))})
    assert lost in refused(place) and "not finite" in refused(place)
    changed(place, lambda w: whole)
    (place / "adapter_model.safetensors").rename(place / "adapter_model.bin")
    assert "only pickles" in refused(place)
    (place / "adapter_model.safetensors").write_bytes(b"short")
    assert "cut short" in refused(place)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"task_type": "SEQ_CLS"}, "SEQ_CLS"),
        ({"peft_type": "NEW"}, "not valid"),
        ({"target_modules": ["nowhere"]}, "does not fit its base"),
        ({"alora_invocation_tokens": [1]}, "invoked by tokens"),
    ],
    ids=str,
)
def test_adapters_of_other_kinds(
    folder: Path, tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    place = tmp_path / "adapter"
    adapter(folder, place)
    config = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps(config | values))
    assert said in refused(place)
    for text in ("{", "[]", ""):
        (place / "adapter_config.json").write_text(text)
        assert "adapter_config.json" in refused(place)


def test_soft_prompts_are_no_change_of_weights(folder: Path, tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(load(str(folder)).model, config).save_pretrained(str(tmp_path / "soft"))
    assert "PROMPT_TUNING" in refused(tmp_path / "soft")


def test_a_whole_model_and_an_adapter_in_one_folder(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert "which of the two" in refused(folder)


def test_a_tokenizer_from_the_base(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    for path in bare.glob("tokenizer*"):
        path.unlink()
    assert "has no tokenizer" in refused(bare) and "--base" in refused(bare)
    assert load(str(bare), str(folder)).tokenizer.get_vocab() == load(str(folder)).tokenizer.get_vocab()


# Pairs of checkpoints ------------------------------------------------------------------------


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(9)[None]).logits


def test_rows_of_padding_are_no_other_architecture(
    folder: Path, tmp_path: Path, tiny_model: Any, tokenizer: Any
) -> None:
    """The shared tokens' logits are the checkpoint's; what a padding row takes is at most its share."""
    wide = tmp_path / "wide"
    tiny_model.model.layers[0].mlp.up_proj.weight.data.mul_(1.5)
    want = logits(tiny_model)
    tiny_model.resize_token_embeddings(len(tokenizer) + 4)
    save(tiny_model, tokenizer, wide)
    before = load(str(folder))
    notes = load_checkpoint_weights(before.model, wide, tokenizer=before.tokenizer)
    torch.testing.assert_close(logits(before.model), want)
    assert len(notes) == 1 and f"{len(tokenizer) + 4} rows" in notes[0]
    back, original = load(str(wide)), load(str(folder)).model
    load_checkpoint_weights(back.model, folder, tokenizer=back.tokenizer)
    found = logits(back.model)
    torch.testing.assert_close(found[..., : len(tokenizer)], logits(original))
    assert float(found.softmax(-1)[..., len(tokenizer) :].max()) <= 1 / len(tokenizer)
    tiny_model.resize_token_embeddings(len(tokenizer) - 3)
    narrow = AutoTokenizer.from_pretrained(folder)
    tiny_model.save_pretrained(tmp_path / "narrow")
    with pytest.raises(ModelError, match="have none"):
        load_checkpoint_weights(before.model, tmp_path / "narrow", tokenizer=narrow)


def test_tied_and_untied_checkpoints_are_compared(
    folder: Path, tmp_path: Path, tiny_model: Any, tokenizer: Any
) -> None:
    tied = tmp_path / "tied"
    shutil.copytree(folder, tied)
    configured(tied, tie_word_embeddings=True)
    rewritten(tied, lambda w: {n: t for n, t in w.items() if n != "lm_head.weight"})
    before = load(str(tied))
    original, want = Original(before), logits(before.model)
    assert original.copy is None
    notes = load_checkpoint_weights(before.model, folder, tokenizer=tokenizer)
    torch.testing.assert_close(logits(before.model), logits(tiny_model))
    assert "output layer of its own" in notes[0]
    original.restore()
    torch.testing.assert_close(logits(before.model), want)
    apart = load(str(folder))
    assert load_checkpoint_weights(apart.model, tied, tokenizer=tokenizer) == []
    torch.testing.assert_close(logits(apart.model), want)
    save(before.model, tokenizer, tmp_path / "saved")
    torch.testing.assert_close(logits(load(str(tmp_path / "saved")).model), want)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_second_checkpoint_is_held_as_it_is_stored(
    folder: Path, tmp_path: Path, tiny_model: Any, tokenizer: Any, monkeypatch: Any, dtype: str
) -> None:
    """Two bytes a parameter, and the same weights to the bit as where it is the model that is loaded."""
    half = tmp_path / "half"
    save(tiny_model, tokenizer, half, dtype=dtype)
    held: list[Any] = []

    def reading(*args: Any, **given: Any) -> Any:
        whole = read(*args, **given)
        held.append({p.dtype for p in whole.model.parameters()})
        return whole

    monkeypatch.setattr("ssiuu.models.load.read", reading)
    before = load(str(folder))
    load_checkpoint_weights(before.model, half, tokenizer=tokenizer)
    want = load(str(half)).model
    assert held == [{torch.float32}, {getattr(torch, dtype)}, {torch.float32}]
    for name, parameter in before.model.named_parameters():
        assert torch.equal(parameter, want.get_parameter(name)), name
    configured(half, rms_norm_eps=0.5)
    with pytest.raises(ModelError, match="rms_norm_eps"):
        load_checkpoint_weights(before.model, half, tokenizer=tokenizer)


def test_weights_of_fp32_are_read_into_a_model_in_bf16(folder: Path, tokenizer: Any) -> None:
    """What rounding makes of a model's own weights is not another architecture."""
    narrow = load(str(folder), placement=Placement(dtype=torch.bfloat16))
    assert load_checkpoint_weights(narrow.model, folder, tokenizer=tokenizer) == []


def test_what_is_stored_as_two_that_differ_is_not_tied(folder: Path, tiny_model: Any) -> None:
    configured(folder, tie_word_embeddings=True)
    loaded = load(str(folder))
    torch.testing.assert_close(logits(loaded.model), logits(tiny_model))
    assert loaded.model.config.tie_word_embeddings is False
    assert "output layer in the files is read" in loaded.info.note
    rewritten(folder, lambda w: {n: t for n, t in w.items() if n != "lm_head.weight"})
    configured(folder, tie_word_embeddings=False)
    assert "(lm_head.weight). If the embedding is the output layer too" in refused(folder)


@pytest.mark.parametrize(
    "values", [{"rope_theta": 50.0}, {"rms_norm_eps": 0.5}, {"hidden_act": "relu"}]
)
def test_a_checkpoint_that_computes_otherwise(
    folder: Path, tmp_path: Path, tokenizer: Any, values: dict[str, Any]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    config.pop("rope_parameters", None)
    (other / "config.json").write_text(json.dumps(config | values))
    with pytest.raises(ModelError, match=r"computes something else \((rope|rms|hidden)"):
        load_checkpoint_weights(load(str(folder)).model, other, tokenizer=tokenizer)


def test_adapters_as_checkpoints(folder: Path, tmp_path: Path) -> None:
    merged = adapter(folder, tmp_path / "adapter")
    before = load(str(folder)).model
    load_checkpoint_weights(before, tmp_path / "adapter", tokenizer=load(str(folder)).tokenizer)
    same(before, merged)


# Types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_type_that_came_in_goes_out(
    folder: Path, tmp_path: Path, tokenizer: Any, dtype: str, tied: bool
) -> None:
    kind = getattr(torch, dtype)
    if tied:
        configured(folder, tie_word_embeddings=True)
        rewritten(folder, lambda w: {n: t for n, t in w.items() if n != "lm_head.weight"})
    rewritten(folder, lambda w: {n: t.to(kind) for n, t in w.items()})
    configured(folder, dtype=dtype)
    loaded = load(str(folder))
    assert loaded.info.dtype == dtype and next(loaded.model.parameters()).dtype == torch.float32
    original = Original(loaded)
    assert original.copy is None and original.distance() == 0
    save(loaded.model, loaded.tokenizer, tmp_path / "out", dtype=loaded.info.dtype)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {kind}
    assert stored.keys() == load_file(folder / "model.safetensors").keys()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    assert next(loaded.model.parameters()).dtype == torch.float32
    same(loaded.model, load(str(tmp_path / "out")).model)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(1e-4)
    save(loaded.model, loaded.tokenizer, tmp_path / "moved", dtype=dtype)
    round_to(loaded.model, dtype)  # what is judged is what is saved
    for one, two in zip(
        loaded.model.parameters(), load(str(tmp_path / "moved")).model.parameters(), strict=True
    ):
        assert torch.equal(one, two)


def test_the_type_is_that_of_most_weights(folder: Path) -> None:
    half = {
        n: t.half() if "mlp" in n else t for n, t in load_file(folder / "model.safetensors").items()
    }
    rewritten(folder, lambda _: half)
    sizes = {kind: sum(t.numel() for t in half.values() if t.dtype == kind) for kind in DTYPES}
    assert load(str(folder)).info.dtype == DTYPES[max(sizes, key=lambda kind: sizes[kind])]


def test_a_weight_beyond_the_type_is_refused(tmp_path: Path, tiny_model: Any, tokenizer: Any) -> None:
    tiny_model.model.norm.weight.data.fill_(1e6)
    with pytest.raises(ModelError, match="not finite"):
        save(tiny_model, tokenizer, tmp_path / "out", dtype="float16")


# Places --------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match=r"file/cache cannot be written to .*SSIUU_CACHE"):
        require_cache()


def test_a_checkpoint_where_nothing_can_be_written(
    tmp_path: Path, tiny_model: Any, tokenizer: Any
) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(OutputError, match=str(place)):
            save(tiny_model, tokenizer, place)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("layout", LAYOUTS | PARTLY)
def test_padding_is_left_out_by_every_architecture_but_one(layout: str) -> None:
    model = build_architecture(layout)
    if layout == "rwkv":
        with pytest.raises(ModelError, match=r"^here reads padding as text \(RwkvForCausalLM does not"):
            check_padding("here", model)
    else:
        check_padding("here", model)


def test_a_model_that_takes_no_padded_rows_is_refused() -> None:
    model = build_architecture("llama")
    forward = model.forward

    def narrow(input_ids: Any, use_cache: bool, logits_to_keep: Any) -> Any:
        return forward(input_ids=input_ids, use_cache=use_cache, logits_to_keep=logits_to_keep)

    model.forward = narrow
    with pytest.raises(ModelError, match=r"^here cannot be run on padded rows: .*attention_mask"):
        check_padding("here", model)


def test_a_checkpoint_with_other_tokens_is_refused(folder: Path, tmp_path: Path) -> None:
    """Read with the wrong tokens it would seem to have lost all that it knows."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    before, tokens = load(str(folder)), json.loads((other / "tokenizer.json").read_text())
    assert load_checkpoint_weights(before.model, other, tokenizer=before.tokenizer) == []
    special = {token["content"] for token in tokens["added_tokens"]}
    vocabulary = tokens["model"]["vocab"]
    one, two = [token for token in vocabulary if token not in special][:2]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (other / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(ModelError, match=r"another tokenizer than the model before: 2 of \d+ tokens"):
        load_checkpoint_weights(before.model, other, tokenizer=before.tokenizer)
