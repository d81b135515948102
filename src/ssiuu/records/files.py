"""Read and write records: atomic files, a run folder assembled into one `RunRecord`."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ssiuu.errors import DamagedError, DivergedError, InputError, OutputError
from ssiuu.records.digest import Damaged, seal, sealed, unseal
from ssiuu.records.said import LOG
from ssiuu.records.schema import (
    AttackCurve,
    Cell,
    Diagnosis,
    Evaluation,
    Examination,
    Failure,
    Record,
    RunHeader,
    RunRecord,
    Stability,
    Stage,
    Trial,
    Unlearning,
)

HEADER, SPLIT = "run.json", "split.json"  # of a run's folder
FINISHED = ("unlearn.json", "teach.json")  # of a checkpoint, that gets its name with them in it
R = TypeVar("R", bound=Record)
S = TypeVar("S", bound=Stage)
NOT_THE_SAME = (
    "The weights were needed again, and unlearning did not end in the same ones: what was measured "
    "later was measured on others."
)


# How something is written once, where several processes do one work; see `written_by`.
_once: list[Callable[[Callable[[], None]], Any]] = []


def written_by(once: Callable[[Callable[[], None]], Any]) -> None:
    """Let every write of this process go through a function, which may leave it to another process."""
    _once[:] = [once]


def write_bytes(path: Path, content: bytes, private: bool = False) -> None:
    """Write a file so that it is there whole or not at all: temporary name, sync, rename.

    Args:
        path: The file; folders above it are made.
        content: What it holds.
        private: Only the user can read it.

    Raises:
        OutputError: The disk is full or the folder cannot be written to.
    """
    write = partial(_write, path, content, private)
    if _once:
        _once[0](write)
    else:
        write()


def _write(path: Path, content: bytes, private: bool) -> None:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            # Before the rename, which may reach the disk ahead of the content.
            os.fsync(stream.fileno())
        if not private:
            readable(Path(temporary))
        os.replace(temporary, path)
        LOG.debug("wrote %s, %d bytes", path, len(content))
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def unfinished(out: Path) -> Path:
    """Return where what becomes a checkpoint is worked on."""
    return out.with_name(f".{out.name}.unfinished")


def require_empty(out: Path) -> None:
    """Refuse a folder for a checkpoint that holds something.

    What a killed process has left of one in it is removed later. Where it was killed as all was done,
    what it had worked on is removed here: nobody else would.

    Raises:
        OutputError: It is a file, or holds something.
    """
    half = f".{out.name}.part-"
    if not out.exists() or (out.is_dir() and all(half in path.name for path in out.iterdir())):
        return
    if any((out / name).exists() for name in FINISHED):
        shutil.rmtree(unfinished(out), ignore_errors=True)
    raise OutputError(f"--out {out} is not an empty folder: choose another one.")


@contextmanager
def personal() -> Iterator[None]:
    """Give what is made meanwhile to the user alone: files 0600, folders 0700, of the whole process."""
    mask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(mask)


def readable(path: Path) -> None:
    """Give a file made under a private temporary name the mode of any new file."""
    # The mask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def write_record(path: Path, record: Record, private: bool = False) -> None:
    """Write one record as JSON, atomically, with its digest; `private`: only the user can read it.

    Raises:
        DivergedError: A number in it is not finite: it would be read back as one never measured.
        OutputError: See `write_bytes`.
    """
    if (place := not_finite(record.model_dump())) is not None:
        raise DivergedError(
            f"{path.name} is not written: {place} is not finite, so the model no longer computes "
            "numbers there; its weights are too large, or its training went too far."
        )
    write_bytes(path, seal((record.model_dump_json(indent=1) + "\n").encode()), private)


def not_finite(value: Any, place: str = "") -> str | None:
    """Return where a number is NaN or an infinity, as a dotted key; None where all are finite."""
    if isinstance(value, float):
        return None if math.isfinite(value) else place
    if isinstance(value, dict):
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        return None
    found = (not_finite(part, f"{place}.{key}" if place else str(key)) for key, part in parts)
    return next((where for where in found if where is not None), None)


def read_record(path: Path, kind: type[R]) -> R | None:
    """Read one record; None where the file is not there yet.

    Raises:
        DamagedError: The file is not what was written.
        InputError: It is not a record of this kind and version.
    """
    if not path.exists():
        return None
    try:
        return kind.model_validate_json(_written(path))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] in ("json_invalid", "model_type") and not first["loc"]:
            raise DamagedError(path) from error
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(
            f"{path} is not a {kind.__name__} record this version can read: "
            f"{place}: {first['msg']}. Move the file away to have it made again."
        ) from error


def _written(path: Path) -> bytes:
    """Return the JSON of a file as it was written.

    Raises:
        DamagedError: It is not.
        InputError: The file cannot be read.
    """
    try:
        return unseal(path.read_bytes())
    except Damaged as error:
        raise DamagedError(path) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def standing(path: Path, kind: type[R], say: Callable[[str], None]) -> R | None:
    """Read a record that can be made again; None where none is there, or one that is damaged.

    Such a one is told of, and moved out of the way.
    """
    return read_record(path, kind) if whole(path, say) else None


def whole(path: Path, say: Callable[[str], None]) -> bool:
    """Whether a record is there as it was written; one that is damaged is told of and moved away."""
    if not path.exists():
        return False
    try:
        content = _written(path)
        if not sealed(content):
            _json(path, content)
        return True
    except DamagedError:
        put_aside(path, say)
        return False


def put_aside(path: Path, say: Callable[[str], None]) -> None:
    """Move a damaged file out of the way, and say that it is made again."""
    aside = path.with_name(f"{path.name}.damaged")
    os.replace(path, aside)
    say(f"{path} is damaged, and is made again; what is left of it is {aside.name}")


def field_of(path: Path, name: str) -> Any:
    """Return one field of a stage's record, without reading the rest as what it is.

    Raises:
        DamagedError: The file is not what was written.
        InputError: It is no record.
    """
    content = fields_of(path)
    if name not in content:
        raise InputError(f"{path} is no record. Move the file away to have it made again.")
    return content[name]


def fields_of(path: Path) -> dict[str, Any]:
    """Return what a file of JSON holds, without reading it as a record.

    Raises:
        DamagedError: The file is not what was written.
        InputError: It cannot be read.
    """
    return _json(path, _written(path))


def _json(path: Path, content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedError(path) from error
    if not isinstance(found, dict):
        raise DamagedError(path)
    return found


def keyed(name: str, key: str) -> str:
    """Return the file name of a record: readable, and another one under every key."""
    return f"{name}-{key[:8]}.json"


def cell_folder(label: str, seed: int) -> Path:
    """Return the folder of one method and seed, from the run's folder."""
    return Path("cells") / f"{label}-s{seed}"


def load_run(run: str | Path) -> RunRecord:
    """Assemble a run folder into one record; stages that have not run yet are None.

    Raises:
        InputError: There is no run in this folder, or a file in it does not belong there.
    """
    return assemble(Path(run), read_header(Path(run)))


def left_of_run(run: Path) -> bool:
    """Whether a folder without a header holds what a run has left in it."""
    return (run / SPLIT).exists() or (run / "cells").is_dir() or bool([*run.glob("original-*.json")])


def runs_of(folder: Path) -> list[Path]:
    """Return the folder, or those in it that hold runs where it holds none; of a ledger its audits."""
    places = (f"*/{HEADER}", f"audits/*/{HEADER}")
    within = sorted(path.parent for place in places for path in folder.glob(place))
    return [folder] if (folder / HEADER).exists() or not within else within


def read_header(run: Path) -> RunHeader:
    """Return the header of a run folder.

    Raises:
        InputError: There is none.
    """
    header = read_record(run / HEADER, RunHeader)
    if header is None and left_of_run(run):
        raise InputError(f"{run} has lost its {HEADER}: the command that made the run makes it again.")
    if header is None:
        raise InputError(f"{run} holds no run: there is no {HEADER} in it.")
    if not header.stages:
        raise InputError(f"{run} was made by an older version, which named its files otherwise.")
    return header


def assemble(run: Path, header: RunHeader) -> RunRecord:
    """Return the records that this header names."""
    cells, everything, folders = [], header, _by_folder(header)
    for seed in header.seeds:
        for method in header.methods:
            folder = cell_folder(method.label, seed).as_posix()
            # Of its own stages alone: to go through all of them for every cell takes their square.
            header = everything.model_copy(update={"stages": folders.get(folder, {})})
            cells.append(
                Cell(
                    method=method,
                    seed=seed,
                    unlearning=_unlearning(run, header, folder),
                    evaluation=_only(run, header, f"{folder}/evaluate", Evaluation),
                    diagnosis=_only(run, header, f"{folder}/diagnose", Diagnosis),
                    attacks=_all(run, header, f"{folder}/attack", AttackCurve),
                    stability=_only(run, header, f"{folder}/stability", Stability),
                    examination=_only(run, header, f"{folder}/examine", Examination),
                    failed=_failed(run, header, folder),
                )
            )
    header = everything
    original = _only(run, header, "original", Evaluation)
    trials = _all(run, header, "tune/", Trial)
    planted = _only(run, header, "planted", Examination)
    return RunRecord(header=header, original=original, cells=cells, trials=trials, planted=planted)


def _by_folder(header: RunHeader) -> dict[str, dict[str, str]]:
    """Return the stages of a header by the folder that they lie in."""
    found: dict[str, dict[str, str]] = {}
    for path, key in header.stages.items():
        found.setdefault(path.rpartition("/")[0], {})[path] = key
    return found


def read_stage(path: Path, kind: type[S], key: str) -> S | None:
    """Read the record of one stage; None where it is not there yet.

    Raises:
        InputError: It is not a record of this kind, or was made under another key.
    """
    record = read_record(path, kind)
    if record is not None and record.key != key:
        raise InputError(f"{path} holds another result than its name says. Move the file away.")
    return record


def _all(run: Path, header: RunHeader, start: str, kind: type[S]) -> list[S]:
    """Return the records of a header whose paths begin so, in its order."""
    named = [(run / path, key) for path, key in header.stages.items() if path.startswith(start)]
    return [record for path, key in named if (record := read_stage(path, kind, key)) is not None]


def again(path: Path) -> Path:
    """Return where a repetition is recorded that did not give the same; beside the first record."""
    return path.with_suffix(".again.json")


def without_times(record: Stage) -> dict[str, Any]:
    """Return what a record holds but for its key, times and memory: the same for the same run."""
    return record.model_dump(exclude={"key", "seconds", "peak_memory_mb", "peak_device_memory_mb"})


def _unlearning(run: Path, header: RunHeader, folder: str) -> Unlearning | None:
    record = _only(run, header, f"{folder}/unlearn", Unlearning)
    if record is None or not again(run / folder / keyed("unlearn", record.key)).exists():
        return record
    return record.model_copy(update={"notes": [*record.notes, NOT_THE_SAME]})


def failure(folder: Path, key: str) -> Path:
    """Return where it stands that a cell broke off; `key` is that of its first stage."""
    return folder / keyed("failed", key)


def _failed(run: Path, header: RunHeader, folder: str) -> Failure | None:
    keys = (key for path, key in header.stages.items() if path.startswith(f"{folder}/"))
    key = next(keys, None)
    return None if key is None else read_stage(failure(run / folder, key), Failure, key)


def _only(run: Path, header: RunHeader, start: str, kind: type[S]) -> S | None:
    return next(iter(_all(run, header, start, kind)), None)


def dump_json(value: Any) -> str:
    """Return strict JSON (no NaN), keys in the order given."""
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)


def digest(*parts: Any) -> str:
    """Return the sha256 of JSON that is the same for equal values."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
