"""What can be added from outside: named classes, built in or from any installed package.

A package adds one by an entry point, and it is there wherever the built-in ones are:

    [project.entry-points."ssiuu.attacks"]
    noise = "my_package:WeightNoise"

    [project.entry-points."ssiuu.objectives"]
    pdu = "my_package:PrimalDual"

Without a package, a file that registers what it adds is named in the variable SSIUU_PLUGINS, and every
command, its workers included, runs it first (`from_files`).

Entry points are read when a name is first looked up, and a package is imported when its class is first
asked for, so that commands that need neither stay as fast as they were. Where a class came from
(package and version, or file and digest) stands in the record and in the keys of what it decides.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import InitVar, dataclass
from functools import cached_property, wraps
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

from ssiuu.errors import ConfigError, unknown

T = TypeVar("T")

GROUPS = [
    f"ssiuu.{kind}"
    for kind in ("objectives", "transforms", "retain_terms", "attacks", "benchmarks", "scores")
]
SENTENCES = (str, "sentences")  # what a method that names problems returns
VARIABLE: Final = "SSIUU_PLUGINS"  # files, separated as the folders of PATH are


class Plugin(NamedTuple):
    """The package that a name comes from, and its version."""

    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}".strip()


_files: dict[str, Plugin] = {}  # by the module that a file became
_added: list[str] = []  # what was registered, in order


def from_files() -> None:
    """Run the files that `SSIUU_PLUGINS` names; each registers what it adds, once a process.

    A file counts as a package of its own name; its version is its digest, so that nothing is taken for
    a result of what it says now that came of what it said before.

    Raises:
        ConfigError: One is not there, breaks off, or registers nothing.
    """
    for named in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        path = Path(named).expanduser().resolve()
        module = f"_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
        if module not in _files:
            _run(path, module)


def _run(path: Path, module: str) -> None:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise ConfigError(f"{VARIABLE}: {path} cannot be read: {error.strerror}.") from error
    spec = importlib.util.spec_from_file_location(module, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{VARIABLE}: {path} is no Python file: it must end in .py.")
    sys.modules[module] = ran = importlib.util.module_from_spec(spec)
    _files[module], before = Plugin(path.name, digest), len(_added)
    try:
        spec.loader.exec_module(ran)
    except ConfigError:
        raise
    except Exception as error:  # whatever a file of the user's does
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename}, line {last.lineno}"
        raise ConfigError(
            f"{VARIABLE}: {path} breaks off: {type(error).__name__}: {error} ({where})."
        ) from error
    if len(_added) == before:
        raise ConfigError(
            f"{VARIABLE}: {path} registers nothing: end it with OBJECTIVES.register(Class), say."
        )


@dataclass
class Registry(Generic[T]):
    """The classes of one kind by name: those built in, those of installed packages, those registered.

    Attributes:
        kind: What a name names, for messages: "attack".
        group: The entry-point group: "ssiuu.attacks".
        base: What every class derives from.
        classes: Those of this package, which are `built_in` by name.
    """

    kind: str
    group: str
    base: type[Any]
    classes: InitVar[Iterable[type[T]]]

    def __post_init__(self, classes: Iterable[type[Any]]) -> None:
        self.built_in: dict[str, type[T]] = {kind.name: kind for kind in classes}
        self._registered: dict[str, type[T]] = {}
        self._loaded: dict[str, type[T]] = {}

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        points: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            if other := self.built_in.get(point.name) or points.get(point.name):
                package = _package(other) if isinstance(other, EntryPoint) else "ssiuu"
                raise ConfigError(
                    f"{self.kind} {point.name!r} is in {package} and in {_package(point)}: one of the "
                    "two packages has to be uninstalled, or to name it otherwise."
                )
            points[point.name] = point
        return points

    def __iter__(self) -> Iterator[str]:
        """Yield every name: built in, installed, registered."""
        return iter(dict.fromkeys([*self.built_in, *self._points, *self._registered]))

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self._registered or name in self._points

    def get(self, name: str, where: str = "") -> type[T]:
        """Return the class of a name.

        Args:
            name: As typed.
            where: Key, flag or file it stood in, for messages.

        Raises:
            ConfigError: There is none, or its package cannot be used.
        """
        for known in (self.built_in, self._registered, self._loaded):
            if name in known:
                return known[name]
        if name not in self._points:
            raise ConfigError(unknown(self.kind, name, self, where))
        point = self._points[name]
        try:
            loaded = point.load()
        except Exception as error:  # whatever a stranger's module does when it is imported
            raise ConfigError(
                f"{self.kind} {name!r} of {_package(point)} cannot be imported from {point.value!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
        self._loaded[name] = self._checked(loaded, name, f"{_package(point)} ({point.value})")
        return self._loaded[name]

    def register(self, added: type[T]) -> type[T]:
        """Add a class for as long as this process lives; returns it, so that it decorates a class.

        Raises:
            ConfigError: It is none of this kind, or its name is taken.
        """
        name = str(getattr(added, "name", ""))
        self._checked(added, name, added.__qualname__)
        known = name in self.built_in or name in self._points
        if known or (
            name in self._registered and self._registered[name].__qualname__ != added.__qualname__
        ):
            raise ConfigError(f"{self.kind} {name!r} is there already: give yours another name.")
        self._registered[name] = added
        _added.append(name)
        return added

    def plugin(self, name: str) -> Plugin | None:
        """Return the package a name comes from; None for what is built in."""
        if name in self.built_in:
            return None
        if name in self._registered:
            package = self._registered[name].__module__.partition(".")[0]
            if package in _files:
                return _files[package]
            try:
                return Plugin(package, version(package))
            except PackageNotFoundError:
                return Plugin(package, "")
        point = self._points.get(name)
        return (
            None if point is None or point.dist is None else Plugin(point.dist.name, point.dist.version)
        )

    def _checked(self, kind: Any, name: str, place: str) -> type[T]:
        if not (isinstance(kind, type) and issubclass(kind, self.base)):
            raise ConfigError(
                f"{self.kind} {name!r}: {place} is no class derived from {self.base.__name__}."
            )
        if getattr(kind, "name", None) != name:
            raise ConfigError(
                f"{self.kind} {name!r}: {place} calls itself {getattr(kind, 'name', None)!r}; its "
                "attribute `name` and its entry point must agree."
            )
        if lacking := _lacking(kind):
            raise ConfigError(
                f"{self.kind} {name!r}: {place} lacks {', '.join(lacking)}: what is needed stands in "
                f"{self.base.__module__}, {self.base.__name__}."
            )
        checked: type[T] = kind
        return checked


def used(*names: tuple[Registry[Any], str]) -> dict[str, str]:
    """Return which of these names are of other packages: package and version, by kind and name."""
    plugins = {f"{registry.kind} {name}": registry.plugin(name) for registry, name in names}
    return {name: str(plugin) for name, plugin in plugins.items() if plugin is not None}


def blamed(error: BaseException) -> str | None:
    """Return where an error arose in another package, in one sentence; None: in none of them."""
    packages = _packages()
    # The innermost frame that is theirs: what it has called may be ours.
    for frame, line in reversed([*traceback.walk_tb(error.__traceback__)]):
        module = str(frame.f_globals.get("__name__", ""))
        if (plugin := packages.get(module.partition(".")[0])) is not None:
            return (
                f"{plugin} failed in {frame.f_code.co_filename}, "
                f"line {line}, {frame.f_code.co_name}: {type(error).__name__}: {error}"
            )
    return None


def held_to(cls: type[Any], returns: Mapping[str, tuple[type, str]]) -> None:
    """Have methods of a class refuse to return anything but a list of what they should.

    A problem that is a bare text would else be shown letter by letter, and None break off far from
    where it arose.

    Args:
        cls: The class; methods that it inherits are held to it already.
        returns: By the method's name: the type of what is in the list, and in words.
    """
    for name, (kind, words) in returns.items():
        if (method := vars(cls).get(name)) is not None:
            setattr(cls, name, _returning(method, kind, words))


def _returning(method: Callable[..., Any], kind: type, words: str) -> Callable[..., Any]:
    @wraps(method)
    def held(*given: Any, **named: Any) -> Any:
        returned = method(*given, **named)
        if isinstance(returned, list) and all(isinstance(part, kind) for part in returned):
            return returned
        module, code = method.__module__, method.__code__
        plugin = _packages().get(module.partition(".")[0], module)
        raise ConfigError(
            f"{plugin}: {method.__qualname__}() in {code.co_filename}, line {code.co_firstlineno}, "
            f"must return a list of {words}, [] where there is none, got {returned!r}."
        )

    return held


def _packages() -> dict[str, Plugin]:
    """Return the packages that add something, by the name of their outermost module."""
    points = [point for group in GROUPS for point in entry_points(group=group)]
    return _files | {
        point.module.partition(".")[0]: Plugin(point.dist.name, point.dist.version)
        for point in points
        if point.dist is not None
    }


def _lacking(cls: type[Any]) -> list[str]:
    """Return what a class has to define and does not: methods, attributes, defaults of its settings."""
    methods = [f"{name}()" for name in sorted(getattr(cls, "__abstractmethods__", ()))]
    declared = {
        name
        for kind in cls.__mro__
        for name, hint in inspect.get_annotations(kind).items()
        if "ClassVar" in str(hint)
    }
    # Declared by an annotation alone, it is for the class derived from this one to give.
    attributes = sorted(name for name in declared if not hasattr(cls, name))
    config = getattr(cls, "Config", None)
    if config is not None and not hasattr(config, "model_fields"):
        attributes.append("a Config derived from ssiuu.config.Section")
    fields = getattr(cls, "model_fields", {}) | getattr(config, "model_fields", {})
    defaults = [f"a default of {name}" for name, field in fields.items() if field.is_required()]
    return methods + attributes + defaults


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
