"""What progress says: cells done, time left, and the numbers of the stage that has just ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from ssiuu.analysis.scale import mean
from ssiuu.analysis.verdict import accuracy, attack_accuracy
from ssiuu.benchmarks.base import Progress
from ssiuu.errors import DamagedError
from ssiuu.experiment.cells import CellPlan, StagePlan
from ssiuu.records.files import field_of
from ssiuu.records.said import Said, led
from ssiuu.records.schema import AttackCurve, Diagnosis, Evaluation, Examination, Stability, Unlearning
from ssiuu.records.underway import duration
from ssiuu.report.text import DASH, kl, nats, percent, rate, short

OTHERS: Final = 2  # cells that other processes may be at, looked at whenever one of this process' ends


@dataclass
class _Spent:
    """Seconds that the stages of one kind took, and how many they are."""

    seconds: float = 0.0
    stages: int = 0

    @property
    def mean(self) -> float:
        return self.seconds / self.stages


class Meter:
    """Says progress with the cells done and the time left; other processes' work is counted.

    A look costs the same however many cells there are: it is at the cell given, at those passed over
    longest ago, and at a few of those to come. What was found done is not looked at again.
    """

    def __init__(
        self, out: Path, cells: Sequence[CellPlan], say: Progress, what: str = "cells"
    ) -> None:
        """Look at what is there."""
        self.out, self.cells, self.say, self.what = out, cells, say, what
        self.spent: dict[str, _Spent] = {}
        self.missing = {id(cell): cell.stages for cell in cells}
        self.kinds = Counter(_kind(stage) for cell in cells for stage in cell.stages)
        self.begun, self.whole = time.monotonic(), set[Path]()  # records read as they were written
        self.passed: dict[int, CellPlan] = {}
        self.ahead = {id(cell): cell for cell in cells if self._look(cell)}

    @property
    def done(self) -> int:
        """How many cells are."""
        return len(self.cells) - len(self.missing)

    def finished(self, cell: CellPlan) -> bool:
        """Whether all of a cell was found done, every record as it was written."""
        return id(cell) not in self.missing

    def look(self, cell: CellPlan) -> None:
        """Take stock again: something of a cell has ended, or another process is at it."""
        self.begun = time.monotonic()
        self.ahead.pop(id(cell), None)
        if self._look(cell):
            self.passed[id(cell)] = cell
        for queue in (self.passed, self.ahead):
            for name in [*islice(queue, OTHERS)]:
                other = queue.pop(name)
                if self._look(other):
                    queue[name] = other

    def _look(self, cell: CellPlan) -> bool:
        """Count what has been done of a cell meanwhile; whether something is missing."""
        stages = self.missing.pop(id(cell), [])
        if left := [stage for stage in stages if not self._there(stage)]:
            self.missing[id(cell)] = left
        return bool(left)

    def _there(self, stage: StagePlan) -> bool:
        """Whether a stage is done; its time is read when it is first seen."""
        path, kind = self.out / stage.path, _kind(stage)
        if not path.exists():
            return False
        try:
            spent = field_of(path, "seconds")
        except DamagedError:  # told of by who makes it again
            return False
        kept = self.spent.setdefault(kind, _Spent())
        kept.seconds, kept.stages = kept.seconds + float(spent), kept.stages + 1
        self.kinds[kind] -= 1
        self.whole.add(stage.path)
        return True

    def __call__(self, text: str) -> None:
        """Say one line."""
        seconds = self.left()
        time_left = "" if seconds is None else f", {duration(seconds)} left"
        said = led(f"{self.done}/{len(self.cells)} {self.what}{time_left} | ", text)
        numbers, step = (text.numbers, text.step) if isinstance(text, Said) else ({}, None)
        minor = isinstance(text, Said) and text.minor
        self.say(Said(said, numbers, step, self.done, len(self.cells), seconds, minor))

    def left(self) -> float | None:
        """Return the seconds this process would need for the rest; None until it can be said.

        A missing stage is taken to last as long as the mean of its kind in this folder.
        """
        missing = {kind: count for kind, count in self.kinds.items() if count}
        if missing.keys() - self.spent.keys():
            return None
        total = sum(self.spent[kind].mean * count for kind, count in missing.items())
        return max(0.0, total - (time.monotonic() - self.begun))


def _kind(stage: StagePlan) -> str:
    return stage.curve.name if stage.curve is not None and stage.kind == "attack" else stage.kind


Stage = Unlearning | Evaluation | Diagnosis | Examination | AttackCurve | Stability


def stage_line(record: Stage) -> Said:
    """Return the numbers of one record in a few words, and as numbers."""
    told = {name: value for name, value in stage_numbers(record).items() if value is not None}
    return Said(_words(record), told)


def stage_numbers(record: Stage) -> dict[str, float | None]:
    """Return what one record measured of a whole model, by name."""
    numbers: dict[str, float | None] = {}
    if isinstance(record, Unlearning):
        numbers["steps"], numbers["forget_score"] = len(record.steps), record.last_score
        numbers["memory_mb"] = record.peak_memory_mb
        numbers["device_memory_mb"] = record.peak_device_memory_mb
    elif isinstance(record, Evaluation):
        sets = {"forget": record.forget, "retain": record.retain, "heldout": record.heldout}
        numbers |= {f"right_{name}": accuracy(s.values()) for name, s in sets.items() if s}
        numbers["kl"] = record.divergence.plain if record.divergence else None
    elif isinstance(record, AttackCurve):
        levels = [attack_accuracy(record, n, record.pool) for n in range(len(record.reads))]
        numbers |= {f"{record.name}_{n}": level for n, level in enumerate(levels)}
    return numbers


def _words(record: Stage) -> str:
    if isinstance(record, Unlearning):
        score = record.last_score
        steps, kept = f"{len(record.steps)} steps", record.kept_step
        spent = "" if kept is None else f", of which the first {kept} were within the budget"
        return f"unlearned in {steps}{spent}, forget score {percent(score)} %"
    if isinstance(record, Diagnosis):
        influence = record.influence.get("logprob")
        plus, minus = (influence.d_plus_100, influence.d_minus_100) if influence else (None, None)
        return f"D+ {short(plus)}, D− {short(minus)} of the top 100 neurons"
    if isinstance(record, Examination):
        return f"examined {len(record.facts)} facts at {len(record.places)} places"
    if isinstance(record, AttackCurve):
        speed = f" lr {rate(record.learning_rate)}" if record.learning_rate else ""
        levels = [attack_accuracy(record, n, record.pool) for n in range(len(record.reads))]
        return f"{record.name}{speed}: right {' → '.join(map(percent, levels))} %"
    if isinstance(record, Stability):
        correlations = record.lowest.pearson if record.lowest else {}
        pairs = (f"{pair} {DASH if r is None else f'{r:.2f}'}" for pair, r in correlations.items())
        return f"attributions after {record.attack}: {', '.join(pairs) or record.note}"
    sets = {"forget": record.forget, "retain": record.retain, "held-out": record.heldout}
    right = [f"{name} {percent(accuracy(s.values()))} %" for name, s in sets.items() if s]
    depth = mean([score.logprob for score in record.forget.values()])
    moved = f"; KL {kl(record.divergence.plain)} on plain text" if record.divergence else ""
    return f"right: {', '.join(right)}; log p of the forget answers {nats(depth)}{moved}"
