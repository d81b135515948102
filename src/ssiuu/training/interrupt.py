"""Ctrl-C ends a run between two steps, not in the middle of one."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked = threading.Event()


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and did so at a step boundary."""


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
def graceful() -> Iterator[None]:
    """Turn the first Ctrl-C (or SIGTERM) into a request; the second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        if _asked.is_set():
            raise KeyboardInterrupt
        _asked.set()
        print("\nstopping after this step; again to stop at once", file=sys.stderr, flush=True)

    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _asked.clear()
