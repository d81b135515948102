"""Every line of docs/gpu.md that waits for a GPU is one that its command takes."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from test_docs import ROOT, blocks

from ssiuu.cli.main import app
from ssiuu.experiment.recipe import resolve

PAGE = ROOT / "docs" / "gpu.md"
HERE = ("device=cuda", "device=cpu")


def commands() -> list[list[str]]:
    """Return every command of the page, its words one by one, wherever it stands in its line."""
    lines = [line for block in blocks(PAGE, "bash") for line in block.splitlines()]
    parts = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [[word for word in words if not re.match(r"[A-Z0-9_]+=", word)] for words in parts if words]


ALL = commands()


def test_the_page_has_commands_of_every_kind() -> None:
    assert {words[0] for words in ALL} == {"ssiuu", "make", "python", "test"}
    assert {words[1] for words in ALL if words[0] == "ssiuu"} == {
        *("doctor", "teach", "unlearn", "audit", "compare")
    }
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert all(words[1] in rules for words in ALL if words[0] == "make")


@pytest.mark.parametrize("words", [w[1:] for w in ALL if w[0] == "ssiuu"], ids=" ".join)
def test_a_command_takes_its_options_and_settings(words: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    with group.make_context("ssiuu", list(words), resilient_parsing=False) as context:
        name, command, rest = group.resolve_command(context, list(words))
        assert name is not None and command is not None
        settings = command.make_context(name, rest, parent=context).params.get("set_") or []
    resolve(None, [setting.replace(*HERE) for setting in settings])


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Have scripts end once they have read their options, which are in here then."""
    found: list[Any] = []
    plain = argparse.ArgumentParser.parse_args

    def parse(parser: Any, *given: Any) -> Any:
        found.append(plain(parser, *given))
        raise KeyboardInterrupt

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.syspath_prepend(str(ROOT / "perf"))
    yield found


@pytest.mark.parametrize("words", [w[1:] for w in ALL if w[0] == "python"], ids=" ".join)
def test_a_script_takes_its_options(
    words: list[str], parsed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, *options = words
    spec = importlib.util.spec_from_file_location("_".join(path.split("/")), ROOT / path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, script.__name__, script)
    spec.loader.exec_module(script)
    if path == "perf/sized.py":  # which takes a size and a folder
        assert options[0] in script.SIZES and len(options) == 2
        return
    monkeypatch.setattr(sys, "argv", [path, *(word.replace("cuda", "cpu") for word in options)])
    with pytest.raises(KeyboardInterrupt):
        script.main()
    assert len(parsed) == 1
