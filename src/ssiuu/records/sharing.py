"""How processes at work in one folder keep out of each other's way: by the system's locks, or leases.

One way for a whole folder: who asks for leases, or finds that there is nothing else, writes so into the
folder's `.lock`, and all that come later do the same. So it is with a file that several write to, as a
leaderboard; its note lies beside it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, Literal, get_args

from ssiuu.errors import OutputError
from ssiuu.records.lease import PATIENCE, Held, keep, lease, outlast
from ssiuu.records.lock import open_lock, take
from ssiuu.records.said import logged

Way = Literal["auto", "flock", "leases"]
LOCK: Final = ".lock"
LEASES: Final = "leases"
PAUSE: Final = 0.05  # seconds between two looks at the lease of a file
MOMENT: Final = 1.0  # seconds of waiting for one without a word
MOUNTS: Final = Path("/proc/self/mounts")
# Mounted so, locks are those of one machine: of Lustre, of NFS.
ALONE: Final = {"localflock", "local_lock=all", "local_lock=flock"}


def lock_of(record: Path) -> Path:
    """Return the lock of one record of a run; it lies beside it for as long as somebody is at it."""
    return record.with_name(f".{record.stem}.lock")


class Sharing:
    """The locks of a folder.

    Args:
        folder: Of a run; it is there.
        wanted: `flock`: the system's locks; `leases`; `auto`: the former where they work.

    Raises:
        OutputError: Processes in it do otherwise than is wanted, or it cannot be written to.
    """

    def __init__(self, folder: Path, wanted: Way = "auto") -> None:
        self.leases = _leased(folder / LOCK, wanted, folder / LOCK)

    def hold(self, path: Path, part: bool = False) -> Held | None:
        """Take a lock; None where another process holds it.

        Args:
            path: The lock file.
            part: Of a part of the work: the file is signed, and goes when it is let go of.

        Raises:
            OutputError: The folder cannot be written to, or its file system has no locks.
        """
        return lease(path) if self.leases else flock(path, part)

    def take_up(self, path: Path, tell: Callable[[str], None]) -> Held | None:
        """Take a lock, that of a dead process too; None where its holder is alive.

        The system lets go of a dead process' lock; a lease has to be watched for, by a command that
        begins anew each time, until it is signed or `ssiuu.records.lease.PATIENCE` is over.

        Args:
            path: The lock file.
            tell: Told where that is waited for.

        Raises:
            OutputError: See `hold`.
        """
        held = self.hold(path)
        if held is not None or not self.leases:
            return held
        tell(f"{path.parent}: looking for up to {PATIENCE:.0f} s whether who was at work here still is")
        return outlast(path)


def flock(path: Path, part: bool = False) -> Held | None:
    """Take a lock of the system's; see `Sharing.hold`."""
    while True:
        stream = open_lock(path)
        if not take(stream):
            stream.close()
            return None
        if _there(path, stream.fileno()):
            return keep(Held(path, stream, leased=False, removed=part, signed=part))
        stream.close()  # who held it has removed it meanwhile


def _there(path: Path, fd: int) -> bool:
    """Whether an open file is the one of this name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def way_of(sets: Sequence[str]) -> Way:
    """Return what settings (KEY=VALUE) say of `locks`; what is no way is told of where it is read."""
    said = [
        line.partition("=")[2].strip() for line in sets if line.partition("=")[0].strip() == "locks"
    ]
    return next((way for way in get_args(Way) if [way] == said[-1:]), "auto")


def noted(folder: Path) -> bool:
    """Whether processes keep apart by leases in a folder; nothing is written to find that out."""
    return _said(folder / LOCK)


@contextmanager
def alone(path: Path, stream: IO[Any], wanted: Way = "auto") -> Iterator[None]:
    """Have an open file to oneself, for a moment; who has it is waited for.

    Args:
        path: Its name; a link is followed.
        stream: The open file.
        wanted: See `Sharing`.

    Raises:
        OutputError: See `Sharing`.
    """
    path = Path(os.path.realpath(path))
    if _leased(lock_of(path), wanted, path):
        with by_lease(path):
            yield
    else:
        take(stream, wait=True)
        yield


@contextmanager
def by_lease(path: Path, tell: Callable[[str], None] = logged) -> Iterator[Held]:
    """Hold the lease of a file; who holds it is waited for, and one that was killed is outlasted.

    Args:
        path: The file.
        tell: Told once that it takes longer than writing does, and how long at most.
    """
    begun = time.monotonic()
    told = False
    while (held := lease(lock_of(path))) is None:
        if not told and time.monotonic() - begun > MOMENT:
            tell(f"{path}: waiting for who writes to it; for up to {PATIENCE:.0f} s if it was killed")
            told = True
        time.sleep(PAUSE)
    try:
        yield held
    finally:
        held.release()


def _leased(note: Path, wanted: Way, tried: Path) -> bool:
    """Whether processes keep apart by leases: a note says so, which is written where there is none yet.

    Args:
        note: It lies where all of them look.
        wanted: See `Sharing`.
        tried: What the system locks otherwise.
    """
    said = _said(note)
    if said and wanted == "flock":
        raise OutputError(
            f"locks: flock, but processes keep apart by leases in {note.parent}, as its {note.name} "
            "says: leave locks at auto, or remove that file when nobody is at work there."
        )
    leases = said or wanted == LEASES or (wanted == "auto" and not _works(tried))
    if leases and not said:
        with open_lock(note) as stream:
            stream.write(LEASES + "\n")
    return leases


def _said(note: Path) -> bool:
    try:
        return note.read_text(errors="replace").strip() == LEASES
    except OSError:
        return False


def _works(tried: Path) -> bool:
    """Whether the system's locks hold for a file, for all machines."""
    if ALONE & {*_mounted(tried.parent)}:
        return False
    with suppress(OutputError), open_lock(tried) as stream:
        take(stream)
        return True
    return False


def _mounted(folder: Path) -> list[str]:
    """Return the options that the file system of a folder is mounted with, where that is said."""
    try:
        lines = [line.split() for line in MOUNTS.read_text(errors="replace").splitlines()]
    except OSError:
        return []
    place = os.path.realpath(folder)
    of = [(line[1], line[3]) for line in lines if len(line) > 3 and _in(place, line[1])]
    return max(of, key=lambda mount: len(mount[0]), default=("", ""))[1].split(",")


def _in(place: str, mount: str) -> bool:
    return place == mount or place.startswith(mount.rstrip("/") + "/")
