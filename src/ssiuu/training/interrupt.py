"""Ctrl-C ends a training between two steps, not in the middle of one, and anything else at once.

What is no training (a screening, an evaluation) writes its result at its end or not at all, and takes
minutes on a large model: there is nothing to wait for.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ssiuu.models import shards

_asked = threading.Event()
_training = threading.Event()


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and did so where the same command goes on."""


def check() -> None:
    """Stop here if Ctrl-C was pressed.

    Raises:
        Interrupted: It was.
    """
    if _asked.is_set():
        raise Interrupted


def pending() -> bool:
    """Return whether Ctrl-C was pressed."""
    return _asked.is_set()


@contextmanager
def between_steps() -> Iterator[None]:
    """Have a Ctrl-C wait for the next step: the caller looks for one there and saves its state."""
    if _training.is_set():  # a training within one
        yield
        return
    _training.set()
    try:
        yield
    finally:
        _training.clear()


def _say(text: str) -> None:
    """Write to stderr from within a signal handler, past its buffer: that may be in use just now."""
    try:
        os.write(sys.stderr.fileno(), text.encode())
    except (OSError, ValueError, AttributeError):  # closed, or none: what was asked for counts
        return


@contextmanager
def graceful() -> Iterator[None]:
    """Turn the first Ctrl-C (or SIGTERM) of a training into a request; the second one stops at once.

    Several processes of one model wait for a step in any case: all must end at the same place.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        if _asked.is_set():
            raise KeyboardInterrupt
        _asked.set()
        if not _training.is_set() and shards.world() == 1:
            raise Interrupted
        _say("\nstopping after this step; again to stop at once\n")

    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _asked.clear()
