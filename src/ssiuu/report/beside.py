"""A run's models and those that OpenUnlearning judged, in one table."""

from __future__ import annotations

from collections.abc import Sequence

from ssiuu.analysis.beside import Beside, shared
from ssiuu.analysis.columns import models
from ssiuu.records.schema import RunRecord
from ssiuu.report.tables import Entry, Heading, Row, Table
from ssiuu.report.text import FORMS, named, written

TITLE = "Beside OpenUnlearning"
NOTE = (
    "Under OpenUnlearning's names; shares in %. The rows that name it were read from {files} and are "
    "by its conventions, the others by {ours}{compare}."
)
OTHERS = "this project's, which differ in the last digits or more: docs/open-unlearning.md"


def beside_table(record: RunRecord, others: Sequence[Beside]) -> Table:
    """Return the metrics that both have, of every model.

    Raises:
        DataError: One of the others has nothing that the run has.
    """
    metrics = shared(record, others)
    rows = [
        Row(named(model), [Entry(written(column, model)) for column in metrics.values()])
        for model in models(record)
    ]
    rows += [
        Row(
            f"{other.name} (OpenUnlearning)",
            [Entry(FORMS[column.form](other.values.get(name))) for name, column in metrics.items()],
            reference=True,
        )
        for other in others
    ]
    left = sorted({name for other in others for name in other.values} - {*metrics})
    compare = f"; not in this run: {', '.join(left)}" if left else ""
    same = record.header.score == "open-unlearning"
    files = ", ".join(other.source for other in others)
    note = NOTE.format(files=files, ours="the same" if same else OTHERS, compare=compare)
    return Table(TITLE, note, [Heading(name) for name in metrics], rows)
