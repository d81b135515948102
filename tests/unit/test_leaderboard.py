"""A leaderboard: lines that anyone can append, and what a check says of one that was changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sample_record import pinned, sample_record
from sample_runs import driven, on_another, only
from ssiuu.analysis.leaderboard import Standing, append, check, standings
from ssiuu.errors import DataError

SAMPLE = sample_record()


@pytest.fixture
def board(tmp_path: Path) -> Path:
    path = tmp_path / "leaderboard.jsonl"
    assert append(path, standings(SAMPLE)) == 4  # every method, no control
    return path


def edit(path: Path, place: int, seal: bool = False, **changes: Any) -> None:
    """Change a line as anyone can; `seal`: make its digest anew."""
    lines = path.read_text().splitlines()
    values = json.loads(lines[place])
    values["results"] |= changes.pop("results", {})
    line = Standing.model_validate(values | changes)
    lines[place] = (line.sealed if seal else line).model_dump_json()
    path.write_text("\n".join(lines) + "\n")


def test_lines_agree_with_their_run_and_are_appended_once(board: Path) -> None:
    assert append(board, standings(SAMPLE)) == 0
    found = check(board, {"one": SAMPLE})
    assert (found.lines, found.agree, found.unmatched, found.problems) == (4, 4, 0, [])
    alone = check(board, {})
    assert (alone.agree, alone.unmatched, alone.problems) == (0, 4, [])


def test_a_line_tells_what_its_run_tells() -> None:
    gd = standings(SAMPLE)[0]
    assert (gd.method, gd.seed, gd.benchmark, gd.model) == ("gd", 0, "worldfacts", "SmolLM2-135M")
    assert gd.model_fingerprint == SAMPLE.header.model.fingerprint
    assert gd.results["strongest_level"] == 0.75 and gd.versions == SAMPLE.header.versions


@pytest.mark.parametrize(
    "other",
    [driven(SAMPLE, max_steps=61), on_another(SAMPLE)],
)
def test_another_experiment_is_another_line(board: Path, other: Any) -> None:
    assert append(board, standings(other)) == 4
    found = check(board, {"other": other})
    assert (found.lines, found.agree, found.unmatched) == (8, 4, 4) and not found.problems


def test_a_changed_line_is_named(board: Path) -> None:
    edit(board, 1, results={"strongest_level": 0.1})
    (problem,) = check(board, {}).problems
    assert "line 2 (npo, seed 0, worldfacts) was changed after it was written" in problem


@pytest.mark.parametrize("field", sorted(Standing.model_fields.keys() - {"schema_version", "digest"}))
def test_the_digest_is_over_every_field(field: str) -> None:
    line = standings(SAMPLE)[0]
    value = getattr(line, field)
    other = (
        {**value, "x": "1"} if isinstance(value, dict) else value + 1 if field == "seed" else "other"
    )
    assert line.whole and not line.model_copy(update={field: other}).whole


def test_a_line_sealed_anew_does_not_agree_with_its_run(board: Path) -> None:
    edit(board, 0, seal=True, results={"strongest_level": 0.1, "kl": 0.0})
    assert check(board, {}).problems == []
    (problem,) = check(board, {"one": SAMPLE}).problems
    assert "does not agree with one: kl 0 against 0.3969, strongest_level 0.1 against 0.75." in problem


def test_a_number_left_out_is_a_disagreement(board: Path) -> None:
    lines = board.read_text().splitlines()
    values = json.loads(lines[0])
    del values["results"]["kl"]
    lines[0] = Standing.model_validate(values).sealed.model_dump_json()
    board.write_text("\n".join(lines))
    (problem,) = check(board, {"one": SAMPLE}).problems
    assert "kl not told against 0.3969" in problem


def test_a_line_of_two_runs_agrees_with_one_of_them(board: Path) -> None:
    cells = [c.model_copy(update={"attacks": []}) for c in SAMPLE.cells]
    other = SAMPLE.model_copy(update={"cells": cells})  # the same experiment, another result
    assert check(board, {"one": SAMPLE, "other": other}).agree == 4
    assert len(check(board, {"other": other}).problems) == 4


def test_a_verdict_of_another_calibration_is_not_checked(board: Path) -> None:
    with pinned():
        found = check(board, {"one": SAMPLE})
    assert found.agree == 4 and len(found.notes) == 4 and not found.problems
    assert "its verdict is of calibration" in found.notes[0]


def test_a_cut_line_is_named_and_nothing_is_appended_after_it(board: Path) -> None:
    content = board.read_text()
    board.write_text(content[:-40])
    (problem,) = check(board, {}).problems
    assert "line 4 is no line of a leaderboard" in problem
    with pytest.raises(DataError, match=r"line 4 was changed or cut.* nothing was appended"):
        append(board, standings(SAMPLE))
    assert board.read_text() == content[:-40]


def test_a_file_without_a_last_line_break_is_appended_to(board: Path) -> None:
    board.write_text(board.read_text().rstrip())
    assert append(board, standings(on_another(only(SAMPLE, "gd")))) == 1
    assert check(board, {}).lines == 5 and not check(board, {}).problems


def test_nothing_is_appended_behind_a_line_that_was_changed(board: Path) -> None:
    edit(board, 1, results={"strongest_level": 0.1})
    content = board.read_text()
    with pytest.raises(DataError, match=r"line 2 was changed or cut.*`ssiuu compare --check"):
        append(board, standings(on_another(SAMPLE)))
    assert board.read_text() == content


def test_of_an_empty_file_nothing_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no line"):
        check(path, {})
