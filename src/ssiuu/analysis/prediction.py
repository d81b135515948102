"""What the diagnosis predicts: does a measure taken before any attack tell how much comes back?

    for found in prediction([load_run(Path("runs/first")), load_run(Path("runs/second"))]):
        print(found.measure, found.outcome, found.correlation)

Over all cells (method x seed) that unlearned, the rank correlation of each measure with what the
strongest attacker then gets. Cells are ranked among those of the same model, benchmark and protocol,
so that a difference between benchmarks does not count. Intervals: bootstrap over methods, each with all
its seeds. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from ssiuu.analysis.rows import mean, strongest_setting
from ssiuu.analysis.tofu import attack_rouge, is_tofu
from ssiuu.analysis.verdict import attack_accuracy, common_pool
from ssiuu.records.schema import Cell, Evidence, RunRecord
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
    """Return the correlation of every measure of `MEASURES` with both outcomes.

    Args:
        records: Of one or several runs.
    """
    cells = [
        _Point(cell, outcome, _stratum(record))
        for record in records
        for cell in record.cells
        if cell.method.name not in CONTROLS and (outcome := outcomes(record, cell))
    ]
    return [
        _correlate(name, measure, outcome, cells)
        for outcome in ("recovery", "level")
        for name, measure in MEASURES.items()
    ]


def outcomes(record: RunRecord, cell: Cell) -> dict[str, float] | None:
    """Return what the strongest attacker gets on the common pool; None where none was scored.

    `level`: as in the table of the run; `recovery`: level less what the same attack reads before it
    begins.
    """
    level = attack_rouge if is_tofu(record) else attack_accuracy
    pool = common_pool(cell.attacks)
    best = strongest_setting(cell, level)
    if best is None:
        return None
    attack = next(a for a in cell.attacks if a.name == best.name)
    before = level(attack, 0, pool)
    return None if before is None else {"recovery": best.level - before, "level": best.level}


class _Point(NamedTuple):
    cell: Cell
    outcome: dict[str, float]
    stratum: str


def _stratum(record: RunRecord) -> str:
    header = record.header
    return f"{header.model.fingerprint} {header.benchmark.fingerprint} {header.protocol}"


def _correlate(
    name: str, measure: Callable[[Cell], float | None], outcome: str, points: list[_Point]
) -> Prediction:
    scored = [(value, p) for p in points if (value := measure(p.cell)) is not None]
    methods = [f"{p.stratum} {p.cell.method.label}" for _, p in scored]
    found = None
    if len(scored) >= CELLS:
        found = spearman(
            [value for value, _ in scored],
            [p.outcome[outcome] for _, p in scored],
            methods,
            [p.stratum for _, p in scored],
        )
    return Prediction(name, outcome, len(scored), len(set(methods)), found)


# --- the measures ----------------------------------------


def _influence(field: str) -> Callable[[Cell], float | None]:
    def read(cell: Cell) -> float | None:
        found = cell.diagnosis.influence.get("logprob") if cell.diagnosis else None
        value: float | None = getattr(found, field) if found else None
        return value

    return read


def _evidence(cell: Cell) -> Evidence | None:
    return cell.diagnosis.evidence if cell.diagnosis else None


def _lens(cell: Cell) -> float | None:
    lens = cell.diagnosis.lens_after if cell.diagnosis else None
    return mean(lens.accuracy) if lens else None


def _depth(cell: Cell) -> float | None:
    evidence = _evidence(cell)
    score = evidence.depth.score if evidence and evidence.depth else None
    return score.value if score else None


def _causal(cell: Cell) -> float | None:
    evidence = _evidence(cell)
    share = evidence.causal.share if evidence and evidence.causal else None
    return share.value if share else None


def _probe(cell: Cell) -> float | None:
    evidence = _evidence(cell)
    probe = evidence.probe_after if evidence else None
    return mean([layer.value for layer in probe.selectivity]) if probe else None


def _logprob(cell: Cell) -> float | None:
    scores = cell.evaluation.forget.values() if cell.evaluation else ()
    return mean([score.logprob for score in scores])


MEASURES: Mapping[str, Callable[[Cell], float | None]] = {
    "D− top 100": _influence("d_minus_100"),
    "D+ top 100": _influence("d_plus_100"),
    "hide ratio": _influence("hide_ratio"),
    "logit lens, mean over layers": _lens,
    "depth score": _depth,
    "causal share": _causal,
    "linear probe, mean over layers": _probe,
    "log p of the answer": _logprob,
}
