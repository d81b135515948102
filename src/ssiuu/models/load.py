"""Load a causal language model from a name, a folder or an object; read another checkpoint into it.

Loading is strict: every tensor of the architecture comes from the files, every tensor of the files
goes into it, and all are finite. Weights are safetensors only: pickles are refused.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ssiuu.errors import ModelError
from ssiuu.hub import first_line
from ssiuu.models.adapter import base_folder, merge
from ssiuu.models.checks import (
    check_causal,
    check_finite,
    check_fit,
    check_stored,
    check_tokenizer,
    read_config,
)
from ssiuu.models.files import (
    Stored,
    content_digest,
    has_tokenizer,
    is_adapter,
    tensors_of,
    tokenizer_files,
    weight_files,
)
from ssiuu.models.sources import MODELS, cache_folder, find
from ssiuu.models.weights import (
    load_weights,
    place,
    quiet,
    require_space,
    restore,
    save,
    save_weights,
    snapshot,
    write_tensors,
)
from ssiuu.records.schema import ModelInfo

__all__ = [
    "MODELS",
    "Loaded",
    "cache_folder",
    "fingerprint",
    "from_object",
    "load",
    "load_checkpoint_weights",
    "load_weights",
    "place",
    "require_space",
    "restore",
    "save",
    "save_weights",
    "snapshot",
    "write_tensors",
]

# As safetensors and as torch name them; others come out as float32.
DTYPES: Final = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode (fp32), its tokenizer, and where both came from.

    `folder`: holds exactly these weights; None where they were merged or are an object's.
    """

    model: Any
    tokenizer: Any
    info: ModelInfo
    folder: Path | None


@dataclass(frozen=True)
class _Whole:
    """What a folder, with what it is incomplete without, comes to."""

    model: Any
    tokenizer: Any
    dtype: str
    note: str = ""


def load(name: str, base: str | None = None) -> Loaded:
    """Load a model by short name, folder or hub name, in fp32 on the CPU.

    Args:
        name: Of a model, or of a PEFT adapter, which is merged into its base in memory.
        base: The model that an adapter belongs to, or that has the tokenizer of a folder without
            one; an adapter's own statement is taken where none is given.

    Raises:
        ModelError: No such model, or not one of which anything can be said: its sentence says why.
    """
    found = find(name)
    whole = _read(found.folder, base)
    _check(name, whole.model, whole.tokenizer)
    adapter = is_adapter(found.folder)
    where = MODELS[name][0] if name in MODELS else name
    # What an adapter trained on it states as its base.
    whole.model.name_or_path = where if found.kind == "hub" else str(found.folder.absolute())
    note = "; ".join(part for part in (whole.note, found.note) if part)
    digest = fingerprint(found.folder, base)
    info = _info(whole.model, name, found.kind, digest, whole.dtype, note)
    return Loaded(whole.model, whole.tokenizer, info, None if adapter else found.folder)


def from_object(model: Any, tokenizer: Any, name: str = "object") -> Loaded:
    """Take a transformers model and its tokenizer as they are in memory; both stay as they are.

    A model wrapped by torch.compile or DataParallel is taken out of it, adapters of PEFT are merged
    in the copy.

    Args:
        model: A causal language model on any device, of any floating type.
        tokenizer: Its own.
        name: What the record calls it.

    Raises:
        ModelError: It is not one of which anything can be said: its sentence says why.
    """
    model = getattr(model, "_orig_mod", model)
    model = getattr(model, "module", model)
    if hasattr(model, "peft_config") and hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"{name}: a transformers model is wanted, got a {type(model).__name__}.")
    if getattr(model, "hf_quantizer", None) is not None:
        raise ModelError(f"{name}: the weights are quantised, and unlearning needs them in full.")
    if model.get_output_embeddings() is None:
        raise ModelError(f"{name}: {type(model).__name__} is not a causal language model.")
    dtype = str(model.dtype).removeprefix("torch.")
    made: Any = copy.deepcopy(model)
    made = made.to(device="cpu", dtype=torch.float32).eval().requires_grad_(True)
    _check(name, made, tokenizer)
    digest = _object_digest(model, tokenizer)
    return Loaded(made, tokenizer, _info(made, name, "object", digest, dtype, ""), None)


def fingerprint(folder: Path, base: str | None = None) -> str:
    """Return the sha256 over weights, config and tokenizer; an adapter's covers its base.

    Raises:
        ModelError: A folder does not say which files are its weights, or a base is not to be had.
    """
    return _fingerprint(folder, base, ())


def load_checkpoint_weights(model: Any, folder: Path, base: str | None = None) -> None:
    """Read another checkpoint's weights into a model of the same architecture, in place.

    Args:
        model: Receives them.
        folder: Of a model or an adapter.
        base: The model that an adapter belongs to.

    Raises:
        ModelError: It is another architecture, or not a checkpoint.
    """
    other = _read(folder, base, tokenizer=False).model
    check_finite(str(folder), other.state_dict().items())
    ours, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    with torch.no_grad():
        for name in ours | theirs:
            if name not in ours or name not in theirs or theirs[name].shape != ours[name].shape:
                raise ModelError(
                    f"{folder} has another architecture than the model before: {name} is missing in "
                    "one of the two or has another shape. Both must be of the same kind."
                )
        for name, parameter in ours.items():
            parameter.copy_(theirs[name])


def _info(model: Any, name: str, source: str, digest: str, dtype: str, note: str) -> ModelInfo:
    return ModelInfo(
        name=name,
        source=source,
        fingerprint=digest,
        parameters=sum(p.numel() for p in model.parameters()),
        layers=int(getattr(model.config.get_text_config(), "num_hidden_layers", 0)),
        note=note,
        dtype=dtype,
    )


def _check(where: str, model: Any, tokenizer: Any) -> None:
    """Refuse what loads and yet is no model that anything can be said of."""
    check_finite(where, model.state_dict().items())
    check_tokenizer(where, model, tokenizer)
    check_causal(where, model)


def _fingerprint(folder: Path, base: str | None, above: tuple[Path, ...]) -> str:
    under = _under(folder, base, above)
    below = "" if under is None else _fingerprint(under, None, (*above, folder))
    return content_digest(folder, below)


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


def _read(
    folder: Path, base: str | None, above: tuple[Path, ...] = (), tokenizer: bool = True
) -> _Whole:
    """Read a folder, safetensors only, and what it is incomplete without."""
    under = _under(folder, base, above)
    if not is_adapter(folder):
        model, dtype = _read_model(folder)
        return _Whole(model, _read_tokenizer(under or folder) if tokenizer else None, dtype)
    assert under is not None
    own = has_tokenizer(folder)
    below = _read(under, None, (*above, folder), tokenizer and not own)
    made = merge(below.model, folder)
    note = f"the adapter {folder} merged into {under}"
    reader = _read_tokenizer(folder) if own and tokenizer else below.tokenizer
    return _Whole(made, reader, below.dtype, "; ".join(n for n in (below.note, note) if n))


def _read_model(folder: Path) -> tuple[Any, str]:
    """Read the model of a folder and the type that most of its weights are stored in."""
    config = read_config(folder)
    files = weight_files(folder)
    stored = tensors_of(files)
    check_stored(folder, stored)
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if isinstance(kind, tuple):
        kind = next((k for k in kind if k.__name__ in (config.architectures or [])), kind[0])
    try:
        with quiet(), ExitStack() as stack:
            # Given as a state, not as a folder: nothing else that lies there can be taken for it.
            opened = {path: stack.enter_context(safe_open(path, framework="pt")) for path in files}
            state = {name: opened[tensor.file].get_slice(name) for name, tensor in stored.items()}
            model, info = kind.from_pretrained(
                None,
                config=config,
                state_dict=state,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # refused below, by name
                output_loading_info=True,
            )
            if (folder / "generation_config.json").exists():
                model.generation_config = GenerationConfig.from_pretrained(folder)
    except Exception as error:  # whatever an architecture makes of values that it does not expect
        raise ModelError(f"{folder} cannot be loaded: {first_line(error)}.") from error
    check_fit(folder, stored.keys(), info, model.base_model_prefix)
    _loosen(model)
    return model.eval(), _dtype(stored)


def _loosen(model: Any) -> None:
    """Say in the configuration where weights that it ties are stored as two that differ."""
    config, out = model.config.get_text_config(), model.get_output_embeddings()
    tied = getattr(config, "tie_word_embeddings", False)
    if tied and out is not None and out.weight is not model.get_input_embeddings().weight:
        config.tie_word_embeddings = model.config.tie_word_embeddings = False


def _dtype(stored: Mapping[str, Stored]) -> str:
    counts: Counter[str] = Counter()
    for tensor in stored.values():
        if tensor.dtype in DTYPES:
            counts[tensor.dtype] += prod(tensor.shape)
    return DTYPES[counts.most_common(1)[0][0]] if counts else "float32"


def _read_tokenizer(folder: Path) -> Any:
    if not has_tokenizer(folder):
        raise ModelError(
            f"{folder} has no tokenizer. Copy the files of the one that the model was trained with "
            "into it (tokenizer.json, tokenizer_config.json), or give a model that has it: --base."
        )
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the Rust library raises kinds of its own
        raise ModelError(f"{folder}: the tokenizer cannot be read: {first_line(error)}.") from error


def _object_digest(model: Any, tokenizer: Any) -> str:
    """Return the sha256 over an object's weights, config and tokenizer."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat: Tensor = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    told = model.config.to_dict()
    for key in ("_name_or_path", "transformers_version"):
        told.pop(key, None)
    digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    with tempfile.TemporaryDirectory() as place, quiet():
        tokenizer.save_pretrained(place)
        for path in tokenizer_files(Path(place)):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
