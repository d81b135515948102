"""The sha256 of files, each read once in a process: who has read one for another reason notes it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from ssiuu.errors import InputError

BLOCK = 1 << 22
TOLD = 1 << 30  # bytes between two words of progress
State = tuple[str, int, int, int, int]
_KNOWN: dict[State, str] = {}


def state(path: Path) -> State:
    """Return what tells a file from what it was: its place, size, times and the number of its inode.

    Raises:
        OSError: It is not there.
    """
    found = path.stat()
    times = found.st_mtime_ns, found.st_ctime_ns
    return str(path.resolve()), found.st_size, *times, found.st_ino


def note(was: State, digest: str) -> None:
    """Remember the digest of a file whose state `was` this before it was read."""
    _KNOWN[was] = digest


def sha256_of(path: Path, progress: Callable[[str], None] = lambda _: None) -> str:
    """Return the sha256 of a file, hexadecimal.

    Args:
        path: The file, read in blocks, and not at all where it was noted.
        progress: Told of every gigabyte.

    Raises:
        InputError: It cannot be read.
    """
    try:
        if (known := _KNOWN.get(was := state(path))) is not None:
            return known
        digest, read, told = hashlib.sha256(), 0, TOLD
        size = path.stat().st_size
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
                read += len(block)
                if read >= told:
                    progress(f"sha256 of {path.name}: {read / 1e9:.1f} of {size / 1e9:.1f} GB")
                    told += TOLD
        note(was, digest.hexdigest())
        return digest.hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
