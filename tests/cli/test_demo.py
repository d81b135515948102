"""`ssiuu demo`: the commands that are shown are those that are run, to the end, and once."""

# ruff: noqa: F811 - a fixture is imported
from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from test_commands import place, ssiuu  # noqa: F401 - place is a fixture

from ssiuu.cli import demo
from ssiuu.records.files import load_run


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was run, in words."""
    found: list[list[str]] = []
    carry_out = demo._carry_out

    def run(words: list[str], out: Path, context: Any) -> int:
        found.append(words)
        return carry_out(words, out, context)

    monkeypatch.setattr(demo, "_carry_out", run)
    return found


def shown(text: str) -> list[list[str]]:
    return [shlex.split(line[2:])[1:] for line in text.splitlines() if line.startswith("$ ssiuu")]


def test_a_demonstration_ends_with_a_certificate(
    place: Path, tmp_path: Path, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssiuu.experiment.examine.HIDING_STEPS", 12)  # a third of the time
    # How much of what it says so small a model keeps hangs on how the processor rounds.
    monkeypatch.setattr("ssiuu.experiment.outcome.SAID", 0.0)
    words = ("demo", "--model", place / "model", "--out", tmp_path / "demo")
    done = ssiuu(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [words[0] for words in ran] == ["teach", "ask", "unlearn", "audit", "verify"]
    assert shown(done.stdout) == ran
    record = load_run(tmp_path / "demo" / "audit")
    split = record.header.split
    facts = [*split.forget, *split.unknown]
    assert {fact.entity for fact in facts} == {"Arvid Lomberg", "Caspian Orro", "Emeric Valdo"}
    assert len(split.retain) == 9
    assert record.header.command == shlex.join(["ssiuu", *ran[3]])
    certificate = json.loads((tmp_path / "demo" / "audit" / "certificate.json").read_text())
    assert (
        certificate["predicate"]["facts"]
        and str(tmp_path / "demo" / "audit" / "report.html") in done.stdout
    )
    ran.clear()
    again = ssiuu(*words, "--json")
    told = json.loads(again.stdout)  # one object, of the demonstration and of nothing that it ran
    assert {*told} == {"exit_code", "page", "certificate"} and told["exit_code"] == 0
    assert [words[0] for words in ran] == ["ask", "verify"]


def test_what_cannot_go_on_is_said_and_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = ssiuu("demo", "--model", "nowhere/at/all", "--out", "demo")
    assert done.returncode == 2 and "nowhere/at/all" in done.stderr
    assert "ssiuu ask" not in done.stdout and Path.cwd() == tmp_path

    def stopped(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("ssiuu.experiment.teaching.teach_model", stopped)
    ended = ssiuu("demo", "--out", "demo")
    assert ended.returncode == 130 and "the same command continues" in ended.stderr


def test_the_rate_of_the_default_model_is_for_it_alone() -> None:
    def teaching(model: str) -> tuple[str, ...]:
        return next(iter(demo._steps(model))).words

    assert "--learning-rate" in teaching("smollm2-135m")
    assert "--learning-rate" not in teaching("my-model")
