"""Every setting of a recipe in words: key, default, what may stand there, what it does.

It is read from the sections themselves, those of other packages included, so that nothing is said of a
setting that is not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ssiuu.attacks import known_settings
from ssiuu.benchmarks import BENCHMARKS
from ssiuu.errors import ConfigError, nearest, show
from ssiuu.experiment.recipe import SPELLED, recipe_with

TYPES = {  # one of a kind, several
    "integer": ("whole number", "whole numbers"),
    "number": ("number", "numbers"),
    "boolean": ("true or false", "true or false"),
    "string": ("text", "texts"),
    "null": ("null", "nulls"),
    "object": ("mapping", "mappings"),
}
ANY = ("any value", "any values")


@dataclass(frozen=True)
class Setting:
    """One setting: its dotted key, default as JSON, what may stand there, what it does."""

    key: str
    default: str
    allowed: str
    description: str


def settings(below: str = "") -> list[Setting]:
    """Return every setting, or those of one key or section, in the order of a recipe.

    Raises:
        ConfigError: There is none of this key.
    """
    schema = recipe_with(list(BENCHMARKS), known_settings()).model_json_schema()
    found = list(_walk(schema, schema.get("$defs", {})))
    below = SPELLED.get(below, below)
    chosen = [s for s in found if not below or f"{s.key}.".startswith(f"{below}.")]
    if not chosen:
        sections = {s.key.rpartition(".")[0] for s in found} - {""}
        near = nearest(below, [*(s.key for s in found), *sorted(sections)])
        raise ConfigError(
            f"unknown setting {show(below)}.{near} ssiuu list settings shows all of them."
        )
    return chosen


def _walk(node: dict[str, Any], parts: dict[str, Any], prefix: str = "") -> Iterator[Setting]:
    for name, field in node["properties"].items():
        kind = _resolved(field, parts)
        if "properties" in kind:
            yield from _walk(kind, parts, f"{prefix}{name}.")
        else:
            default = json.dumps(field.get("default", kind.get("default")), ensure_ascii=False)
            said = field.get("description") or kind.get("description", "")
            yield Setting(f"{prefix}{name}", default, _allowed(kind, parts), said)


def _resolved(field: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    return parts[field["$ref"].rpartition("/")[2]] if "$ref" in field else field


def _allowed(kind: dict[str, Any], parts: dict[str, Any], several: bool = False) -> str:
    """Return what may stand there: 'whole number from 1 on', 'one of adamw, sgd', 'text, or null'."""
    if "anyOf" in kind:
        return ", or ".join(_allowed(_resolved(one, parts), parts, several) for one in kind["anyOf"])
    if "enum" in kind:
        return f"one of {', '.join(map(str, kind['enum']))}"
    if "const" in kind:
        return str(kind["const"])
    if kind.get("type") == "array":
        return f"list of {_allowed(_resolved(kind.get('items', {}), parts), parts, several=True)}"
    return f"{TYPES.get(kind.get('type', ''), ANY)[several]}{_bounds(kind)}"


def _bounds(kind: dict[str, Any]) -> str:
    low, above = kind.get("minimum"), kind.get("exclusiveMinimum")
    high, below = kind.get("maximum"), kind.get("exclusiveMaximum")
    if low is None and above is None:
        return "" if high is None else f" up to {high:g}"
    if high is None and below is None:
        return f" from {low:g} on" if above is None else f" above {above:g}"
    left = f"[{low:g}" if above is None else f"({above:g}"
    right = f"{high:g}]" if below is None else f"{below:g})"
    return f" in {left}, {right}"
