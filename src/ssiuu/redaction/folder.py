"""A folder of a run or an audit, or a file of a record, redacted in its place.

The redacted files are written beside the others first, then take their place: a process that is killed
on the way leaves a folder that the same command finishes, and never half of each.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ssiuu.errors import InputError, OutputError
from ssiuu.records.files import (
    again,
    assemble,
    digest,
    failure,
    load_run,
    personal,
    read_record,
    write_bytes,
    write_record,
)
from ssiuu.records.schema import (
    AttackCurve,
    Diagnosis,
    Evaluation,
    Examination,
    Failure,
    ModelKnowledge,
    Record,
    RunHeader,
    Stability,
    Teaching,
    Trial,
    Unlearning,
)
from ssiuu.records.sharing import LOCK, Sharing
from ssiuu.redaction.keys import check_place, default_place, digest_key, remember
from ssiuu.redaction.redactor import Redactor
from ssiuu.report import write_report

STAGED: Final = ".redacted"
WHOLE, MOVING = "whole.json", "moving.json"  # in it: all is written; nothing else is left
STAGES: Final[Mapping[str, type[Any]]] = {
    "original": Evaluation,
    "planted": Examination,
    "unlearn": Unlearning,
    "evaluate": Evaluation,
    "diagnose": Diagnosis,
    "examine": Examination,
    "attack": AttackCurve,
    "stability": Stability,
    "trial": Trial,
    "failed": Failure,
}
ALONE: Final[Mapping[str, type[Any]]] = {"unlearn.json": Unlearning, "teach.json": Teaching}
CERTIFICATES: Final = ("certificate.json", "certificate.html")
PAGES: Final = ("report.html", "figures.csv", "verdicts.csv")
_OURS = re.compile(
    r"(run(-[0-9a-f]{8})?|split|(original|planted)-[0-9a-f]{8}(\.unfinished)?)\.json(\.damaged)?|"
    r"\.(run|split|original|planted|report|figures|verdicts)[^/]*"
)
_STATE = ".state.safetensors"


@dataclass
class Redacted:
    """What was done.

    `already`: nothing, as it had been before. `left`: files that are not ssiuu's. `tags`: of methods,
    which somebody chose and which stay.
    """

    key: Path
    already: bool = False
    left: list[Path] = field(default_factory=list)
    weights: list[Path] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


def redact(path: Path, key: Path | None = None) -> Redacted:
    """Redact the folder of a run or an audit, a checkpoint's records, or the file of a record.

    Args:
        path: The folder or file, which is changed in its place.
        key: File of the key, made where it is not there; None: beside `path`.

    Raises:
        InputError: It holds nothing of that kind, or the key cannot be used.
        OutputError: It cannot be written.
    """
    place = key or default_place(path)
    if path.is_dir():
        check_place(place, path)
    if (path / "run.json").exists() or (path / STAGED).exists():
        with alone_in(path):
            if (path / STAGED / WHOLE).exists() or (path / STAGED / MOVING).exists():
                _take_places(path)
            return _run(path, place)
    files = [path] if path.is_file() else [path / name for name in ALONE if (path / name).exists()]
    if not files:
        raise InputError(
            f"{path} holds nothing to redact: there is no run.json, {', no '.join(ALONE)} in it, and "
            "it is no record of ssiuu ask."
        )
    done = [_alone(file, place) for file in files]
    return Redacted(place, already=all(done))


def _alone(file: Path, place: Path) -> bool:
    """Redact a record in a file of its own; whether it was redacted before."""
    record = _read_alone(file)
    if record.redacted:
        return True
    write_record(file, Redactor(digest_key(place), [record]).record(record), private=True)
    return False


def _read_alone(file: Path) -> Unlearning | Teaching | ModelKnowledge:
    name = "unlearn.json" if file.name.endswith(".unlearn.json") else file.name
    record = read_record(file, ALONE.get(name, ModelKnowledge))
    assert record is not None
    return record  # type: ignore[no-any-return]


def _run(folder: Path, place: Path) -> Redacted:
    """Redact the folder of a run: what its header names; records of earlier settings are left out."""
    record = load_run(folder)
    if record.header.redacted:
        return Redacted(place, already=True, weights=list(weights(folder)))
    key, staged = digest_key(place), folder / STAGED
    remember(place, facts_files(record.header), planted_names(record.header))
    shutil.rmtree(staged, ignore_errors=True)
    found = dict(_stages(folder, record.header))
    redactor = Redactor(key, [record, *found.values()])
    header = redactor.record(record.header)
    renamed = {path: redactor.path(path, k) for path, k in record.header.stages.items()}
    with personal():
        write_record(staged / "run.json", header)
        write_record(staged / "split.json", header.split)
        for path, stage in found.items():
            write_record(staged / _moved(path, renamed), redactor.record(stage))
        write_report(assemble(staged, header), staged)
        moves = {_weights(old): _weights(new) for old, new in renamed.items()}
        write_bytes(staged / WHOLE, json.dumps(moves).encode())
    _take_places(folder)
    tags = [label.partition("@")[2] for label in (m.label for m in header.methods) if "@" in label]
    left, kept = list(foreign(folder)), list(weights(folder))
    return Redacted(place, left=left, weights=kept, tags=sorted(set(tags)))


def _weights(path: str) -> str:
    return str(Path(path).with_suffix(".safetensors"))


def _stages(folder: Path, header: RunHeader) -> Iterator[tuple[str, Record]]:
    """Yield the records that a header names, with what stands beside them, by path from the folder."""
    for path, key in header.stages.items():
        kind = STAGES[Path(path).name.partition("-")[0]]
        beside = failure(folder / Path(path).parent, key)
        for file, what in ((folder / path, kind), (again(folder / path), kind), (beside, Failure)):
            if (record := read_record(file, what)) is not None:
                yield file.relative_to(folder).as_posix(), record


def _moved(path: str, renamed: Mapping[str, str]) -> str:
    """Return the redacted path of a record, also of one beside a stage's."""
    if path in renamed:
        return renamed[path]
    first = str(again(Path(path.replace(".again.json", ".json")))) == path
    if first:
        return again(Path(renamed[path.replace(".again.json", ".json")])).as_posix()
    folder, digits = Path(path).parent, path[-13:]
    of = next(p for p in renamed if Path(p).parent == folder and p.endswith(digits))
    return f"{folder.as_posix()}/failed{renamed[of][-14:]}"


def _take_places(folder: Path) -> None:
    """Put the redacted files in the place of the others.

    Raises:
        OutputError: Something cannot be removed or moved; the same command goes on.
    """
    staged = folder / STAGED
    try:
        if (staged / WHOLE).exists():
            for old, new in json.loads((staged / WHOLE).read_bytes()).items():
                if (folder / old).exists():
                    os.replace(folder / old, folder / new)
            for path in list(plain(folder)):
                remove(path)
            os.replace(staged / WHOLE, staged / MOVING)
        for path in sorted(staged.rglob("*")):
            if path.is_file() and path.name != MOVING:
                target = folder / path.relative_to(staged)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
        shutil.rmtree(staged)
    except OSError as error:
        raise OutputError(
            f"{folder} is redacted in part: {error.strerror or error}. The same command goes on."
        ) from error


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; a link itself, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the locks of a run's folder, its cells and parts, so that no other process works there.

    Raises:
        OutputError: One does, or the folder cannot be written to.
    """
    sharing, places = Sharing(folder), [p for p in (folder, *folder.glob("cells/*")) if p.is_dir()]
    locks = [*(place / LOCK for place in places), *_parts(folder)]
    _make_room(len(locks))
    with ExitStack() as held:
        for lock in locks:
            if (mine := sharing.hold(lock, part=lock.name != LOCK)) is None:
                raise OutputError(
                    f"another process is at work in {lock.parent}: wait for it, or end it."
                )
            held.callback(mine.release)
        yield


def _make_room(files: int) -> None:
    """Let this process have so many files open, and as many as it has besides, where it may."""
    with suppress(ImportError, ValueError, OSError):  # of Windows, and of a limit that is a hard one
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = files + 256
        if soft != resource.RLIM_INFINITY and soft < wanted:
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _parts(folder: Path) -> list[Path]:
    """Return the locks of parts that there are: of who helps with a cell that it does not hold."""
    found = [*folder.glob("cells/*/.*.lock*"), *folder.glob("tune/*/.*.lock*")]
    locks = {path.with_name(path.name.partition(LOCK)[0] + LOCK) for path in found}
    return sorted(path for path in locks if path.name != LOCK)


def plain(folder: Path) -> Iterator[Path]:
    """Yield what ssiuu wrote into the folder of a run and what may hold texts: all but weights."""
    for path in sorted(folder.iterdir()):
        if path.name in PAGES or _OURS.fullmatch(path.name):
            yield path
    for path in sorted((*folder.glob("cells/*/*"), *folder.glob("tune/*/*"))):
        hidden = path.name.startswith(".") and not path.name.startswith(LOCK)
        if hidden or path.name.endswith((".json", ".damaged", _STATE)):
            yield path


def weights(folder: Path) -> Iterator[Path]:
    """Yield the weights of models that were kept: what they know is in them."""
    for path in sorted(folder.glob("cells/*/*.safetensors")):
        if not path.name.endswith(_STATE) and not path.name.startswith("."):
            yield path


def foreign(folder: Path) -> Iterator[Path]:
    """Yield files that ssiuu did not write, which are left as they are."""
    mine = {*plain(folder), *weights(folder), *(folder / name for name in CERTIFICATES)}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in mine and not path.name.startswith(LOCK):
            yield path


def facts_files(header: RunHeader) -> list[str]:
    """Return the files of facts that a run's settings name and that are there."""
    named: Iterable[Any] = (header.config.get("forget"), header.config.get("retain"))
    return [os.path.abspath(name) for name in named if isinstance(name, str) and os.path.isfile(name)]


def planted_names(header: RunHeader) -> list[str]:
    """Return the names in the cache of planted controls that this run may have made or used."""
    keys = [key for path, key in header.stages.items() if path.startswith("planted-")]
    return [f"{digest('planted', key)}.json" for key in keys]
