"""Unlearning methods: one method, one file, one equation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ssiuu.errors import ConfigError, unknown
from ssiuu.methods.base import Method
from ssiuu.methods.ga import GradientAscent
from ssiuu.methods.gd import GradientDifference
from ssiuu.methods.none import NoUnlearning
from ssiuu.methods.npo import NegativePreference
from ssiuu.methods.ssiuu import Ssiuu

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (NoUnlearning, GradientAscent, GradientDifference, NegativePreference, Ssiuu)
}

__all__ = ["METHODS", "Method", "make"]


def make(spec: str | Mapping[str, Any], where: str = "methods") -> Method:
    """Return a method from its name, or from a mapping with its name and hyper-parameters.

    Args:
        spec: "gd", "ssiuu+projection", or {"name": "ssiuu", "lambda": 1e-4}.
        where: The key it stands under, for messages.

    Raises:
        ConfigError: Unknown name or hyper-parameter, or a value out of range.
    """
    values: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = str(values.pop("name", ""))
    if name.endswith("+projection"):
        name = name.removesuffix("+projection")
        values.setdefault("projection", DEFAULT_PROJECTION)
    if name not in METHODS:
        raise ConfigError(unknown("method", name, METHODS, where))
    kind = METHODS[name]
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigError(
            [_sentence(kind, problem, where) for problem in error.errors()]
        ) from error


# Directions taken out where only "+projection" is said; see docs/decisions.
DEFAULT_PROJECTION = 32


def _sentence(kind: type[Method], problem: Any, where: str) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = [f.alias or n for n, f in kind.model_fields.items()]
        return unknown(f"hyper-parameter of {kind.name}", key, known, where)
    return f"{where}: {kind.name}.{key}: {problem['msg']}, got {problem['input']!r}."
