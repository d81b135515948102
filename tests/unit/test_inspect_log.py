"""An audit as a log of inspect_ai: the fields that its schema asks for, and the numbers of the record."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from known_facts import ssiuu
from sample_record import sample_record
from sample_runs import only, with_header, write_run
from ssiuu.analysis.verdict import judgement
from ssiuu.records.schema import RunRecord
from ssiuu.report.inspect_log import eval_log

# What inspect lists: `log_file_pattern` of its package.
LISTED = re.compile(r"^\d{4}-\d{2}-\d{2}T\d{2}[:-]\d{2}[:-]\d{2}.*\.json$")


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return with_header(only(sample_record(), "none", "gd"), kind="audit")


@pytest.fixture(scope="module")
def log(record: RunRecord) -> dict[str, Any]:
    return eval_log(record, record.cells[1])


def test_what_the_format_requires_is_there(log: dict[str, Any]) -> None:
    assert log["version"] == 2 and log["status"] == "success"
    assert {"created", "task", "dataset", "model", "config"} <= log["eval"].keys()
    for sample in log["samples"]:
        assert {"id", "epoch", "input", "target"} <= sample.keys()
        assert all("value" in score for score in sample["scores"].values())
    for score in log["results"]["scores"]:
        assert {"name", "scorer"} <= score.keys()
        assert all(metric["name"] == name for name, metric in score["metrics"].items())


def test_a_sample_says_what_the_record_says(log: dict[str, Any], record: RunRecord) -> None:
    cell, words = record.cells[1], judgement(record, record.cells[1])
    assert cell.evaluation is not None
    facts = {fact.id: fact for fact in record.header.split.forget}
    assert [sample["id"] for sample in log["samples"]] == [*facts]
    for sample in log["samples"]:
        fact, after = facts[sample["id"]], cell.evaluation.forget[sample["id"]]
        word, scores = words.facts[fact.id], sample["scores"]
        assert (sample["input"], sample["target"]) == (fact.question, fact.answer)
        assert scores["verdict"]["value"] == word.verdict and scores["said"]["value"] == int(word.said)
        assert ("first" in scores) == (after.correct is not None)
        if after.free_text is not None:
            said = sample["output"]["choices"][0]["message"]["content"]
            assert said == sample["output"]["completion"] == after.free_text
        if word.judged is not None and word.judged.erased is not None:
            assert sample["metadata"]["p_erased"] == word.judged.erased


def test_its_shares_are_over_what_was_measured(log: dict[str, Any]) -> None:
    verdict, said, first = log["results"]["scores"]
    shares = [metric["value"] for metric in verdict["metrics"].values()]
    assert sum(shares) == pytest.approx(1) and len(shares) == 4
    values = [s["scores"]["first"]["value"] for s in log["samples"] if "first" in s["scores"]]
    assert first["scored_samples"] == len(values)
    assert first["metrics"]["mean"]["value"] == pytest.approx(sum(values) / len(values))
    assert said["scored_samples"] + said["unscored_samples"] == len(log["samples"])


def test_the_command_writes_it_once_and_for_one_model(record: RunRecord, tmp_path: Path) -> None:
    write_run(record, tmp_path / "audit")
    done = ssiuu("export", tmp_path / "audit", "--inspect", tmp_path / "logs", "--json")
    told = json.loads(done.stdout)
    file = Path(told["inspect"])
    assert done.returncode == 0 and LISTED.match(file.name) and file.parent == tmp_path / "logs"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(json.loads(file.read_text())["samples"]) == told["samples"]
    again = ssiuu("export", tmp_path / "audit", "--inspect", tmp_path / "logs")
    assert again.returncode == 2 and "is there already" in again.stderr
    named = ssiuu("export", tmp_path / "audit", "--inspect", tmp_path / "mine.json")
    assert named.returncode == 0 and (tmp_path / "mine.json").read_bytes() == file.read_bytes()
    write_run(sample_record(), tmp_path / "run")
    several = ssiuu("export", tmp_path / "run", "--inspect", tmp_path / "more.json")
    assert several.returncode == 2 and "this run has several" in several.stderr
    assert not (tmp_path / "more.json").exists()
    for words in (["--inspect", "x.json"], [tmp_path / "audit", "--inspect", "x", "--facts", "f"]):
        assert "goes with the folder of an audit" in ssiuu("export", *words).stderr


def test_what_was_not_evaluated_is_no_success(record: RunRecord) -> None:
    cell = record.cells[1].model_copy(update={"evaluation": None, "examination": None})
    log = eval_log(record, cell)
    assert log["status"] == "cancelled" and log["results"]["completed_samples"] == 0
    assert all("output" not in sample for sample in log["samples"])
