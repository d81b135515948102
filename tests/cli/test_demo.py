"""`ssiuu demo`: the commands that are shown are those that are run, to the end, and once."""

# ruff: noqa: F811 - a fixture is imported
from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_commands import place, ssiuu  # noqa: F401 - place is a fixture

from ssiuu.cli import demo
from ssiuu.records.files import load_run


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Run the steps in this process; what was run is in the list."""
    found: list[list[str]] = []

    def run(words: list[str], cwd: Path, stdout: Any) -> subprocess.CompletedProcess[str]:
        found.append(words[3:])
        with monkeypatch.context() as moved:
            moved.chdir(cwd)
            done = ssiuu(*words[3:])
        assert done.returncode != 2, done.stderr
        return done

    monkeypatch.setattr(demo.subprocess, "run", run)
    return found


def shown(text: str) -> list[list[str]]:
    return [shlex.split(line[2:])[1:] for line in text.splitlines() if line.startswith("$ ssiuu")]


def test_a_demonstration_ends_with_a_certificate(
    place: Path, tmp_path: Path, ran: list[list[str]]
) -> None:
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
    certificate = json.loads((tmp_path / "demo" / "audit" / "certificate.json").read_text())
    assert (
        certificate["predicate"]["facts"]
        and str(tmp_path / "demo" / "audit" / "report.html") in done.stdout
    )
    ran.clear()
    again = ssiuu(*words)
    assert again.returncode == 0 and "done before" in again.stdout
    assert [words[0] for words in ran] == ["ask", "verify"]


def test_the_rate_of_the_default_model_is_for_it_alone() -> None:
    def teaching(model: str) -> tuple[str, ...]:
        return next(iter(demo._steps(model))).words

    assert "--learning-rate" in teaching("smollm2-135m")
    assert "--learning-rate" not in teaching("my-model")
