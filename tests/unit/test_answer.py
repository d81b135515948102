"""The answer in words, and the page of an audit that opens with it.

pytest tests/unit/test_answer.py
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_report import BROWSER, Reader, browse, frame, needs_browser, notes

from golden_records import audit_record
from sample_record import HOSTILE, pinned, sample_record
from ssiuu.analysis.evidence import FactJudged, Judged
from ssiuu.analysis.known import known
from ssiuu.analysis.verdict import VERDICTS, FactVerdict, Judgement, judgement
from ssiuu.certificate.facts import FactDigests
from ssiuu.certificate.page import render as certificate_page
from ssiuu.certificate.statement import Issue, of_audit
from ssiuu.records.schema import Examination, Place, RunRecord, Trace, Verdict
from ssiuu.report.answer import answer, p_value, subject
from ssiuu.report.formats import FORMATS, verdicts_csv
from ssiuu.report.page import render
from ssiuu.report.results import Audited
from ssiuu.report.text import summary
from ssiuu.report.verdicts import verdict_table


@pytest.fixture(autouse=True, scope="module")
def constants() -> Iterator[None]:
    with pinned():
        yield


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return audit_record()


@pytest.fixture(scope="module")
def page(record: RunRecord) -> str:
    return render(record)


def judged(
    words: list[Verdict], least: int | None, most: int | None, power: float | None, read: int
) -> Judgement:
    """Return the words on facts of which so many were read."""
    found = [FactJudged(0.0, 0.5, 0.5, 0.5) if n < read else FactJudged() for n in range(len(words))]
    facts = {str(n): FactVerdict(word, False, found[n]) for n, word in enumerate(words)}
    inside = Judged({str(n): fact for n, fact in enumerate(found)}, (11, 12), power, least, most)
    return Judgement("undecided", facts, inside)


def said(word: Judgement) -> str:
    return " ".join(answer(word)).replace("\u00a0", " ")


def test_the_answer_counts_bounds_and_says_what_would_be_found() -> None:
    words: list[Verdict] = ["erased"] * 9 + ["hidden"] * 2 + ["undecided"]
    assert said(judged(words, 0, 3, 0.876, 12)) == (
        "Of 12 facts 9 are erased, 2 hidden, 1 undecided. At most 3 of 12 are hidden or still there "
        "(95 %). Of 12 facts hidden on purpose in the model as it was, this examination finds 11; of "
        "those hidden in the ways that are hardest to see it would find 88 %."
    )


def test_the_answer_claims_no_more_than_was_read_or_can_be_seen() -> None:
    some = said(judged(["hidden", "hidden", "undecided"], 1, 2, 0.999, 2))
    assert "Of 3 facts 2 are hidden, 1 undecided. 1 could not be asked among enough" in some
    assert "At least 1 and at most 2 of 2 are hidden or still there (95 % each)." in some
    assert "over 99 %" in some and "100 %" not in some
    blind = said(judged(["undecided"] * 2, 0, 2, None, 2))
    assert blind.startswith("All 2 facts are undecided. How many of the 2 are hidden")
    assert "so nothing is called erased" in blind
    assert said(judged(["hidden"], 1, 1, None, 1)).startswith("The fact is hidden.")
    assert answer(Judgement("undecided", {}, None)) == []


def test_known_is_beating_the_decoys_at_a_place_over_the_same_facts() -> None:
    """By hand: 20 decoys a place, so the right answer has to beat all but one of 40."""
    decoys = [float(n) for n in range(20)]
    places = [
        Place(name="before"),
        Place(name="after"),
        Place(name="weak", attacker="unrelated"),
        Place(name="strong", attacker="related"),
        Place(name="broken", attacker="related"),
    ]

    def trace(*levels: float | None) -> Trace:
        contrast = [None if level is None else [level, *decoys] for level in levels]
        return Trace(contrast=contrast, margin=[None] * len(levels))

    facts = {
        "a": trace(50.0, 3.0, 3.0, 50.0, None),
        "b": trace(50.0, 50.0, 50.0, 50.0, 50.0),
        "unread": trace(None, 50.0, 50.0, 50.0, 50.0),
    }
    found = known(Examination(places=places, facts=facts, seconds=0.0))
    assert found == (1.0, 0.5, 1.0, "strong", 2, 2)
    assert known(Examination(places=[], facts={}, seconds=0.0)) is None


def test_a_table_of_models_has_controls_last_and_counts_of_facts() -> None:
    run = sample_record()
    table = verdict_table(run)
    assert [row.name for row in table.rows] == ["gd", "npo", "ssiuu", "gd-gate", "none"]
    for row in table.rows:
        assert sum(int(cell.text) for cell in row.cells[1:5]) == 24
    gd = judgement(run, run.cells[1])
    assert [cell.text for cell in table.rows[0].cells[1:5]] == [str(gd.count(v)) for v in VERDICTS]
    assert subject(run) is None


def test_p_values_as_people_write_them() -> None:
    assert [p_value(p) for p in (None, 0.0001, 0.034, 0.0996, 0.21, 1.0)] == [
        "–",
        "<0.001",
        "0.034",
        "0.10",
        "0.21",
        "1.00",
    ]


def test_an_audit_opens_with_its_answer_and_holds_the_request(record: RunRecord, page: str) -> None:
    text = Reader(page).text.replace("\u00a0", " ")
    word = judgement(record, record.cells[0])
    places = [
        text.index("Facts were hidden, not erased"),
        text.index(said(word)),
        text.index("The request, fact by fact"),
        text.index("The evidence, fact by fact"),
        text.index("How the facts were looked for"),
        text.index("6 of 6 suppressed in the last feed-forward map"),
        text.index("Calibration "),
        text.index("What was not shown."),
        text.index("All numbers"),
        text.index("Resolved configuration"),
    ]
    assert places == sorted(places)
    request = page[
        page.index('<table class="request">') : page.index("</table>", page.index("request"))
    ]
    assert request.count("<tr>") == 1 + 12
    for fact in word.facts.values():
        assert f">{p_value(fact.judged.erased if fact.judged else None)}</td>" in request
    assert "6 alternatives of its type were found" in request
    assert HOSTILE in text and "<script>alert" not in page
    assert render(audit_record()) == page


def test_a_dot_a_fact_tells_its_numbers(record: RunRecord, page: str) -> None:
    titles = re.findall(r"<title>([^<]*evidence [^<]*)</title>", page)
    read = [
        f for f in judgement(record, record.cells[0]).facts.values() if f.judged and f.judged.erased
    ]
    assert len(titles) == len(read) + 12
    assert sum("hidden on purpose" in title for title in titles) == 12
    assert any("p erased" in title and "p hidden" in title for title in titles)


def test_every_form_has_the_p_values(record: RunRecord) -> None:
    (word,) = json.loads(FORMATS["json"](record, None))["verdicts"]
    found = judgement(record, record.cells[0])
    assert word["verdict"] == found.verdict and len(word["facts"]) == 12
    assert word["counts"] == {verdict: found.count(verdict) for verdict in VERDICTS}
    first = word["facts"][0]
    judged = found.facts[first["fact"]].judged
    assert judged and (first["p_erased"], first["p_hidden"]) == (judged.erased, judged.hidden)
    lines = list(csv.DictReader(io.StringIO(verdicts_csv(record))))
    assert len(lines) == 12 and float(lines[0]["p_erased"]) == judged.erased
    assert lines[5]["p_erased"] == ""  # what could not be read is empty, not 0
    (row,) = csv.DictReader(io.StringIO(FORMATS["csv"](record, None)))
    assert row["facts_hidden"] == str(found.count("hidden")) and row["known_before"] == "1.0"
    for form in ("md", "latex"):
        assert "p, hidden" in FORMATS[form](record, None)


def test_the_terminal_and_a_notebook_say_the_same_sentence(record: RunRecord) -> None:
    word = said(judgement(record, record.cells[0]))
    assert f"after: {word}" in re.sub(r"\s+", " ", summary(record))
    assert "evidence, not proof" in re.sub(r"\s+", " ", summary(record))
    found = Audited(record)
    assert found.answer == word and word in found._repr_html_() and word in repr(found)
    assert found.verdict == "hidden" and found.facts()[0]["p_hidden"] is not None
    bare = record.cells[0].model_copy(update={"examination": None})
    unexamined = record.model_copy(update={"cells": [bare], "planted": None})
    assert "evidence, not proof" not in summary(unexamined)
    assert "was not examined" in Reader(render(unexamined)).text


def test_without_an_examination_what_is_said_may_be_guessed_and_no_rate_of_error_is_promised(
    record: RunRecord,
) -> None:
    """A model that never learned the facts may guess them: nowhere is it said that they are still there."""
    cell = record.cells[0]
    assert cell.evaluation is not None
    says = {
        id: score.model_copy(update={"free_correct": True})
        for id, score in cell.evaluation.forget.items()
    }
    evaluation = cell.evaluation.model_copy(update={"forget": says})
    bare = cell.model_copy(update={"examination": None, "evaluation": evaluation})
    unexamined = record.model_copy(update={"cells": [bare], "planted": None})
    statement = of_audit(unexamined, Issue([], FactDigests(salt="ab" * 16), "2026-11-29", {}))
    page = Reader(render(unexamined)).text
    certificate = Reader(certificate_page(statement)).text
    for text in (page, certificate):
        assert "not removed" in text and "known or guessed" in text and "too many of them" not in text
        assert "guesses was not examined" in text and "of hidden facts" not in text
    assert "guesses among them" in re.sub(r"\s+", " ", summary(unexamined))
    said = statement.predicate
    assert said.errors is None and said.tried[0].what.startswith("Asked as they are")
    assert any("known from guesses" in left for left in said.not_tried)
    assert any("examine.steps" in wanted for wanted in said.wanted)


@needs_browser
def test_an_audit_needs_no_sideways_scrolling_and_three_sheets(page: str, tmp_path: Path) -> None:
    assert BROWSER is not None
    outer = frame(tmp_path, page, 390)
    found = notes(browse(tmp_path, outer, "--allow-file-access-from-files", "--dump-dom").stdout)
    assert int(found["width"]) <= 390
    sheet = tmp_path / "audit.pdf"
    browse(tmp_path, tmp_path / "report.html", f"--print-to-pdf={sheet}")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", sheet.read_bytes())) <= 3


def test_an_audit_does_not_say_that_unknown_facts_were_trained_on(record: RunRecord) -> None:
    split = record.header.split.model_copy(update={"unknown": record.header.split.retain[:1]})
    header = record.header.model_copy(update={"split": split, "methods": [record.cells[0].method]})
    asked = record.model_copy(update={"header": header})
    text = Reader(render(asked)).text
    assert "Counted in no score" in text and "rained on with the others" not in text
