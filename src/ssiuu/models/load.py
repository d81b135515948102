"""Load a causal language model from a name, a folder or an object; read another checkpoint into it.

Loading is strict: every tensor of the architecture comes from the files, every tensor of the files
goes into it, and all are finite. Weights are safetensors only: pickles are refused.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ssiuu.causal import CausalLM
from ssiuu.errors import ModelError
from ssiuu.models import nf4
from ssiuu.models.checks import (
    check_causal,
    check_filled,
    check_finite,
    check_padding,
    check_same,
    check_same_tokens,
    check_savable,
    check_tokenizer,
    embedding_rows,
)
from ssiuu.models.files import Source, has_tokenizer, is_adapter, sealed_as, tokenizer_files
from ssiuu.models.folder import model_fingerprint, read, read_tokenizer, source_of
from ssiuu.models.gguf import is_gguf
from ssiuu.models.gguf_header import read_header
from ssiuu.models.place import PROCESSOR, Placement
from ssiuu.models.quiet import quiet
from ssiuu.models.shards import fill, is_cut
from ssiuu.models.sources import MODELS, cache_folder, find
from ssiuu.models.tied import untie
from ssiuu.models.weights import (
    load_weights,
    place,
    require_space,
    restore,
    round_to,
    save,
    save_weights,
    snapshot,
    write_tensors,
)
from ssiuu.records import hashes
from ssiuu.records.schema import ModelInfo

__all__ = [
    "MODELS",
    "Loaded",
    "cache_folder",
    "from_object",
    "load",
    "load_checkpoint_weights",
    "load_weights",
    "model_fingerprint",
    "place",
    "placed",
    "require_space",
    "restore",
    "round_to",
    "save",
    "save_weights",
    "snapshot",
    "write_tensors",
]


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode, its tokenizer, and where both came from.

    `folder`: holds exactly these weights; None where they were merged or are an object's. `source`:
    what was read; None of an object.
    """

    model: PreTrainedModel
    tokenizer: Any
    info: ModelInfo
    folder: Path | None
    source: Source | None = None

    def check(self) -> None:
        """Refuse to say anything of a model whose files are not those that were read.

        Weights that nothing has changed may still lie in the files alone, which are mapped.

        Raises:
            ModelError: One was changed, replaced or removed since.
        """
        if self.source is not None:
            self.source.check()


def load(
    name: str,
    base: str | None = None,
    placement: Placement = PROCESSOR,
    revision: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Loaded:
    """Load a model by short name, folder or hub name.

    Args:
        name: Of a model, or of a PEFT adapter, which is merged into its base in memory.
        base: The model that an adapter belongs to, or that has the tokenizer of a folder without
            one; an adapter's own statement is taken where none is given.
        placement: Where it is put, and in which type.
        revision: Of a model on the hub: branch, tag or commit.
        progress: Told where it is looked for, where that may take long.

    Raises:
        ModelError: No such model, or not one of which anything can be said: its sentence says why.
    """
    place = find(name, revision, progress)
    whole = read(place.folder, base, placement=placement)
    off = _check(name, whole.model, whole.tokenizer)
    adapter = is_adapter(place.folder)
    where = MODELS[name][0] if name in MODELS else name
    # What an adapter trained on it states as its base.
    whole.model.name_or_path = where if place.kind == "hub" else str(place.folder.absolute())
    note = "; ".join(part for part in (whole.note, place.note, off) if part)
    source = source_of(place.folder, base)
    if not {*whole.states} <= {hashes.state(path) for path in source.digests}:
        raise ModelError(f"{place.folder} was written to while it was read: wait for that, and repeat.")
    digest = source.fingerprint
    if place.kind == "cache" and sealed_as(place.folder) not in (None, digest):
        raise ModelError(f"{place.folder} is damaged: remove it, and the same command makes it again.")
    info = _info(whole.model, name, place.kind, digest, whole.dtype, note)
    return Loaded(whole.model, whole.tokenizer, info, None if adapter else place.folder, source)


def placed(loaded: Loaded, placement: Placement) -> Loaded:
    """Return a model that was taken from an object, put where one that is loaded would be."""
    return replace(loaded, model=placement.put(loaded.model))


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
    check_savable(name, model)
    dtype = str(model.dtype).removeprefix("torch.")
    copied: Any = copy.deepcopy(model)
    copied = copied.to(device="cpu", dtype=torch.float32).eval().requires_grad_(True)
    note = _check(name, copied, tokenizer)
    digest = _object_digest(model, tokenizer)
    return Loaded(copied, tokenizer, _info(copied, name, "object", digest, dtype, note), None)


@torch.no_grad()
def load_checkpoint_weights(
    model: CausalLM, folder: Path, base: str | None = None, tokenizer: Any = None
) -> list[str]:
    """Read another checkpoint's weights into a model of the same architecture, in place.

    The two may differ in how many rows of padding their embedding has beyond the tokenizer: the
    rows that both have are read. Where only the other one has an output layer of its own, this
    model gets one too.

    Args:
        model: Receives them.
        folder: Of a model or an adapter.
        base: The model that an adapter belongs to.
        tokenizer: That of `model`; with it, the other's embedding is held to it and what the two
            make of the same weights is compared. Once for a pair is enough.

    Returns:
        What a reader must know of the comparison, a sentence each.

    Raises:
        ModelError: It is another architecture, or not a checkpoint.
    """
    whole = read(folder, base, tokenizer=False, short=True)
    other = whole.model
    check_finite(str(folder), other.state_dict().items())
    odd = (whole.note, check_filled(str(folder), other))
    notes = [f"{folder.name}: {note}." for note in odd if note]
    if tokenizer is not None:
        check_tokenizer(f"{folder} with the tokenizer of the model before", other, tokenizer)
        if is_gguf(folder):
            check_same_tokens(folder, tokenizer, read_header(folder).vocabulary)
        elif has_tokenizer(folder):
            check_same_tokens(folder, tokenizer, read_tokenizer(folder).get_vocab())
    theirs = dict(other.named_parameters(remove_duplicate=False))
    notes += _untie(model, theirs, folder)
    every = dict(model.named_parameters(remove_duplicate=False))
    rows = _vocabulary(model)
    for name in every | dict(other.named_parameters()):
        if (
            name not in every
            or name not in theirs
            or not _fits(every[name], theirs[name], name in rows)
        ):
            raise ModelError(
                f"{folder} has another architecture than the model before: {name} is missing in "
                "one of the two or has another shape. Both must be of the same kind."
            )
    for name, parameter in model.named_parameters():
        their_weight = theirs[name]
        fill(parameter, _of_length(their_weight, len(parameter)) if name in rows else their_weight)
    if tokenizer is not None:
        _lend(model, other)
        check_same(folder, model, other)
    ours, others = embedding_rows(model), embedding_rows(other)
    if ours != others:
        notes.append(
            f"The embedding of {folder.name} has {others} rows and that of the model before {ours}; "
            "the rows that both have are compared."
        )
    return notes


def _of_length(weight: Tensor, rows: int) -> Tensor:
    """Return an embedding with so many rows; where it has fewer, their mean for those that are missing.

    No token is there; the mean's logit is the mean logit, at most an equal share of P.
    """
    if len(weight) >= rows:
        return weight[:rows]
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return torch.cat([wide, wide.mean(0).expand(rows - len(weight), *weight.shape[1:])])


def _lend(model: CausalLM, other: PreTrainedModel) -> None:
    """Let another model compute with this one's weights, where its own lie elsewhere or are of another
    type; no copy is made.

    Its embedding keeps its own rows, which may be more.
    """
    if is_cut(model):
        return  # what lies here is no model: the other one stays beside the accelerator
    one = next(model.parameters())
    if (device := one.device) == other.device and one.dtype == other.dtype:
        return
    ours = dict(model.named_parameters(remove_duplicate=False))
    for path, module in other.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                mine = ours[f"{path}.{name}" if path else name]
                same = mine.shape == parameter.shape
                module._parameters[name] = mine if same else torch.nn.Parameter(parameter.to(mine))
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)


def _fits(ours: Tensor, theirs: Tensor, rows: bool) -> bool:
    """Whether two parameters have one shape, whatever the number of rows where these are tokens."""
    return ours.shape[1:] == theirs.shape[1:] if rows else ours.shape == theirs.shape


def _vocabulary(model: CausalLM) -> set[str]:
    """Return the names of the parameters that have a row for each token."""
    out = model.get_output_embeddings()
    by_token = [model.get_input_embeddings().weight, out.weight, getattr(out, "bias", None)]
    every = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in every if any(parameter is one for one in by_token)}


def _untie(model: CausalLM, theirs: Mapping[str, Tensor], folder: Path) -> list[str]:
    """Give a model an output layer of its own where its embedding is that, and the other's is not."""
    out, into = model.get_output_embeddings(), model.get_input_embeddings()
    if out.weight is not into.weight:
        return []
    every = model.named_parameters(remove_duplicate=False)
    tied = [name for name, parameter in every if parameter is into.weight and name in theirs]
    # Theirs are tied too, whatever their configuration says.
    if all(torch.equal(theirs[name], theirs[tied[0]]) for name in tied):
        return []
    if is_cut(model):
        raise ModelError(
            f"{folder} has an output layer of its own and the model before shares its embedding: they "
            "are compared by a single process, or by several with a replica each (mesh.reading)."
        )
    untie(model)
    return [f"{folder.name} has an output layer of its own, the model before shares its embedding."]


def _info(
    model: PreTrainedModel, name: str, source: str, digest: str, dtype: str, note: str
) -> ModelInfo:
    return ModelInfo(
        name=name,
        source=source,
        fingerprint=digest,
        parameters=nf4.count(model),
        layers=int(getattr(model.config.get_text_config(), "num_hidden_layers", 0)),
        note=note,
        dtype=dtype,
    )


def _check(where: str, model: PreTrainedModel, tokenizer: Any) -> str:
    """Refuse what loads and yet is no model that anything can be said of; return what is odd of it."""
    check_finite(where, model.state_dict().items())
    odd = check_filled(where, model)
    check_tokenizer(where, model, tokenizer)
    check_causal(where, model)
    check_padding(where, model)
    return odd


def weights_digest(model: CausalLM) -> str:
    """Return the sha256 over the weights of a model that is whole on this process."""
    digest = hashlib.sha256()
    _add_weights(digest.update, model)
    return digest.hexdigest()


def _add_weights(add: Callable[[Any], None], model: Any) -> None:
    """Give every tensor of a model, by name, to a digest."""
    for name, tensor in sorted(model.state_dict().items()):
        add(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat: Tensor = tensor.detach().cpu().contiguous().reshape(-1)
        add(flat.view(torch.uint8).numpy().data)


def _object_digest(model: PreTrainedModel, tokenizer: Any) -> str:
    """Return the sha256 over an object's weights, config and tokenizer."""
    digest = hashlib.sha256()
    _add_weights(digest.update, model)
    config = model.config.to_dict()
    # Where it came from and what wrote it is not what it says.
    for key in ("_name_or_path", "transformers_version"):
        config.pop(key, None)
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    with tempfile.TemporaryDirectory() as place, quiet():
        tokenizer.save_pretrained(place)
        for path in tokenizer_files(Path(place)):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
