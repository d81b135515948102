"""The paper's main tables, its numbers as data, and the same table from a run.

    table = paper_table(record)        # ours, in the paper's columns
    for row in table.rows:
        row.label, row.ours, row.published

A published number stands beside ours only where the cell is the same: benchmark, model, score and
protocol. Everything else the paper reports is returned by `others` and belongs apart.

Source: published.json beside this file, a source a row: FaithUn on two models, TOFU (forget01) on one.

Departures: the paper's models write the option's word; here the options are ranked. US is there where a
run measured it: the public tasks (`evaluate.utility`), and in TOFU always.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, NamedTuple

from ssiuu.analysis.column import ORIGINAL, Column, Direction, Model, Outcomes
from ssiuu.analysis.columns import columns, original
from ssiuu.analysis.comparisons import score_level
from ssiuu.analysis.levels import looks
from ssiuu.analysis.scores import score_of
from ssiuu.analysis.utility import task_mean, tasks
from ssiuu.records.schema import RunRecord
from ssiuu.statistics import Estimate

_DATA: Final[Mapping[str, Any]] = json.loads(
    files("ssiuu.analysis").joinpath("published.json").read_text(encoding="utf-8")
)
Numbers = tuple[float | None, ...]


class PaperColumn(NamedTuple):
    """A column of the paper's tables; `attack`: kind and fraction of the one it is the level of."""

    heading: str
    direction: Direction
    attack: Mapping[str, Any] | None = None


class TableKind(NamedTuple):
    """What one of the paper's tables holds: for which scores, in which unit, what US is and over which
    sets, and whether attacks are scored on facts the unlearned model got wrong.
    """

    name: str
    scores: Sequence[str]
    unit: str
    utility: str
    utility_sets: Sequence[str]
    wrong_only: bool


class Published(NamedTuple):
    """One block of the paper's tables: per cent, by method, in the order of `COLUMNS`.

    `same_settings`: dotted keys of a run's settings that are to be as they are there.
    """

    table: str
    benchmark: str
    model: str
    score: str
    same_settings: Mapping[str, Any]
    rows: Mapping[str, Numbers]


COLUMNS: Final = tuple(PaperColumn(**column) for column in _DATA["columns"])
KINDS: Final = tuple(TableKind(**table) for table in _DATA["tables"])
PUBLISHED: Final = tuple(
    Published(**block | {"rows": {row["method"]: tuple(row["numbers"]) for row in block["rows"]}})
    for block in _DATA["blocks"]
)


@dataclass(frozen=True)
class PaperRow:
    """One method in the paper's columns: shares with intervals, and the paper's per cent."""

    label: str
    ours: tuple[Estimate | None, ...]
    published: Numbers | None


@dataclass(frozen=True)
class PaperTable:
    """The paper's table from a run; `same` is the paper's block for the same cells, if any.

    `kind` says what is in it, `pool` the facts the attacks are scored on.
    """

    kind: TableKind
    rows: list[PaperRow]
    same: Published | None
    pool: str


def paper_table(record: RunRecord) -> PaperTable:
    """Return a run's numbers in the columns of the paper's main tables, means over seeds."""
    kind = _kind(record)
    same = next((block for block in PUBLISHED if same_cells(record, block)), None)
    wrong = record.header.protocol == "paper" and kind.wrong_only
    groups: dict[str, list[Model]] = {}
    if before := original(record):
        groups[ORIGINAL] = [before]
    for cell in record.cells:
        if cell.evaluation is not None:
            groups.setdefault(cell.method.label, []).append(Model(record, cell))
    return PaperTable(
        kind=kind,
        rows=[
            PaperRow(label, _ours(record, models, kind, wrong), _beside(same, label))
            for label, models in groups.items()
        ],
        same=same,
        pool="facts no attack trained on" + (" that the unlearned model got wrong" if wrong else ""),
    )


def _kind(record: RunRecord) -> TableKind:
    """Return the table of the paper that is in the run's score; its first for scores it has not."""
    return next((kind for kind in KINDS if record.header.score in kind.scores), KINDS[0])


def same_cells(record: RunRecord, block: Published) -> bool:
    """Say whether a run has the benchmark, model, score and protocol of a published block."""
    header, kind = record.header, _kind(record)
    return (
        header.protocol == "paper"
        and block.table == kind.name
        and (header.chance is not None or not score_of(record).scale.chance)
        and all(_setting(header.config, key) == value for key, value in block.same_settings.items())
        and header.benchmark.name.lower() == block.benchmark.lower()
        and _plain(block.model) in _plain(header.model.name)
    )


def _setting(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def others(record: RunRecord) -> list[Published]:
    """Return the published blocks that do not belong beside this run: of its benchmark, or all."""
    apart = [block for block in PUBLISHED if not same_cells(record, block)]
    name = record.header.benchmark.name.lower()
    return [block for block in apart if block.benchmark.lower() == name] or apart


def _plain(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())


def _beside(same: Published | None, label: str) -> Numbers | None:
    if same is None:
        return None
    if label == ORIGINAL:
        return same.rows["default"]
    return next((numbers for name, numbers in same.rows.items() if name.lower() == label), None)


def _ours(
    record: RunRecord, models: Sequence[Model], kind: TableKind, wrong: bool
) -> tuple[Estimate | None, ...]:
    score, by_key = score_of(record), {column.key: column for column in columns(record)}
    return (
        _level(record, models, by_key[score.forget]),
        _level(record, models, by_key[score.kept]),
        _utility(record, models, kind),
        *(
            _level(record, models, by_key.get(_named(record, column.attack)), wrong)
            for column in COLUMNS
            if column.attack
        ),
    )


def _level(
    record: RunRecord, models: Sequence[Model], column: Column | None, wrong: bool = False
) -> Estimate | None:
    """Return the mean of a column over models, on the facts they got wrong if `wrong`."""
    if column is None or column.outcomes is None:
        return None
    tables = [column.outcomes(model, model.wrong if wrong else None) for model in models]
    return score_level(record, tables, max(looks(model.cell.attacks, column.key) for model in models))


def _utility(record: RunRecord, models: Sequence[Model], kind: TableKind) -> Estimate | None:
    if not kind.utility_sets:
        return task_mean([tasks(model) for model in models])
    read = score_of(record).scale.before
    tables: list[Outcomes] = []
    for model in models:
        sets = model.cell.evaluation.others if model.cell.evaluation else {}
        scored = {fact: read(s) for name in kind.utility_sets for fact, s in sets.get(name, {}).items()}
        tables.append({(fact, 0): {0: value} for fact, value in scored.items() if value is not None})
    return score_level(record, tables)


def _named(record: RunRecord, wanted: Mapping[str, Any]) -> str:
    """Return the name of the run's attack of a kind and fraction; empty where there is none."""
    attacks = (attack for cell in record.cells for attack in cell.attacks)
    same = (a.name for a in attacks if {"kind": a.kind, "fraction": a.fraction} == wanted)
    return next(same, "")
