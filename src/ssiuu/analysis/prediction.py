"""What the diagnosis predicts: does a measure taken before any attack tell how much comes back?

    for found in prediction([load_run(Path("runs/first")), load_run(Path("runs/second"))]):
        print(found.measure, found.outcome, found.correlation)

Over all cells (method x seed) that unlearned, the rank correlation of each measure with what the
strongest attacker then gets. Cells are ranked among those of the same model, benchmark and protocol,
so that a difference between benchmarks does not count. Intervals: bootstrap over methods, each with all
its seeds. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ssiuu.analysis.column import Column, Model
from ssiuu.analysis.levels import of_name, strongest_attacker
from ssiuu.analysis.scale import level
from ssiuu.analysis.scores import score_of
from ssiuu.analysis.standard import answers, inside
from ssiuu.records.schema import Cell, RunRecord
from ssiuu.statistics import Estimate, differs
from ssiuu.statistics.ranks import spearman

CELLS = 4  # fewer have no order worth a number
CONTROLS = ("none", "never-learned")


class Prediction(NamedTuple):
    """How a measure after unlearning goes with an outcome under attack.

    `correlation`: of ranks, in [-1, 1]; None where fewer than `CELLS` cells have both, or one side
    does not vary.
    """

    measure: str
    outcome: str
    cells: int
    methods: int
    correlation: Estimate | None

    @property
    def predicts(self) -> bool:
        """Whether the interval excludes 0."""
        return self.correlation is not None and differs(self.correlation)


def prediction(records: Iterable[RunRecord]) -> list[Prediction]:
    """Return the correlation of every measure of `MEASURES` with both outcomes."""
    points = [
        _Point(Model(record, cell), outcome, _stratum(record))
        for record in records
        for cell in record.cells
        if cell.method.name not in CONTROLS and (outcome := attack_outcomes(record, cell))
    ]
    return [
        _correlate(measure, outcome, points)
        for outcome in ("recovery", "level")
        for measure in MEASURES
    ]


def attack_outcomes(record: RunRecord, cell: Cell) -> dict[str, float] | None:
    """Return what the strongest attacker gets on the common pool; None where none was scored.

    `level`: as in the table of the run; `recovery`: level less what the same attack reads before it
    begins.
    """
    model, scale = Model(record, cell), score_of(record).scale
    best = strongest_attacker(model, scale)
    if best is None:
        return None
    before = level(of_name(cell.attacks, best.name)[0], 0, model.pool, scale)
    return None if before is None else {"recovery": best.level - before, "level": best.level}


class _Point(NamedTuple):
    model: Model
    outcome: dict[str, float]
    stratum: str


def _stratum(record: RunRecord) -> str:
    header = record.header
    return f"{header.model.fingerprint} {header.benchmark.fingerprint} {header.protocol}"


def _correlate(measure: Column, outcome: str, points: list[_Point]) -> Prediction:
    scored = [(value, p) for p in points if (value := measure.read(p.model)) is not None]
    methods = [f"{p.stratum} {p.model.cell.method.label}" for _, p in scored]
    correlation = None
    if len(scored) >= CELLS:
        correlation = spearman(
            [value for value, _ in scored],
            [p.outcome[outcome] for _, p in scored],
            methods,
            [p.stratum for _, p in scored],
        )
    return Prediction(measure.heading, outcome, len(scored), len(set(methods)), correlation)


def _measures() -> list[Column]:
    keys = ("d_minus_100", "d_plus_100", "hide_ratio", "lens", "depth_score", "causal_share", "probe")
    by_key = {column.key: column for column in [*inside(), *answers()]}
    return [by_key[key] for key in (*keys, "forget_logprob")]


MEASURES = _measures()
