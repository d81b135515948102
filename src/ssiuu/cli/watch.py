"""`ssiuu watch`: what is under way in the folder of a run."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssiuu.cli.board import Board

if TYPE_CHECKING:
    from ssiuu.records.underway import Underway

SHOWN = 12  # stages that wait which are named


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder of a run")],
    once: Annotated[bool, typer.Option("--once", help="say how it stands, and end")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="seconds between two looks")] = 2.0,
) -> None:
    """Show what of a run is done, in work and by whom, and waiting; it reads only.

    It ends with the run. Without a terminal it says a line whenever something has changed.
    """
    from ssiuu.records.underway import Watcher

    watcher, board, before = Watcher(folder), Board(sys.stdout), ""
    while True:
        state = watcher.look()
        if once or (state.over and not board.terminal):
            print(*lines(state), sep="\n")
        elif board.terminal:
            board.draw(lines(state))
        elif (now := headline(state)) != before:
            board.say(now)
            before = now
        if once or state.over:
            return
        time.sleep(every)


def headline(state: Underway) -> str:
    """Return how far a run is, in one line."""
    from ssiuu.records.underway import duration

    parts = [f"{state.done}/{state.stages} stages"]
    if state.cells:
        parts.insert(0, f"{state.cells_done}/{state.cells} cells")
    parts.append(f"{len(state.work)} in work")
    if state.failed:
        parts.append(f"{len(state.failed)} broke off")
    if state.over:
        parts.append("done")
    elif state.left is not None:
        parts.append(f"{duration(state.left)} left")
    return ", ".join(parts)


def lines(state: Underway) -> list[str]:
    """Return how a run stands, a stage in work in each line."""
    from ssiuu.records.underway import duration, kind_of

    told = [headline(state)]
    for work in state.work:
        where = "" if (cell := Path(work.stage).parent.name) in ("", ".") else f"{cell} "
        name = where + kind_of(work.stage)
        since = duration(work.seconds) if work.alive else "silent: somebody else will take over"
        doing = work.doing.rpartition(" | ")[2]
        told.append(f"  {work.worker}: {name}, {since}{f' | {doing}' if doing else ''}")
    told += [f"  broke off: {Path(folder).name}" for folder in state.failed]
    waiting = {Path(path).parent.name or "." for path in state.waiting} if not state.over else set()
    if waiting:
        names = sorted(waiting)
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        told.append(f"  waiting: {len(state.waiting)} stages of {', '.join(names[:SHOWN])}{more}")
    return told
