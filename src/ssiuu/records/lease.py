"""Leases: locks that are files alone, for file systems that lock nothing, or for one machine only.

Who holds `.name.lock` has made `.name.lock.1`, which only one process can (O_EXCL), and signs it anew
every few seconds: who it is, and a count that goes up. An observer asks no clock but its own: a file
that reads the same over `PATIENCE` of its seconds, in which it has looked every few, is nobody's any
more. Who finds `.name.lock.N` so takes over by making `.name.lock.N+1`, which again only one can, looks
whether N still reads as it did, and removes it. So a name is never written over, and of two that take
over one stands back.

A process that was held up for so long finds by its file that another has taken over (`Lost`), and lets
the work be. Files locked by the system (`ssiuu.records.lock`) are signed too, to be looked at.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from ssiuu.errors import OutputError, SsiuuError

BEAT: Final = 5.0  # seconds between two signatures
PATIENCE: Final = 60.0  # seconds without one, after which a lease is taken over
FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
DOING = 200  # characters kept of what a process is doing


class Lost(SsiuuError):
    """Another process took this one's place, which was held up for too long."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path}: this process was held up for so long that another one has taken over its work. "
            "The same command goes on beside it."
        )


class Held:
    """An open file that this process signs until it lets go of it.

    Args:
        path: Where it lies.
        stream: The open file; it is closed when it is let go of.
        leased: It is a lease, so may be lost; otherwise the system holds it.
        removed: It goes when it is let go of.
        signed: Something is written into it.
    """

    def __init__(
        self, path: Path, stream: IO[Any], leased: bool, removed: bool = True, signed: bool = True
    ) -> None:
        self.path, self.stream, self.leased = path, stream, leased
        self.removed, self.signed = removed, signed
        self.id, self.beats, self.lost = uuid.uuid4().hex, 0, False
        self._base, self._own = path.with_suffix("") if leased else path, os.fstat(stream.fileno())
        self._mutex = threading.Lock()
        self._sign()

    def beat(self) -> None:
        """Sign the file, and look whether it is this process' still."""
        with self._mutex:
            if self.stream.closed or self.lost:
                return
            self._sign()
            self.lost = self.leased and not self._mine()

    def _sign(self) -> None:
        self.beats += 1
        if self.signed:
            with suppress(OSError):  # a disk that is full for a while; the next one counts
                self._write()

    def _write(self) -> None:
        said = {"id": self.id, "host": _host(), "pid": os.getpid(), "worker": _process.name}
        text = json.dumps(said | {"beats": self.beats, "doing": _process.doing}).encode() + b"\n"
        fd = self.stream.fileno()
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, text)
        os.ftruncate(fd, len(text))
        os.fsync(fd)

    def _mine(self) -> bool:
        """Whether the file of this name is the one that is signed, and nobody has made a newer one."""
        try:
            # Opened and not asked by its name: a network file system looks anew then.
            with self.path.open("rb") as found:
                there = os.fstat(found.fileno())
        except OSError as error:
            return not isinstance(error, FileNotFoundError)
        newest = max(generations(self._base), default=0)
        return os.path.samestat(there, self._own) and newest == int(self.path.suffix[1:])

    def check(self) -> None:
        """Stop here if another process has taken over.

        Raises:
            Lost: One has.
        """
        if self.leased:
            self.beat()
            if self.lost:
                raise Lost(self.path)

    def release(self) -> None:
        """Let go; a file that is not this process' any more stays."""
        _process.forget(self)
        with self._mutex:
            if self.removed and not self.lost and (not self.leased or self._mine()):
                with suppress(OSError):  # Windows removes no open file
                    self.path.unlink()
            self.stream.close()


class _Seen(NamedTuple):
    """What a lease of another process reads, when it was looked at last, seconds without a change."""

    token: bytes
    at: float
    silent: float


class _Process:
    """What this process holds, and the thread that signs it."""

    def __init__(self) -> None:
        self.name, self.doing = "", ""
        self.held: list[Held] = []
        self.seen: dict[Path, _Seen] = {}
        self.thread: threading.Thread | None = None
        self.mutex, self.stop = threading.Lock(), threading.Event()

    def keep(self, held: Held) -> Held:
        """Sign a file from now on."""
        with self.mutex:
            self.held.append(held)
            if self.thread is None:
                self.stop = threading.Event()
                self.thread = threading.Thread(target=self._beat, args=(self.stop,), daemon=True)
                self.thread.start()
        return held

    def forget(self, held: Held) -> None:
        """Sign a file no more; the thread ends with the last one."""
        with self.mutex:
            if held in self.held:
                self.held.remove(held)
            if not self.held and self.thread is not None:
                self.stop.set()
                self.thread = None

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT):
            for held in [*self.held]:
                held.beat()


_process = _Process()


def _begin_anew() -> None:
    """A child of this process holds nothing, and has no thread."""
    _process.__init__()  # type: ignore[misc]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def keep(held: Held) -> Held:
    """Have a file signed every few seconds until it is let go of."""
    return _process.keep(held)


def called(name: str) -> None:
    """Give this process a name, for who looks at its leases."""
    _process.name = name


def doing(text: str) -> None:
    """Say what this process is doing, for who looks at its leases.

    Raises:
        Lost: Another process has taken over something that this one works on.
    """
    _process.doing = text[:DOING]
    for held in _process.held:
        if held.lost:
            raise Lost(held.path)


def told_to(progress: Callable[[str], None]) -> Callable[[str], None]:
    """Return progress that stands on what this process holds, too; it stops where that is lost."""

    def say(text: str) -> None:
        doing(text)
        progress(text)

    return say


def check() -> None:
    """Look at once whether all that this process holds is still its own; before something is written.

    Raises:
        Lost: Another process has taken over.
    """
    for held in [*_process.held]:
        held.check()


def generations(path: Path) -> list[int]:
    """Return which leases of a name there are."""
    start = f"{path.name}."
    try:
        names = [name.removeprefix(start) for name in os.listdir(path.parent) if name.startswith(start)]
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isdecimal())


def lease(path: Path) -> Held | None:
    """Take the lease of a name; None where another process holds it.

    Raises:
        OutputError: The folder cannot be written to.
    """
    before = generations(path)
    # A file that the system locks is of a process that began before leases were asked for.
    newest = _place(path, before[-1]) if before else path if _signed(path) else None
    token = None if newest is None else _read(newest)
    if newest is not None and (token is None or not _silent(newest, token)):
        return None
    mine = (before[-1] if before else 0) + 1
    if (held := _make(path, mine)) is None:
        return None
    others = [n for n in generations(path) if n != mine]
    if not {*others} <= {*before} or (newest is not None and _read(newest) != token):
        held.path.unlink(missing_ok=True)
        held.release()
        return None
    for gone in [*(_place(path, n) for n in others), *([newest] if newest == path else [])]:
        gone.unlink(missing_ok=True)
        _process.seen.pop(gone, None)
    return keep(held)


def outlast(path: Path) -> Held | None:
    """Take the lease of a name; None as soon as its holder is seen to sign it.

    One that was killed signs nothing: its lease is waited for, and taken over.

    Raises:
        OutputError: The folder cannot be written to.
    """
    first = _signatures(path)
    while (held := lease(path)) is None:
        if (now := _signatures(path)) and now != first:
            return None
        time.sleep(BEAT / 5)
    return held


def _signatures(path: Path) -> dict[int, bytes | None]:
    return {n: _read(_place(path, n)) for n in generations(path)}


def clear(path: Path) -> None:
    """Remove a lock of work that is done, which a killed process has left."""
    for gone in (path, *(_place(path, n) for n in generations(path))):
        with suppress(OSError):  # Windows removes no file that somebody has open
            gone.unlink()


def _make(path: Path, generation: int) -> Held | None:
    place = _place(path, generation)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Held(place, os.fdopen(os.open(place, FLAGS, 0o666), "r+"), leased=True)
    except FileExistsError:
        return None
    except OSError as error:
        raise OutputError(f"{path.parent} cannot be written to: {error.strerror or error}.") from error


def _place(path: Path, generation: int) -> Path:
    return path.with_name(f"{path.name}.{generation}")


def _signed(path: Path) -> bool:
    return (_read(path) or b"").startswith(b"{")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _silent(path: Path, token: bytes) -> bool:
    """Whether a lease has read so for as long as one waits, by this process' own clock.

    Between two looks this process may have slept, or waited for the disk as its holder did: no more is
    counted than a signature is late by.
    """
    now = time.monotonic()
    before = _process.seen.get(path)
    same = before is not None and before.token == token
    silent = before.silent + min(now - before.at, BEAT) if before is not None and same else 0.0
    _process.seen[path] = _Seen(token, now, silent)
    return silent >= PATIENCE


def _host() -> str:
    return platform.node()
