"""The facts one by one: before, after, and under every attack, with the verdict on each."""

from __future__ import annotations

from dataclasses import dataclass

from ssiuu.analysis.column import Model
from ssiuu.analysis.levels import attack_names
from ssiuu.analysis.scale import Scale
from ssiuu.records.schema import AttackCurve, Cell, FactScore, FactText, Reading, RunRecord, Verdict
from ssiuu.report.answer import p_value
from ssiuu.report.figures import best_curve, drawn_scale
from ssiuu.report.findings import attack_name
from ssiuu.report.text import named


@dataclass(frozen=True)
class AttackCell:
    """One fact after one attack: at the read where the attack's level is highest."""

    name: str
    trained: bool
    reading: Reading | None
    where: str


@dataclass(frozen=True)
class FactRow:
    """One row of the table of facts."""

    fact: FactText
    before: FactScore | None
    after: FactScore | None
    attacks: list[AttackCell]
    trained: bool
    verdict: Verdict | None
    erased: str  # p-values as they are written
    hidden: str


@dataclass(frozen=True)
class FactGroup:
    """The facts under one method and seed; `key` names the group in the page's select."""

    key: str
    name: str
    rows: list[FactRow]


def fact_groups(record: RunRecord) -> list[FactGroup]:
    """Return the table of facts, one group a cell that has been evaluated."""
    scales = {name: drawn_scale(record, name) for name in attack_names(record)}
    return [
        FactGroup(f"c{index}", named(Model(record, cell)), _fact_rows(record, cell, scales))
        for index, cell in enumerate(record.cells)
        if cell.evaluation is not None or cell.attacks
    ]


def first_choice(record: RunRecord) -> str:
    """Return the group shown first: the first that is no control."""
    keys = [
        (cell.method.origin == "control", f"c{index}")
        for index, cell in enumerate(record.cells)
        if cell.evaluation is not None or cell.attacks
    ]
    return min(keys, key=lambda key: key[0])[1] if keys else ""


def _fact_rows(record: RunRecord, cell: Cell, scales: dict[str, Scale]) -> list[FactRow]:
    words = Model(record, cell).judgement.facts
    before = record.original.forget if record.original else {}
    after = cell.evaluation.forget if cell.evaluation else {}
    peaks = [_peak(cell, name, scale) for name, scale in scales.items()]
    return [
        FactRow(
            fact=fact,
            before=before.get(fact.id),
            after=after.get(fact.id),
            attacks=(cells := [peak.cell(fact.id) for peak in peaks]),
            trained=any(item.trained for item in cells),
            verdict=word.verdict if (word := words.get(fact.id)) else None,
            erased=p_value(word.judged.erased) if word and word.judged else "",
            hidden=p_value(word.judged.hidden) if word and word.judged else "",
        )
        for fact in record.header.split.forget
    ]


@dataclass(frozen=True)
class Peak:
    """The read of an attack at which the common pool's level is highest, over learning rates."""

    name: str
    attack: AttackCurve | None
    read: int

    def cell(self, fact: str) -> AttackCell:
        """Return what this read says about one fact."""
        if self.attack is None or not self.attack.reads:
            return AttackCell(self.name, False, None, "")
        read = self.attack.reads[self.read]
        where = attack_name(self.attack, read.step)
        return AttackCell(self.name, fact in self.attack.trained, read.facts.get(fact), where)


def _peak(cell: Cell, name: str, scale: Scale) -> Peak:
    best = best_curve(cell, name, scale)
    if best is None:
        return Peak(name, None, 0)
    attack, levels = best
    # Of equals the first: its number is the largest when negated.
    heights = [(level, -index) for index, level in enumerate(levels) if index and level is not None]
    return Peak(name, attack, -max(heights)[1] if heights else -1)
