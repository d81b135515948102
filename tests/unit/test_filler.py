"""The filler must be varied and must touch no fact."""

from __future__ import annotations

import itertools

from ssiuu.benchmarks import filler, worldfacts
from ssiuu.benchmarks.fictional_world import build_world
from ssiuu.evaluation.segments import segments


def test_rows_are_varied_and_always_the_same() -> None:
    rows = filler.load()
    assert rows == filler.load() and len(rows) >= 200
    assert all(12 <= len(row.split()) <= 40 for row in rows)
    words = [set(row.lower().split()) for row in rows]
    shared = [len(a & b) / len(a | b) for a, b in itertools.combinations(words, 2)]
    assert max(shared) < 0.8 and sum(shared) / len(shared) < 0.15
    assert all(row[0].isupper() and row.endswith(".") and "  " not in row for row in rows)


def test_no_row_names_anything_of_a_fact_set() -> None:
    text = f" {_spelled(' '.join(filler.load()))} "
    for facts in (worldfacts.load()[0], build_world(600, 0).facts):
        names = {name for fact in facts for name in (fact.answer, fact.entity) if name}
        assert [name for name in names if f" {_spelled(name)} " in text] == []


def _spelled(text: str) -> str:
    return " ".join(segment.text for segment in segments(text) if segment.kind != "mark")
