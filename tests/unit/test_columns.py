"""The one list of columns: documented, in every output, and open to scores of other packages.

pytest tests/unit/test_columns.py
"""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from golden_records import every
from ssiuu.analysis.column import Column, Model, of_facts
from ssiuu.analysis.columns import TABLES, columns, compared, models, shown
from ssiuu.analysis.scale import WRITTEN
from ssiuu.analysis.score import ScoreColumns
from ssiuu.analysis.scores import SCORES, score_of
from ssiuu.errors import ConfigError
from ssiuu.records.schema import RunRecord
from ssiuu.report.formats import FORMATS
from ssiuu.report.page import render
from ssiuu.report.reference import columns_page
from ssiuu.report.tables import column_tables
from ssiuu.report.text import summary

RECORDS = every()
DOCS = Path(__file__).parents[2] / "docs"


class Politeness(ScoreColumns):
    """A score of somebody's own: how long the written answers are, and what was recalled."""

    name = "politeness"
    summary = "for a test"
    scale = WRITTEN
    forget = "curtness"

    def columns(self, others: Sequence[str]) -> list[Column]:
        def words(model: Model) -> float | None:
            answers = [s.free_text for s in model.scores("forget").values() if s.free_text]
            return sum(len(a.split()) for a in answers) / len(answers) if answers else None

        recall = of_facts(
            "curtness",
            "curtness",
            "Manners",
            lambda e: e.forget,
            lambda s: [s.rouge],
            "Recall.",
            direction="lower",
        )
        return [recall, Column("length", "words said", "Manners", "number", words, "Words an answer.")]


@pytest.fixture
def polite() -> Iterator[RunRecord]:
    SCORES.register(Politeness)
    record = RECORDS["tofu"]
    yield record.model_copy(update={"header": record.header.model_copy(update={"score": "politeness"})})
    SCORES._registered.clear()


def test_the_docs_are_as_the_list() -> None:
    """Made anew by: python -m ssiuu.report.reference > docs/columns.md"""
    assert (DOCS / "columns.md").read_text(encoding="utf-8") == columns_page()


@pytest.mark.parametrize("name", RECORDS)
def test_keys_are_unique_and_what_belongs_to_another_column_finds_it(name: str) -> None:
    found = columns(RECORDS[name])
    keys = {column.key for column in found}
    assert len(keys) == len(found)
    assert {c.beside for c in found} | {c.error for c in found} <= keys | {""}
    assert all(column.meaning.endswith(".") and column.heading for column in found)


@pytest.mark.parametrize("name", ["ranked", "tofu", "rwku", "own"])
def test_every_column_with_a_value_stands_in_every_output(name: str) -> None:
    record = RECORDS[name]
    page, text = render(record, None, []), summary(record)
    markdown = FORMATS["md"](record, None).replace("\\", "")
    data = json.loads(FORMATS["json"](record, None))
    (line, *_) = csv.DictReader(io.StringIO(FORMATS["csv"](record, None)))
    found = shown(record)
    assert len(found) > 20
    for column in columns(record):
        assert column.key in line and column.key in data["rows"][0] and column.key in data["columns"]
    for column in found:
        assert f"| {column.title} |" in markdown, column.key
        assert re.split("[ -]", column.heading)[0] in text, column.key
        assert f">{column.title}</th>" in page or f'title="{column.heading}"' in page, column.key


@pytest.mark.parametrize("name", RECORDS)
def test_what_no_model_has_is_no_column_and_what_one_has_is_a_dash_elsewhere(name: str) -> None:
    record = RECORDS[name]
    keys = {column.key for column in shown(record)}
    for column in columns(record):
        values = [column.read(model) for model in models(record)]
        assert (column.key in keys) is (column.shown and any(v is not None for v in values))


def test_a_score_of_another_package_has_its_columns_and_its_scale_everywhere(polite: RunRecord) -> None:
    assert isinstance(score_of(polite), Politeness)
    assert "curtness" in {column.key for column in compared(polite)}
    (table,) = [t for t in column_tables(polite, []) if t.title == "Manners"]
    assert [heading.text for heading in table.headings] == ["curtness ↓", "words said"]
    for made in (
        render(polite, None, []),
        summary(polite),
        *(f(polite, None) for f in FORMATS.values()),
    ):
        assert "curtness" in made
    row = json.loads(FORMATS["json"](polite, None))["rows"][0]
    was = json.loads(FORMATS["json"](RECORDS["tofu"], None))["rows"][0]
    assert row["curtness"] == was["forget_rouge"] and "forget_quality" not in row
    assert row["harmful-0.1"] == was["harmful-0.1"] != row["harmful-0.1_ranking"]


def test_a_score_that_is_not_installed_is_named_with_its_package() -> None:
    header = RECORDS["ranked"].header
    changes = {"score": "rudeness", "plugins": {"score rudeness": "my-package 1.0"}}
    record = RECORDS["ranked"].model_copy(update={"header": header.model_copy(update=changes)})
    with pytest.raises(ConfigError, match=r"my-package 1\.0\): unknown score 'rudeness'"):
        summary(record)


def test_every_group_of_a_built_in_column_has_its_table() -> None:
    groups = {column.group for column in columns(RECORDS["ranked"])}
    assert groups <= set(TABLES)


def test_the_list_needs_no_torch() -> None:
    code = "import sys, ssiuu.report.reference; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
