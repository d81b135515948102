"""Runs of one ground made alike: one text for the KL, one attack a name, one pool of facts.

Each function returns what it is given with that made so, and a sentence on everything it had to change.
"""

from __future__ import annotations

from collections.abc import Mapping

from ssiuu.analysis.column import Model
from ssiuu.analysis.levels import of_name
from ssiuu.records.files import digest
from ssiuu.records.schema import AttackCurve, Cell, RunRecord

Runs = Mapping[str, RunRecord]  # by name


def one_text(runs: Runs) -> tuple[dict[str, RunRecord], list[str]]:
    """Leave out how far models moved on other texts than those of the first run that has some."""
    versions = {run: v for run, record in runs.items() if (v := _text_version(record))}
    kept = next(iter(versions.values()), None)
    others = [run for run, version in versions.items() if version != kept]
    if not others:
        return dict(runs), []
    records = {run: _unmoved(r) if run in others else r for run, r in runs.items()}
    return records, [
        f"The KL of {', '.join(others)} is left out: it was measured on other texts "
        f"({versions[others[0]]} against {kept})."
    ]


def _text_version(record: RunRecord) -> str | None:
    moved = (c.evaluation.divergence for c in record.cells if c.evaluation)
    return next((divergence.text_version for divergence in moved if divergence), None)


def _unmoved(record: RunRecord) -> RunRecord:
    def without(cell: Cell) -> Cell:
        if cell.evaluation is None:
            return cell
        evaluation = cell.evaluation.model_copy(update={"divergence": None})
        return cell.model_copy(update={"evaluation": evaluation})

    return record.model_copy(update={"cells": [without(cell) for cell in record.cells]})


def one_attack_a_name(
    runs: Runs,
) -> tuple[dict[str, RunRecord], list[str]]:
    """Give attacks of one name that were carried out otherwise names of their own."""
    variants: dict[str, dict[str, str]] = {}
    where: dict[str, list[str]] = {}
    records = {}
    for run, record in runs.items():
        names: dict[str, str] = {}
        for name in {a.name for cell in record.cells for a in cell.attacks}:
            known = variants.setdefault(name, {})
            new = f"{name} ({run})" if known else name
            names[name] = known.setdefault(_carried_out(record, name), new)
            if names[name] != name:
                where.setdefault(name, []).append(run)
        records[run] = _renamed(record, names)
    remarks = [
        f"{name} was carried out otherwise in {', '.join(others)}: it stands there as an attack of "
        "its own."
        for name, others in sorted(where.items())
    ]
    return records, remarks


def _carried_out(record: RunRecord, name: str) -> str:
    """Return the digest of how an attack of this name is carried out in a run, its seeds apart."""
    attacks = of_name((a for cell in record.cells for a in cell.attacks), name)
    config = record.header.config.get("attacks", {})
    tried = sorted({(str(a.fraction), str(a.learning_rate), a.space, str(a.tokens)) for a in attacks})
    shared = [config.get(key) for key in ("reads", "batch_size", attacks[0].kind)]
    return digest(attacks[0].kind, tried, shared)


def _renamed(record: RunRecord, names: Mapping[str, str]) -> RunRecord:
    if all(name == new for name, new in names.items()):
        return record

    def new(attack: AttackCurve) -> AttackCurve:
        return attack.model_copy(update={"name": names[attack.name]})

    cells = [c.model_copy(update={"attacks": [new(a) for a in c.attacks]}) for c in record.cells]
    return record.model_copy(update={"cells": cells})


def common_facts(runs: Runs) -> tuple[frozenset[str], list[str]]:
    """Return the facts that no attack of any run trained on and every one was scored on."""
    pools = {
        (run, frozenset(model.pool))
        for run, record in runs.items()
        for cell in record.cells
        if cell.attacks and (model := Model(record, cell)).pool
    }
    if not pools:
        return frozenset(), []
    within = frozenset.intersection(*(pool for _, pool in pools))
    if len({pool for _, pool in pools}) == 1:
        return within, []
    return within, [
        f"After attacks, all is read over the {len(within)} facts that no attack of any of these runs "
        "trained on; a run's own page reads more, so its numbers there are others."
    ]
