"""Rows that a caller of the Python API holds in memory: dicts, facts, a data set, a data frame."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ssiuu.data.fact import Fact
from ssiuu.data.problems import Problems, kind
from ssiuu.data.rows import NO_ROWS, Raw

SOURCES = (
    "give the path of a file, or a list of dicts (the keys are those of a file), a "
    "datasets.Dataset or a data frame"
)


def memory_rows(source: Any, problems: Problems) -> list[Raw]:
    """Return copies of the rows, numbered from 0 as in Python; facts come as they are."""
    rows = _listed(source, problems)
    if not rows:
        problems.stop(NO_ROWS)
    return [Raw(number, _plain(row)) for number, row in enumerate(rows)]


def _listed(source: Any, problems: Problems) -> list[Any]:
    if isinstance(source, Mapping):
        # A datasets.DatasetDict is a mapping too, of one data set a split.
        names = ", ".join(map(str, list(source)[:5]))
        problems.stop(f"is one mapping ({names}), not rows: {SOURCES}.")
    if callable(getattr(source, "to_dict", None)) and hasattr(source, "columns"):  # pandas
        return list(source.to_dict("records"))
    for name in ("to_list", "to_dicts"):  # datasets, polars
        if callable(method := getattr(source, name, None)):
            return list(method())
    if isinstance(source, (bytes, str)) or not isinstance(source, Iterable):
        problems.stop(f"is {kind(source)}, which holds no rows: {SOURCES}.")
    return list(source)


def _plain(value: Any) -> Any:
    """Return a value in the types that JSON has; what a data frame lacks is null."""
    if isinstance(value, Fact):
        return value
    if callable(listed := getattr(value, "tolist", None)):  # numpy's scalars and arrays
        value = listed()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas' own two words for it
        return None
    return None if isinstance(value, float) and math.isnan(value) else value
