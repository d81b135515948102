"""Model folders and adapters that are damaged: loaded and asked, or refused in sentences."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import Damage, as_json, as_key, as_tensors, raw
from hypothesis import strategies as st

from conftest import build_model
from fuzzed import fuzz, typed
from ssiuu.benchmarks.base import check_lengths, tokenised
from ssiuu.benchmarks.prompting import check_tokens, choose_prompt
from ssiuu.evaluation.score import score_facts
from ssiuu.experiment.recipe import resolve
from ssiuu.models.load import load, save
from ssiuu.records.schema import FactText

FACT = FactText(id="a", question="w1 w2 ?", answer="w3", options=["w3", "w4 w5"])
CONFIG = [
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
]
CONFIG += ["head_dim", "hidden_act", "rms_norm_eps", "rope_theta", "rope_parameters", "rope_scaling"]
CONFIG += [
    "tie_word_embeddings",
    "pad_token_id",
    "eos_token_id",
    "bos_token_id",
    "dtype",
    "architectures",
]
CONFIG += [
    "model_type",
    "max_position_embeddings",
    "attention_bias",
    "initializer_range",
    "pretraining_tp",
]
CONFIG += ["_attn_implementation", "attn_implementation", "use_cache", "attention_dropout", "id2label"]
CONFIG += [
    "num_labels",
    "output_hidden_states",
    "output_attentions",
    "return_dict",
    "is_decoder",
    "torch_dtype",
]
CONFIG += ["quantization_config", "auto_map", "transformers_weights", "sliding_window", "layer_types"]
TOKENS = [
    "chat_template",
    "pad_token",
    "eos_token",
    "bos_token",
    "unk_token",
    "model_max_length",
    "padding_side",
]
TOKENS += [
    "tokenizer_class",
    "added_tokens_decoder",
    "extra_special_tokens",
    "model_input_names",
    "auto_map",
]
TOKENS += [
    "clean_up_tokenization_spaces",
    "truncation_side",
    "add_prefix_space",
    "additional_special_tokens",
]
WRITING = ["max_new_tokens", "max_length", "temperature", "top_p", "top_k", "do_sample", "eos_token_id"]
WRITING += [
    "pad_token_id",
    "num_beams",
    "bad_words_ids",
    "stop_strings",
    "repetition_penalty",
    "use_cache",
]
TURNS = [
    "{{ nothing.of.this }}",
    "{% for m in messages %}",
    "{{ raise_exception('no') }}",
    "{{ messages[9] }}",
    "",
]
TURNS += [
    "{% for m in messages %}{{ m['content'] * 200000 }}{% endfor %}",
    "spoken",
    "{{ 1 // 0 }}",
    "{% x %}",
]
templates = st.sampled_from(TURNS) | st.text(max_size=20)
tokenizer_files = st.one_of(
    as_json("tokenizer.json"),
    as_json("tokenizer_config.json"),
    as_key("tokenizer_config.json", TOKENS),
    raw("tokenizer.json"),
    raw("tokenizer_config.json"),
    templates.map(lambda text: Damage("chat_template.jinja", repr(text), lambda c: text.encode())),
)
damages = st.one_of(
    as_json("config.json"),
    as_key("config.json", CONFIG),
    raw("config.json"),
    as_tensors("model.safetensors"),
    as_key("generation_config.json", WRITING),
    raw("generation_config.json"),
    tokenizer_files,
)
in_adapters = st.one_of(
    as_json("adapter_config.json"),
    as_key(
        "adapter_config.json",
        ["r", "lora_alpha", "peft_type", "target_modules", "base_model_name_or_path"],
    ),
    raw("adapter_config.json"),
    as_tensors("adapter_model.safetensors"),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    save(build_model(), tokenizer, folder / "model")
    assert asked(folder / "model")
    return folder


@pytest.fixture(scope="module")
def adapter(sound: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(build_model(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    wrapped.save_pretrained(sound / "adapter")
    path = sound / "adapter" / "adapter_config.json"
    stated = {"base_model_name_or_path": str(sound / "model")}
    path.write_text(json.dumps(json.loads(path.read_text()) | stated))
    assert asked(sound / "adapter")
    return sound


def asked(folder: Path) -> bool:
    """Load a model, ask it as any command would, and save it."""
    loaded = load(str(folder))
    basis = resolve(None, [])[0]
    prompt = choose_prompt(basis, loaded.tokenizer, lambda _: None)
    check_tokens(loaded.model, loaded.tokenizer, [FACT])
    tokenised(prompt, [FACT], 64)
    check_lengths(prompt, [FACT], 64)
    with torch.no_grad():
        scores = score_facts(loaded.model, prompt, [FACT], paraphrases=False)
    shutil.rmtree(folder.parent / "saved", ignore_errors=True)
    save(loaded.model, loaded.tokenizer, folder.parent / "saved")
    return bool(scores)


def damaged(folder: Path, sample: list[Damage], kind: str) -> Iterator[Path]:
    place = folder.with_name(f"{folder.name}-damaged")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder / kind, place / kind)
    for damage in sample:
        damage.inflict(place / kind)
    yield place / kind


@fuzz(st.lists(damages, min_size=1, max_size=2), examples=30)
def test_model_folders(sample: list[Damage], sound: Path) -> None:
    for folder in damaged(sound, sample, "model"):
        typed(lambda: asked(folder), 20)  # noqa: B023


@fuzz(st.lists(in_adapters, min_size=1, max_size=2), examples=15)
def test_adapters(sample: list[Damage], adapter: Path) -> None:
    for folder in damaged(adapter, sample, "adapter"):
        typed(lambda: asked(folder), 20)  # noqa: B023
