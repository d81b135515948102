"""The rows of a published data set: JSON lines (or one JSON list) in a folder, or the hub's."""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from ssiuu.errors import DataError
from ssiuu.hub import first_line, reaching

R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")


class TextRow(BaseModel):
    """A text; in the authors' files the bare string too."""

    text: str = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value


def read_file(path: Path, kind: type[R], key: str, needs: str) -> list[R]:
    """Read a file of JSON lines, or of one JSON list.

    Args:
        path: The file.
        kind: What a line must be.
        key: The benchmark, for messages.
        needs: What its folder must hold, for messages.

    Raises:
        DataError: It cannot be read, or a line is not such a row.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{key}.path: {path} cannot be read: {error}. The folder must hold {needs}; leave "
            f"{key}.path out to ask the hub."
        ) from error
    if text.lstrip().startswith("["):
        try:
            items = json.loads(text)
        except ValueError as error:
            raise DataError(
                f"{key}.path: {path}: begins as a JSON list and is none: {error}."
            ) from error
        rows = enumerate(items, start=1)
        return [_row(json.dumps(row), kind, f"{key}.path: {path}, row {n}") for n, row in rows]
    lines = enumerate(text.split("\n"), start=1)
    return [_row(line, kind, f"{key}.path: {path}:{n}") for n, line in lines if line.strip()]


def read_hub(hub: str, name: str, split: str, kind: type[R], key: str) -> list[R]:
    """Read one configuration of a data set on the hub.

    Raises:
        DataError: It cannot be had, or a row is not as it should be.
    """
    silent = ""
    try:
        datasets: Any = importlib.import_module("datasets")
        with reaching() as silent:
            dataset = datasets.load_dataset(hub, name, split=split)
    except Exception as error:  # the hub raises many unrelated kinds, all meaning "not had"
        raise DataError(
            f"{key}: {hub} ({name}) cannot be had from the hub ({silent or first_line(error)}). "
            f"Download it and set {key}.path to its folder; reading from the hub needs the package "
            "'datasets'."
        ) from error
    rows = enumerate(dataset, start=1)
    return [_row(json.dumps(row), kind, f"{key}: {hub}:{name}, row {n}") for n, row in rows]


def count(path: Path) -> int | None:
    """Return how many rows a file of JSON lines has; None where it cannot be read."""
    try:
        with path.open("rb") as lines:
            return sum(bool(line.strip()) for line in lines)
    except OSError:
        return None


def some(items: list[T], count: int | None, rng: random.Random) -> list[T]:
    """Return `count` items drawn at random, or all where there are no more or no count is given."""
    return items if count is None or count >= len(items) else rng.sample(items, count)


def _row(line: str, kind: type[R], where: str) -> R:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the line"
        raise DataError(f"{where}: {key}: {first['msg']}.") from error
