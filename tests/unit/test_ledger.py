"""A ledger without a model: requests that are withdrawn, and what a round that is refused says."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from ssiuu.errors import ConfigError, DamagedError, NotKnownError, show
from ssiuu.experiment import keeping, requests
from ssiuu.records.ledger import FILE, Ledger
from ssiuu.records.schema import Knowledge, KnowledgeState, ModelInfo, ModelKnowledge
from ssiuu.records.sharing import LOCK, Sharing

ABOUT = {"model": "m", "retain": "none", "method": "", "sample": "1", "sets": "[]"}
LEFT = ("models/0001/unlearn.json", "models/.0001.unfinished/state", "models/0001.digest-key")
LEFT += ("audits/0001/run.json", "audits/0001.digest-key")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Two requests, of which a round has begun; and one that came later."""
    ledger = Ledger.begin(tmp_path / "ledger", ABOUT)
    for name in ("x1", "x2"):
        ledger.add(name, [{"question": f"where is {name}?", "answer": "here"}])
    ledger.begin_round("m")
    ledger.add("x3", [{"question": "where is x3?", "answer": "there"}])
    for name in (*LEFT, "models/00010/config.json", "audits/0002/run.json"):
        (ledger.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (ledger.folder / name).write_text("where is x1?")
    return ledger


def references(ledger: Ledger) -> list[str]:
    return [request.reference for request in ledger.requests()]


def test_what_is_in_a_round_that_is_worked_on_is_not_withdrawn(ledger: Ledger) -> None:
    held = Sharing(ledger.folder).hold(ledger.folder / LOCK)
    assert held is not None
    with pytest.raises(ConfigError, match="'x1': it is in round 1, which is under way"):
        keeping.withdraw(ledger, "x1")
    keeping.withdraw(ledger, "x3")  # that came when the round had begun
    held.release()
    assert references(ledger) == ["x1", "x2"] and len(ledger.rounds()) == 1
    assert all((ledger.folder / name).exists() for name in LEFT)


def test_a_round_that_was_interrupted_goes_with_what_is_withdrawn_from_it(ledger: Ledger) -> None:
    dropped = keeping.withdraw(ledger, "x1")
    assert dropped is not None and dropped.id == 1 and ledger.rounds() == []
    assert references(ledger) == ["x2", "x3"]
    there = {str(p.relative_to(ledger.folder)) for p in ledger.folder.rglob("*") if p.is_file()}
    assert there == {FILE, LOCK, "models/00010/config.json", "audits/0002/run.json"}
    assert b"where is x1" not in (ledger.folder / FILE).read_bytes()
    assert [keeping.withdraw(ledger, name) for name in ("x2", "x3")] == [None, None]
    assert requests.process(ledger).round is None  # nothing is pending


def test_what_a_round_that_came_to_nothing_said_goes_with_what_is_withdrawn(ledger: Ledger) -> None:
    ledger.drop_round(1)  # not forgotten: the record stands beside where the model would be
    assert keeping.withdraw(ledger, "x1") is None
    assert not any((ledger.folder / name).exists() for name in LEFT)
    assert (ledger.folder / "audits/0002/run.json").exists()


def test_a_round_whose_request_is_gone_already_is_dropped(ledger: Ledger) -> None:
    with sqlite3.connect(ledger.folder / FILE) as base:  # as an earlier version withdrew
        base.execute("DELETE FROM requests")
    base.close()
    assert requests.process(ledger).round is None
    assert ledger.rounds() == [] and not any((ledger.folder / name).exists() for name in LEFT)


def test_a_round_holds_what_is_pending_as_it_begins(ledger: Ledger) -> None:
    ledger.end_round(1, {1: "erased", 2: "hidden"}, 0, [])
    begun = ledger.begin_round("n")
    assert begun is not None and (begun.id, begun.requests, begun.before) == (2, [3], "n")
    ledger.end_round(2, {3: "erased"}, 0, [])
    assert ledger.begin_round("n") is None and len(ledger.rounds()) == 2


def test_what_was_processed_is_not_withdrawn_and_what_never_came_neither(ledger: Ledger) -> None:
    ledger.end_round(1, {1: "erased", 2: "hidden"}, 0, [])
    with pytest.raises(ConfigError, match="'x1': it was processed in round 1;"):
        keeping.withdraw(ledger, "x1")
    with pytest.raises(ConfigError, match=r"unknown pending request 'x4'\..* Known: x3\."):
        keeping.withdraw(ledger, "x4")
    keeping.withdraw(ledger, "x3")
    with pytest.raises(ConfigError, match=r"unknown pending request 'x4'\. Known: none\."):
        keeping.withdraw(ledger, "x4")
    assert references(ledger) == ["x1", "x2"]


def refusal(states: list[KnowledgeState], kept: int) -> NotKnownError:
    """As unlearning refuses, with the first fact in its sentence."""
    error = NotKnownError("forget: none is known: 'where is x1?' is answered 'here'; --force goes on.")
    error.kept = kept
    error.record = ModelKnowledge(
        model=ModelInfo(name="m", source="m", fingerprint="f", parameters=1, layers=1),
        form="qa",
        asked="as it is",
        facts=[],
        knowledge={str(n): Knowledge(state=state, why="'here'") for n, state in enumerate(states)},
        seconds=0.0,
    )
    return error


@pytest.mark.parametrize(
    ("states", "retain", "why", "what"),
    [
        (["unknown"] * 2, False, "there are no facts to keep, so", "with --retain FILE"),
        (["unknown"] * 2, True, "it knows none of the facts to keep either", "another --set prompt="),
        (["unknown", "unsure"], True, "1 of them cannot be called unknown", "another --set prompt="),
    ],
)
def test_why_it_is_not_sure_that_nothing_is_known_is_said_without_a_text_of_a_fact(
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    states: list[KnowledgeState],
    retain: bool,
    why: str,
    what: str,
) -> None:
    if retain:
        keep = ledger.folder.parent / "keep.jsonl"
        keep.write_text(json.dumps({"question": "who stays?", "answer": "Emu"}))
        ledger.tell("retain", str(keep))
    monkeypatch.setattr(requests, "unlearn_model", lambda *_: throw(refusal(states, 0)))
    shutil.rmtree(ledger.folder / "models")
    with pytest.raises(NotKnownError) as refused:
        requests.process(ledger)
    said, pending = refused.value.problems
    assert said.startswith("The model m knows none of the 2 facts (") and "asked as prompt=qa" in said
    assert why in said and what in said and "--force" not in said
    assert "still pending: x1, x2; ssiuu request withdraw takes one out." in pending
    assert not [text for text in ("where is", "here'") if text in str(refused.value)]
    assert ledger.rounds() == [] and len(ledger.requests()) == 3


def test_an_error_in_a_round_names_facts_by_their_requests(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "where is the one with a long name, " * 4 + "of all?"
    with sqlite3.connect(ledger.folder / FILE) as base:
        rows = json.dumps([{"question": "q?", "answer": "a"}, {"question": long, "answer": "here"}])
        base.execute("UPDATE requests SET texts = ? WHERE reference = 'x2'", (rows,))
    base.close()
    quoted = DamagedError("model.safetensors")
    quoted.problems = [f"row 3: {show(long)} and {long!r}; {'where is x1?'!r} says 'here'; 'qa' stays"]
    monkeypatch.setattr(requests, "unlearn_model", lambda *_: throw(quoted))
    shutil.rmtree(ledger.folder / "models")
    with pytest.raises(DamagedError) as refused:
        requests.process(ledger)
    assert refused.value.problems[0] == (
        "row 3: [question 2 of 'x2'] and [question 2 of 'x2']; [question 1 of 'x1'] says "
        "[answer 1 of 'x1']; 'qa' stays"
    )
    assert str(refused.value) == "\n".join(refused.value.problems)


def throw(error: Exception) -> None:
    raise error
