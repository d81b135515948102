"""How far several processes are from one: every method in every form, in float64, as a table.

    python perf/ranks.py 2 3            # so many processes, one number after the other
    python perf/ranks.py 2 3 --write    # into docs/scale.md

It takes 24 minutes of two busy cores. What was found is kept in `--out`, a line a case: the same
command goes on after the last one. What is compared stands in `tests/distributed/table.py`, and how in
`tests/distributed/cases.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from pages import put  # noqa: E402

from distributed.table import EVERY, FORMS, SPECS  # noqa: E402
from distributed.test_together import check, together  # noqa: E402

AT_ONCE = 20  # cases that the processes are started for


def lacking(out: Path, numbers: Sequence[int]) -> Iterator[tuple[int, list[str]]]:
    """Yield what is not in a file yet: how many processes, and which cases by them."""
    known = {(row["processes"], row["case"]) for row in read(out)}
    for processes in numbers:
        names = [name for name in EVERY if (processes, name) not in known]
        yield from ((processes, names[n : n + AT_ONCE]) for n in range(0, len(names), AT_ONCE))


def read(out: Path) -> list[dict[str, Any]]:
    """Return what was found so far."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def table(found: Mapping[int, Mapping[str, Any]]) -> str:
    """Return the largest differences in Markdown, a row for each method.

    Args:
        found: What the processes came to, by their number.
    """
    numbers = " / ".join(map(str, found))
    lines = [f"| {numbers} processes | " + " | ".join(FORMS) + " |", "|---" * (len(FORMS) + 1) + "|"]
    for method in SPECS:
        cells = [_cell([each.get(f"{method}, {form}") for each in found.values()]) for form in FORMS]
        name = json.loads(method)["name"] if method.startswith("{") else method
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(cases: Sequence[Mapping[str, Any] | None]) -> str:
    first = cases[0]
    if first is None:
        return "–"
    if "refused" in first:
        return "refused"
    largest = [max(case["apart"], case["told"]) for case in cases if case]
    return " / ".join(f"{difference:.0e}" if difference else "0" for difference in largest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("processes", type=int, nargs="+", help="how many there are")
    parser.add_argument("--write", action="store_true", help="put the table into docs/scale.md")
    parser.add_argument("--out", type=Path, default=Path("ranks.jsonl"), help="what was found so far")
    given = parser.parse_args()
    begun = time.perf_counter()
    for processes, names in lacking(given.out, given.processes):
        with TemporaryDirectory() as folder:
            cases = together(Path(folder), {name: EVERY[name] for name in names}, processes)
        with given.out.open("a") as lines:
            for name, case in cases.items():
                lines.write(json.dumps({"processes": processes, "case": name, **case}) + "\n")
        spent = time.perf_counter() - begun
        print(f"{processes} processes, {names[-1]}: {spent:.0f} s", file=sys.stderr, flush=True)
    found: dict[int, dict[str, Any]] = {processes: {} for processes in given.processes}
    for row in read(given.out):
        found.get(row["processes"], {})[row["case"]] = row
    for cases in found.values():
        check(cases, EVERY)
    told = table(found)
    print(told)
    if given.write:
        put(__file__, "scale.md", told)


if __name__ == "__main__":
    main()
