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
from ssiuu.records.files import field_of, read_header
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
    """Looks at a run again and again; what is done is read once."""

    run: Path
    seconds: dict[str, float] = field(default_factory=dict)
    seen: dict[str, tuple[str, float]] = field(default_factory=dict)

    def look(self) -> Underway:
        """Return how far the run is.

        Raises:
            InputError: There is no run in this folder.
        """
        header = read_header(self.run)
        stages = [*header.stages]
        missing = [path for path in stages if not self._done(path)]
        folders = {Path(path).parent.as_posix() for path in missing}
        work = [w for w in map(self._work, self._locks(missing)) if w is not None]
        busy = {w.stage for w in work}
        failed = sorted(f for f in folders if f.startswith(_CELLS) and self._failed(f))
        waiting = [path for path in missing if path not in busy]
        cells = {Path(path).parent.as_posix() for path in stages if path.startswith(_CELLS)}
        lost = {path for path in waiting if Path(path).parent.as_posix() in failed}
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

    def _done(self, path: str) -> bool:
        if path not in self.seconds and (self.run / path).exists():
            with suppress(InputError):  # one that is damaged is made again
                self.seconds[path] = float(field_of(self.run / path, "seconds"))
        return path in self.seconds

    def _failed(self, folder: str) -> bool:
        return any((self.run / folder).glob("failed-*.json"))

    def _locks(self, missing: Iterable[str]) -> Iterator[tuple[str, Path]]:
        """Yield stages with the file that somebody signs who is at them."""
        listed: dict[Path, set[str]] = {}
        for path in missing:
            lock = lock_of(self.run / path)
            if lock.parent not in listed:
                listed[lock.parent] = _names(lock.parent)
            names = listed[lock.parent]
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


def _names(folder: Path) -> set[str]:
    try:
        return {*os.listdir(folder)}
    except OSError:
        return set()


def _there(pid: int) -> bool:
    import psutil  # type: ignore[import-untyped]

    return bool(psutil.pid_exists(pid))


def _generation(name: str) -> int:
    end = name.rpartition(".")[2]
    return int(end) if end.isdecimal() else 0
