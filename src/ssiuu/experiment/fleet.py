"""Several workers at one run: processes of this machine that share its folder, told of in one view.

A worker is `ssiuu run ... --worker NAME`, started anew, with its part of the processor's threads and a
GPU of its own where there are some. One that dies is told of, and what it was at is taken over by those
that are left; the page is written by who started them.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final

PROGRESS: Final = re.compile(r"^\[ *\d+:\d\d\] ")
LOOK: Final = 0.2  # seconds between two looks at the workers
THREADS: Final = "OMP_NUM_THREADS"
MOST: Final = 512  # workers of one machine


@dataclass
class Worker:
    """One process. `doing`: its last line of progress; `said`: all else it has written, in order."""

    name: str
    process: subprocess.Popen[str]
    doing: str = ""
    said: list[str] = field(default_factory=list)
    reader: threading.Thread | None = None

    @property
    def code(self) -> int | None:
        """What it has ended with; None while it is at work."""
        return self.process.poll()

    @property
    def end(self) -> str:
        """How it ended, in words."""
        code = self.code or 0
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def shares(workers: int) -> list[dict[str, str]]:
    """Return what each of several workers gets of this machine, as variables of its environment."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    common = {} if THREADS in os.environ else {THREADS: str(max(1, cores // workers))}
    gpus = _gpus()
    return [
        common | ({"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} if gpus else {}) for n in range(workers)
    ]


def _gpus() -> list[str]:
    """Return the GPUs that this process may use, by the names that a child knows them under."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] or [str(n) for n in range(count)]


@contextmanager
def started(
    words: Sequence[str], workers: int, tell: Callable[[Worker, str], None]
) -> Iterator[list[Worker]]:
    """Start workers; none is at work any more when the block is left.

    Args:
        words: Of the command, without that of Python.
        workers: How many.
        tell: Called with every line of progress of one, in a thread of its own.
    """
    found: list[Worker] = []
    try:
        for number, share in enumerate(shares(workers), 1):
            name = f"w{number}"
            found.append(Worker(name, _start([*words, "--worker", name], share)))
            found[-1].reader = threading.Thread(target=_read, args=(found[-1], tell), daemon=True)
            found[-1].reader.start()
        yield found
    finally:
        for worker in found:
            if worker.code is None:
                worker.process.terminate()
        for worker in found:
            worker.process.wait()
            if worker.reader is not None:
                worker.reader.join(5.0)


def _start(words: Sequence[str], share: dict[str, str]) -> subprocess.Popen[str]:
    # A session of its own: Ctrl-C comes from this process, once, and not from the terminal as well.
    return subprocess.Popen(
        [sys.executable, "-m", "ssiuu", *words],
        env=os.environ | share,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def _read(worker: Worker, tell: Callable[[Worker, str], None]) -> None:
    assert worker.process.stderr is not None
    with worker.process.stderr as lines:
        for line in lines:
            text = line.rstrip("\n")
            if PROGRESS.match(text):
                worker.doing = PROGRESS.sub("", text)
                tell(worker, worker.doing)
            elif text:
                worker.said.append(text)


def wait(workers: Sequence[Worker], look: Callable[[], Any]) -> bool:
    """Wait for all to end, and look again and again meanwhile; whether they were asked to stop.

    Ctrl-C and SIGTERM are passed on: the first one lets them end a step, the second ends them at once.
    """
    asked: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        for worker in workers:
            if worker.code is None:
                worker.process.send_signal(number)

    before = {s: signal.signal(s, pass_on) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        while any(worker.code is None for worker in workers):
            look()
            time.sleep(LOOK)
        for worker in workers:
            if worker.reader is not None:
                worker.reader.join(5.0)
        look()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return bool(asked)
