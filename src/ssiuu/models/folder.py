"""A folder as a model: its own weights and tokenizer, or an adapter's with those of its base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ssiuu.errors import ModelError
from ssiuu.hub import first_line
from ssiuu.models import coded
from ssiuu.models.adapter import base_folder, merge
from ssiuu.models.checks import check_fit, check_stored, check_tokenizer_class, read_config
from ssiuu.models.files import (
    ADAPTER,
    FLOATS,
    Source,
    Stored,
    content_digest,
    decisive,
    has_tokenizer,
    is_adapter,
    read_json,
    tensors_of,
    weight_files,
)
from ssiuu.models.gguf import file_digest, is_gguf, read_gguf
from ssiuu.models.place import PROCESSOR, Placement
from ssiuu.models.quiet import quiet
from ssiuu.models.shards import dividing
from ssiuu.models.sources import find
from ssiuu.records import hashes

# As safetensors and as torch name them; others come out as float32.
SHORT: Final = {"F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Whole:
    """What a folder, with what it is incomplete without, comes to.

    `states`: of the files of weights, before they were read.
    """

    model: PreTrainedModel
    tokenizer: Any
    dtype: str
    note: str = ""
    states: tuple[hashes.State, ...] = ()


def model_fingerprint(folder: Path, base: str | None = None) -> str:
    """Return the sha256 over weights, config and tokenizer; an adapter's covers its base.

    Raises:
        ModelError: A folder does not say which files are its weights, or a base is not to be had.
    """
    return source_of(folder, base).fingerprint


def source_of(folder: Path, base: str | None = None, above: tuple[Path, ...] = ()) -> Source:
    """Return what a folder, or a GGUF file, holds now, to be held against what it holds later.

    Args:
        folder: Of a model or an adapter.
        base: What it is incomplete without.
        above: The adapters that this folder is the base of.

    Raises:
        ModelError: As `model_fingerprint`.
    """
    if is_gguf(folder):
        digest = file_digest(folder)
        return Source(folder, digest, {folder: digest})
    under = _under(folder, base, above)
    below = None if under is None else source_of(under, None, (*above, folder))
    digest = content_digest(folder, below.fingerprint if below else "")
    own = {path: hashes.sha256_of(path) for path in decisive(folder)}
    return Source(folder, digest, {**(below.digests if below else {}), **own})


def _under(folder: Path, base: str | None, above: tuple[Path, ...] = ()) -> Path | None:
    """Return the folder that this one is incomplete without: an adapter's base, a tokenizer's place.

    Raises:
        ModelError: It is not to be had, or an adapter is its own base.
    """
    if is_adapter(folder):
        under = base_folder(folder, base)
        if under.resolve() in {path.resolve() for path in (folder, *above)}:
            raise ModelError(f"{folder} is an adapter on itself: give the model it belongs to, --base.")
        return under
    return find(base).folder if base is not None and not has_tokenizer(folder) else None


def read(
    folder: Path,
    base: str | None,
    above: tuple[Path, ...] = (),
    tokenizer: bool = True,
    placement: Placement = PROCESSOR,
    short: bool = False,
) -> Whole:
    """Read a folder, safetensors only, and what it is incomplete without.

    Args:
        folder: Of a model or an adapter; or a GGUF file, where no tokenizer is wanted.
        base: The model that an adapter belongs to, or that has the tokenizer of a folder without.
        above: The adapters that this folder is the base of.
        tokenizer: Whether one is wanted; without, a folder that has none will do.
        placement: Where the model is put.
        short: Hold weights that are all stored in one type of 16 bits in that type, unless an adapter
            is merged into them.

    Raises:
        ModelError: It is not one of which anything can be said: its sentence says why.
    """
    if is_gguf(folder):
        if tokenizer:
            raise ModelError(
                f"{folder} is a GGUF file, of which weights alone are read: give a folder here."
            )
        dequantised = placement.put(read_gguf(folder))
        return Whole(dequantised, None, "float32", "dequantised from GGUF")
    under = _under(folder, base, above)
    if not is_adapter(folder):
        model, dtype, note, states = _read_model(folder, placement, short)
        reader = read_tokenizer(under or folder) if tokenizer else None
        return Whole(model, reader, dtype, note, states)
    assert under is not None
    if placement.coded:
        raise ModelError(
            f"{folder} is an adapter, and nothing is merged into weights in 4 bits (dtype: nf4): merge "
            "it into a model of its own first, or use bf16."
        )
    own = has_tokenizer(folder)
    below = read(under, None, (*above, folder), tokenizer and not own, placement)
    own_states = tuple(hashes.state(p) for p in [folder / ADAPTER] if p.is_file())
    merged = merge(below.model, folder)
    note = f"the adapter {folder} merged into {under}"
    reader = read_tokenizer(folder) if own and tokenizer else below.tokenizer
    notes = "; ".join(n for n in (below.note, note) if n)
    return Whole(merged, reader, below.dtype, notes, (*below.states, *own_states))


def _read_model(
    folder: Path, placement: Placement, short: bool
) -> tuple[PreTrainedModel, str, str, tuple[hashes.State, ...]]:
    """Read the model of a folder, the type that most of its weights are stored in, a note, and the
    states of its files before.
    """
    config = read_config(folder)
    files = weight_files(folder)
    states = tuple(map(hashes.state, files))
    stored = tensors_of(files)
    check_stored(folder, stored)
    kinds = {tensor.dtype for tensor in stored.values()}
    if short and len(kinds) == 1 and (dtype := SHORT.get(kinds.pop())) is not None:
        placement = replace(placement, dtype=dtype)
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    # One kind of configuration may have several classes of models; the folder names its own.
    if isinstance(kind, tuple):
        kind = next((k for k in kind if k.__name__ in (config.architectures or [])), kind[0])
    maps, made = dict[str, str](), kind
    if placement.coded:
        if dividing():
            raise ModelError("dtype: nf4: weights in 4 bits are not cut into shards: use bf16.")
        maps = coded.coded_maps(folder, kind, config, stored)
        made = coded.sparing(kind, maps)
    read = {name: tensor for name, tensor in stored.items() if name not in maps.values()}
    try:
        with quiet(), ExitStack() as stack:
            # Given as a state, not as a folder: nothing else that lies there can be taken for it.
            opened = {path: stack.enter_context(safe_open(path, framework="pt")) for path in files}
            state = {name: opened[tensor.file].get_slice(name) for name, tensor in read.items()}
            model, info = made.from_pretrained(
                None,
                config=config,
                state_dict=state,
                **placement.options,
                ignore_mismatched_sizes=True,  # refused below, by name
                output_loading_info=True,
            )
            if (folder / "generation_config.json").exists():
                model.generation_config = GenerationConfig.from_pretrained(folder)
    except Exception as error:  # whatever an architecture makes of values that it does not expect
        raise ModelError(f"{folder} cannot be loaded: {first_line(error)}.") from error
    check_fit(folder, stored, info, model.base_model_prefix)
    off = coded.encode(str(folder), model, maps, stored, placement.dtype) if maps else ""
    model.__class__ = kind  # of maps without weights there are none any more
    note = "; ".join(part for part in (_loosened(model), off) if part)
    return placement.finished(model).eval(), _dtype(stored), note, states


def _loosened(model: PreTrainedModel) -> str:
    """Say in the configuration, and to people, where weights that it ties are stored as two."""
    config, out = model.config.get_text_config(), model.get_output_embeddings()
    tied = getattr(config, "tie_word_embeddings", False)
    if not tied or out is None or out.weight is model.get_input_embeddings().weight:
        return ""
    config.tie_word_embeddings = model.config.tie_word_embeddings = False
    return "the output layer in the files is read, which config.json says is the embedding"


def _dtype(stored: Mapping[str, Stored]) -> str:
    counts: Counter[str] = Counter()
    for tensor in stored.values():
        if tensor.dtype in FLOATS:
            counts[tensor.dtype] += prod(tensor.shape)
    return FLOATS[counts.most_common(1)[0][0]] if counts else "float32"


def read_tokenizer(folder: Path) -> Any:
    """Read the tokenizer that lies in a folder.

    Raises:
        ModelError: There is none, or it cannot be read.
    """
    if not has_tokenizer(folder):
        raise ModelError(
            f"{folder} has no tokenizer. Copy the files of the one that the model was trained with "
            "into it (tokenizer.json, tokenizer_config.json), or give a model that has it: --base."
        )
    if (path := folder / "tokenizer_config.json").exists():
        check_tokenizer_class(path, read_json(path))
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the Rust library raises kinds of its own
        raise ModelError(f"{folder}: the tokenizer cannot be read: {first_line(error)}.") from error
