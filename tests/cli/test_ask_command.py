"""`ssiuu ask`, and what the other commands say of facts that were never known."""

# ruff: noqa: F811 - a fixture is imported
from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_commands import ROWS, lines, place, ssiuu  # noqa: F401 - place is a fixture

from ssiuu.records.files import read_record
from ssiuu.records.schema import (
    KNOWLEDGE,
    FactText,
    Knowledge,
    ModelInfo,
    ModelKnowledge,
    Unlearning,
)
from ssiuu.report import asked
from ssiuu.report.asked import WIDTH, cut, table, width

STRANGERS = [
    {"question": f"Where was {name} born?", "answer": town}
    for name, town in zip(["Ann", "Ben", "Cat", "Dan"], ["Tuy", "Rye", "Gap", "Wil"], strict=True)
]


def test_what_is_known_is_told_fact_by_fact(place: Path, tmp_path: Path) -> None:
    facts = lines(tmp_path / "mixed.jsonl", [*ROWS[:6], *STRANGERS])
    done = ssiuu("ask", "--model", place / "model", "--facts", facts, "--out", tmp_path / "known.json")
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()
    assert [line.split()[0] for line in table[2:12]] == ["known"] * 6 + ["unknown"] * 4
    assert "Ulm" in table[2] and "10 facts: 6 known, 4 unknown" in done.stdout
    assert max(map(width, table)) <= WIDTH <= 100
    record = read_record(tmp_path / "known.json", ModelKnowledge)
    assert asked.table(record) == done.stdout.rstrip("\n")
    for room in (80, 60):
        assert max(map(width, asked.table(record, room).splitlines())) <= room
    told = json.loads(ssiuu("ask", "--model", place / "model", "--facts", facts, "--json").stdout)
    assert told["counts"] == {"known": 6, "unsure": 0, "unknown": 4, "cannot be scored": 0}
    assert [row["state"] for row in told["rows"]] == [k.state for k in record.knowledge.values()]


def test_one_question_is_asked_without_a_file(place: Path) -> None:
    words = ("ask", "--model", place / "model", "--question", "Where was Ada born?")
    done = ssiuu(*words, "--answer", "Ulm")
    assert done.returncode == 0 and "1 fact: 1 known" in done.stdout
    assert "–: too few alternatives to rank it against" in done.stdout
    assert "1 fact: 1 unknown" in ssiuu(*words, "--answer", "Rome").stdout
    for wrong in ((), ("--facts", "x.jsonl"), ("--answer", "Ulm", "--facts", "x.jsonl")):
        refused = ssiuu(*words, *wrong)
        assert refused.returncode == 2 and "either --facts" in refused.stderr


def test_what_cannot_be_asked_is_told_and_not_refused(place: Path, tmp_path: Path) -> None:
    facts = lines(tmp_path / "long.jsonl", [ROWS[0], {"question": "long " * 400, "answer": "x"}])
    done = ssiuu("ask", "--model", place / "model", "--facts", facts)
    assert done.returncode == 0 and "1 known, 1 cannot be scored" in done.stdout
    assert "context" in done.stdout


def test_a_file_of_which_nothing_is_known_is_refused(place: Path, tmp_path: Path) -> None:
    facts, out = lines(tmp_path / "strangers.jsonl", STRANGERS), tmp_path / "out"
    given = ("--forget", facts, "--retain", "none", "--out", out)
    for command in ("unlearn", "audit"):
        models = ("--before", place / "model", "--after", place / "model")
        models = models if command == "audit" else ("--model", place / "model")
        done = ssiuu(command, *models, *given)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        said = done.stderr.splitlines()[-1]
        for word in ("strangers.jsonl", "none of these 4", " unknown", "--force", "prompt="):
            assert word in said
        assert not out.exists() or not list(out.glob("*.json"))


def test_forced_on_unknown_facts_nothing_is_called_forgotten(place: Path, tmp_path: Path) -> None:
    facts, out = lines(tmp_path / "strangers.jsonl", STRANGERS), tmp_path / "out"
    words = ("unlearn", "--model", place / "model", "--forget", facts, "--retain", "none", "--force")
    done = ssiuu(*words, "--out", out, "--method", "gd", "--set", "unlearn.max_steps=3")
    assert done.returncode == 3 and not out.exists(), done.stdout + done.stderr
    assert "None of the 4 facts" in done.stdout and "no evidence" in done.stdout
    if (out / "unlearn.json").exists():
        record = read_record(out / "unlearn.json", Unlearning)
        assert record.stopped != "threshold" and len(record.steps) == 3
        assert record.before is not None and record.before <= record.threshold


def test_unknown_facts_are_trained_on_and_never_scored(place: Path, tmp_path: Path) -> None:
    from ssiuu import audit_models, unlearn_model
    from ssiuu.report import write_report
    from ssiuu.report.text import summary

    out, facts = tmp_path / "out", [*ROWS[:6], *STRANGERS[:2]]
    settings = ["unlearn.max_steps=2", "unlearn.learning_rate=1e-3"]
    record = unlearn_model(place / "model", facts, out, ROWS[6:], "gd", settings, keep_anyway=True)
    found = record.knowledge["forget"]
    assert [k.state for k in found.values()] == ["known"] * 6 + ["unknown"] * 2
    assert any("2 of 8 facts" in note and "no evidence" in note for note in record.notes)
    assert record.before == 1.0
    attacks = ["attacks.benign.learning_rates=[]", "attacks.harmful.fractions=[]", "diagnose=false"]
    audit = audit_models(place / "model", out, facts, tmp_path / "audit", ROWS[6:], attacks)
    split = audit.header.split
    assert (len(split.forget), len(split.unknown), len(split.unlearned)) == (6, 2, 8)
    assert audit.original is not None and len(audit.original.forget) == 6
    assert "2 of 8 facts" in summary(audit)
    page = write_report(audit, tmp_path / "audit").read_text()
    assert "Not known before" in page and "Where was Ann born?" in page


@pytest.mark.parametrize("holds", [True, False, None])
def test_of_a_fact_that_is_said_in_another_form_only_it_is_told(holds: bool | None) -> None:
    fact = FactText(id="f", question="Who?", answer="Ada", paraphrases=[], options=["Ada"])
    known = Knowledge(state="known", why="says it when asked in another form", says="Bo", holds=holds)
    info = ModelInfo(name="m", source="s", fingerprint="f", parameters=1, layers=1)
    form = {"schema_version": KNOWLEDGE, "form": "qa", "asked": "qa"}
    record = ModelKnowledge(model=info, facts=[fact], knowledge={"f": known}, seconds=0.0, **form)
    assert ("f: known: says it when asked in another form" in table(record)) == (holds is False)


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("東京", 4), ("é", 1), ("서울 a", 6), ("a\u200bb", 2), ("", 0)]
)
def test_wide_letters_take_two_columns(text: str, columns: int) -> None:
    assert width(text) == columns
    assert all(width(cut(text, room)) <= room for room in range(1, 8))
    assert cut(text, columns) == text
