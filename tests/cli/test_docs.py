"""What README, CONTRIBUTING and docs tell people to type is run: code, commands, names, files."""

from __future__ import annotations
import __future__

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ssiuu.attacks import ATTACKS
from ssiuu.methods import TRANSFORMS

ROOT = Path(__file__).parents[2]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = sorted([ROOT / "README.md", CONTRIBUTING, *(ROOT / "docs").rglob("*.md")])
ANNOTATIONS = __future__.annotations.compiler_flag  # one session: what the first block says holds on


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language in a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """A module in which blocks run one after the other, in a folder of its own."""
    module = ModuleType("docs_session")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield module
    for registry, name in ((ATTACKS, "noise"), (TRANSFORMS, "sign")):
        registry._registered.pop(name, None)  # type: ignore[attr-defined]


def run_block(block: str, session: ModuleType) -> None:
    exec(compile(block, "<docs>", "exec", ANNOTATIONS), vars(session))


def test_contributing_is_short_and_its_code_runs(
    session: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(CONTRIBUTING.read_text().splitlines()) < 300
    for block in blocks(CONTRIBUTING, "python"):
        run_block(block, session)
    printed = capsys.readouterr().out
    assert printed.count("Outcome(") == 3 and "'multiplier'" in printed
    models = {cell.method.label: cell for cell in vars(session)["record"].cells}
    assert {"pdu", "gd+sign"} < set(models)
    assert all([attack.kind for attack in models[m].attacks] == ["noise"] for m in ("pdu", "gd+sign"))


def test_code_in_contributing_is_that_of_the_files() -> None:
    """Every class and function that a block shows of a file is there, word for word."""
    shown = 0
    for block in blocks(CONTRIBUTING, "python"):
        first = block.splitlines()[0]
        if not first.startswith("# ") or not first.endswith(".py"):
            continue
        file = (ROOT / first.removeprefix("# ")).read_text()
        for node in ast.parse(block).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                source = ast.get_source_segment(block, node)
                assert source and source in file, f"{first}: {node.name}"
                shown += 1
    assert shown >= 6
