"""Tables in four formats: the same numbers, every text escaped, published numbers kept apart."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from typer.testing import CliRunner

from sample_record import HOSTILE, sample_record
from ssiuu.analysis.columns import compared
from ssiuu.analysis.comparisons import compare, row_intervals
from ssiuu.analysis.published import COLUMNS, PUBLISHED, others, paper_table
from ssiuu.analysis.rows import rows
from ssiuu.cli.main import app
from ssiuu.errors import ConfigError
from ssiuu.records.schema import RunRecord
from ssiuu.report.formats import FORMATS, escape_csv, escape_latex, escape_markdown, tables
from ssiuu.report.page import render
from ssiuu.report.text import percent, points, span


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return sample_record()


@pytest.fixture(autouse=True)
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a page's time, and these tests look at its tables."""
    monkeypatch.setattr("ssiuu.report.page.figures", lambda record, against: [])


def relabel(record: RunRecord, label: str) -> RunRecord:
    cells = [
        cell.model_copy(update={"method": cell.method.model_copy(update={"label": label})})
        if cell.method.label == "npo"
        else cell
        for cell in record.cells
    ]
    return record.model_copy(update={"cells": cells})


def like_the_paper(
    record: RunRecord, protocol: str = "paper", model: str = "Llama-3.2-3B-Instruct"
) -> RunRecord:
    header = record.header
    benchmark = header.benchmark.model_copy(update={"name": "faithun"})
    changes = {
        "protocol": protocol,
        "benchmark": benchmark,
        "model": header.model.model_copy(update={"name": model}),
    }
    return record.model_copy(update={"header": header.model_copy(update=changes)})


def data_rows(markdown: str, title: str) -> dict[str, list[str]]:
    """Return the rows of one Markdown table by their first cell."""
    section = markdown.split(f"### {title}\n")[1].split("###")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    parts = [[part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(line) for line in parts}) == 1
    return {line[0]: line[1:] for line in parts}


# --- the same numbers ----------------------------------------


def test_every_format_holds_the_numbers_of_the_page(record: RunRecord) -> None:
    table = rows(record)["rows"]
    markdown = data_rows(FORMATS["md"](record, None), "All numbers")
    page = render(record)
    latex = FORMATS["latex"](record, None)
    lines = list(csv.DictReader(io.StringIO(FORMATS["csv"](record, None))))
    assert [line["method"] for line in lines] == [row["method"] for row in table]
    for row, line, cell in zip(table, lines, record.cells, strict=True):
        intervals = row_intervals(record, cell)
        for place, name in enumerate((column.key for column in compared(record)), 1):
            place += 5 * (place > 6)  # the word on what was kept, KL and perplexities stand between
            value, ends = percent(row[name]), intervals[name]
            assert markdown[row["method"]][place].startswith(f"{value} ({span(*ends[1:])})")
            assert float(line[name]) == row[name]
            assert (float(line[f"{name}_low"]), float(line[f"{name}_high"])) == ends[1:]
            assert f"{value} ({span(*ends[1:])})".replace("–", "--") in latex
            assert f">{value}<" in page and f">{span(*ends[1:])}<" in page


def test_differences_are_the_same_everywhere_and_marked_only_where_they_differ(
    record: RunRecord,
) -> None:
    markdown = data_rows(FORMATS["md"](record, "npo"), "Differences to npo")
    lines = {
        line["method"]: line for line in csv.DictReader(io.StringIO(FORMATS["csv"](record, "npo")))
    }
    page = render(record, "npo")
    found = compare(record, "npo")
    assert len(found) == 4 * len(compared(record))
    for comparison in found:
        value, low, high = comparison.difference
        text = markdown[comparison.label][
            [column.key for column in compared(record)].index(comparison.column)
        ]
        assert text.startswith(f"{points(value)} ({points(low)} to {points(high)})")
        assert ("↑" in text or "↓" in text) is comparison.differs
        line = lines[comparison.label]
        assert float(line[f"{comparison.column}_difference"]) == value
        assert float(line[f"{comparison.column}_difference_high"]) == high
    # Twice a comparison: beside the number and in the table of differences.
    assert page.count('<span class="sign') == 2 * sum(c.differs for c in found)
    assert page.count('class="sign better"') == 2 * sum(c.better is True for c in found)
    assert page.count('class="sign worse"') == 2 * sum(c.better is False for c in found)


def test_json_has_rows_intervals_and_comparisons(record: RunRecord) -> None:
    found = json.loads(FORMATS["json"](record, None))
    assert found["baseline"] == "gd" and len(found["rows"]) == 5
    plain = [{k: v for k, v in row.items() if k != "intervals"} for row in found["rows"]]
    assert plain == json.loads(json.dumps(rows(record)["rows"]))
    assert found["rows"][1]["intervals"]["forget"] == list(
        row_intervals(record, record.cells[1])["forget"][1:]
    )
    assert {c["method"] for c in found["comparisons"]} == {"none", "npo", "ssiuu", "gd-gate"}


def test_an_empty_run_has_tables_without_rows(record: RunRecord) -> None:
    empty = record.model_copy(update={"original": None, "cells": []})
    for form in FORMATS.values():
        assert isinstance(form(empty, None), str)
    assert json.loads(FORMATS["json"](empty, None))["baseline"] is None


# --- escaping ----------------------------------------


def test_markdown_shows_marks_as_text() -> None:
    assert escape_markdown("a|b_c*d`e[f](g)<h>&#1;\n\\") == (
        "a\\|b\\_c\\*d\\`e\\[f\\](g)\\<h\\>\\&\\#1;\ufffd\\\\"
    )


def test_latex_prints_special_characters() -> None:
    assert escape_latex("a&b%c_d#e$f{g}h~i^j\\k<l>") == (
        "a\\&b\\%c\\_d\\#e\\$f\\{g\\}h\\textasciitilde{}i\\textasciicircum{}j\\textbackslash{}k"
        "\\textless{}l\\textgreater{}"
    )
    assert escape_latex("−1 – ↓") == "$-$1 -- $\\downarrow$"


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_csv_text_is_never_a_formula(start: str) -> None:
    assert escape_csv(f"{start}1+1") == f"'{start}1+1"
    assert escape_csv("gd+projection") == "gd+projection"
    assert escape_csv("\t=1") == "\ufffd=1"
    assert escape_csv(-0.5) == -0.5 and escape_csv(None) is None


@pytest.mark.parametrize(
    "label",
    ["a|b", "50% & more_", "=HYPERLINK(1)", 'say "hi", then', "two\nlines", HOSTILE, "\\end{table}"],
)
def test_a_hostile_label_breaks_no_table(record: RunRecord, label: str) -> None:
    hostile = relabel(record, label)
    assert len(data_rows(FORMATS["md"](hostile, None), "All numbers")) == 7
    assert "<script" not in re.sub(r"\\<", "", FORMATS["md"](hostile, None))
    lines = list(csv.reader(io.StringIO(FORMATS["csv"](hostile, None))))
    assert len(lines) == 6 and len({len(line) for line in lines}) == 1
    assert not [cell for line in lines for cell in line if re.match(r"[=+@]|-\D", cell)]
    latex, main = FORMATS["latex"](hostile, None), tables(hostile)[0]
    assert latex.count("\\end{table}") == latex.count("\\begin{table}") == 15
    body = latex.split("\\midrule")[1].split("\\bottomrule")[0].strip().splitlines()
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(main.headings)}


# --- published numbers ----------------------------------------


def test_published_numbers_are_whole_and_as_printed() -> None:
    for block in PUBLISHED:
        assert "default" in block.rows and "Ssiuu" in block.rows
        for numbers in block.rows.values():
            assert len(numbers) == len(COLUMNS)
            assert all(number is None or 0 <= number <= 100 for number in numbers)
    llama, qwen, tofu = PUBLISHED
    assert llama.rows["Ssiuu"] == (0.0, 84.7, 56.3, 14.8, 14.3, 13.3)
    assert qwen.rows["GA"] == (0.0, 36.2, 53.6, 52.6, 66.7, 63.6)
    assert tofu.rows["KLUE"] == (18.7, 86.9, 92.8, 43.7, 49.4, 22.2) and "NPO" not in tofu.rows


def test_published_stands_beside_ours_only_in_the_same_cell(record: RunRecord) -> None:
    same = like_the_paper(record)
    table = paper_table(same)
    assert table.same is PUBLISHED[0]
    beside = {row.label: row.published for row in table.rows}
    assert beside["ssiuu"] == PUBLISHED[0].rows["Ssiuu"] and beside["gd"] == PUBLISHED[0].rows["GD"]
    assert beside["before unlearning"] == PUBLISHED[0].rows["default"]
    assert beside["gd-gate"] is None
    assert others(same) == [PUBLISHED[1]]
    assert "published 84.7" in render(same)
    assert " / 84.7" in data_rows(FORMATS["md"](same, None), "In the paper's columns")["ssiuu"][1]


@pytest.mark.parametrize(
    ("protocol", "model"),
    [("strong", "Llama-3.2-3B"), ("paper", "Llama-3.2-1B"), ("paper", "SmolLM2-135M")],
)
def test_other_cells_are_kept_apart(record: RunRecord, protocol: str, model: str) -> None:
    other = like_the_paper(record, protocol, model)
    table = paper_table(other)
    assert table.same is None and not any(row.published for row in table.rows)
    assert others(other) == list(PUBLISHED[:2])
    page = render(other)
    assert "published 84.7" not in page
    assert page.index("Published numbers, not comparable with this run") < page.index(">84.7<")
    titles = [t.title for t in tables(other)]
    assert titles[-1] == "Published, not comparable: FaithUn on Qwen-2.5-3B"


def test_the_papers_columns_hold_the_wrong_only_pool_under_its_protocol_alone(
    record: RunRecord,
) -> None:
    row = rows(record)["rows"][2]
    paper = {r.label: r.ours for r in paper_table(like_the_paper(record)).rows}["npo"]
    strong = {r.label: r.ours for r in paper_table(record).rows}["npo"]
    assert paper[0].value == strong[0].value == row["forget"]
    assert paper[1].value == row["heldout"] and paper[2] is None
    assert [paper[i].value for i in (3, 4, 5)] == pytest.approx(
        [row[f"{name}_wrong_only"] for name in ("harmful-0.1", "harmful-0.3", "benign")]
    )
    assert [strong[i].value for i in (3, 4, 5)] == pytest.approx(
        [row[name] for name in ("harmful-0.1", "harmful-0.3", "benign")]
    )


# --- the command ----------------------------------------


@pytest.mark.parametrize("form", ["md", "csv", "latex", "json"])
def test_the_command_prints_the_format(
    form: str, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssiuu.records.files.load_run", lambda folder: record)
    done = CliRunner().invoke(app, ["report", "x", "--format", form, "--baseline", "npo"])
    assert done.exit_code == 0
    assert done.stdout == FORMATS[form](record, "npo")
    if form == "json":
        short = CliRunner().invoke(app, ["report", "x", "--json", "--baseline", "npo"])
        assert json.loads(short.stdout) == {"exit_code": 0, **json.loads(done.stdout)}


def test_the_command_refuses_what_it_does_not_know(
    record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssiuu.records.files.load_run", lambda folder: record)
    done = CliRunner().invoke(app, ["report", "x", "--format", "docx"])
    assert isinstance(done.exception, ConfigError) and "latex" in str(done.exception)
    done = CliRunner().invoke(app, ["report", "x", "--baseline", "ndo"])
    assert isinstance(done.exception, ConfigError)


def test_points_have_signs() -> None:
    assert [points(v) for v in (0.1, -0.1234, 0.0, -0.0001, 0.0004)] == [
        "+10.0",
        "−12.3",
        "0.0",
        "0.0",
        "0.0",
    ]
