"""Requests that are withdrawn: before a round, while one is worked on, and after one was interrupted."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from ssiuu.errors import ConfigError
from ssiuu.experiment import requests
from ssiuu.records.ledger import FILE, Ledger
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
        requests.withdraw(ledger, "x1")
    requests.withdraw(ledger, "x3")  # that came when the round had begun
    held.release()
    assert references(ledger) == ["x1", "x2"] and len(ledger.rounds()) == 1
    assert all((ledger.folder / name).exists() for name in LEFT)


def test_a_round_that_was_interrupted_goes_with_what_is_withdrawn_from_it(ledger: Ledger) -> None:
    dropped = requests.withdraw(ledger, "x1")
    assert dropped is not None and dropped.id == 1 and ledger.rounds() == []
    assert references(ledger) == ["x2", "x3"]
    there = {str(p.relative_to(ledger.folder)) for p in ledger.folder.rglob("*") if p.is_file()}
    assert there == {FILE, LOCK, "models/00010/config.json", "audits/0002/run.json"}
    assert b"where is x1" not in (ledger.folder / FILE).read_bytes()
    assert [requests.withdraw(ledger, name) for name in ("x2", "x3")] == [None, None]
    assert requests.process(ledger).round is None  # nothing is pending


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
        requests.withdraw(ledger, "x1")
    with pytest.raises(ConfigError, match=r"unknown pending request 'x4'\..* Known: x3\."):
        requests.withdraw(ledger, "x4")
    requests.withdraw(ledger, "x3")
    with pytest.raises(ConfigError, match=r"unknown pending request 'x4'\. Known: none\."):
        requests.withdraw(ledger, "x4")
    assert references(ledger) == ["x1", "x2"]
