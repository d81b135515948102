"""What the folder of a run costs as it grows: files, bytes, time to look, to read, to write its page.

    python perf/scale.py RUN [--cells 100 1000 10000] [--seeds 5] [--page 10000]
    python perf/scale.py RUN --write       # into docs/fleet.md

RUN is the folder of any run; records of its last cell are copied under as many methods and seeds as
there are to be cells. What is done with a folder is done by a process of its own: seconds are those it
computes (a busy machine does not count), MB the most memory that it has, both with what Python and
the imports take. Locks: how long one takes to be had and let go of, by the system's and by leases.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pages import put

from ssiuu.records.files import HEADER, cell_folder, load_run, read_header, write_record
from ssiuu.records.sharing import Sharing, Way, lock_of
from ssiuu.records.underway import Watcher
from ssiuu.report import write_report

SPAWN = multiprocessing.get_context("spawn")
BLOCK = 512  # bytes that st_blocks counts in


def grown(run: Path, out: Path, cells: int, seeds: int) -> None:
    """Write a folder of so many cells, each with the records of the last one of a run."""
    header = read_header(run)
    method, seed = header.methods[-1], header.seeds[-1]
    old = cell_folder(method.label, seed).as_posix()
    mine = {Path(path).name: key for path, key in header.stages.items() if path.startswith(f"{old}/")}
    contents = {name: (run / old / name).read_bytes() for name in mine}
    stages = {path: key for path, key in header.stages.items() if "/" not in path}
    labels = [f"{method.label}-{n}" for n in range(-(-cells // seeds))]
    for number in range(cells):
        folder = cell_folder(labels[number // seeds], number % seeds)
        (out / folder).mkdir(parents=True)
        for name, content in contents.items():
            stages[(folder / name).as_posix()] = mine[name]
            (out / folder / name).write_bytes(content)
    for path in (path for path in stages if "/" not in path):
        (out / path).write_bytes((run / path).read_bytes())
    methods = [method.model_copy(update={"label": label}) for label in labels]
    changed = {"stages": stages, "methods": methods, "seeds": [*range(seeds)]}
    write_record(out / HEADER, header.model_copy(update=changed))


def sizes(folder: Path) -> dict[str, float]:
    """Return what a folder takes of the disk."""
    found = [path.lstat() for path in folder.rglob("*")]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "files": len(files),
        "inodes": len(found),
        "MB": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        "MB_on_disk": round(sum(stat.st_blocks for stat in found) * BLOCK / 1e6, 1),
        "header_MB": round((folder / HEADER).stat().st_size / 1e6, 2),
    }


# --- what is done with a folder -----------------------------------------------------------------


def watched(folder: Path) -> dict[str, float]:
    """Look at it as `ssiuu watch` does, twice."""
    watcher, found = Watcher(folder), {}
    for name in ("first_look_s", "next_look_s"):
        begun = time.process_time()
        watcher.look()
        found[name] = round(time.process_time() - begun, 2)
    return found


def worked(folder: Path) -> dict[str, float]:
    """Take stock as a worker that comes to it does, and once more as after each of its stages."""
    from ssiuu.experiment.cells import CellPlan, StagePlan
    from ssiuu.experiment.progress import Meter

    header, stages = read_header(folder), dict[str, list[StagePlan]]()
    for path, key in header.stages.items():
        kind: Any = Path(path).name.partition("-")[0]
        stages.setdefault(Path(path).parent.as_posix(), []).append(StagePlan(kind, key, Path(path)))
    plans = [
        CellPlan(method, None, seed, stages[cell_folder(method.label, seed).as_posix()])
        for seed in header.seeds
        for method in header.methods
        if cell_folder(method.label, seed).as_posix() in stages
    ]
    begun = time.process_time()
    meter = Meter(folder, plans, print)
    first = time.process_time() - begun
    meter.look(plans[0])
    return {
        "stock_s": round(first, 2),
        "look_ms": round(1e3 * (time.process_time() - begun - first), 2),
    }


def read(folder: Path) -> dict[str, float]:
    """Read all records."""
    begun = time.process_time()
    load_run(folder)
    return {"read_s": round(time.process_time() - begun, 2)}


def reported(folder: Path) -> dict[str, float]:
    """Write its page."""
    record = load_run(folder)
    begun = time.process_time()
    path = write_report(record, folder)
    spent = time.process_time() - begun
    return {"page_s": round(spent, 2), "page_MB": round(path.stat().st_size / 1e6, 1)}


def compared(folder: Path) -> dict[str, float]:
    """Set it beside itself, as a page."""
    from ssiuu.analysis.across import grounds
    from ssiuu.report.compare_page import render_comparison

    record = load_run(folder)
    begun = time.process_time()
    page = render_comparison(grounds({"one": record, "other": record}))
    spent = time.process_time() - begun
    return {"compare_s": round(spent, 2), "compare_MB": round(len(page.encode()) / 1e6, 1)}


ACTS: Mapping[str, Callable[[Path], dict[str, float]]] = {
    "watch": watched,
    "worker": worked,
    "read": read,
    "page": reported,
    "compare": compared,
}


def apart(act: str, folder: Path) -> dict[str, float]:
    """Do something in a process of its own, and return what it cost."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_told, args=(theirs, act, folder))
    process.start()
    theirs.close()
    try:
        found: dict[str, float] = ours.recv()
    except EOFError:
        found = {f"{act}_failed": 1}
    process.join()
    return found


def _told(pipe: Any, act: str, folder: Path) -> None:
    found = ACTS[act](folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1e3)
    pipe.send(found | {f"{act}_MB_of_memory": round(peak)})


def locks(folder: Path, way: Way, times: int = 200) -> float:
    """Return the milliseconds that a stage's lock takes, to be had and let go of."""
    folder.mkdir()
    sharing, begun = Sharing(folder, way), time.perf_counter()
    for number in range(times):
        held = sharing.hold(lock_of(folder / f"evaluate-{number:08d}.json"), part=True)
        assert held is not None
        held.release()
    return 1e3 * (time.perf_counter() - begun) / times


def measured(run: Path, out: Path, cells: int, given: argparse.Namespace) -> dict[str, float]:
    """Return what a folder of so many cells costs."""
    grown(run, out, cells, given.seeds)
    row: dict[str, float] = {"cells": cells, **sizes(out)}
    for act in ACTS:
        if cells <= given.page or act not in ("page", "compare"):
            row |= apart(act, out)
            print(json.dumps(row), file=sys.stderr, flush=True)
    shutil.rmtree(out)
    return row


def table(rows: Sequence[Mapping[str, float]]) -> str:
    """Return what was measured in Markdown, a column a number of cells."""

    def line(name: str, *keys: str) -> str:
        cells = [" / ".join(f"{row[key]:,g}" if key in row else "–" for key in keys) for row in rows]
        return f"| {name} | {' | '.join(cells)} |"

    lines = [
        line("cells", "cells"),
        "|---" * (len(rows) + 1) + "|",
        line("files / files and folders", "files", "inodes"),
        line("MB / on the disk", "MB", "MB_on_disk"),
        line("header, MB", "header_MB"),
        line("`watch`: first look / next, s", "first_look_s", "next_look_s"),
        line("memory, MB", "watch_MB_of_memory"),
        line("a worker: takes stock, s / looks after a stage, ms", "stock_s", "look_ms"),
        line("memory, MB", "worker_MB_of_memory"),
        line("read all, s", "read_s"),
        line("memory, MB", "read_MB_of_memory"),
        line("write the page once all is read, s / its MB", "page_s", "page_MB"),
        line("memory, MB", "page_MB_of_memory"),
        line("set beside itself by `compare`, s / MB of the page", "compare_s", "compare_MB"),
        line("memory, MB", "compare_MB_of_memory"),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cells", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--seeds", type=int, default=5, help="cells of one method")
    parser.add_argument("--page", type=int, default=10000, help="pages are made up to so many cells")
    parser.add_argument("--write", action="store_true", help="put the table into docs/fleet.md")
    given, rows = parser.parse_args(), []
    with tempfile.TemporaryDirectory() as place:
        for way in ("flock", "leases"):
            print(json.dumps({"locks": way, "ms": round(locks(Path(place) / way, way), 2)}), flush=True)
        for cells in given.cells:
            rows.append(measured(given.run, Path(place) / str(cells), cells, given))
            print(json.dumps(rows[-1]), flush=True)
    print(f"\n{table(rows)}")
    if given.write:
        put(__file__, "fleet.md", table(rows))


if __name__ == "__main__":
    main()
