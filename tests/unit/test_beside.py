"""OpenUnlearning's evaluations beside a run, in every format.

pytest tests/unit/test_beside.py
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from golden_records import tofu_record
from sample_record import sample_record
from ssiuu.analysis.beside import read_beside, shared
from ssiuu.errors import DataError
from ssiuu.records.schema import RunRecord
from ssiuu.report.beside import beside_table
from ssiuu.report.formats import FORMATS
from ssiuu.report.page import render

pytestmark = pytest.mark.usefixtures("undrawn")

# As OpenUnlearning writes it: aggregates with the single values, and single numbers in a summary.
EVAL: dict[str, Any] = {
    "forget_Q_A_Prob": {"agg_value": 0.125, "value_by_index": {"0": {"prob": 0.125}}},
    "forget_Q_A_ROUGE": {"agg_value": 0.25, "value_by_index": {}},
    "forget_quality": {"agg_value": None},
    "model_utility": {"agg_value": 0.5},
    "privleak": {"agg_value": -33.25},
    "mia_min_k": {"auc": 0.75, "forget": {}},
    "retain_Q_A_Prob": {"agg_value": 0.9},
}


@pytest.fixture(scope="module")
def tofu() -> RunRecord:
    return tofu_record()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "npo"
    folder.mkdir()
    path = folder / "TOFU_EVAL.json"
    path.write_text(json.dumps(EVAL))
    return path


def test_files_folders_and_names(file: Path) -> None:
    by_file, by_folder, named = read_beside([str(file), str(file.parent), f"theirs={file}"])
    assert by_file.values == by_folder.values == named.values
    assert [by_file.name, by_folder.name, named.name] == ["npo", "npo", "theirs"]
    assert by_file.values["forget_Q_A_Prob"] == 0.125 and by_file.values["mia_min_k"] == 0.75
    assert by_file.values["forget_quality"] is None


def test_they_stand_in_one_table(tofu: RunRecord, file: Path) -> None:
    others = read_beside([f"theirs={file}"])
    table = beside_table(tofu, others)
    headings = [heading.text for heading in table.headings]
    assert "forget_Q_A_Prob" in headings and "retain_Q_A_Prob" not in headings
    assert "not in this run: retain_Q_A_Prob" in table.note and str(file) in table.note
    last = dict(zip(headings, map(str, table.rows[-1].cells), strict=True))
    assert table.rows[-1].name == "theirs (OpenUnlearning)"
    assert (last["forget_Q_A_Prob"], last["forget_quality"]) == ("12.5", "–")
    assert last["privleak"].startswith("−33.2")
    assert len(table.rows) == 1 + len(tofu.cells) + (tofu.original is not None)


def test_every_format_has_them(tofu: RunRecord, file: Path) -> None:
    others = read_beside([f"theirs={file}"])
    assert "Beside OpenUnlearning" in FORMATS["md"](tofu, None, others)
    assert json.loads(FORMATS["json"](tofu, None, others))["beside"][0]["name"] == "theirs"
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](tofu, None, others))))
    assert (rows[-1]["method"], rows[-1]["forget_probability"]) == ("theirs", "0.125")
    assert "theirs (OpenUnlearning)" in render(tofu, None, (), others)


def test_names_from_files_are_escaped(tofu: RunRecord, file: Path) -> None:
    others = read_beside([f"<b>x</b>={file}"])
    assert "<b>x</b>" not in render(tofu, None, (), others)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: .* Give a TOFU_EVAL.json"),
        ("{", "cannot be read"),
        ("[1]", "holds no metrics"),
        ('{"a": "b", "c": {"d": 1}}', "holds no metrics"),
        ('{"wmdp_bio/acc": 0.3}', r"\(wmdp_bio/acc\) none is one of a run with the score 'sentences'"),
    ],
)
def test_what_cannot_stand_beside(
    tofu: RunRecord, tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "TOFU_EVAL.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=f"--beside {path}: .*{message}"):
        shared(tofu, read_beside([str(path)]))


def test_a_run_of_another_score_says_so(file: Path) -> None:
    with pytest.raises(DataError, match="none is one of a run with the score 'ranking'"):
        shared(sample_record(), read_beside([str(file)]))


def test_a_path_stands_once_in_a_sentence(tmp_path: Path) -> None:
    missing = tmp_path / "missing.json"
    for given in (str(missing), f"theirs={missing}"):
        with pytest.raises(DataError) as told:
            read_beside([given])
        assert str(told.value).count(str(missing)) == 1
        assert "cannot be read: No such file" in str(told.value)
