"""Processes that work together, forked from this one: they have everything imported.

    Forked(place, 2, command(["unlearn", "--model", "model", ...])).done() == 0

A launcher starts each anew; what it says to them, and how it ends them, is what these are given.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

FORK = multiprocessing.get_context("fork")
LIMIT = 300.0  # seconds that they may take on a busy machine


class Forked:
    """Processes that have begun; what they say stands in the file `told N` of their folder."""

    def __init__(self, place: Path, size: int, action: Callable[[], int]) -> None:
        """Start them.

        Args:
            place: Where they work.
            size: How many they are.
            action: What each of them does; it returns its exit code.
        """
        self.place = place
        shared = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        self.processes = [
            FORK.Process(target=_be, args=(action, place, shared if size > 1 else {}, rank))
            for rank in range(size)
        ]
        for process in self.processes:
            process.start()

    def told(self, rank: int = 0) -> str:
        """Return what one of them has said so far."""
        path = self.place / f"told {rank}"
        return path.read_text(errors="replace") if path.exists() else ""

    def done(self, limit: float = LIMIT) -> int:
        """Wait for all of them; return the first exit code that is not 0. Where one dies, all end."""
        end = time.monotonic() + limit
        while any(process.is_alive() for process in self.processes):
            if any(process.exitcode for process in self.processes) or time.monotonic() > end:
                time.sleep(0.5)  # the others may be about to end alike
                for process in self.processes:
                    process.kill()
            time.sleep(0.01)
        return max((p.exitcode or 0 for p in self.processes), key=lambda code: (code > 0, code < 0))


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _be(act: Callable[[], int], place: Path, shared: dict[str, object], rank: int) -> None:
    """Be one of them."""
    import torch

    torch.set_num_threads(1)
    if shared:
        given = shared | {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": shared["WORLD_SIZE"]}
        os.environ.update({key: str(value) for key, value in given.items()})
    os.chdir(place)
    told = os.open(f"told {rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(told, 1)
    os.dup2(told, 2)
    sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115  to the end
    try:
        code = act()
    except BaseException:
        traceback.print_exc()
        code = 99
    os._exit(code)


def command(words: Sequence[str]) -> Callable[[], int]:
    """Return what a command does, given its words."""

    def act() -> int:
        from ssiuu.cli import main

        sys.argv = ["ssiuu", *words]
        try:
            main.main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        return 0

    return act
