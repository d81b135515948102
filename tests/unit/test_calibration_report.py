"""What a calibration is told as: the page in the docs is made from the one that ships."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ssiuu.analysis.calibration import Calibrated, Level, Rate, Row, shipped
from ssiuu.analysis.evidence import Constants, constants
from ssiuu.report.calibration import MARK, PARTS, filled, told

PAGE = Path(__file__).parents[2] / "docs" / "verdict.md"


def test_the_tables_of_the_page_are_those_of_the_calibration() -> None:
    """After another calibration: python -m ssiuu.report.calibration docs/verdict.md."""
    page = PAGE.read_text(encoding="utf-8")
    assert {match[2] for match in MARK.finditer(page)} == set(PARTS)
    assert filled(page, shipped()) == page


def test_what_ships_says_what_its_constants_are_worth_and_holds_no_fact() -> None:
    found = shipped()
    assert found.constants == constants()
    assert found.created and found.versions["torch"] and found.machine["processor"]
    assert {row.truth for row in found.rows} == {"erased", "hidden", "not removed"}
    assert any(row.fitted for row in found.rows) and not all(row.fitted for row in found.rows)
    text = found.model_dump_json()
    assert len(text) < 300_000 and not re.search(r"fictional:|\?", text)


def row(truth: str, words: dict[str, int], **more: object) -> Row:
    values = {"world": "neox-1", "case": "twin", "fitted": False, "truth": truth, "words": words}
    return Row.model_validate(values | more)


def made() -> Calibrated:
    rows = [
        row("erased", {"erased": 60, "hidden": 10, "undecided": 30}),
        row("hidden", {"erased": 2, "hidden": 38, "undecided": 160}, case="last-map"),
        row("hidden", {"erased": 50}, world="kin-1", case="last-map", fitted=True),
    ]
    whole = Rate.of_counts(1, 1)
    models = [
        row("erased", {"erased": 1}, facts=70, within=whole),
        row("hidden", {"undecided": 1}, facts=71, case="last-map", within=whole),
    ]
    fitted = Constants(version="made", weights={"nobody": -1.0}, shift=1.0)
    curve = [Level(level=0.05, words={"erased": {"hidden": 10, "erased": 90}})]
    return Calibrated(constants=fitted, rows=rows, models=models, curve=curve)


def cells(part: str) -> list[list[str]]:
    lines = [line for line in PARTS[part](made()).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_error_rates_are_over_what_was_not_fitted() -> None:
    errors = PARTS["errors"](made())
    assert "*Erased* was said of 1.0 % [0.3, 3.6]" in errors and "below the promised 5 %" in errors
    assert "*Hidden* was said of 10.0 % [5.5, 17.4]" in errors
    assert "above the promised 5 %: the promise is **not** kept" in errors
    assert cells("facts")[:2] == [
        ["not fitted", "erased", "100", "60", "10", "0", "30", "10.0 % [5.5, 17.4]", "30"],
        ["not fitted", "hidden", "200", "2", "38", "0", "160", "1.0 % [0.3, 3.6]", "80"],
    ]
    printed = told(made())
    assert "erased said of what is hidden: 1.0 %" in printed and "100" in printed


def test_what_a_word_is_worth_is_bayes() -> None:
    """P(erased | said erased) = b 0.6 / (b 0.6 + (1 - b) 0.01), likewise 0.19 and 0.1 for hidden."""
    for (base, erased, hidden), b in zip(cells("worth"), (0.1, 0.2, 0.5, 0.8), strict=True):
        assert base == f"{100 * b:.0f} %"
        assert erased == f"{100 * b * 0.6 / (b * 0.6 + (1 - b) * 0.01):.0f} %"
        assert hidden == f"{100 * (1 - b) * 0.19 / ((1 - b) * 0.19 + b * 0.1):.0f} %"


def test_models_and_levels_are_told_with_what_they_rest_on() -> None:
    (models,) = cells("models")
    assert models[0] == "all of them (70–71)" and models[1] == "0 % [0, 79] of 1"
    assert models[3] == "100 % [21, 100] of 1" and models[6].endswith("of 2")
    (level,) = cells("curve")
    assert level == ["5 %", "–", "10.0 % [5.5, 17.4]", "0.0 % [0.0, 3.7]", "–"]


def test_a_mark_without_a_table_is_an_error() -> None:
    with pytest.raises(KeyError):
        filled("<!-- made: nothing -->\n<!-- end -->", made())
