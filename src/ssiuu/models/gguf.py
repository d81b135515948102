"""GGUF, the file that llama.cpp runs: a Llama model written to one, and any read back in fp32.

    write(model, tokenizer, Path("forgotten.gguf"), "q8_0")
    model = read_gguf(Path("forgotten.gguf"))

Formats, of every matrix; vectors stay in fp32:

    f16    half precision
    q8_0   8 bits, one scale for 32 neighbouring inputs
    q4_0   4 bits, the same; the embedding and the output layer in q8_0, as llama.cpp keeps them finer
    q6_k   6 bits, scales of 16 inputs in 8 bits (`ssiuu.models.kquants`)
    q4_k_m 4 bits, scales of 32 inputs in 6 bits; the output layer, and v and down of every third block
           and of the first and last eighth, in q6_k

A matrix whose rows are no multiple of 256 is kept in q5_0 for q4_k and in q8_0 for q6_k; of 32, in f16.
Rows of q and k are written in the order in which llama.cpp rotates them: pairs beside each other, where
transformers has halves.

Source: the GGUF specification and llama.cpp's `convert_hf_to_gguf.py` and `llama-quantize`; package
gguf, whose numpy code rounds as llama.cpp's reference does. Departures: no importance matrix.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Container, Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from ssiuu.errors import ModelError, OutputError
from ssiuu.hub import first_line
from ssiuu.models.kquants import SUPER, quantised
from ssiuu.models.quiet import quiet
from ssiuu.records import hashes
from ssiuu.records.files import readable

Kind = Literal["f16", "q8_0", "q4_0", "q6_k", "q4_k_m"]
Form = Literal["f16", "q8_0", "q5_0", "q4_0", "q6_k", "q4_k"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
SUFFIX: Final = ".gguf"
BLOCK = 32  # inputs with a scale of their own
FILE_TYPES: Final = {"f16": 1, "q8_0": 7, "q4_0": 2, "q6_k": 18, "q4_k_m": 15}  # llama.cpp's numbers
NARROW: Final[dict[Form, Form]] = {"q4_k": "q5_0", "q6_k": "q8_0"}  # of rows that are no super-blocks
FINE: Final = ("token_embd.weight", "output.weight")
NAMES: Final = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
NORMAL, CONTROL, DEFINED, UNUSED = 1, 3, 4, 5  # kinds of tokens


def is_gguf(path: Path) -> bool:
    """Whether a path is that of a GGUF file."""
    return path.suffix == SUFFIX and path.is_file()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        was = hashes.state(path)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        hashes.note(was, digest)
        return digest
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error


# --- reading ----------------------------------------


def read_gguf(path: Path) -> PreTrainedModel:
    """Read the model of a GGUF file, its weights dequantised to fp32.

    Raises:
        ModelError: It is none, broken, or of an architecture that transformers does not read.
    """
    from transformers import GgufConfig

    try:
        with quiet(), redirect_stderr(StringIO()):  # its own progress bar has no switch
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                path.parent,
                gguf_file=path.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
    except Exception as error:  # whatever the reader makes of a broken file
        raise ModelError(
            f"{path} cannot be read as GGUF: {first_line(error)}. It is cut short or damaged, no GGUF, "
            "or of an architecture that transformers does not read."
        ) from error
    if getattr(model, "hf_quantizer", None) is not None:
        model = _without_quantizer(model)
    read: PreTrainedModel = model.eval()
    return read


def _without_quantizer(model: PreTrainedModel) -> PreTrainedModel:
    """Rebuild a model as a plain one, because the quantizer refuses to save."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict(), strict=True)
    plain.tie_weights()
    return plain


@torch.no_grad()
def rounding(model: PreTrainedModel, other: PreTrainedModel) -> float:
    """Return the norm of all differences of weights as a share of the norm of the first model's.

    Raises:
        ModelError: The two do not have the same parameters.
    """
    theirs = dict(other.named_parameters())
    off = norm = 0.0
    for name, parameter in model.named_parameters():
        if name not in theirs or theirs[name].shape != parameter.shape:
            raise ModelError(f"what was written is not what was read back: {name} is another one.")
        off += float((theirs[name] - parameter).double().square().sum())
        norm += float(parameter.double().square().sum())
    return math.sqrt(off / norm)


# --- writing ----------------------------------------


def write(model: PreTrainedModel, tokenizer: Any, path: Path, kind: Kind) -> None:
    """Write a Llama model with its tokenizer to a GGUF file, whole or not at all.

    Raises:
        ModelError: Something of it has no name in the format: its sentence says what.
        OutputError: The file is there already or cannot be written.
    """
    from gguf import GGUFWriter

    tensors = dict(_tensors(model))
    tokens = _tokens(model, tokenizer)
    if path.exists():
        raise OutputError(f"{path} is there already: choose another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, place = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    os.close(handle)
    temporary = Path(place)
    try:
        writer = GGUFWriter(temporary, "llama")
        _describe(writer, model, kind)
        for key, value in tokens.items():
            getattr(writer, f"add_{key}")(value)
        for name, tensor in tensors.items():
            _add(writer, name, tensor, form_of(name, kind, model.config.num_hidden_layers, tensors))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        readable(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter by its name in the format, q and k in llama.cpp's order of rows."""
    config = model.config
    if config.model_type != "llama":
        raise ModelError(
            f"a model of the kind {config.model_type!r} is not written as GGUF: only llama is. "
            "llama.cpp's own convert_hf_to_gguf.py knows others."
        )
    if (rope := config.rope_parameters.get("rope_type", "default")) != "default":
        raise ModelError(f"rope_type {rope!r} is not written as GGUF: only 'default' is.")
    for name, parameter in model.named_parameters():  # what is tied comes once
        known = _name(name)
        if known is None:
            raise ModelError(f"{name} has no name in a GGUF file of the kind llama.")
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        tensor, part = parameter.detach().float().cpu(), known.split(".")[-2]
        yield known, interleaved(tensor, heads[part]) if part in heads else tensor


def _name(name: str) -> str | None:
    """Return the name in the format; None: it has none."""
    stem, _, kind = name.rpartition(".")
    layer = LAYER.fullmatch(stem)
    known = NAMES.get(layer[2] if layer else stem)
    if known is None or kind != "weight" or bool(layer) == (stem in NAMES):
        return None
    return f"blk.{layer[1]}.{known}.weight" if layer else f"{known}.weight"


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Return rows whose rotated pairs are beside each other, where they were half a head apart."""
    rows, inputs = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, inputs).transpose(1, 2).reshape(rows, inputs)


def form_of(name: str, kind: Kind, blocks: int, names: Container[str]) -> Form:
    """Return the form of a matrix in a file of a kind, as llama.cpp chooses it.

    Args:
        name: Of the matrix, in the file.
        kind: Of the file.
        blocks: How many the model has.
        names: All in the file: without an output layer of its own the embedding is that.
    """
    if kind == "q4_0":
        return "q8_0" if name in FINE else "q4_0"
    if kind != "q4_k_m":
        return kind
    if name == ("output.weight" if "output.weight" in names else "token_embd.weight"):
        return "q6_k"
    part, eighth = name.split("."), blocks // 8
    if part[0] != "blk" or part[2] not in ("attn_v", "ffn_down"):
        return "q4_k"
    block = int(part[1])
    outer = block < eighth or block >= 7 * blocks // 8
    return "q6_k" if outer or (block - eighth) % 3 == 2 else "q4_k"


def fitting(inputs: int, form: Form) -> Form:
    """Return the form in which rows of so many inputs are held where this one is asked for."""
    if form in NARROW and inputs % SUPER:
        form = NARROW[form]
    return "f16" if inputs % BLOCK else form


def rounded(weight: Tensor, form: Form) -> Tensor:
    """Return a matrix as it is read back from a file in which it has a form, in its own type.

    Args:
        weight: [out, in].
        form: Asked for; rows that it does not fit are held as llama.cpp holds them.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    held = fitting(weight.shape[-1], form)
    made = _packed(weight.float().cpu().contiguous().numpy(), held)
    return torch.from_numpy(dequantize(made, GGMLQuantizationType[held.upper()])).to(weight)


def _packed(values: Any, form: Form) -> Any:
    """Return the bytes of a matrix, or its halves."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    if form in ("q4_k", "q6_k"):
        return quantised(values, form)
    return quantize(values, GGMLQuantizationType[form.upper()])


def _add(writer: Any, name: str, tensor: Tensor, form: Form) -> None:
    from gguf import GGMLQuantizationType

    values = tensor.contiguous().numpy()
    if tensor.dim() == 1:
        writer.add_tensor(name, values)
        return
    held = fitting(tensor.shape[-1], form)
    writer.add_tensor(name, _packed(values, held), raw_dtype=GGMLQuantizationType[held.upper()])


def _describe(writer: Any, model: PreTrainedModel, kind: Kind) -> None:
    """Write what the model is."""
    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_type("model")
    writer.add_name(Path(str(model.name_or_path or "model")).name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(2)


# --- the tokenizer ----------------------------------------


def _tokens(model: PreTrainedModel, tokenizer: Any) -> dict[str, Any]:
    """Return what is written of the tokenizer, by the writer's names.

    Raises:
        ModelError: It is of a kind that has no name in the format.
    """
    try:
        whole = json.loads(tokenizer.backend_tokenizer.to_str())
    except AttributeError as error:
        raise ModelError("the tokenizer has no tokenizer.json, which GGUF is written from.") from error
    pre = _pre_tokenizer(whole)
    size = int(model.config.vocab_size)
    tokens, kinds = [f"[PAD{place}]" for place in range(size)], [UNUSED] * size
    for token, place in whole["model"]["vocab"].items():
        tokens[place], kinds[place] = token, NORMAL
    for added in whole["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], _kind(added)
    merges = [m if isinstance(m, str) else " ".join(m) for m in whole["model"]["merges"]]
    begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    known = {
        "tokenizer_model": "gpt2",
        "tokenizer_pre": pre,
        "token_list": tokens,
        "token_types": kinds,
        "token_merges": merges,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "unk_token_id": tokenizer.unk_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "add_bos_token": begins,
        "add_space_prefix": False,
        "chat_template": tokenizer.chat_template or None,
    }
    return {key: value for key, value in known.items() if value is not None}


def _kind(added: dict[str, Any]) -> int:
    return CONTROL if added["special"] else DEFINED


def _pre_tokenizer(whole: dict[str, Any]) -> str:
    """Return the format's name of how text is split before the merges."""
    steps = whole["pre_tokenizer"] or {}
    parts = steps.get("pretokenizers", [steps])
    kinds = [part.get("type") for part in parts]
    plain = whole["model"]["type"] == "BPE" and not whole["normalizer"]
    bytes_last = kinds[-1] == "ByteLevel" and parts[-1].get("use_regex", True)
    if plain and bytes_last and not parts[-1].get("add_prefix_space"):
        if kinds == ["ByteLevel"]:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
            return "smollm"
    told = ", ".join(map(str, [whole["model"]["type"], *kinds]))
    raise ModelError(
        f"the tokenizer ({told}) is of a kind that has no name in GGUF here: only byte-level BPE is "
        "written, with or without single digits."
    )
