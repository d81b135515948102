"""What is added from outside: found by its name, and refused in a sentence where it cannot be used."""

import pytest

from ssiuu.errors import ConfigError
from ssiuu.plugins import Plugin, Registry


class Base:
    """What a thing of the test derives from."""


class Plain(Base):
    name = "plain"


class Added(Base):
    name = "added"


def registry() -> Registry[Base]:
    return Registry("thing", "ssiuu.things", Base, {"plain": Plain})


class Point:
    """An entry point of a package that is not installed."""

    def __init__(self, name: str, found: object, package: str = "theirs") -> None:
        self.name, self.found, self.value = name, found, f"{package}.module:Thing"
        self.dist = type("Dist", (), {"name": package, "version": "1.2"})()

    def load(self) -> object:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def installed(monkeypatch: pytest.MonkeyPatch, *points: Point) -> Registry[Base]:
    monkeypatch.setattr("ssiuu.plugins.entry_points", lambda group: [*points])
    monkeypatch.setattr("ssiuu.plugins.EntryPoint", Point)
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
