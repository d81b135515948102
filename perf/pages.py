"""Puts what a script measured into a page of the docs, between its marks there."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def put(script: str, page: str, told: str) -> None:
    """Replace what stands between the marks of a script (`perf/NAME.py`) in a page of the docs."""
    begin, end = (f"<!-- perf/{Path(script).name}: {mark} -->\n" for mark in ("begin", "end"))
    path = DOCS / page
    before, _, rest = path.read_text().partition(begin)
    path.write_text(f"{before}{begin}\n{told}\n{end}{rest.partition(end)[2]}")
