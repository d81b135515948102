"""The paper's main tables, its numbers as data, and the same table from a run.

    table = paper_table(record)        # ours, in the paper's columns
    for row in table.rows:
        row.label, row.ours, row.published

A published number stands beside ours only where the cell is the same: benchmark, model, score and
protocol. Everything else the paper reports is returned by `others` and belongs apart.

Source: Yang et al. 2026 (ICLR), "Erase or Hide? Suppressing Spurious Unlearning Neurons for Robust
Unlearning", arXiv 2509.22263: FaithUn on two models, TOFU (forget01) on one.

Departures: the paper's models write the option's word; here the options are ranked. US is there where a
run measured it: the public tasks (`evaluate.utility`), and in TOFU always.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ssiuu.analysis.comparisons import Outcomes, level, looks, outcomes
from ssiuu.analysis.rows import ORIGINAL, wrong_only
from ssiuu.analysis.tofu import is_tofu
from ssiuu.analysis.utility import task_mean, world_recalls
from ssiuu.records.schema import Attack, Cell, MethodInfo, RunRecord
from ssiuu.statistics import Estimate

COLUMNS = ("FS", "RS", "US", "harmful 0.1", "harmful 0.3", "benign")
ARROWS = ("↓", "↑", "↑", "↓", "↓", "↓")
Numbers = tuple[float | None, float | None, float | None, float | None, float | None, float | None]


class Published(NamedTuple):
    """One block of the paper's tables: per cent, by method, in the order of `COLUMNS`."""

    table: str
    benchmark: str
    model: str
    score: str
    rows: Mapping[str, Numbers]


PUBLISHED = (
    Published(
        "Table 1",
        "FaithUn",
        "Llama-3.2-3B",
        "accuracy",
        {
            "default": (91.9, 89.2, 57.4, None, None, None),
            "GA": (0.0, 58.4, 54.0, 68.4, 73.3, 16.7),
            "GD": (0.0, 81.0, 55.8, 48.1, 54.8, 33.3),
            "DPO": (0.0, 81.5, 56.9, 31.6, 46.7, 15.3),
            "NPO": (0.0, 77.6, 59.5, 18.3, 18.8, 18.6),
            "RMU": (0.0, 77.8, 56.3, 52.6, 75.5, 14.3),
            "KLUE": (0.0, 81.7, 56.7, 57.1, 63.0, 28.3),
            "Ssiuu": (0.0, 84.7, 56.3, 14.8, 14.3, 13.3),
        },
    ),
    Published(
        "Table 1",
        "FaithUn",
        "Qwen-2.5-3B",
        "accuracy",
        {
            "default": (78.8, 74.8, 55.5, None, None, None),
            "GA": (0.0, 36.2, 53.6, 52.6, 66.7, 63.6),
            "GD": (0.0, 62.1, 57.9, 27.8, 42.9, 23.3),
            "DPO": (0.0, 60.8, 53.0, 47.6, 58.8, 36.4),
            "NPO": (0.0, 72.6, 56.7, 23.3, 47.9, 18.2),
            "RMU": (0.0, 66.0, 50.0, 42.1, 46.7, 23.8),
            "KLUE": (0.0, 62.5, 56.9, 33.3, 47.9, 22.7),
            "Ssiuu": (0.0, 75.9, 60.0, 4.8, 29.4, 13.0),
        },
    ),
    Published(
        "Table 2",
        "TOFU",
        "Llama-3.2-3B",
        "ROUGE-L recall",
        {
            "default": (90.4, 93.5, 91.5, None, None, None),
            "GA": (19.5, 87.5, 91.9, 48.7, 54.2, 23.4),
            "GD": (19.3, 89.4, 92.9, 45.4, 51.7, 21.0),
            "DPO": (19.6, 92.3, 92.0, 87.4, 88.7, 26.6),
            "RMU": (14.0, 93.7, 91.7, 88.0, 91.0, 20.3),
            "KLUE": (18.7, 86.9, 92.8, 43.7, 49.4, 22.2),
            "Ssiuu": (17.8, 92.7, 91.7, 31.8, 37.5, 21.1),
        },
    ),
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

    `title` names the paper's table, `score` what is in it, `utility` what US is, `pool` the facts the
    attacks are scored on.
    """

    title: str
    score: str
    utility: str
    rows: list[PaperRow]
    same: Published | None
    pool: str


def paper_table(record: RunRecord) -> PaperTable:
    """Return a run's numbers in the columns of the paper's main tables, means over seeds."""
    same = next((block for block in PUBLISHED if same_cells(record, block)), None)
    # The paper's TOFU has no pool of its own.
    wrong = record.header.protocol == "paper" and not is_tofu(record)
    groups: dict[str, list[Cell]] = {}
    if record.original is not None:
        method = MethodInfo(label=ORIGINAL, name="none", origin="control", description="")
        groups[ORIGINAL] = [Cell(method=method, seed=0, evaluation=record.original)]
    for cell in record.cells:
        if cell.evaluation is not None:
            groups.setdefault(cell.method.label, []).append(cell)
    return PaperTable(
        title=f"As the paper's Table {2 if is_tofu(record) else 1}",
        score="mean ROUGE-L recall" if is_tofu(record) else "accuracy",
        utility="Real Authors and World Facts" if is_tofu(record) else "utility (five public tasks)",
        rows=[
            PaperRow(label, _ours(record, cells, wrong), _beside(same, label))
            for label, cells in groups.items()
        ],
        same=same,
        pool="facts no attack trained on" + (" that the unlearned model got wrong" if wrong else ""),
    )


def same_cells(record: RunRecord, block: Published) -> bool:
    """Say whether a run has the benchmark, model, score and protocol of a published block."""
    header = record.header
    scored = _whole(record) if is_tofu(record) else header.chance is not None
    return (
        header.protocol == "paper"
        and scored
        and (block.score == "accuracy") != is_tofu(record)
        and header.benchmark.name.lower() == block.benchmark.lower()
        and _plain(block.model) in _plain(header.model.name)
    )


def _whole(record: RunRecord) -> bool:
    """Whether a TOFU run is of the paper's cell: forget01, after fine-tuning on all questions."""
    config = record.header.config.get("tofu") or {}
    return config.get("split") == "forget01" and config.get("retain") is None


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


def _ours(record: RunRecord, cells: list[Cell], wrong: bool) -> tuple[Estimate | None, ...]:
    written = "_rouge" if is_tofu(record) else ""
    attacks = [attack for cell in cells for attack in cell.attacks]
    named = [
        _named(attacks, "harmful", 0.1),
        _named(attacks, "harmful", 0.3),
        _named(attacks, "benign"),
    ]
    return (
        level(record, [outcomes(cell, f"forget{written}") for cell in cells]),
        level(record, [outcomes(cell, f"heldout{written}") for cell in cells]),
        _utility(record, cells),
        *(_attacked(record, cells, name, wrong) for name in named),
    )


def _utility(record: RunRecord, cells: Sequence[Cell]) -> Estimate | None:
    found = [cell.evaluation for cell in cells if cell.evaluation is not None]
    if not is_tofu(record):
        return task_mean([evaluation.utility for evaluation in found])
    tables: list[Outcomes] = [
        {(fact, 0): {0: recall} for fact, recall in world_recalls(evaluation).items()}
        for evaluation in found
    ]
    return level(record, tables)


def _named(attacks: list[Attack], kind: str, fraction: float | None = None) -> str | None:
    names = (a.name for a in attacks if a.kind == kind and a.fraction == fraction)
    return next(names, None)


def _attacked(record: RunRecord, cells: list[Cell], name: str | None, wrong: bool) -> Estimate | None:
    if name is None:
        return None
    pools: list[Any] = [wrong_only(cell) if wrong else None for cell in cells]
    tables = [outcomes(cell, name, pool) for cell, pool in zip(cells, pools, strict=True)]
    return level(record, tables, max(looks(cell, name) for cell in cells))
