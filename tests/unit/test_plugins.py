"""What is added from outside: found by its name, and refused in a sentence where it cannot be used."""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest
from pydantic import Field

import ssiuu
from ssiuu import plugins
from ssiuu.analysis.scores import SCORES
from ssiuu.attacks import ATTACKS
from ssiuu.attacks.base import Attack, AttackConfig, Axis, Curve, Victim
from ssiuu.benchmarks import BENCHMARKS
from ssiuu.benchmarks.base import Benchmark
from ssiuu.config import Section
from ssiuu.errors import ConfigError
from ssiuu.methods import OBJECTIVES, RETAIN_TERMS, TRANSFORMS, make
from ssiuu.methods.base import Objective
from ssiuu.plugins import Plugin, Registry, blamed, from_files
from ssiuu.records.schema import Evaluation


class Base:
    """What a thing of the test derives from."""


class Plain(Base):
    name = "plain"


class Added(Base):
    name = "added"


def registry() -> Registry[Base]:
    return Registry("thing", "ssiuu.things", Base, [Plain])


class Point(EntryPoint):
    """An entry point of a package that is not installed."""

    def __init__(self, name: str, found: object, package: str = "theirs") -> None:
        super().__init__(name, f"{package}.module:Thing", "ssiuu.things")
        distribution = type("Dist", (), {"name": package, "version": "1.2"})()
        vars(self).update(found=found, dist=distribution)  # it cannot be set: no entry point changes

    def load(self) -> object:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def installed(monkeypatch: pytest.MonkeyPatch, *points: Point) -> Registry[Base]:
    monkeypatch.setattr("ssiuu.plugins.entry_points", lambda group: [*points])
    return registry()


def test_what_an_installed_package_names_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = installed(monkeypatch, Point("added", Added))
    assert [*found] == ["plain", "added"] and "added" in found
    assert found.get("added") is Added and found.plugin("added") == Plugin("theirs", "1.2")
    assert found.get("plain") is Plain and found.plugin("plain") is None


def test_an_unknown_name_gets_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"attacks: unknown thing 'addde'. Did you mean 'added'"):
        installed(monkeypatch, Point("added", Added)).get("addde", "attacks")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (ImportError("no module named x"), "of theirs cannot be imported .* no module named x"),
        (3, "is no class derived from Base"),
        (int, "is no class derived from Base"),
        (Plain, "calls itself 'plain'"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, found: object, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        installed(monkeypatch, Point("added", found)).get("added")
    assert len(caught.value.problems) == 1 and "added" in caught.value.problems[0]


def test_a_name_that_two_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for points in ([Point("plain", Added)], [Point("added", Added), Point("added", Added, "others")]):
        with pytest.raises(ConfigError, match="has to be uninstalled"):
            [*installed(monkeypatch, *points)]


def test_a_class_can_be_registered_for_the_process() -> None:
    found = registry()
    assert found.register(Added) is Added and found.get("added") is Added
    assert found.register(Added) is Added  # a notebook's cell that is run again
    again = type("Other", (Base,), {"name": "added"})
    with pytest.raises(ConfigError, match="is there already"):
        found.register(again)
    with pytest.raises(ConfigError, match="is there already"):
        found.register(type("Mine", (Base,), {"name": "plain"}))


class Settings(Section):
    shares: list[float] = Field(default=[])


class Unset(Section):
    shares: list[float] = Field(description="which")


WHOLE = {"summary": "Takes weights out.", "Config": Settings, "axis": Axis("share", "share")}


def attack(**given: Any) -> type[Attack[Any]]:
    body = {"name": "taken-out", "reads": lambda *_: [], "curves": lambda _: [], **WHOLE, **given}
    return type("TakenOut", (Attack,), {key: value for key, value in body.items() if value is not None})


@pytest.mark.parametrize(
    ("given", "lacking"),
    [
        ({"curves": None}, r"lacks curves\(\): what is needed stands in ssiuu.attacks.base, Attack"),
        ({"summary": None, "axis": None}, "lacks axis, summary:"),
        ({"Config": None}, "lacks Config:"),
        ({"Config": dict}, "lacks a Config derived from ssiuu.config.Section:"),
        ({"Config": Unset}, "lacks a default of shares:"),
    ],
)
def test_what_an_attack_lacks_is_said(given: dict[str, Any], lacking: str) -> None:
    with pytest.raises(ConfigError, match=lacking):
        ATTACKS.register(attack(**given))


def test_what_a_loss_lacks_is_said() -> None:
    body = {"name": "empty", "origin": "given", "source": "A test.", "__module__": __name__}
    with pytest.raises(ConfigError, match=r"lacks forget_loss\(\), summary:"):
        OBJECTIVES.register(type("Empty", (Objective,), body))


@pytest.mark.parametrize(("reads", "got"), [([], "nothing"), (["read"], "str")])
def test_an_attack_that_reads_nothing_is_refused(reads: list[Any], got: str) -> None:
    made = attack(reads=lambda self, *_: reads, start=lambda self, *_: {})
    with pytest.raises(ConfigError, match=f"'taken-out': reads.. of TakenOut .* got {got}"):
        made(Settings(), AttackConfig()).carry_out(
            Mock(spec=Victim), Curve("a", "b"), Mock(spec=Evaluation), print
        )


def test_an_error_in_a_package_of_somebody_else_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("theirs.module")
    exec(compile("def reads():\n    return 1 / 0\n", "theirs/module.py", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, "theirs.module", module)
    point = Point("added", Added)
    monkeypatch.setattr("ssiuu.plugins.entry_points", lambda group: [point])
    with pytest.raises(ZeroDivisionError) as caught:
        module.reads()
    assert blamed(caught.value) == (
        "theirs 1.2 failed in theirs/module.py, line 2, reads: ZeroDivisionError: division by zero"
    )
    assert blamed(ValueError("of our own")) is None


def test_what_is_added_derives_from_what_the_package_shows() -> None:
    for registry in (OBJECTIVES, TRANSFORMS, RETAIN_TERMS, ATTACKS, BENCHMARKS):
        shown = getattr(ssiuu, registry.base.__name__)
        assert shown is registry.base and all(issubclass(registry.get(n), shown) for n in registry)
    assert issubclass(ssiuu.Score, SCORES.base)
    assert {*ssiuu.__all__} == {*ssiuu._PLACES}
    assert all(getattr(ssiuu, name) is not None for name in ssiuu.__all__)


@pytest.mark.parametrize(("returned", "got"), [(None, "None"), ("wrong", "'wrong'"), ([3], r"\[3\]")])
def test_what_is_no_list_of_sentences_names_the_line(
    monkeypatch: pytest.MonkeyPatch, returned: object, got: str
) -> None:
    """Else None breaks off somewhere of ours, and a text is shown letter by letter."""
    source = (
        "class Whole:\n    def problems(self, *basis):\n        return said\n\n"
        "    def curves(self):\n        return said\n"
    )
    body: dict[str, Any] = {"said": returned, "__name__": "theirs.module"}
    exec(compile(source, "theirs/module.py", "exec"), body)
    monkeypatch.setattr("ssiuu.plugins.entry_points", lambda group: [Point("added", Added)])
    methods = {name: vars(body["Whole"])[name] for name in ("problems", "curves")}
    made = attack(**methods)(Settings(), AttackConfig())
    for line, name, words in ((2, "problems", "sentences"), (5, "curves", "curves")):
        said = (
            rf"^theirs 1\.2: Whole\.{name}\(\) in theirs/module\.py, line {line}, must return a list of "
            rf"{words}, \[\] where there is none, got {got}\.$"
        )
        with pytest.raises(ConfigError, match=said) as caught:
            getattr(made, name)()
        assert len(caught.value.problems) == 1
    kept = type("Kept", (Benchmark,), {"problems": methods["problems"], "open": None, "cost": None})
    with pytest.raises(ConfigError, match=r"Whole\.problems\(\) in .* sentences"):
        kept(Section()).problems(None)


def test_what_is_a_list_of_sentences_is_passed_on() -> None:
    made = attack(problems=lambda self: ["too much"], curves=lambda self: [Curve("a", "b")])
    assert made(Settings(), AttackConfig()).problems() == ["too much"]
    assert made(Settings(), AttackConfig()).curves() == [Curve("a", "b")]


ROOT = Path(__file__).parents[2]
FLOOR = re.findall(r"```python\n(.*?)```", (ROOT / "docs/tutorials/add-a-method.md").read_text(), re.S)[
    0
]


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Names a file of this text in the variable; what it has registered is gone afterwards."""
    before = dict(OBJECTIVES._registered)
    monkeypatch.setattr(OBJECTIVES, "_registered", {})

    def name(text: str) -> Path:
        path = tmp_path / "floor.py"
        path.write_text(text)
        monkeypatch.setenv("SSIUU_PLUGINS", f"{path}{os.pathsep}")
        return path

    yield name
    OBJECTIVES._registered.update(before)
    for module in [m for m in plugins._files if m.endswith("_floor")]:
        del plugins._files[module], sys.modules[module]


def test_a_file_is_a_package_of_its_own_whose_version_is_its_digest(
    named: Callable[[str], Path],
) -> None:
    path = named(FLOOR)
    from_files()
    from_files()  # once a process
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert OBJECTIVES.plugin("floor") == Plugin("floor.py", digest)
    method = make({"name": "floor+ssiuu", "floor": -3.0})
    assert method.plugins() == {"objective floor": f"floor.py {digest}"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", r"floor\.py registers nothing: end it with OBJECTIVES\.register\(Class\)"),
        ("x = 1\nx / 0\n", r"floor\.py breaks off: ZeroDivisionError: .*floor\.py, line 2\)"),
        (FLOOR.replace('"floor"', '"npo"'), r"objective 'npo' is there already"),
    ],
)
def test_a_file_that_adds_nothing_is_refused(
    named: Callable[[str], Path], text: str, said: str
) -> None:
    named(text)
    with pytest.raises(ConfigError, match=said):
        from_files()


def test_a_file_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSIUU_PLUGINS", "nowhere.py")
    with pytest.raises(
        ConfigError, match=r"^SSIUU_PLUGINS: .*nowhere\.py cannot be read: No such file"
    ):
        from_files()
