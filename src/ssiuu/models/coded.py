"""A model that is never whole: its maps are brought to nf4 one by one as they are read, and what
adapters made of them is written tensor by tensor from the files that it was read from.

    maps = coded_maps(folder, kind, config, stored)
    model = sparing(kind, maps).from_pretrained(...)    # of the other weights
    encode(folder, model, maps, stored, torch.bfloat16)
    write_merged(model, source, into, torch.bfloat16, most)

While it is read, at most one map is there in full, beside the codes of those before it; while it is
written, one tensor. What is written is each weight as its file has it, and the adapters' product: not
what the codes stand for. Which maps are held so: those of `ssiuu.models.nf4.holdable`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ssiuu.causal import CausalLM
from ssiuu.errors import ModelError
from ssiuu.models import nf4
from ssiuu.models.checks import check_finite, check_values
from ssiuu.models.files import (
    FLOATS,
    INDEX,
    SINGLE,
    Source,
    Stored,
    open_tensors,
    tensors_of,
    weight_files,
)
from ssiuu.models.quiet import quiet

KINDS: Final = {name: getattr(torch, kind) for name, kind in FLOATS.items()}
SIZES = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
SIZES |= {name: kind.itemsize for name, kind in KINDS.items()}


def coded_maps(folder: Path, kind: Any, config: Any, stored: Mapping[str, Stored]) -> dict[str, str]:
    """Return the maps that are to be held in codes, by path, with the names of their weights.

    Args:
        folder: Named in the message.
        kind: The class of the model.
        config: Its configuration.
        stored: The tensors in the files, by name.

    Raises:
        ModelError: There is none, or the files do not have their weights as the model has them.
    """
    with FakeTensorMode(), quiet():  # shapes alone, which a pass goes through
        model = kind(config).eval()
        shapes = {p: tuple(model.get_submodule(p).weight.shape) for p in nf4.holdable(model)}
    if not shapes:
        raise ModelError(
            f"{folder}: dtype: nf4 is held by maps of the kind nn.Linear, of which {kind.__name__} has "
            "none inside its blocks: use bf16."
        )
    found = {}
    for path, shape in shapes.items():
        place = _place_of(path, kind.base_model_prefix, stored)
        if place is None or stored[place].shape != shape:
            has = "nothing of this name" if place is None else f"{stored[place].shape}"
            raise ModelError(
                f"{folder}: {path}.weight should have shape {shape} in the files, which have {has}. "
                "Brought to nf4 map by map is what is stored map by map: use dtype: bf16."
            )
        found[path] = place
    return found


def _place_of(path: str, prefix: str, stored: Mapping[str, Stored]) -> str | None:
    """Return the name that the weight of a map has in the files: with the body's prefix, or without."""
    name = f"{path}.weight"
    names = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
    return next((each for each in names if each in stored), None)


def sparing(kind: Any, paths: Mapping[str, str]) -> Any:
    """Return a class of models whose maps of these paths have no weights, and never had any."""

    class Sparing(kind):  # type: ignore[misc]  # the class is only known here
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            for path in paths:
                parent, _, name = path.rpartition(".")
                made = nf4.without_weight(self.get_submodule(path))
                setattr(self.get_submodule(parent), name, made)

    # The library looks for what belongs to a class by its name and where it stands.
    Sparing.__name__, Sparing.__qualname__ = kind.__name__, kind.__qualname__
    Sparing.__module__ = kind.__module__
    return Sparing


@torch.no_grad()
def encode(
    where: str,
    model: CausalLM,
    paths: Mapping[str, str],
    stored: Mapping[str, Stored],
    kind: torch.dtype,
) -> str:
    """Give every map its codes: of its weight in the type `kind`, where the model lies.

    Returns:
        The blocks that are switched off by a map of zeros, for people; empty where there are none.

    Raises:
        ModelError: A file is broken, or a weight is not finite or of one value throughout.
    """
    device = next(model.parameters()).device
    names = {place: path for path, place in paths.items()}

    def arriving() -> Iterator[tuple[str, Tensor]]:
        for file in sorted({stored[place].file for place in names}):
            with open_tensors(file) as tensors:
                for place in (place for place in names if stored[place].file == file):
                    weight = tensors.get_tensor(place).to(device, kind)
                    check_finite(where, [(place, weight)])
                    yield place, weight
                    nf4.encode(model.get_submodule(names[place]), weight)

    return check_values(where, arriving())


class _Place(NamedTuple):
    """A tensor to be written: where it is read, its name there, type and shape."""

    file: Path
    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return SIZES[self.kind] * prod(self.shape)


@torch.no_grad()
def write_merged(model: Any, source: Source, into: Path, kind: torch.dtype, most: int) -> None:
    """Write the weights of a model's files with what adapters have changed of its maps.

    Names are those of the files. The index, where there is one, comes last.

    Args:
        model: What stands beside its codes is added, in the type of the file, before it is rounded.
        source: What it was read from.
        into: A folder that is there.
        kind: Of floating point numbers that are written.
        most: Bytes of weights in a file, at most.

    Raises:
        ModelError: The files are not there any more, are others, or what is written is not finite.
        OSError: The disk is full or the folder cannot be written to.
    """
    sources = weight_files(source.folder)
    source.check(*sources)
    stored = tensors_of(sources)
    changed = {}
    for path, module in nf4.coded(model).items():
        place = _place_of(path, model.base_model_prefix, stored)
        if place is None or stored[place].shape != (module.out_features, module.in_features):
            raise ModelError(f"{source.folder} is not what the model was read from: {path} is another.")
        changed[place] = module.changes
    written = next(name for name, each in KINDS.items() if each == kind)
    places = [
        _Place(one.file, name, written if one.dtype in FLOATS else one.dtype, one.shape)
        for name, one in stored.items()
    ]
    files = _split(places, most)
    count = len(files)
    names = [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
    names = [SINGLE] if count == 1 else names
    for file, own in zip(names, files, strict=True):
        _write(into / file, own, changed)
    source.check(*sources)  # nor was one changed on the way
    if count > 1:
        total = sum(one.size for one in places)
        where = {one.name: file for file, own in zip(names, files, strict=True) for one in own}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (into / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _split(places: list[_Place], most: int) -> list[list[_Place]]:
    """Return tensors in files of so many bytes at most, or of one tensor that has more."""
    files, size = [places[:1]], places[0].size
    for place in places[1:]:
        if size + place.size > most:
            files.append([])
            size = 0
        files[-1].append(place)
        size += place.size
    return files


def _write(path: Path, places: list[_Place], changed: Mapping[str, tuple[nf4.Change, ...]]) -> None:
    """Write one safetensors file, tensor by tensor."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for place in places:
        start, end = end, end + place.size
        header[place.name] = {"dtype": place.kind, "shape": place.shape, "data_offsets": [start, end]}
    told = json.dumps(header, separators=(",", ":")).encode()
    told += b" " * (-len(told) % 8)  # what comes behind it begins at a multiple of eight
    with path.open("wb") as out, ExitStack() as stack:
        out.write(len(told).to_bytes(8, "little") + told)
        opened: dict[Path, Any] = {}
        for place in places:
            if place.file not in opened:
                opened[place.file] = stack.enter_context(open_tensors(place.file))
            weight = opened[place.file].get_tensor(place.name)
            for change in changed.get(place.name, ()):
                weight = weight + change.whole().to(weight)
            if weight.is_floating_point():
                weight = weight.to(KINDS[place.kind])
            check_finite("the model cannot be saved", [(place.name, weight)])
            out.write(weight.contiguous().reshape(-1).view(torch.uint8).numpy().data)
