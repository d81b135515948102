"""Files that several processes write to, where the system locks nothing: leaderboard and ledger."""

from __future__ import annotations

import multiprocessing
import resource
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from sample_record import sample_record
from ssiuu.analysis.leaderboard import append, check, standings
from ssiuu.errors import OutputError
from ssiuu.experiment import keeping, requests
from ssiuu.records import lease as leasing
from ssiuu.records.lease import lease
from ssiuu.records.ledger import FILE, Ledger
from ssiuu.records.sharing import LOCK, Sharing, flock, lock_of, noted, way_of
from ssiuu.redaction.folder import alone_in

FORK = multiprocessing.get_context("fork")
LINES = standings(sample_record())
ABOUT = {"model": "m", "retain": "none", "method": "", "sample": "1", "sets": "[]"}


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> bool:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("filelock.lock_descriptor", refuses)
    monkeypatch.setattr(leasing, "BEAT", 0.1)
    monkeypatch.setattr(leasing, "PATIENCE", 10.0)


def at_once(act: Callable[[int], object], processes: int = 4) -> None:
    workers = [FORK.Process(target=act, args=(n,)) for n in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert all(worker.exitcode == 0 for worker in workers)


def append_some(board: Path, number: int) -> None:
    for n in range(5):
        line = LINES[0].model_copy(update={"seed": 10 * number + n}).sealed
        assert append(board, [line, LINES[1]]) in (1, 2)


@pytest.mark.usefixtures("no_locks")
def test_lines_of_several_processes_all_stand_in_a_leaderboard_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = tmp_path / "board.jsonl"
    at_once(lambda number: append_some(board, number))
    found = check(board, {})
    assert (found.lines, found.problems) == (21, [])
    assert {p.name for p in tmp_path.iterdir()} == {"board.jsonl", ".board.lock"}
    monkeypatch.setattr(leasing, "PATIENCE", 0.0)
    dead = lease(lock_of(board))  # as of a process that is not there any more
    assert dead is not None
    leasing._process.forget(dead)
    dead.stream.close()
    assert append(board, LINES) == 2  # the first two are there


def test_a_leaderboard_is_locked_by_the_system_where_leases_are_not_asked_for(tmp_path: Path) -> None:
    board, link = tmp_path / "board.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(board)
    assert append(link, LINES) == 4 and {p.name for p in tmp_path.iterdir()} == {board.name, link.name}
    assert append(link, LINES, "leases") == 0
    with pytest.raises(OutputError, match=r"locks: flock, but .* as its \.board\.lock says"):
        append(board, LINES, "flock")
    assert append(board, LINES) == 0


def add_some(folder: Path, number: int) -> None:
    for n in range(5):
        Ledger(folder).add(f"{number}.{n}", [{"question": "q?", "answer": "a"}])


@pytest.mark.usefixtures("no_locks")
def test_requests_of_several_processes_all_stand_in_a_ledger_without_locks(tmp_path: Path) -> None:
    """SQLite's own locks are not asked for either: somebody has them all the time."""
    folder = tmp_path / "ledger"
    Ledger.begin(folder, ABOUT)
    other = sqlite3.connect(folder / FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    at_once(lambda number: add_some(folder, number))
    other.close()
    ledger = Ledger(folder)
    assert len(ledger.requests()) == 20
    ledger.withdraw("3.4")
    assert len({r.reference for r in ledger.requests()}) == 19
    assert {p.name for p in folder.iterdir()} == {FILE, LOCK}


@pytest.mark.usefixtures("no_locks")
def test_who_waits_for_a_ledger_that_a_killed_process_has_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.begin(tmp_path / "ledger", ABOUT)
    held = leasing.lease(lock_of(ledger.folder / FILE))
    assert held is not None
    leasing._process.forget(held)  # it signs no more
    leasing._process.seen.clear()
    monkeypatch.setattr(leasing, "PATIENCE", 0.25)
    monkeypatch.setattr("ssiuu.records.sharing.MOMENT", 0.1)
    told: list[str] = []
    assert Ledger(ledger.folder, told.append).requests() == []
    assert len(told) == 1 and "waiting for who writes to it; for up to 60 s" in told[0]
    held.release()


@pytest.mark.usefixtures("no_locks")
def test_one_process_works_on_a_ledger_and_a_dead_one_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.begin(tmp_path / "ledger", ABOUT)
    held = Sharing(ledger.folder).hold(ledger.folder / LOCK)
    assert held is not None
    told: list[str] = []
    with pytest.raises(OutputError, match="another process works on this ledger"):
        requests.process(ledger, told.append)
    assert len(told) == 1 and "looking for up to 60 s whether" in told[0]
    leasing._process.forget(held)  # it signs no more
    leasing._process.seen.clear()  # a command that begins anew has seen nothing yet
    monkeypatch.setattr(leasing, "PATIENCE", 0.25)
    assert requests.process(ledger).round is None
    with pytest.raises(leasing.Lost):
        held.check()
    held.release()


def test_settings_say_how_the_processes_of_a_ledger_keep_apart(tmp_path: Path) -> None:
    assert [way_of(s) for s in ([], ["locks=flock", "locks = leases"], ["locks=x"])] == [
        "auto",
        "leases",
        "auto",
    ]
    keeping.open_ledger(tmp_path / "one", "m", "none", None, 1, ["locks=leases"])
    keeping.open_ledger(tmp_path / "other", "m", "none", None, 1, [])
    assert noted(tmp_path / "one") and not noted(tmp_path / "other")


def hold_all(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with alone_in(folder):
        assert flock(folder / "cells/c199" / LOCK) is None


def test_all_cells_of_a_folder_are_held_at_once_where_few_files_may_be_open(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"cells/c{number}").mkdir(parents=True)
    at_once(lambda _: hold_all(tmp_path), 1)
