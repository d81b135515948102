"""GGUF: what is written is what llama.cpp reads, and is read back; what has no name is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from small_llama import small
from ssiuu.cli import export
from ssiuu.errors import ModelError, OutputError
from ssiuu.experiment.given import checkpoint
from ssiuu.models.folder import model_fingerprint, read
from ssiuu.models.gguf import BLOCK, KINDS, Kind, interleaved, read_gguf, rounding, write
from ssiuu.models.gguf_header import read_header
from ssiuu.models.load import load_checkpoint_weights

TEXTS = ["Where does Arvo live? Torvik.", "Who wrote it? Nobody knows, in 1987."] * 20
MODEL, TOKENIZER = small(TEXTS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    for kind in KINDS:
        write(MODEL, TOKENIZER, folder / f"{kind}.gguf", kind)  # type: ignore[arg-type]
    return {kind: folder / f"{kind}.gguf" for kind in KINDS}


def test_half_precision_is_read_back_to_the_last_bit(files: dict[str, Path]) -> None:
    other = dict(read_gguf(files["f16"]).named_parameters())
    for name, weight in MODEL.named_parameters():
        expected = weight.half().float() if weight.dim() > 1 else weight
        assert torch.equal(other[name], expected), name
    assert other.keys() == dict(MODEL.named_parameters()).keys()


def test_the_model_read_back_computes_the_same(files: dict[str, Path]) -> None:
    """Positions are rotated as before: rows of q and k came back in their order."""
    ids = torch.arange(24)[None]
    with torch.no_grad():
        before, after = (m(input_ids=ids).logits for m in (MODEL, read_gguf(files["f16"])))
    assert float((before - after).abs().max()) < 5e-3 * float(before.abs().max())


@pytest.mark.parametrize(("kind", "levels"), [("q8_0", 127), ("q4_0", 8)])
def test_rounding_is_at_most_half_a_step_of_its_block(
    files: dict[str, Path], kind: str, levels: int
) -> None:
    other = dict(read_gguf(files[kind]).named_parameters())
    for name, weight in MODEL.named_parameters():
        if weight.dim() == 1:
            assert torch.equal(other[name], weight)
            continue
        blocks, off = (t.reshape(-1, BLOCK).abs().max(1)[0] for t in (weight, other[name] - weight))
        coarse = kind == "q4_0" and "embed" not in name
        codes = levels if coarse else 127
        # 4 bits are -8 to 7: at the far end the error is a whole step. The scale is of half precision.
        bound = blocks / codes * ((1.0 if coarse else 0.5) + codes / 2048)
        assert bool((off <= bound + 1e-7).all()), name


def test_coarser_files_are_further_from_the_model(files: dict[str, Path]) -> None:
    off = [rounding(MODEL, read_gguf(files[kind])) for kind in ("f16", "q8_0", "q4_0")]
    assert 0 < off[0] < 1e-3 < off[1] < 0.01 < off[2] < 0.15


def test_rows_of_a_head_stand_in_the_order_in_which_they_are_rotated() -> None:
    heads, size = 2, 6
    rows = torch.arange(heads * size, dtype=torch.float32)[:, None].expand(-1, 3)
    expected = [
        h * size + j + half * size // 2 for h in range(heads) for j in range(3) for half in (0, 1)
    ]
    assert interleaved(rows, heads)[:, 0].tolist() == expected


def test_the_file_says_what_the_model_is(files: dict[str, Path]) -> None:
    reader = GGUFReader(files["q4_0"])
    told = {key: field.contents() for key, field in reader.fields.items()}
    assert told["general.architecture"] == "llama" and told["general.file_type"] == 2
    assert (told["llama.block_count"], told["llama.embedding_length"]) == (2, 64)
    assert told["llama.attention.head_count"] == told["llama.attention.head_count_kv"] == 2
    assert told["llama.rope.freq_base"] == MODEL.config.rope_parameters["rope_theta"]
    assert told["tokenizer.ggml.model"] == "gpt2" and told["tokenizer.ggml.pre"] == "gpt-2"
    assert told["tokenizer.chat_template"] == TOKENIZER.chat_template
    assert told["tokenizer.ggml.eos_token_id"] == TOKENIZER.eos_token_id
    tokens = TOKENIZER.convert_ids_to_tokens(list(range(len(TOKENIZER))))
    assert told["tokenizer.ggml.tokens"] == tokens
    special = {tokens[n] for n, kind in enumerate(told["tokenizer.ggml.token_type"]) if kind == 3}
    assert special == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["token_embd.weight"] == "Q8_0" and types["blk.1.ffn_down.weight"] == "Q4_0"
    assert types["output_norm.weight"] == "F32" and "output.weight" not in types  # tied


def test_the_tokenizer_read_back_makes_the_same_tokens(files: dict[str, Path]) -> None:
    path = files["f16"]
    other = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in (*TEXTS[:2], "<|im_start|>user\nWho?<|im_end|>", "zé 12"):
        assert other(text).input_ids == TOKENIZER(text).input_ids


def test_a_checkpoint_may_be_a_gguf_file(files: dict[str, Path]) -> None:
    model = LlamaForCausalLM(MODEL.config).eval()
    load_checkpoint_weights(model, files["q8_0"], None, TOKENIZER)  # computes the same, or is refused
    assert rounding(read_gguf(files["q8_0"]), model) == 0
    digests = {model_fingerprint(path) for path in files.values()}
    assert len(digests) == len(KINDS)
    with pytest.raises(ModelError, match="of which weights alone are read"):
        read(files["q8_0"], None)


def test_a_broken_file_is_one_sentence(tmp_path: Path, files: dict[str, Path]) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(files["q8_0"].read_bytes()[:3000])
    with pytest.raises(ModelError, match=r"cannot be read as GGUF: .*It is cut short or damaged"):
        read_gguf(broken)


def test_a_header_is_read_alone_and_says_how_long_the_file_is(files: dict[str, Path]) -> None:
    for path in files.values():
        header = read_header(path)
        assert header.size == path.stat().st_size
        tokens = header.values["tokenizer.ggml.tokens"]
        assert GGUFReader(path).fields["tokenizer.ggml.tokens"].contents() == tokens
        assert {tokens[at] for at in header.vocabulary.values()} == header.vocabulary.keys()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda whole: whole[:-64], "it is cut short"),
        (lambda whole: whole[:3000], "it ends before its weights begin"),
        (lambda whole: b"GGUX" + whole[4:], "does not begin with GGUF"),
        (lambda whole: whole[:4] + b"\x09" + whole[5:], "its version is 9"),
        (lambda whole: whole[:8] + b"\xff" * 16 + whole[24:], "more parts than there can be"),
        (lambda whole: whole[:24] + b"\xff" * 8 + whole[32:], "a part of it has"),
        (lambda whole: b"", "it ends before"),
    ],
)
def test_a_broken_file_is_told_before_a_model_is_loaded(
    tmp_path: Path, files: dict[str, Path], damage: Any, said: str
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(damage(files["f16"].read_bytes()))
    with pytest.raises(ModelError, match=said), checkpoint(broken, None, "after"):
        pass


def test_a_file_with_another_vocabulary_is_refused(files: dict[str, Path]) -> None:
    other = AutoTokenizer.from_pretrained(files["f16"].parent, gguf_file="f16.gguf")
    whole = json.loads(other.backend_tokenizer.to_str())
    vocabulary = whole["model"]["vocab"]
    one, two = sorted(vocabulary, key=vocabulary.__getitem__)[-2:]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(whole)))
    with pytest.raises(ModelError, match=r"f16\.gguf has another tokenizer .*: 2 of"):
        load_checkpoint_weights(LlamaForCausalLM(MODEL.config).eval(), files["f16"], None, other)


# --- what is refused ----------------------------------------


def config(**changes: Any) -> LlamaForCausalLM:
    values: dict[str, Any] = {**MODEL.config.to_dict(), **changes}
    return LlamaForCausalLM(LlamaConfig(**values))


def test_what_has_no_name_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(ModelError, match=r"self_attn\.q_proj\.bias has no name"):
        write(config(attention_bias=True), TOKENIZER, path, "f16")
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(ModelError, match="rope_type 'linear' is not written"):
        write(config(rope_parameters=scaled), TOKENIZER, path, "f16")
    from transformers import Qwen2Config, Qwen2ForCausalLM

    other = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=32,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    )
    with pytest.raises(ModelError, match="a model of the kind 'qwen2' is not written"):
        write(other, TOKENIZER, path, "f16")
    assert list(tmp_path.iterdir()) == []


def words(before: Any) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    inner.pre_tokenizer = before
    return PreTrainedTokenizerFast(tokenizer_object=inner)


@pytest.mark.parametrize("before", [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel()])
def test_another_kind_of_tokenizer_is_refused(tmp_path: Path, before: Any) -> None:
    with pytest.raises(ModelError, match="only byte-level BPE is written"):
        write(MODEL, words(before), tmp_path / "model.gguf", "f16")


def test_single_digits_have_a_name_of_their_own(tmp_path: Path) -> None:
    model, tokenizer = small(TEXTS)
    digits, level = pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, level])
    write(model, tokenizer, tmp_path / "model.gguf", "f16")
    field = GGUFReader(tmp_path / "model.gguf").fields["tokenizer.ggml.pre"]
    assert field.contents() == "smollm"


def test_rows_that_no_block_fits_are_kept_in_half_precision(tmp_path: Path) -> None:
    odd = config(intermediate_size=40)
    write(odd, TOKENIZER, tmp_path / "model.gguf", "q4_0")
    types = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "model.gguf").tensors}
    assert types["blk.0.ffn_down.weight"] == "F16" and types["blk.0.ffn_up.weight"] == "Q4_0"


@pytest.mark.parametrize(
    ("kind", "down", "q", "number"), [("q4_k_m", "Q6_K", "Q4_K", 15), ("q6_k", "Q6_K", "Q6_K", 18)]
)
def test_k_quants_are_written_and_read_back(
    tmp_path: Path, kind: Kind, down: str, q: str, number: int
) -> None:
    model, path = config(hidden_size=256, intermediate_size=512), tmp_path / "model.gguf"
    write(model, TOKENIZER, path, kind)
    reader = GGUFReader(path)
    types = {t.name: t.tensor_type.name for t in reader.tensors}
    assert (types["blk.0.attn_q.weight"], types["blk.1.ffn_down.weight"]) == (q, down)
    assert types["token_embd.weight"] == "Q6_K" and types["blk.0.attn_norm.weight"] == "F32"
    assert reader.fields["general.file_type"].contents() == number
    assert read_header(path).size == path.stat().st_size
    back = read_gguf(path)
    assert rounding(model, back) < (0.06 if kind == "q4_k_m" else 0.02)
    judged = LlamaForCausalLM(model.config).eval()
    load_checkpoint_weights(judged, path, None, TOKENIZER)  # computes the same, or is refused
    assert rounding(back, judged) == 0


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"mine")
    kind: Kind = "f16"
    with pytest.raises(OutputError, match="is there already"):
        write(MODEL, TOKENIZER, path, kind)
    assert path.read_bytes() == b"mine"


def test_an_output_layer_of_its_own_is_written(tmp_path: Path) -> None:
    model = config(tie_word_embeddings=False)
    write(model, TOKENIZER, tmp_path / "model.gguf", "f16")
    assert rounding(model, read_gguf(tmp_path / "model.gguf")) < 1e-3
    reader = GGUFReader(tmp_path / "model.gguf")
    out = next(t for t in reader.tensors if t.name == "output.weight")
    expected = model.lm_head.weight.detach().half().numpy()
    assert np.array_equal(np.asarray(out.data), expected)


def test_the_command_knows_every_format() -> None:
    assert export.KINDS == KINDS
