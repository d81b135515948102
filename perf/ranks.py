"""How far several processes are from one: every method in every form, in float64, as a table.

    python perf/ranks.py 2 3            # so many processes, one number after the other: minutes each
    python perf/ranks.py 2 3 --write    # into docs/scale.md

What is compared stands in `tests/distributed/table.py`, and how in `tests/distributed/cases.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from distributed.table import EVERY, FORMS, SPECS  # noqa: E402
from distributed.test_together import together  # noqa: E402

PAGE = ROOT / "docs/scale.md"
MARKS = "<!-- perf/ranks.py: begin -->\n", "<!-- perf/ranks.py: end -->"


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
    given = parser.parse_args()
    found = {}
    for processes in given.processes:
        with TemporaryDirectory() as folder:
            found[processes] = together(Path(folder), EVERY, processes)
    told = table(found)
    print(told)
    if given.write:
        before, _, rest = PAGE.read_text().partition(MARKS[0])
        PAGE.write_text(f"{before}{MARKS[0]}\n{told}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")


if __name__ == "__main__":
    main()
