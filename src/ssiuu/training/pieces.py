"""Tensors in pieces over several processes: each writes its own, and the state says where what is.

    x.state.safetensors            what is whole; of each file of pieces its digest, and of each tensor
                                   that is cut which of its rows lie in which
    pieces.x.state.safetensors/    the files of pieces, one a process: SAVE-RANK.safetensors

All files of pieces are there, and forced to the disk, before `x.state.safetensors` gets its name, which
makes them the state; those of the state before are removed after it. So whenever the processes are
killed one whole state is there, the new one or the one before. A single process writes one file, in
which all is whole. Any number of processes reads what any other has written: each takes its rows.

Departures from torch.distributed.checkpoint: its own format pickles, and its safetensors have neither
digests nor a moment at which a set of files takes the place of the one before.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ssiuu.errors import DamagedError, OutputError
from ssiuu.models.shards import Piece, agreed, all_sum, by_first, every, rows_of, spread, world
from ssiuu.models.weights import (
    digest_of,
    read_rows,
    read_tensors,
    require_space,
    write_file,
    write_tensors,
)

PIECES = "pieces"  # the key of what is said of them


def folder_of(path: Path) -> Path:
    """Return where the pieces of a state lie; named as one, for who removes the states of a run."""
    return path.with_name(f"{PIECES}.{path.name}")


def remove(path: Path) -> None:
    """Remove a state, with its pieces."""
    path.unlink(missing_ok=True)
    shutil.rmtree(folder_of(path), ignore_errors=True)


def write(
    path: Path, whole: dict[str, Tensor], cut: Mapping[str, Piece], told: Mapping[str, str]
) -> None:
    """Write a state; every process must ask.

    Args:
        path: Of the state; the folders above it are made.
        whole: What every process has all of; the first one's is written.
        cut: What lies here of tensors that are cut, and is this process's to write.
        told: What is said of them.

    Raises:
        OutputError: No disk space, or the folder cannot be written to; on all processes.
    """
    folder, several = folder_of(path), bool(all_sum(float(len(cut)))[0])
    by_first(lambda: (folder if several else path.parent).mkdir(parents=True, exist_ok=True))
    files = _written(folder, cut) if several else []
    index = {PIECES: json.dumps(files)} if files else {}
    write_tensors(whole, path, {**told, **index})
    by_first(partial(_tidy, folder, {file["name"] for file in files}))


def _written(folder: Path, cut: Mapping[str, Piece]) -> list[dict[str, Any]]:
    """Write what lies here into a file of its own; return what is in the files of all processes."""
    save = agreed(secrets.token_hex(4))
    tensors = {name: piece.tensor.cpu() for name, piece in cut.items()}
    need = all_sum(float(sum(t.numel() * t.element_size() for t in tensors.values())))[0]

    def mine(rank: int) -> list[dict[str, Any]]:
        if not tensors:  # it has fewer rows than there are processes, or a copy of another one's
            return []
        require_space(folder, int(need))
        name = f"{save}-{rank:05}.safetensors"
        digest = write_file(tensors, folder / name)
        places = {key: [piece.start, len(piece.tensor), piece.rows] for key, piece in cut.items()}
        return [{"name": name, "digest": digest, "places": places}]

    return [file for files in spread(range(world()), mine) for file in files]


def _tidy(folder: Path, kept: set[str]) -> None:
    """Remove what a save before has left."""
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in kept:
            path.unlink(missing_ok=True)


class Stored:
    """A state as it was written, whole or in pieces; of pieces only what is asked for is read.

    Attributes:
        told: What was said of it.
        whole: The tensors that are whole in it.
    """

    def __init__(self, path: Path) -> None:
        """Read what is whole; nothing is asked of other processes.

        Raises:
            DamagedError: It is cut short, has no digest, or is not what was written.
        """
        found = read_tensors(path)
        if not found.sealed:
            raise DamagedError(path)
        self.path, self.whole = path, found.tensors
        self.told = dict(found.told)
        self.files: list[dict[str, Any]] = json.loads(self.told.pop(PIECES, "[]"))
        self._parts: dict[str, list[tuple[int, int, Path]]] = {}
        self._rows: dict[str, int] = {}
        for file in self.files:
            for name, (start, count, rows) in file["places"].items():
                place = (start, start + count, folder_of(path) / file["name"])
                self._parts.setdefault(name, []).append(place)
                self._rows[name] = rows

    @property
    def names(self) -> list[str]:
        """All tensors of the state."""
        return [*self.whole, *self._parts]

    def require_pieces(self) -> None:
        """Hold every file of pieces against its digest, each by one process; every process must ask.

        Raises:
            DamagedError: One is missing, cut short, or not what was written; on all processes.
        """
        for good in spread(self.files, self._good) if self.files else ():
            if not good:
                raise DamagedError(self.path)

    def _good(self, file: Mapping[str, Any]) -> bool:
        path = folder_of(self.path) / file["name"]
        try:
            return read_tensors(path).sealed and digest_of(path) == file["digest"]
        except DamagedError:
            return False

    def own(self, name: str, parameter: Tensor) -> Tensor:
        """Return what of a tensor belongs to this process, as it has rows of a parameter.

        Args:
            name: Of the tensor; its rows are those of the parameter, or as many a row of it.
            parameter: What says which rows lie here.
        """
        count = len(self.whole[name]) if name in self.whole else self._rows[name]
        wanted = slice(0, count)
        if isinstance(parameter, DTensor):
            rows, width = rows_of(parameter), count // parameter.shape[0]
            wanted = slice(rows.start * width, rows.stop * width)
        return self.whole[name][wanted] if name in self.whole else self._read(name, wanted)

    def _read(self, name: str, wanted: slice) -> Tensor:
        """Return some rows of a tensor that is in pieces."""
        parts = [
            read_rows(
                path, name, slice(max(start, wanted.start) - start, min(stop, wanted.stop) - start)
            )
            for start, stop, path in sorted(self._parts[name], key=lambda part: part[0])
            if start < wanted.stop and wanted.start < stop
        ]
        if not parts:  # none lie here: their type and width are those of any
            return read_rows(self._parts[name][0][2], name, slice(0, 0))
        found = torch.cat(parts)
        if len(found) != wanted.stop - wanted.start:
            raise DamagedError(self.path)
        return found


def read(path: Path) -> Stored | None:
    """Read a state, of which the pieces are held against their digests; None where there is none.

    Every process must ask.

    Raises:
        DamagedError: It is cut short, or not what was written; on all processes.
        OutputError: The processes do not see the same one.
    """
    found: Stored | None = None
    damaged = False
    try:
        found = Stored(path) if path.exists() else None
    except DamagedError:
        damaged = True
    seen = None if found is None else json.dumps([found.told, found.files])
    if len(set(every([(seen, damaged)]))) > 1:
        raise OutputError(
            f"{path} is not the same for all {world()} processes: all of them must see one folder."
        )
    if damaged:
        raise DamagedError(path)
    if found is not None:
        found.require_pieces()
    return found
