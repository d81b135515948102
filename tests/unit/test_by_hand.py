"""Ways of hiding that the package does not have: the page tells what was tried, by the constants that ship."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from ssiuu.analysis.evidence import constants
from ssiuu.benchmarks.fictional_twins import TwinConfig, _start, train_tokenizer
from ssiuu.benchmarks.fictional_world import build_world
from ssiuu.causal import CausalLM

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("by_hand_docs", DOCS / "by_hand.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DOCS / "by_hand.json").read_text())
    return found


def test_the_table_of_the_page_is_that_of_the_numbers(script: Any, rows: list[dict[str, Any]]) -> None:
    assert script.table(rows) in (DOCS / "verdict.md").read_text()


def test_they_were_judged_by_what_ships_and_erased_is_said_as_seldom_as_promised(
    rows: list[dict[str, Any]],
) -> None:
    assert {row["calibration"] for row in rows} == {constants().version}
    words: Counter[str] = sum((Counter(row["words"]) for row in rows), Counter())
    assert words.total() > 300 and words["erased"] <= 0.05 * words.total()


@pytest.fixture
def model() -> CausalLM:
    recipe = TwinConfig(hidden=32, intermediate=48)
    made: CausalLM = _start(train_tokenizer(build_world(12), recipe), 0, recipe)
    return made.eval()


def test_scales_become_part_of_the_maps(script: Any, model: CausalLM) -> None:
    ids = torch.arange(6)[None]
    names = [name for name, _ in model.named_parameters()]
    with script.WAYS["neurons"][1](model).opened(model, 0, 0):
        trained = [p for p in model.parameters() if p.requires_grad]
        assert len(trained) == 2, "a scale for each block"
        with torch.no_grad():
            for scale in trained:
                scale.uniform_(0.5, 1.5)
            during = model(input_ids=ids).logits
    assert [name for name, _ in model.named_parameters()] == names
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, during)
