"""The table of a run as plain data: one row a method and seed, made from the record alone."""

from __future__ import annotations

from typing import Any

from ssiuu.analysis.column import Column, Model
from ssiuu.analysis.columns import columns
from ssiuu.records.schema import SCHEMA, RunRecord


def rows(record: RunRecord) -> dict[str, Any]:
    """Return the table as plain data: `{"schema": ..., "rows": [...]}`.

    A row holds `method`, `origin`, `seed` and every column of the run by its key (docs/columns.md).
    Shares are in [0, 1], log-probabilities nats a fact, seconds wall time; None means "not measured" or
    "not scored".
    """
    read_columns = columns(record)
    return {"schema": SCHEMA, "rows": [row(Model(record, cell), read_columns) for cell in record.cells]}


def row(model: Model, read_columns: list[Column]) -> dict[str, Any]:
    """Return a model's values by the keys of these columns."""
    method = model.cell.method
    values = {column.key: column.read(model) for column in read_columns}
    return {"method": method.label, "origin": method.origin, "seed": model.cell.seed, **values}
