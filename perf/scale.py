"""What the folder of a run costs as it grows: files, bytes, time to look, to read, to write its page.

    python perf/scale.py RUN [--cells 100 1000 10000] [--page 1000]

RUN is the folder of any run; records of its last cell are copied under as many seeds as there are to
be cells. Locks: how long one takes to be had and let go of, by the system's and by leases. Pages are
written up to `--page` cells.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from ssiuu.records.files import HEADER, cell_folder, load_run, read_header, write_record
from ssiuu.records.sharing import Sharing, Way, lock_of
from ssiuu.records.underway import Watcher
from ssiuu.report import write_report


def grown(run: Path, out: Path, cells: int) -> None:
    """Write a folder of so many cells, each with the records of the last one of a run."""
    header = read_header(run)
    method, seed = header.methods[-1], header.seeds[-1]
    old = cell_folder(method.label, seed).as_posix()
    mine = {path: key for path, key in header.stages.items() if path.startswith(f"{old}/")}
    stages = {path: key for path, key in header.stages.items() if "/" not in path}
    for number in range(cells):
        folder = out / cell_folder(method.label, number)
        folder.mkdir(parents=True)
        for path, key in mine.items():
            stages[(cell_folder(method.label, number) / Path(path).name).as_posix()] = key
            (folder / Path(path).name).write_bytes((run / path).read_bytes())
    for path in (path for path in stages if "/" not in path):
        (out / path).write_bytes((run / path).read_bytes())
    changed = {"stages": stages, "methods": [method], "seeds": [*range(cells)]}
    write_record(out / HEADER, header.model_copy(update=changed))


def locks(folder: Path, way: Way, times: int = 200) -> float:
    """Return the milliseconds that a stage's lock takes, to be had and let go of."""
    folder.mkdir()
    sharing, begun = Sharing(folder, way), time.perf_counter()
    for number in range(times):
        held = sharing.hold(lock_of(folder / f"evaluate-{number:08d}.json"), part=True)
        assert held is not None
        held.release()
    return 1e3 * (time.perf_counter() - begun) / times


def measured(run: Path, out: Path, cells: int, page: bool) -> dict[str, float]:
    """Return what a folder of so many cells costs."""
    grown(run, out, cells)
    files = [path for path in out.rglob("*") if path.is_file()]
    row: dict[str, float] = {"cells": cells, "files": len(files)}
    row["MB"] = round(sum(path.stat().st_size for path in files) / 1e6, 1)
    row["header_MB"] = round((out / HEADER).stat().st_size / 1e6, 2)
    watcher = Watcher(out)
    for name, act in (("first_look_s", watcher.look), ("next_look_s", watcher.look)):
        begun = time.perf_counter()
        act()
        row[name] = round(time.perf_counter() - begun, 2)
    begun = time.perf_counter()
    record = load_run(out)
    row["read_s"] = round(time.perf_counter() - begun, 2)
    if page:
        begun = time.perf_counter()
        path = write_report(record, out)
        row["page_s"] = round(time.perf_counter() - begun, 2)
        row["page_MB"] = round(path.stat().st_size / 1e6, 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cells", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--page", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        for way in ("flock", "leases"):
            print(json.dumps({"locks": way, "ms": round(locks(Path(place) / way, way), 2)}), flush=True)
        for cells in given.cells:
            row = measured(given.run, Path(place) / str(cells), cells, cells <= given.page)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
