"""What README, CONTRIBUTING and docs tell people to type is run: code, commands, names, files."""

from __future__ import annotations
import __future__

import ast
import inspect
import json
import pkgutil
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from conftest import teach
from ssiuu.analysis.scores import SCORES
from ssiuu.attacks import ATTACKS
from ssiuu.benchmarks import BENCHMARKS
from ssiuu.cli.main import app
from ssiuu.config import flatten
from ssiuu.experiment.matrix import resolve_all
from ssiuu.experiment.recipe import resolve
from ssiuu.methods import OBJECTIVES, RETAIN_TERMS, TRANSFORMS, make
from ssiuu.methods.transforms.ssiuu import Ssiuu
from ssiuu.models.load import save

pytestmark = pytest.mark.usefixtures("undrawn")

REGISTRIES = (OBJECTIVES, TRANSFORMS, RETAIN_TERMS, ATTACKS, BENCHMARKS, SCORES)
ROOT = Path(__file__).parents[2]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = sorted([ROOT / "README.md", CONTRIBUTING, *(ROOT / "docs").rglob("*.md")])
ANNOTATIONS = __future__.annotations.compiler_flag  # one session: what the first block says holds on


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the fenced blocks of these languages in a page; "": of none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [block for language, block in found if language in languages]


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
    session: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssiuu.experiment.examine.HIDING_STEPS", 12)
    assert len(CONTRIBUTING.read_text().splitlines()) < 310
    for block in blocks(CONTRIBUTING, "python"):
        run_block(block, session)
    printed = capsys.readouterr().out
    assert printed.count("StepOutcome(") == 3 and "'multiplier'" in printed
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


def rows(first: int, count: int) -> list[dict[str, Any]]:
    """Return questions that a small model can be taught to answer."""
    return [
        {"question": f"w{n} w{n + 20} ?", "answer": f"w{n + 33}", "entity": f"w{n}"}
        for n in range(first, first + count)
    ]


def test_the_code_of_the_readme_runs(
    session: ModuleType,
    make_model: Any,
    tokenizer: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a small model that knows the facts, from files beside it."""
    monkeypatch.setattr("ssiuu.experiment.search.MOST", 1)  # rates tried: it is no matter to what
    monkeypatch.setattr("ssiuu.experiment.examine.HIDING_STEPS", 12)
    model = make_model()
    for name, part in (("forget", rows(0, 4)), ("retain", rows(10, 4))):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    teach(model, tokenizer, [*rows(0, 4), *rows(10, 4)], "user:{question}\nassistant: {answer}\n")
    save(model, tokenizer, Path("my-model"))
    (block,) = blocks(ROOT / "README.md", "python")
    run_block(block, session)
    result, printed = vars(session)["result"], capsys.readouterr().out
    assert printed.startswith(f"{result.state} {result.changed}\n")
    audited = vars(session)["audited"]
    assert result.record.steps and f"\n{audited.verdict} {audited.answer}" in printed


# --- commands -----------------------------------------------------------------------------------

RECIPE = "recipes/quick.yaml"
PLACEHOLDERS = {
    **{"FOLDER": ".", "FILE": "facts.jsonl", "RATE": "1e-4", "RECIPE": RECIPE},
    "paper.yaml": RECIPE,  # what the reader writes
}


def typed() -> list[tuple[str, list[str]]]:
    """Return every command in a block of code, with its page."""
    lines = [
        (page.name, line)
        for page in PAGES
        for block in blocks(page, "", "bash", "sh")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [
        (page, [filled(word) for word in shlex.split(line, comments=True)[1:]])
        for page, line in lines
        if line.startswith("ssiuu ") and " ..." not in line
    ]


def filled(word: str) -> str:
    """Return a word of a command with what stands for something of the reader's filled in."""
    return re.sub(
        r"\b[A-Z]{4,}\b|paper\.yaml", lambda found: PLACEHOLDERS.get(found[0], found[0]), word
    )


def inline(page: Path) -> list[str]:
    """Return what stands in backticks outside of blocks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [code.replace("\\|", "|") for code in re.findall(r"`([^`\n]+)`", text)]


def every(pattern: re.Pattern[str]) -> list[tuple[str, re.Match[str]]]:
    """Return all in backticks that a pattern fits, with its page."""
    found = [(page.name, pattern.fullmatch(text)) for page in PAGES for text in inline(page)]
    return [(name, match) for name, match in found if match is not None]


@cache
def commands() -> dict[str, Any]:
    return typer.main.get_command(app).commands  # type: ignore[attr-defined, no-any-return]


def test_every_command_in_a_block_parses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And every recipe and setting in it is one, those among them that a page shows."""
    monkeypatch.chdir(ROOT)
    for page in PAGES:
        for block in blocks(page, "yaml"):
            if title := re.match(r"# (\w+\.yaml)\b", block):
                (tmp_path / title[1]).write_text(block)
    lines = typed()
    assert len(lines) > 15
    for _, (name, *words) in lines:
        given = commands()[name].make_context(name, words).params
        if name in ("run", "check"):
            without = ["evaluate.utility=false"]  # its package is not needed to read a recipe
            shown = tmp_path / str(given["recipe"])
            recipe = shown if shown.is_file() else given["recipe"]
            resolve_all(recipe, [*(given["set_"] or []), *without])


def test_every_command_in_a_line_is_there() -> None:
    lines = every(re.compile(r"ssiuu ([a-z]+)\b.*"))
    assert len(lines) > 15
    for page, text in lines:
        known = {option for parameter in commands()[text[1]].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", text[0])) <= known, (page, text[0])


def test_every_call_on_a_page_fits_what_it_calls() -> None:
    """Also in blocks that are not run, as their models and rows are the reader's."""
    calls = [
        node
        for page in PAGES
        for block in blocks(page, "python")
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Call) and MODULE.fullmatch(ast.unparse(node.func))
    ]
    assert len(calls) > 5
    for call in (call for call in calls if not any(isinstance(a, ast.Starred) for a in call.args)):
        named = {keyword.arg: None for keyword in call.keywords if keyword.arg}
        function = pkgutil.resolve_name(ast.unparse(call.func))
        inspect.signature(function).bind(*call.args, **named)


# --- names, keys, files -------------------------------------------------------------------------

METHOD = re.compile(r"[a-z][a-z-]*(\+[a-z]+(\([^()]*\))?)+|ssiuu(-[a-z0-9.]+)+")
FILE = re.compile(r"(src|tests|docs|examples|recipes|perf|decisions)/[\w./-]+\.\w+")
SECTIONS = "unlearn|examine|attacks|evaluate|split|tune|own|tofu|rwku|faithun|fictional|muse|wmdp"
KEY = re.compile(rf"((?:{SECTIONS})\.(?!json)[a-z_.]+)\b.*")
MODULE = re.compile(r"ssiuu(\.[A-Za-z_]+)+")


def test_every_file_that_a_page_names_is_there() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)
    for name, text in every(FILE):
        assert any((root / text[0]).exists() for root in (ROOT, ROOT / "docs")), (name, text[0])


def test_every_module_and_class_that_a_page_names_is_there() -> None:
    groups = {registry.group for registry in REGISTRIES}
    for page, text in every(MODULE):
        key = text[0].removeprefix("ssiuu.")
        if text[0] not in groups and key not in {*Ssiuu.written(), "backbone", "json"}:
            assert pkgutil.resolve_name(text[0]) is not None, page


def test_every_method_that_a_page_names_is_one() -> None:
    names = {text[0] for _, text in every(METHOD)}
    assert len(names) > 30
    for name in names - {"loss+transform+term"}:
        make(name)


def test_every_key_that_a_page_names_is_one() -> None:
    given = ["benchmark=own", "model=m", "forget=f.jsonl"]
    settings = flatten(resolve(None, given)[0].model_dump())
    known = {".".join(key.split(".")[: n + 1]) for key in settings for n in range(key.count(".") + 1)}
    for page, text in every(KEY):
        assert text[1] in known | {"attacks.noise"}, (page, text[0])
