"""A table of many rows: the first stand in the page, its script draws the others as text, and finds them."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from test_report import browse, needs_browser, notes

from golden_records import audit_record, own_record
from sample_record import pinned, sample_record
from ssiuu.records.schema import RunRecord
from ssiuu.report import packed
from ssiuu.report.page import render

pytestmark = pytest.mark.usefixtures("undrawn")


def drawn(record: RunRecord, folder: Path) -> str:
    """Return the page of a record as a browser has it when its script is done."""
    with pinned():
        page = render(record, None, [])
    (folder / "report.html").write_text(page, encoding="utf-8")
    for _ in range(5):  # it may be written down before all is unpacked
        done = browse(folder, folder / "report.html", "--dump-dom")
        if "whole" in notes(done.stdout):
            break
    assert "CONSOLE" not in done.stderr, done.stderr
    assert notes(done.stdout)["whole"] == "yes"
    return done.stdout


def rows_of(dom: str) -> list[str]:
    """Return the rows of the facts that are shown, of the audit's request and of what was not known."""
    tables = re.findall(r"<table class=\"(?:facts|request)\".*?</table>", dom, flags=re.DOTALL)
    bodies = [re.findall(r"<tbody>(.*)</tbody>", table, flags=re.DOTALL)[0] for table in tables]
    rows = [plain(row) for body in bodies for row in re.findall(r"<tr.*?</tr>", body, flags=re.DOTALL)]
    assert len(rows) >= 24
    return rows


def plain(rows: str) -> str:
    """Return rows without the white space between cells, and with what sorts them to four digits."""
    rows = re.sub(r">\s+<", "><", rows).replace(' data-value=""', "")
    rows = re.sub(r"\s+</td>", "</td>", rows)
    return re.sub(r'(data-value=")(-?\d+\.\d+)', lambda m: f"{m[1]}{round(float(m[2]), 4):g}", rows)


def unpacked(page: str, table: str) -> Any:
    (data,) = re.findall(rf'id="{table}-data">([^<]*)<', page)
    return json.loads(zlib.decompress(base64.b64decode(data), wbits=-15))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MANY", 8)
    monkeypatch.setattr(packed, "FIRST", 3)


@needs_browser
@pytest.mark.parametrize("made", [sample_record, audit_record])
def test_the_script_draws_the_rows_that_would_stand_in_the_page(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drawn(made(), tmp_path)
    monkeypatch.setattr(packed, "MANY", 8)
    monkeypatch.setattr(packed, "FIRST", 3)
    long = drawn(made(), tmp_path)
    assert rows_of(long) == rows_of(whole)
    assert re.search(r"All \d+ rows are shown\.</p>", long) and 'id="fact-table-rest"' not in whole


def test_without_a_script_the_first_rows_stand_there_and_how_many_do_not(short: None) -> None:
    with pinned():
        page = render(sample_record(), None, [])
    rows = re.findall(r'<tr data-cell="(\w+)"', page)
    assert rows == ["c1"] * 3  # of the method that is chosen
    assert "The first 3 of 120 rows." in page and "ssiuu report --format csv" in page
    assert page.count("<template") == 1 and "<script>alert" not in page


def test_what_is_not_known_is_packed_too(short: None) -> None:
    record = own_record()
    unknown = record.header.split.forget * 2
    split = record.header.split.model_copy(update={"unknown": unknown})
    header = record.header.model_copy(update={"split": split})
    with pinned():
        page = render(record.model_copy(update={"header": header}), None, [])
    cells = unpacked(page, "unknown-table")["columns"][0]["cells"]
    assert [cell[3] for cell in cells] == [fact.question for fact in unknown]


def test_control_characters_are_replaced() -> None:
    cells = [[None, "", "", "a\x00b\x1bc\x85d\te"]]
    text = packed.packed(["m"], [packed.Column("", "fact", cells)], [[""]])
    data = json.loads(zlib.decompress(base64.b64decode(text), wbits=-15))
    assert data["columns"][0]["cells"] == [[None, "", "", "a\ufffdb\ufffdc\ufffdd\te"]]


def test_a_table_of_so_many_rows_stands_in_the_page_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MANY", 120)
    with pinned():
        page = render(sample_record(), None, [])
    assert page.count("<tr data-cell") == 120 and 'id="fact-table-data"' not in page
