"""Nothing of the facts is left in what is handed on: every byte of it is looked through."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from known_facts import FORGET, leaks, make_place, ssiuu, texts
from ssiuu.records.files import load_run

pytestmark = pytest.mark.usefixtures("undrawn")

LIGHT = [
    *("--set", "attacks.harmful={fractions: [0.5], learning_rates: [1e-3]}"),
    *("--set", "attacks.benign.learning_rates=[]", "--set", "attacks.reads=[1]"),
    *("--set", "diagnose=false", "--set", "examine={steps: [1], learning_rates: [1e-3], planted: 0}"),
]
PATHS = ("ångström-request", "audit --before")  # a file's name, the command as it was typed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("facts"))


def files(place: Path) -> list[object]:
    return ["--forget", place / "ångström-request.jsonl", "--retain", place / "retain.jsonl"]


@pytest.fixture(scope="module")
def audit(place: Path) -> Path:
    """The folder of an audit that was redacted."""
    out = place / "handed-on"
    words = ["audit", "--before", place / "model", "--after", place / "after", "--out", out]
    done = ssiuu(*words, *files(place), *LIGHT, "--redact")
    assert done.returncode in (0, 3, 5), done.stderr
    assert "key of the digests" in done.stdout and "not of ssiuu" not in done.stdout
    return out


def test_the_search_finds_what_is_there(place: Path, tmp_path: Path) -> None:
    """Or the tests below would show nothing."""
    wanted = texts()
    (tmp_path / "page.html").write_text(json.dumps(wanted))
    assert {text for _, text in leaks(tmp_path, wanted)} == set(wanted)


def test_no_byte_of_a_redacted_audit_holds_a_fact(audit: Path) -> None:
    assert leaks(audit, [*texts(), *PATHS]) == []
    said = {
        score.free_text
        for evaluation in (load_run(audit).original, *(c.evaluation for c in load_run(audit).cells))
        for score in evaluation.forget.values()  # type: ignore[union-attr]
    }
    assert said and all(text is None or text.startswith("[") or not text for text in said)
    states = [path.stat() for path in audit.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(state.st_mode) for state in states if state.st_size} == {0o600}  # but locks
    key = audit.with_name("handed-on.digest-key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_its_reports_are_made_again_and_say_so(audit: Path) -> None:
    first = (audit / "report.html").read_bytes()
    assert ssiuu("report", audit).returncode == 0
    assert (audit / "report.html").read_bytes() == first and b"Redacted: a digest" in first
    for form in ("md", "latex", "csv", "json"):
        told = ssiuu("report", audit, "--format", form)
        assert told.returncode == 0 and "handed" not in told.stdout, told.stderr
        assert ("edacted" in told.stdout) == (form != "csv")
        assert not any(text in told.stdout for text in texts())


def test_nothing_runs_on_in_it(place: Path, audit: Path) -> None:
    before = {path: path.read_bytes() for path in audit.rglob("*") if path.is_file()}
    words = ["audit", "--before", place / "model", "--after", place / "after", "--out", audit]
    done = ssiuu(*words, *files(place), *LIGHT)
    assert done.returncode == 2 and "is redacted: its facts are gone" in done.stderr
    assert ssiuu("redact", audit).stdout.startswith(f"redacted: {audit} (it was already)")
    assert before == {path: path.read_bytes() for path in audit.rglob("*") if path.is_file()}


def test_equal_texts_have_equal_digests_and_another_key_gives_others(audit: Path) -> None:
    from ssiuu.redaction.keys import default_place, read_key

    key, header = read_key(default_place(audit)), load_run(audit).header
    every = [*header.split.forget, *header.split.unknown]
    assert {fact.question for fact in every} == {key.text(str(row["question"])) for row in FORGET}
    assert header.redacted == key.name and header.command.startswith("[")


def test_its_certificate_is_still_valid(place: Path, audit: Path) -> None:
    words = ["verify", audit / "certificate.json", "--before", place / "model"]
    words += ["--facts", files(place)[1], "--digest-key", audit.with_name("handed-on.digest-key")]
    done = ssiuu(*words, "--model", place / "after")
    assert done.returncode == 0 and done.stdout.startswith("valid: "), done.stderr
    assert ssiuu(*words, "--model", place / "model").returncode == 8
    told = json.loads((audit / "certificate.json").read_bytes())["predicate"]
    assert len(told["facts"]["forget"]) + len(told["facts"]["unknown"]) == len(FORGET)
    assert told["facts"]["key"] == load_run(audit).header.redacted


@pytest.mark.parametrize("command", ["ask", "teach", "unlearn"])
def test_records_of_other_commands(place: Path, tmp_path: Path, command: str) -> None:
    out = tmp_path / "out"
    facts, keep = files(place)[1], ["--retain", "none", "--method", "gd", "--keep-anyway"]
    words: list[object] = [command, "--model", place / "model", "--out", out, "--redact"]
    if command == "unlearn":
        words += ["--forget", facts, *keep]
        words += ["--set", "unlearn.max_steps=2", "--set", "unlearn.learning_rate=1e-4"]
    else:
        words += ["--facts", facts, *(["--epochs", 1, "--keep", "none"] if command == "teach" else [])]
    done = ssiuu(*words)
    assert done.returncode in (0, 3), done.stderr
    kept = out if out.is_dir() else tmp_path
    if command == "unlearn":
        words = ["verify", out / "certificate.json", "--model", out, "--before", place / "model"]
        words += ["--facts", facts, "--digest-key", tmp_path / "out.digest-key"]
        assert ssiuu(*words).returncode == 0
    # The model's own files are none of ssiuu's: a vocabulary may hold any word.
    for path in kept.glob("token*"):
        path.unlink()
    assert leaks(kept, [*texts(), "ångström-request"]) == []
    assert (tmp_path / "out.digest-key").exists()
    if command == "unlearn":
        told = json.loads((out / "certificate.json").read_bytes())["predicate"]
        assert told["kind"] == "unlearn" and told["errors"] is None and told["not_tried"]
