"""A data set on the hub as rows of facts."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from typing import Any

from ssiuu.data.problems import Problems
from ssiuu.data.rows import Raw
from ssiuu.hub import reaching

# OWNER/NAME:SPLIT or OWNER/NAME:CONFIG:SPLIT; a split may be a slice, train[:100].
SET_NAME = re.compile(
    r"(?P<name>\w[\w.-]*/(?P<stem>\w[\w.-]*))(?::(?P<config>[\w.-]+)(?=:))?(?::(?P<split>.+))?"
)


def hub_rows(name: str, config: str | None, split: str, problems: Problems) -> list[Raw]:
    """Return the rows of a split, numbered from 1; raise where it cannot be loaded."""
    rows = _load_hub([name, config] if config else [name], split, problems)
    return [Raw(number, row) for number, row in enumerate(rows, start=1)]


def _load_hub(named: list[str], split: str, problems: Problems) -> Iterable[dict[str, Any]]:
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        problems.stop(
            "is no file here, and reading from the hub needs the package 'datasets': "
            "pip install datasets, or give a .jsonl or .csv file."
        )
    try:
        with reaching() as silent:
            rows: Iterable[dict[str, Any]] = datasets.load_dataset(*named, split=split)
    except Exception as error:
        reason = silent or " ".join(str(error).split())[:300] or type(error).__name__
        problems.stop(
            f"is no file here, and the data set {':'.join(named)!r}, split {split!r}, could not be "
            f"loaded from the hub: {reason.rstrip('.')}. Check the name, the split and the network, or "
            "give a .jsonl or .csv file."
        )
    return rows
