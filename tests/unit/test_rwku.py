"""RWKU's files, its levels and the sets of a run.

pytest tests/unit/test_rwku.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from people_files import write_rwku
from ssiuu.benchmarks.rwku import split_of
from ssiuu.benchmarks.rwku_rows import load, stated_options
from ssiuu.errors import ConfigError, DataError
from ssiuu.experiment.recipe import resolve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_rwku(tmp_path / "rwku")


def test_levels_are_apart_and_people_as_chosen(folder: Path) -> None:
    data = load(str(folder), ["Person 2", "Person 0"], 3, 0)
    assert data.subjects == ["Person 2", "Person 0"] and data.facts == 36
    assert {f.entity for f in data.forget} == {"Person 2", "Person 0"}
    assert len(data.forget) == 12  # person 0's first question only once
    assert {name: len(facts) for name, facts in data.others.items()} == {
        "level1": 12,
        "level3_cross_lingual": 12,
        "level3_multiple_choice": 12,
        "neighbour_level1": 12,
    }
    assert data.others["level1"][0].question == "Fill in the blank: w0 w0 ___ word"
    choice = data.others["level3_multiple_choice"][1]
    assert choice.options == ["w1", "w62", "w63"] and choice.options[0] == choice.answer
    assert not any(f.options for f in data.others["level3_cross_lingual"])
    ids = [f.id for facts in (data.forget, data.neighbours, *data.others.values()) for f in facts]
    assert len(ids) == len(set(ids))


def test_a_neighbour_to_forget_is_left_out(folder: Path) -> None:
    """Person 1 is a neighbour of person 0."""
    alone = load(str(folder), ["Person 0"], 3, 0)
    assert "Person 1" in {f.entity for f in alone.neighbours}
    both = load(str(folder), ["Person 0", "Person 1"], 3, 0)
    assert "Person 1" not in {f.entity for f in both.neighbours}
    assert "Person 1" not in {f.entity for f in both.others["neighbour_level1"]}


def test_wrong_options_are_of_others_and_begin_alike(folder: Path) -> None:
    lines = (folder / "forget_level2.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for fact in load(str(folder), 6, 3, 0).forget:
        opening = fact.question.split()[:2]
        allowed = {
            r["answer"]
            for r in rows
            if r["query"].split()[:2] == opening and r["subject"] != fact.entity
        }
        assert fact.options[0] == fact.answer and len(set(fact.options)) == 3
        assert set(fact.options[1:]) <= allowed
    few = load(str(folder), ["Person 0"], 40, 0)  # there are not 39 of them
    assert not any(f.options for f in few.forget)


def test_people_are_drawn_by_the_seed(folder: Path) -> None:
    assert load(str(folder), 3, 3, 1) == load(str(folder), 3, 3, 1)
    assert len({tuple(load(str(folder), 3, 3, seed).subjects) for seed in range(9)}) > 2
    with pytest.raises(DataError, match=r"rwku\.subjects.*'Person 9'"):
        load(str(folder), ["Person 9"], 3, 0)
    with pytest.raises(DataError, match="at most 6, got 7"):
        load(str(folder), 7, 3, 0)


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("Which one: Red, 1989, or Blue?", ["1989", "Red", "Blue"]),
        ("Of these: red, 1989 or blue", ["1989", "red", "blue"]),
        ("Which of these, Red or 1989?", []),  # no colon: where the options begin is not certain
        ("Which one: Red or Blue?", []),  # the answer is not among them
        ("Which one: 1989?", []),
    ],
)
def test_options_stated_in_a_question(query: str, options: list[str]) -> None:
    assert stated_options(query, "1989") == options


def test_neighbours_are_kept_or_held_out(folder: Path) -> None:
    recipe, _ = resolve(None, ["benchmark=rwku", "split={retain: 5, heldout: 4}", "rwku.items=3"])
    split = split_of(recipe.opens.config, recipe.split, load(str(folder), 4, 3, 0))
    assert (len(split.forget), len(split.retain), len(split.heldout)) == (24, 5, 4)
    assert not {f.entity for f in split.retain} & {f.entity for f in split.heldout}
    assert {len(facts) for facts in split.others.values()} == {3}
    none, _ = resolve(None, ["benchmark=rwku", "split={retain: 0, heldout: 0}"])
    empty = split_of(none.opens.config, none.split, load(str(folder), 4, 3, 0))
    assert empty.retain == empty.heldout == [] and len(empty.others["level1"]) == 24


def test_subjects_must_be_some() -> None:
    for value in ("0", "[]"):
        with pytest.raises(ConfigError, match=r"rwku\.subjects"):
            resolve(None, [f"rwku.subjects={value}"])


def test_the_hub_gives_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(repository: str, name: str, split: str) -> list[dict[str, Any]]:
        assert (repository, split) == ("jinzhuoran/RWKU", "test")
        return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert load(None, 2, 3, 0) == load(str(folder), 2, 3, 0)


def test_what_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("ssiuu.hub.silence", lambda: "")  # it answers, and not with the data
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError, match=r"no route to host.*set rwku\.path"):
        load(None, 2, 3, 0)
    (folder / "forget_level3.jsonl").write_text('{"subject": "a", "query": "b", "type": "c"}\n')
    with pytest.raises(DataError, match=r"forget_level3\.jsonl:1: answer: Field required"):
        load(str(folder), 2, 3, 0)
    (folder / "forget_level3.jsonl").unlink()
    with pytest.raises(DataError, match=r"rwku\.path.*cannot be read.*jinzhuoran/RWKU"):
        load(str(folder), 2, 3, 0)
