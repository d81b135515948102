"""FaithUn's question file in its shape and in variants of its keys, and the official splits.

pytest tests/unit/test_faithun.py
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from people_files import KINDS, faithun_data, write_faithun
from ssiuu.benchmarks.faithun_rows import load, read_clusters
from ssiuu.data.fact import Fact
from ssiuu.errors import DataError


def read(data: Any) -> list[Fact]:
    return read_clusters(json.dumps(data), "file")


def test_every_kind_goes_to_its_cluster() -> None:
    data = faithun_data(entities=3)
    facts = read(data)
    assert [f.id for f in facts] == ["Q0:0", "Q0:1", "Q1:0", "Q1:1", "Q2:0", "Q2:1"]
    source = data["Q1"]
    fact = facts[3]
    base = source["hop1_unlearn"][1]
    assert (fact.question, fact.answer, fact.entity) == (base["question"], base["answers"][0], "Q1")
    assert fact.distractors == tuple(base["false_options"])
    assert fact.paraphrases == tuple(q["question"] for q in source["hop1_test"][1])
    for kind, probes in (("hop2_test", fact.multi_hop), ("same_object", fact.same_answer)):
        assert [p.question for p in probes] == [q["question"] for q in source[kind][1]]
        assert [p.answer for p in probes] == [q["answers"][0] for q in source[kind][1]]
        assert [list(p.distractors) for p in probes] == [q["false_options"] for q in source[kind][1]]


def each_question(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Any], Any]:
    def walk(item: Any) -> Any:
        if isinstance(item, list):
            return [walk(i) for i in item]
        return change(item) if "question" in item else {k: walk(v) for k, v in item.items()}

    return walk


def keyed(data: Any) -> Any:
    return {
        entity: {kind: {f"P{n}": item for n, item in enumerate(kinds[kind])} for kind in KINDS}
        for entity, kinds in data.items()
    }


VARIANTS: dict[str, Callable[[Any], Any]] = {
    "mappings for lists": keyed,
    "mappings, base in a list": lambda data: {
        e: {**k, "hop1_unlearn": {n: [q] for n, q in k["hop1_unlearn"].items()}}
        for e, k in keyed(data).items()
    },
    "one answer": each_question(
        lambda q: {"question": q["question"], "answer": q["answers"][0], "options": q["false_options"]}
    ),
    "options with the answers": each_question(
        lambda q: {
            "query": q["question"],
            "answers": q["answers"],
            "options": [*q["false_options"], *[a.upper() for a in q["answers"]]],
        }
    ),
    "distractors by letter": each_question(
        lambda q: {
            "question": q["question"],
            "answers": q["answers"],
            "distractors": dict(zip("ab", q["false_options"], strict=True)),
        }
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_the_keys_give_the_same(variant: str) -> None:
    data = faithun_data(entities=3)
    assert read(VARIANTS[variant](copy.deepcopy(data))) == read(data)


def test_one_cluster_has_all_questions_of_its_entity() -> None:
    data = faithun_data(entities=1, clusters=1)
    flat = copy.deepcopy(data)
    for kind in KINDS[1:]:
        flat["Q0"][kind] = flat["Q0"][kind][0]
    assert read(flat) == read(data)
    flat["Q0"]["hop1_unlearn"] = flat["Q0"]["hop1_unlearn"][0]
    del flat["Q0"]["same_object"]
    (fact,) = read(flat)
    assert len(fact.multi_hop) == 2 and fact.same_answer == ()


def test_what_is_missing_is_named_with_entity_and_key() -> None:
    data = faithun_data(entities=5)
    del data["Q0"]["hop1_unlearn"]
    del data["Q1"]["hop1_test"]
    del data["Q2"]["hop2_test"][1][0]["answers"]
    data["Q3"]["hop1_unlearn"][0]["false_options"] = data["Q3"]["hop1_unlearn"][0]["answers"]
    data["Q4"]["same_object"] = data["Q4"]["same_object"][:1]
    with pytest.raises(DataError) as caught:
        read(data)
    expected = [
        "Q0: hop1_unlearn is missing",
        "Q1: hop1_test is missing",
        "Q2.hop2_test[1]: answers is missing; it has question, false_options",
        "Q3.hop1_unlearn[0]: false_options holds only right answers",
        "Q4.same_object: has 1 entries for the 2 questions of hop1_unlearn",
    ]
    for problem, part in zip(caught.value.problems, expected, strict=True):
        assert part in problem
    broken = faithun_data(entities=1)
    broken["Q0"]["hop2_test"] = {"P9": []}
    with pytest.raises(DataError, match=r"Q0\.hop2_test: key 'P9' is not in hop1_unlearn"):
        read(broken)
    broken["Q0"]["hop2_test"] = [[{"question": "", "answers": ["a"], "false_options": ["b"]}], []]
    with pytest.raises(DataError, match=r"Q0\.hop2_test\[0\]: question must be a text"):
        read(broken)
    with pytest.raises(DataError, match="must map Wikidata ids"):
        read([])
    with pytest.raises(DataError, match="is not JSON"):
        read_clusters("{", "file")


def test_the_official_splits_are_indices_of_clusters(tmp_path: Path) -> None:
    file = write_faithun(tmp_path / "faithun")
    data = load(str(file), None)
    assert data.clusters == 24
    assert [f.id for f in data.sets["forget"]] == ["Q1:1", "Q0:0", "Q4:0", "Q6:0", "Q7:1"]
    assert [f.id for f in data.sets["heldout"]] == ["Q0:1", "Q2:0", "Q4:1", "Q10:0"]
    assert load(str(file), str(file.parent / "splits")) == data
    changed = {"forget_set": [1], "retaining_set": [0], "test_set": [2]}
    other = load(str(write_faithun(tmp_path / "other", splits=changed)), None)
    assert other.fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("forget", "message"),
    [
        ([24], r"names cluster 24, and the question file has 24 \(0 to 23\)"),
        ([5], "cluster 5 is in forget and in retain"),
        ([1, 1], "twice"),
    ],
)
def test_wrong_splits_are_named(tmp_path: Path, forget: list[int], message: str) -> None:
    splits = {"forget_set": forget, "retaining_set": [5], "test_set": [7]}
    with pytest.raises(DataError, match=message):
        load(str(write_faithun(tmp_path, splits=splits)), None)


def test_no_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"yny0506/faithun.*set faithun\.path"):
        load(None, None)
    with pytest.raises(DataError, match=r"faithun\.path: .*cannot be read.*yny0506/faithun"):
        load(str(tmp_path / "none.json"), None)
    file = write_faithun(tmp_path)
    (tmp_path / "splits" / "test_set_split.txt").write_text("one")
    with pytest.raises(DataError, match="one index a line"):
        load(str(file), None)
    (tmp_path / "splits" / "test_set_split.txt").unlink()
    with pytest.raises(DataError, match=r"Set faithun\.splits"):
        load(str(file), None)
