"""The notebook of the docs runs from its first cell to its last, and is kept without its outputs."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "first-steps.ipynb"


def cells(kind: str) -> list[str]:
    """Return the texts of the cells of a kind."""
    notebook = json.loads(NOTEBOOK.read_text())
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def run(code: str, names: dict[str, Any]) -> str:
    """Run a cell as a notebook would, and return what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, str(NOTEBOOK), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    return out.getvalue()


def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    code = cells("code")
    assert len(code) == 10
    printed = [run(cell, names) for cell in code]
    assert names["done"].changed and names["done"].record.outcome.state in printed[4]
    assert names["audited"].verdict in ("erased", "hidden", "not removed", "undecided")
    asked = printed[5].splitlines()
    assert "[' Ulm" in asked[0] and asked[0].count("Ulm") == 1 and asked[1].count("rice") == 2
    assert "forget loss" in printed[6] and printed[7].startswith(names["audited"].verdict)
    assert "Where was Ada born?" in printed[8] and "'after'" in printed[9]
    assert not any(tmp_path.iterdir())  # nothing is left behind


def test_it_holds_no_output_and_is_linked_from_the_site() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["metadata"]["language_info"]) == (4, {"name": "python"})
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    assert "first-steps.ipynb" in (NOTEBOOK.parent / "index.md").read_text()
