"""What is under way in the folder of a run: stages done, in work and by whom, waiting; read only."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssiuu.errors import InputError
from ssiuu.records import lease
from ssiuu.records.files import HEADER, field_of, read_header
from ssiuu.records.schema import RunHeader
from ssiuu.records.sharing import lock_of

_KEY = re.compile(r"-[0-9a-f]{8}\.json$")
_CELLS = "cells/"


@dataclass(frozen=True)
class Work:
    """One stage in work.

    Args:
        stage: Its path from the run's folder.
        worker: Who is at it: a name, or host and process.
        doing: What that one said last.
        seconds: For how long, as it counts itself.
        alive: False where it has fallen silent, or is not there any more.
    """

    stage: str
    worker: str
    doing: str
    seconds: float
    alive: bool


@dataclass(frozen=True)
class Underway:
    """How far a run is. `left`: seconds, None until it can be said; `failed`: cells that broke off."""

    stages: int
    done: int
    cells: int
    cells_done: int
    work: list[Work]
    waiting: list[str]
    failed: list[str]
    left: float | None
    over: bool


@dataclass
class Watcher:
    """Looks at a run again and again; what is done is read once, and the header when it is another."""

    run: Path
    seconds: dict[str, float] = field(default_factory=dict)
    seen: dict[str, tuple[str, float]] = field(default_factory=dict)
    known: tuple[tuple[int, int, int], RunHeader] | None = None

    def look(self) -> Underway:
        """Return how far the run is.

        Raises:
            InputError: There is no run in this folder.
        """
        header = self._header()
        stages, listed = [*header.stages], _Listed(self.run)
        missing = [path for path in stages if not self._done(path, listed)]
        folders = {_folder(path) for path in missing}
        work = [w for w in map(self._work, self._locks(missing, listed)) if w is not None]
        busy = {w.stage for w in work}
        failed = sorted(f for f in folders if f.startswith(_CELLS) and _failed(listed.names(f)))
        waiting = [path for path in missing if path not in busy]
        cells = {_folder(path) for path in stages if path.startswith(_CELLS)}
        broken = {*failed}
        lost = {path for path in waiting if _folder(path) in broken}
        # Until settings are tuned the header names no cells.
        over = bool(cells) and not work and {*missing} <= lost
        return Underway(
            stages=len(stages),
            done=len(stages) - len(missing),
            cells=len(cells),
            cells_done=len(cells - folders),
            work=work,
            waiting=waiting,
            failed=failed,
            left=self._left([path for path in missing if path not in lost], work),
            over=over or bool(header.redacted),
        )

    def _header(self) -> RunHeader:
        """Return the header, read again where its file is another one."""
        try:
            found = (self.run / HEADER).stat()
        except OSError:
            return read_header(self.run)  # which says what is wrong
        stamp = found.st_ino, found.st_mtime_ns, found.st_size
        if self.known is None or self.known[0] != stamp:
            self.known = stamp, read_header(self.run)
        return self.known[1]

    def _done(self, path: str, listed: _Listed) -> bool:
        if path not in self.seconds and path.rpartition("/")[2] in listed.names(_folder(path)):
            with suppress(InputError):  # one that is damaged is made again
                self.seconds[path] = float(field_of(self.run / path, "seconds"))
        return path in self.seconds

    def _locks(self, missing: Iterable[str], listed: _Listed) -> Iterator[tuple[str, Path]]:
        """Yield stages with the file that somebody signs who is at them."""
        for path in missing:
            lock, names = lock_of(self.run / path), listed.hidden(_folder(path))
            found = [n for n in names if n == lock.name or n.startswith(f"{lock.name}.")]
            if found:
                yield path, lock.with_name(max(found, key=_generation))

    def _work(self, at: tuple[str, Path]) -> Work | None:
        stage, path = at
        try:
            text = path.read_text()
            said: dict[str, Any] = json.loads(text)
            beats, host, pid = int(said["beats"]), str(said["host"]), int(said["pid"])
            name, doing = str(said["worker"]), str(said["doing"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # just let go of, or just being signed
        alive = not self._silent(stage, text) and (host != platform.node() or _there(pid))
        return Work(stage, name or f"{host}:{pid}", doing, beats * lease.BEAT, alive)

    def _silent(self, stage: str, text: str) -> bool:
        before, now = self.seen.get(stage), time.monotonic()
        if before is None or before[0] != text:
            self.seen[stage] = text, now
            return False
        return now - before[1] >= lease.PATIENCE

    def _left(self, missing: list[str], work: list[Work]) -> float | None:
        """Return the seconds left if as many go on as are at work, by the mean of each kind."""
        spent: dict[str, list[float]] = {}
        for path, seconds in self.seconds.items():
            spent.setdefault(kind_of(path), []).append(seconds)
        if any(kind_of(path) not in spent for path in missing):
            return None
        total = sum(sum(spent[k]) / len(spent[k]) for k in map(kind_of, missing))
        gone = sum(w.seconds for w in work if w.alive)
        return max(0.0, total - gone) / max(1, len({w.worker for w in work if w.alive}))


def kind_of(path: str) -> str:
    """Return what stages of equal length are called by: the record's name without its key."""
    return _KEY.sub("", Path(path).name)


def duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 5 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class _Listed:
    """What lies in the folders of a run, each listed once a look."""

    def __init__(self, run: Path) -> None:
        self.run, self.found = run, dict[str, set[str]]()

    def names(self, folder: str) -> set[str]:
        """Return the names in a folder; none where it is not there."""
        if folder not in self.found:
            try:
                self.found[folder] = {*os.listdir(self.run / folder)}
            except OSError:
                self.found[folder] = set()
        return self.found[folder]

    def hidden(self, folder: str) -> list[str]:
        """Return those that begin with a dot, as locks do."""
        return [name for name in self.names(folder) if name.startswith(".")]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _failed(names: Iterable[str]) -> bool:
    return any(name.startswith("failed-") and name.endswith(".json") for name in names)


def _there(pid: int) -> bool:
    import psutil  # type: ignore[import-untyped]

    return bool(psutil.pid_exists(pid))


def _generation(name: str) -> int:
    end = name.rpartition(".")[2]
    return int(end) if end.isdecimal() else 0
