"""Settings: sections of them, their dotted keys, and the text that they are written in.

They are written in YAML 1.2, of which a recipe needs mappings, lists, texts and numbers.

`no` and `on` are texts, 1e-5 is a number and "1e-5" is not. Aliases and tags are refused: a recipe has
no use for them, and a few lines of aliases are billions of settings. So are texts of a size, a depth or
a number of values that no recipe has, before anything is built of them.

Source: YAML 1.2.2, core schema; package ruamel.yaml. Departures: 1_000 is a number, as people mean it;
a date is a text.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, RootModel, field_validator
from pydantic_core import PydanticCustomError

from ssiuu.errors import ConfigError

DEPTH = 20  # no recipe is deeper, and a reader that calls itself has an end
LONGEST = 1 << 16  # bytes; the longest recipe of ours has a quarter
VALUES = 4_000  # keys and values; read in a quarter of a second
TEXT = "tag:yaml.org,2002:str"


class Exact(BaseModel):
    """Base of what is set: true and false are no numbers, where pydantic would read 1 and 0."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean(cls, value: Any, info: Any) -> Any:
        field = cls.model_fields[info.field_name or ""]
        if _has_boolean(value) and not _takes_boolean(field.annotation):
            raise PydanticCustomError("boolean", "must not be true or false")
        return value


def _has_boolean(value: Any) -> bool:
    """Whether a value is true or false, or a list that holds one."""
    if isinstance(value, list | tuple):
        return any(map(_has_boolean, value))
    return isinstance(value, bool)


def _takes_boolean(annotation: Any) -> bool:
    """Whether true and false may stand anywhere in what an annotation allows; a section says itself."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return not issubclass(annotation, RootModel) or _takes_boolean(
            annotation.model_fields["root"].annotation
        )
    return annotation in (bool, Any) or any(map(_takes_boolean, get_args(annotation)))


class Section(Exact):
    """Base of every part of a recipe: immutable, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted keys; lists stay whole, and tune.space does.

    Its keys are labels of methods, which may hold dots.

    Raises:
        ConfigError: One key is written in two ways, with dots and in its section.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and name != "tune.space":
            part = flatten(value, f"{name}.")
        else:
            part = {name: value}
        if twice := flat.keys() & part.keys():
            raise ConfigError(f"{min(twice)} is set twice, with dots and in its section.")
        flat |= part
    return flat


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Return settings of dotted keys in their sections.

    Raises:
        ConfigError: A key goes on where another one has a value.
    """
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
            if not isinstance(level, dict):
                raise ConfigError(f"{key}: {parent} is not a section.")
        level[last] = value
    return nested


def read_yaml(text: str, where: str) -> Any:
    """Return what a text says, its keys as texts.

    Raises:
        ConfigError: It is not YAML, has two values for one key, an alias or a tag, too many levels or
            values, or is longer than `LONGEST`.
    """
    from ruamel.yaml.error import MarkedYAMLError, YAMLError, YAMLWarning

    if len(text) > LONGEST:
        raise ConfigError(f"{where} is longer than {LONGEST >> 10} KiB, which no settings are.")
    try:
        _look_through(text)
        with warnings.catch_warnings():  # two anchors of one name, which nothing refers to
            warnings.simplefilter("ignore", YAMLWarning)
            return _with_text_keys(_reader().load(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}," if mark is not None and "\n" in text.strip() else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise ConfigError(f"{where}{line} is not YAML that can be read: {problem}.") from error
    except (YAMLError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{where} is not YAML that can be read: {problem}.") from error


def _look_through(text: str) -> None:
    """Look for what a recipe must not hold, without building anything.

    Raises:
        MarkedYAMLError: There is an alias, a tag or too much, or it is not YAML.
    """
    from ruamel.yaml.composer import ComposerError
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

    depth, values = 0, 0
    for event in _reader().parse(text):
        values += not isinstance(event, CollectionEndEvent)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        problem = ""
        if isinstance(event, AliasEvent):
            problem = f"*{event.anchor} is an alias; write out what it stands for"
        elif getattr(event, "tag", None) not in (None, TEXT):
            problem = f"{event.tag} is a tag, and types follow from the settings"
        elif depth > DEPTH:
            problem = f"more than {DEPTH} levels in one another"
        elif values > VALUES:
            problem = f"more than {VALUES} keys and values"
        if problem:
            raise ComposerError(None, None, problem, event.start_mark)


def _reader() -> Any:
    from ruamel.yaml import YAML

    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _constructor()
    return reader


@cache
def _constructor() -> Any:
    from ruamel.yaml.constructor import SafeConstructor

    class Plain(SafeConstructor):
        """The core schema: what it has no type for is text."""

    for name in ("timestamp", "value", "merge"):
        Plain.add_constructor(f"tag:yaml.org,2002:{name}", SafeConstructor.construct_yaml_str)
    return Plain


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _with_text_keys(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_text_keys(part) for part in value]
    return value
