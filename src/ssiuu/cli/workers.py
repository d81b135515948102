"""`ssiuu run --workers N`: what all are doing, in one view, and how it ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ssiuu.cli.board import Board
from ssiuu.cli.exits import INTERRUPTED, MISUSE
from ssiuu.cli.terminal import clock
from ssiuu.cli.watch import headline
from ssiuu.errors import InputError, SsiuuError

if TYPE_CHECKING:
    from ssiuu.experiment.fleet import Worker

EVERY = 2.0  # seconds between two looks at the folder


def work(words: Sequence[str], folders: Sequence[Path], workers: int) -> None:
    """Have workers do a run, or several, one after the other; return when all is done.

    Args:
        words: Of the command that one carries out.
        folders: Of the runs.
        workers: How many.

    Raises:
        SsiuuError: All of them ended, and something is not done.
    """
    from ssiuu.experiment.fleet import started, wait

    view = _View(folders)
    with started(words, workers, view.tell) as found:
        view.workers = found
        asked = wait(found, view.look)
    view.end()
    if asked:
        print("interrupted: the same command continues from here", file=sys.stderr)
        sys.exit(INTERRUPTED)
    _judge(found, folders)


def queue(
    words: Sequence[str], folders: Sequence[Path], workers: int, out: Path, settings: Sequence[str]
) -> None:
    """Have jobs of a cluster do a run, or several; return when all is done.

    Raises:
        SsiuuError: They ended, and something is not done.
    """
    from ssiuu.experiment.slurm import read, submit, wait

    logs = out.with_name(f"{out.name}.jobs")
    jobs, view = submit(words, workers, logs, read(settings)), _View(folders)
    view.board.say(f"{len(jobs)} jobs: {jobs[0].job_id}, ...; their logs are in {logs}")
    failed: SsiuuError | None = None
    try:
        wait(jobs, view.watch)
    except SsiuuError as error:
        failed = error
    except KeyboardInterrupt:
        view.end()
        print(f"the jobs go on: ssiuu watch {out}, then ssiuu report {out}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    view.end()
    if not _over(folders):
        raise failed or SsiuuError("not all is done; the same command goes on from here.")


class _View:
    """All workers in one view: a line for each on a terminal, else every line of theirs."""

    def __init__(self, folders: Sequence[Path]) -> None:
        from ssiuu.records.underway import Watcher

        self.begun, self.looked, self.head = time.monotonic(), 0.0, "setting up"
        self.board, self.workers, self.ended = Board(), list["Worker"](), set[str]()
        self.watchers = [Watcher(folder) for folder in folders]
        self.said: set[str] = set()

    def tell(self, worker: Worker, text: str) -> None:
        """Say a line of progress where there is no terminal to draw on."""
        if not self.board.terminal:
            self.board.say(f"{self._clock()} {worker.name}: {text}")

    def look(self) -> None:
        """Draw how it stands, and say who has ended."""
        for worker in self.workers:
            self._said(worker)
            if worker.code not in (None, 0) and worker.name not in self.ended:
                self.ended.add(worker.name)
                left = sum(other.code is None for other in self.workers)
                goes_on = f"; {left} left, which take over what it was at" if left else ""
                self.board.say(f"{worker.name} {worker.end}{goes_on}")
        if not self.board.terminal:
            return
        if time.monotonic() - self.looked >= EVERY:
            self.looked, self.head = time.monotonic(), self._headline()
        doing = (f"  {w.name}: {w.doing}" for w in self.workers if w.code is None)
        self.board.draw([f"{self._clock()} {self.head}", *doing])

    def watch(self) -> None:
        """Say how it stands, of workers that are elsewhere."""
        time.sleep(EVERY)
        head = self._headline()
        if not self.board.terminal and head != self.head:
            self.board.say(f"{self._clock()} {head}")
        self.head = head
        self.board.draw([f"{self._clock()} {head}"])

    def end(self) -> None:
        """Leave nothing drawn."""
        self.board.draw([])

    def _said(self, worker: Worker) -> None:
        """Say what a worker has written beside its progress; once, where all say the same."""
        while worker.said:
            text = worker.said.pop(0)
            if text not in self.said:
                self.said.add(text)
                self.board.say(text if text.startswith("error: ") else f"{worker.name}: {text}")

    def _headline(self) -> str:
        for watcher in self.watchers:
            with suppress(InputError):  # not set up yet
                state = watcher.look()
                if not state.over:
                    return headline(state)
        return self.head

    def _clock(self) -> str:
        return clock(time.monotonic() - self.begun)


def _judge(workers: Sequence[Worker], folders: Sequence[Path]) -> None:
    """Go on where everything is there, whoever has died; else end as the workers did."""
    codes = [worker.code for worker in workers]
    if not any(codes):
        return
    if _over(folders):
        return
    if MISUSE in codes:
        sys.exit(MISUSE)
    if INTERRUPTED in codes:
        sys.exit(INTERRUPTED)
    ended = ", ".join(f"{worker.name} {worker.end}" for worker in workers if worker.code)
    raise SsiuuError(f"not all is done ({ended}); the same command goes on from here.")


def _over(folders: Sequence[Path]) -> bool:
    from ssiuu.records.underway import Watcher

    with suppress(InputError):
        return all(Watcher(folder).look().over for folder in folders)
    return False
