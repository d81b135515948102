"""The lock of an open file: one process holds it, and the system lets go of it however that one ends.

Package filelock takes it (flock, LockFileEx on Windows). Files are opened here and not by it, so that
what is wrong with one is said in our words.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO, Any

from ssiuu.errors import OutputError

# No link is followed, as the file behind it is somebody's. Windows has neither flag.
FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def open_lock(path: Path) -> IO[Any]:
    """Return a lock file, open; what stands in it stays.

    Raises:
        OutputError: The folder cannot be written to, or a link stands in the file's place.
    """
    linked = f"{path} is a symbolic link, and a lock is none: remove it."
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            raise OutputError(linked)
        return os.fdopen(os.open(path, FLAGS, 0o666), "r+")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OutputError(linked) from error
        raise OutputError(f"{path.parent} cannot be written to: {error.strerror}") from error


def take(stream: IO[Any], wait: bool = False) -> bool:
    """Take the lock of an open file; False where another process holds it and `wait` is not said.

    Raises:
        OutputError: This file system has no locks.
    """
    from filelock import lock_descriptor  # 80 ms, and most commands lock nothing

    try:
        return lock_descriptor(stream.fileno(), blocking=wait)
    except OSError as error:
        raise OutputError(
            f"{stream.name} cannot be locked ({error.strerror}): some network file systems have no "
            "locks; choose a folder on another."
        ) from error
