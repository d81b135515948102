"""The package in examples/plugin, installed in an environment of its own and run from the command line.

Its four additions are a file each; nothing of ssiuu knows of them.
"""

from __future__ import annotations

import json
import os
import shlex
import site
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest

import ssiuu
from ssiuu.models.load import save
from ssiuu.report.formats import FORMATS

PLUGIN = Path(__file__).parents[2] / "examples" / "plugin"
FILES = sorted((PLUGIN / "src" / "ssiuu_example").glob("[a-z]*.py"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that sees what this one has, and the package besides; returns its command."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    here = [*site.getsitepackages(), str(Path(ssiuu.__file__).parents[1])]
    (there,) = (folder / "lib").glob("python*/site-packages")
    (there / "seen.pth").write_text("\n".join(here))
    source = folder / "plugin"
    source.mkdir()
    for path in [
        PLUGIN / "pyproject.toml",
        PLUGIN / "README.md",
        *FILES,
        FILES[0].with_name("__init__.py"),
    ]:
        copied = source / path.relative_to(PLUGIN)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())
    python = folder / "bin" / "python"
    options = ["--no-deps", "--no-index", "--no-build-isolation", "-q", "--disable-pip-version-check"]
    done = subprocess.run(
        [python, "-m", "pip", "install", *options, "--target", there, source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return python


# Commands one after another in one process, which imports torch once; "<next>" stands between what they say.
IN_TURN = """
import json, sys
from ssiuu.cli.main import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["ssiuu", *words]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    print("<next>")
"""


def ssiuu_says(python: Path, commands: list[list[str]], cwd: Path) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-c", IN_TURN, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("<next>\n")


def typed_in_the_readme() -> list[list[str]]:
    """Return the words of every command in the first block of the package's README."""
    block = (PLUGIN / "README.md").read_text().split("```")[1].replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in block.strip().splitlines()]


def shown_of(record: Any) -> list[str]:
    """Return the tables of a run in every format, by a process that has never heard of the package."""
    return [form(record, None) for form in FORMATS.values()]


def test_every_addition_is_one_file_of_less_than_60_lines() -> None:
    assert {path.stem for path in FILES} == {"hinge", "sign", "noise", "colours"}
    assert all(len(path.read_text().splitlines()) < 60 for path in FILES)


def test_the_package_is_listed_run_and_recorded(
    installed: Path, make_model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """By the commands of its README, with fewer steps and no other attack."""
    install, *lists, run = typed_in_the_readme()
    assert install == ["pip", "install", "./examples/plugin"] and len(lists) == 3
    named = {"methods": ("hinge", "+sign"), "attacks": ("noise",), "benchmarks": ("colours",)}
    save(make_model(), tokenizer, tmp_path / "my-model")
    shorter = [
        "prompt=plain",
        "unlearn={learning_rate: 1e-2, max_steps: 2, threshold: 0}",
        "attacks={harmful: {fractions: []}, benign: {learning_rates: []}}",
        "examine.steps=[]",
        "diagnose=false",
    ]
    further = [part for value in shorter for part in ("--set", value)]
    commands = [*(words for _, *words in lists), [*run[1:], *further, "--out", "run"]]
    *listed, printed, _ = ssiuu_says(installed, commands, tmp_path)
    for (_, _, group), said in zip(lists, listed, strict=True):
        assert all(name in said for name in named[group]) and "ssiuu-example 1.0" in said
    assert all(label in printed for label in ("hinge", "gd+sign", "noise"))
    assert "noise" in (tmp_path / "run" / "report.html").read_text()
    header = json.loads((tmp_path / "run" / "run.json").read_text())
    assert header["plugins"] == {
        "attack noise": "ssiuu-example 1.0",
        "benchmark colours": "ssiuu-example 1.0",
        "objective hinge": "ssiuu-example 1.0",
        "transform sign": "ssiuu-example 1.0",
    }
    (attack,) = (tmp_path / "run" / "cells" / "hinge-s0").glob("attack-noise-*.json")
    reads = json.loads(attack.read_text())["reads"]
    assert [read["label"] for read in reads] == ["", "0.05", "0.2"]
    (unlearned,) = (tmp_path / "run" / "cells" / "hinge-s0").glob("unlearn-*.json")
    steps = json.loads(unlearned.read_text())["steps"]
    assert all("retain weight added" in json.dumps(step) for step in steps)
    shown = shown_of(ssiuu.load_run(tmp_path / "run"))
    assert all("noise" in text for text in shown)
