"""With which measure "hidden" can be seen: the sentences and the table are those of what was measured."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ssiuu.analysis.seen import ABLATED

DOCS = Path(__file__).parents[2] / "docs"
OUTPUT = "logits"  # the way of hiding that changes no block


def script() -> Any:
    spec = importlib.util.spec_from_file_location("inside_docs", DOCS / "inside.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def inside() -> Any:
    return script()


@pytest.fixture(scope="module")
def rows(inside: Any) -> list[dict[str, Any]]:
    every = json.loads((DOCS / "inside.json").read_text())
    return [row for row in every if inside._counts(row)]


def test_the_table_of_the_page_is_that_of_the_numbers(inside: Any, rows: list[dict[str, Any]]) -> None:
    assert inside.table(rows) in (DOCS / "verdict.md").read_text()


def test_what_the_pages_say_was_measured(inside: Any, rows: list[dict[str, Any]]) -> None:
    erased = [row for row in rows if row["model"] in inside.ERASED]
    hidden = [row for row in rows if row["model"] not in inside.ERASED]
    blocks = [row for row in hidden if row["model"] != OUTPUT]

    def apart(key: str, among: list[dict[str, Any]]) -> float:
        higher = inside.MEASURES[key][1]
        return sum(inside._apart(row, erased, key, higher) for row in among) / len(among)

    assert {f"{row['hide_ratio']:.2f}" for row in rows} == {"1.00"}
    assert apart("hide_ratio", hidden) == 0 and apart("d_minus", hidden) <= 1 / 3  # as if by chance
    assert 0.4 < apart("integrated", hidden) < 0.6
    assert all(apart(key, hidden) > 0.9 for key in ("read_out", "depth", "probe"))
    assert apart("causal", blocks) == 1.0 and apart("causal", hidden) < 1.0
    spans = [
        f"{end(row['causal'] for row in among):.2f}" for among in (blocks, erased) for end in (min, max)
    ]
    assert re.findall(r"0\.\d\d", ABLATED) == spans


@pytest.mark.slow
def test_the_numbers_are_measured_again(inside: Any, rows: list[dict[str, Any]]) -> None:
    """Of one never-learned model and one that hides; another processor moves them a little."""
    names = ["twin", "last-map"]
    for found in inside.measured("neox-1", names):
        row = next(r for r in rows if (r["world"], r["model"]) == ("neox-1", found["model"]))
        for key in inside.MEASURES:
            assert found[key] == pytest.approx(row[key], rel=0.1, abs=0.1), key
