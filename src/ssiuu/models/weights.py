"""Weights on their way: a checkpoint saved whole or not at all, a file of tensors, a copy in memory."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from ssiuu.causal import CausalLM
from ssiuu.errors import DamagedError, ModelError, OutputError
from ssiuu.models import nf4
from ssiuu.models.checks import check_finite
from ssiuu.models.coded import write_merged
from ssiuu.models.files import NOTED, Source
from ssiuu.models.quiet import quiet
from ssiuu.models.room import chosen, copied
from ssiuu.models.shards import by_first, fill, firsts, is_cut, local, rows_of, spread
from ssiuu.records.digest import NAME, resembles
from ssiuu.records.files import readable, unfinished

SHARD: Final = 5.0  # gigabytes of weights in a file, as the hub likes them


def work_folder(out: Path) -> Path:
    """Return where what becomes `out` is worked on; half a checkpoint of a process that was killed is
    removed. Nothing is made yet.

    Raises:
        OutputError: Nothing can be written beside `out`, or into it where it is there already.
    """
    work = unfinished(out)
    try:
        for place in (out.parent, out):
            for path in place.glob(f".{glob.escape(out.name)}.part-*"):
                shutil.rmtree(path, ignore_errors=True)
        beside = next(folder for folder in out.absolute().parents if folder.exists())
        for place in (beside, *([out] if out.exists() else [])):
            with tempfile.TemporaryFile(dir=place):
                pass
    except OSError as error:
        raise OutputError(f"{out} cannot be written to: {error.strerror or error}.") from error
    return work


def save(
    model: PreTrainedModel,
    tokenizer: Any,
    folder: Path,
    note: str = "",
    dtype: str = "float32",
    beside: Callable[[Path], None] = lambda _: None,
    shard: float = SHARD,
    source: Source | None = None,
) -> None:
    """Save model and tokenizer in the Hugging Face layout, whole or not at all.

    Args:
        model: Stays as it is, whatever is written.
        tokenizer: Its files are written beside the model's.
        folder: Must not hold anything.
        note: What a reader of the folder must know; kept in ssiuu.json.
        dtype: Of the weights in the files, as torch names it; the configuration says so too, and the
            note where the weights were held in another one.
        beside: Writes what else belongs there, before the folder gets its name.
        shard: Gigabytes of weights in a file at most; larger ones are split, and an index names them.
        source: What a model in codes was read from (`ssiuu.models.coded`).

    Raises:
        OutputError: The folder holds something or cannot be written to, or the disk is full.
        ModelError: A weight is not finite, or a model in codes was read from what is not there now.
    """
    # One that is divided is put together first, which all processes have a part in.
    state = _cast(model, getattr(torch, dtype)) if is_cut(model) else None
    by_first(partial(_save, model, tokenizer, folder, note, dtype, beside, shard, state, source))


def _save(
    model: PreTrainedModel,
    tokenizer: Any,
    folder: Path,
    note: str,
    dtype: str,
    beside: Callable[[Path], None],
    shard: float,
    cast: dict[str, torch.Tensor] | None,
    source: Source | None,
) -> None:
    kind: torch.dtype = getattr(torch, dtype)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{folder} is not an empty folder: choose another for the checkpoint.")
        within = folder if folder.exists() else folder.parent  # a mounted folder may be all there is
        within.mkdir(parents=True, exist_ok=True)
        require_space(within, nf4.count(model) * kind.itemsize)
        temporary = Path(tempfile.mkdtemp(dir=within, prefix=f".{folder.name}.part-"))
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to: {error.strerror or error}.") from error
    try:
        with quiet():
            most = round(shard * 1e9)
            if nf4.coded(model):
                assert source is not None  # nothing else is read so
                _describe(model, temporary)
                write_merged(model, source, temporary, kind, most)
            else:
                state = _cast(model, kind) if cast is None else cast
                check_finite("the model cannot be saved", state.items())
                model.save_pretrained(temporary, state_dict=state, max_shard_size=most)
            tokenizer.save_pretrained(temporary)
        config = temporary / "config.json"
        settings = json.loads(config.read_text(encoding="utf-8")) | {"dtype": dtype}
        config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        noted = json.dumps({"note": _converted(model, kind, note)}, indent=1)
        (temporary / NOTED).write_text(noted + "\n")
        legible(temporary)
        beside(temporary)
        place(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write {folder}: {getattr(error, 'strerror', 0) or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _describe(model: PreTrainedModel, folder: Path) -> None:
    """Write all of a model but its weights, as `save_pretrained` does."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def _converted(model: PreTrainedModel, kind: torch.dtype, note: str) -> str:
    """Return a note that says so where weights are written in another type than they were held in."""
    if nf4.coded(model):
        said = "adapters trained beside weights in nf4, merged into those before as they were stored"
        return "; ".join(part for part in (note, said) if part)
    held = {parameter.dtype for parameter in model.parameters()} - {kind}
    names = " and ".join(sorted(str(each).removeprefix("torch.") for each in held))
    said = f"held in {names} and rounded once, in saving, to {str(kind).removeprefix('torch.')}"
    return "; ".join(part for part in (note, said) if part) if held and said not in note else note


def _cast(model: PreTrainedModel, kind: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the state in another type; tensors that are tied stay one tensor."""
    by_address: dict[int, torch.Tensor] = {}
    state = {}
    parameters = {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            state[name] = tensor
            continue
        # Of what is cut each process has another piece, at places of its own, or none.
        place = parameters.get(name, 0) if isinstance(tensor, DTensor) else tensor.data_ptr()
        if place not in by_address:
            by_address[place] = firsts(tensor).to("cpu", kind)  # piece by piece off a device
        state[name] = by_address[place]
    return state


@torch.no_grad()
def round_to(model: CausalLM, dtype: str) -> None:
    """Round the weights in place to what a type can hold, as `save` does; they stay in their own.

    Of a model in codes there are none to be rounded.
    """
    if nf4.coded(model):
        return
    kind: torch.dtype = getattr(torch, dtype)
    for parameter in map(local, model.parameters()):
        parameter.copy_(parameter.to(kind))


def legible(folder: Path) -> None:
    """Give files, which libraries may have made for one user alone, the mode of any new file."""
    for path in folder.iterdir():
        readable(path)


def place(temporary: Path, folder: Path) -> None:
    """Sync a finished folder and give it its name, or move its files into an empty one of that name.

    An empty folder stays the same one: somebody may be in it. The configuration comes last, and
    without it nothing is a model.
    """
    sync_folder(temporary)
    paths = sorted(temporary.iterdir(), key=lambda path: path.name.endswith("config.json"))
    if not folder.exists():
        temporary.chmod(0o755)
        os.replace(temporary, folder)
        return
    for path in paths:
        shutil.move(path, folder / path.name)
    temporary.rmdir()


def require_space(folder: Path, need: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        OutputError: Fewer than `need` bytes (and a tenth more) are free.
    """
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < need * 1.1:
        unit, name = (1e9, "GB") if need >= 1e9 else (1e6, "MB")
        raise OutputError(
            f"no disk space: {folder} has {free / unit:.2f} {name} free and this needs "
            f"{need * 1.1 / unit:.2f} {name}. Free some, or choose another folder."
        )


def sync_folder(folder: Path) -> None:
    """Force every file of a folder to the disk."""
    kind = os.O_RDWR if sys.platform == "win32" else os.O_RDONLY  # what fsync takes there
    for path in folder.iterdir():
        handle = os.open(path, kind)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def save_weights(model: CausalLM, path: Path) -> None:
    """Write the parameters to one safetensors file, atomically; see `changeable`.

    Raises:
        OutputError: The disk is full or the folder cannot be written to.
    """
    write_tensors(changeable(model), path)


def changeable(model: CausalLM) -> dict[str, torch.Tensor]:
    """Return all that can change of a model: its parameters, of one in codes what stands beside them.

    Of what is cut the first process has all, and each other one what lies there.
    """
    if nf4.coded(model):
        return nf4.changes(model)
    return {name: firsts(p) for name, p in model.named_parameters()}


def write_tensors(
    tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write one safetensors file with a digest of itself: to a temporary name, synced, renamed.

    Raises:
        OutputError: The disk is full or the folder cannot be written to.
    """
    by_first(lambda: write_file(tensors, path, metadata))


def write_file(
    tensors: Mapping[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None
) -> str:
    """Do as `write_tensors` does, on the process that asks; returns the digest.

    Raises:
        OutputError: The disk is full or the folder cannot be written to.
    """
    require_space(path.parent, sum(t.numel() * t.element_size() for t in tensors.values()))
    try:
        # In the same folder, as a rename is atomic within a file system only. A folder, as the library
        # itself writes to another name first, which a kill would leave behind under a name like any.
        with tempfile.TemporaryDirectory(
            dir=path.parent, prefix=f".{path.name}.", ignore_cleanup_errors=True
        ) as within:
            temporary = Path(within) / path.name
            whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
            told = {**(metadata or {}), NAME: tensors_digest(whole, metadata or {})}
            save_file(whole, temporary, told)
            sync_folder(temporary.parent)
            os.replace(temporary, path)
            return told[NAME]
    except (OSError, SafetensorError) as error:
        full = "no space left" if getattr(error, "errno", 0) == errno.ENOSPC else str(error)
        raise OutputError(f"cannot write {path}: {full}") from error


def tensors_digest(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Return the sha256 over names, types, shapes and bytes of tensors, and over what is said of them.

    Every tensor is hashed by itself, several at once, as one core hashes about a gigabyte a second.
    """
    names = sorted(tensors)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        parts = list(threads.map(lambda name: _tensor_digest(tensors[name]), names))
    kinds = [f"{name} {tensors[name].dtype} {[*tensors[name].shape]}" for name in names]
    lines = [f"{kind} {part}" for kind, part in zip(kinds, parts, strict=True)]
    return hashlib.sha256(json.dumps([lines, sorted(metadata.items())]).encode()).hexdigest()


def _tensor_digest(tensor: torch.Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


class Tensors(NamedTuple):
    """What a file of tensors holds; they are read as they are looked at. `told`: its metadata.

    `sealed`: whether the file has a digest, and is what was written.
    """

    tensors: dict[str, torch.Tensor]
    told: dict[str, str]
    sealed: bool


def read_tensors(path: Path) -> Tensors:
    """Read a file of `write_tensors`; all of it is held against its digest before any is given back.

    A file of before there was a digest is taken as it is.

    Raises:
        DamagedError: It is cut short, or not what was written.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            told: dict[str, str] = dict(stored.metadata() or {})
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DamagedError(path) from error
    wanted = told.pop(NAME, None)
    if wanted is None and not any(resembles(key.encode(), NAME.encode()) for key in told):
        return Tensors(tensors, told, sealed=False)
    if wanted != tensors_digest(tensors, told):
        raise DamagedError(path)
    return Tensors(tensors, told, sealed=True)


def digest_of(path: Path) -> str | None:
    """Return the digest that a file says it has; `read_tensors` says whether that is true.

    Raises:
        DamagedError: It cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            return (stored.metadata() or {}).get(NAME)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DamagedError(path) from error


def read_rows(path: Path, name: str, rows: slice) -> torch.Tensor:
    """Read some rows of a tensor, and no more, of a file whose digest was seen to be right.

    Raises:
        DamagedError: It is not there, or cut short.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            found: torch.Tensor = stored.get_slice(name)[rows.start : rows.stop]
            return found
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DamagedError(path) from error


def complete(path: Path) -> bool:
    """Whether a file of tensors is as long as its header says; `read_tensors` looks at every byte."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False


@torch.no_grad()
def load_weights(model: CausalLM, path: Path) -> None:
    """Read parameters written by `save_weights` (or a checkpoint's file) into the model in place.

    Raises:
        DamagedError: It is not what was written.
        ModelError: Names or shapes do not fit this model.
    """
    if not is_cut(model):
        put(model, read_tensors(path).tensors, path)
        return
    if not spread([path], _unharmed)[0]:  # held against its digest by one
        raise DamagedError(path)
    with safe_open(path, framework="pt") as file:
        for name, parameter in model.named_parameters():
            stored: Any = file.get_slice(name) if name in file.keys() else None  # noqa: SIM118
            rows = rows_of(parameter)
            _require_shape(path, name, parameter, None if stored is None else stored.get_shape())
            local(parameter).copy_(stored[rows.start : rows.stop])


def _unharmed(path: Path) -> bool:
    try:
        return bool(read_tensors(path).tensors)
    except DamagedError:
        return False


def _require_shape(path: Path, name: str, parameter: torch.Tensor, found: Sequence[int] | None) -> None:
    if found is None or tuple(found) != tuple(parameter.shape):
        shape = "nothing" if found is None else tuple(found)
        raise ModelError(
            f"{path} does not fit the model: {name} should have shape "
            f"{tuple(parameter.shape)} and the file has {shape}."
        )


@torch.no_grad()
def put(model: CausalLM, stored: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy tensors into the parameters of a model; `path`: where they were read, for a message.

    Raises:
        ModelError: Names or shapes do not fit this model.
    """
    if nf4.coded(model):
        try:
            nf4.put_changes(model, stored)
        except KeyError as error:
            raise ModelError(f"{path} does not fit the model, which is in 4 bits: {error}.") from error
        return
    for name, parameter in model.named_parameters():
        _require_shape(path, name, parameter, stored[name].shape if name in stored else None)
        fill(parameter, stored[name])


def snapshot(model: CausalLM) -> dict[str, torch.Tensor]:
    """Return a copy of all parameters; those that are tied have one under each name.

    Of a model that is cut it has what lies here, of one in codes what stands beside them. Its place is
    decided by what is free: see `ssiuu.models.room`.
    """
    if nf4.coded(model):
        return nf4.changes(model)  # which nobody writes to
    parameters = list({id(p): p for p in model.parameters()}.values())
    made = copied([local(p) for p in parameters], chosen(model))
    copies = dict(zip(map(id, parameters), made, strict=True))
    return {name: copies[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}


@torch.no_grad()
def restore(model: CausalLM, weights: dict[str, torch.Tensor]) -> None:
    """Copy a snapshot back into the model."""
    if nf4.coded(model):
        nf4.put_changes(model, weights)
        return
    for name, parameter in model.named_parameters():
        local(parameter).copy_(weights[name])
