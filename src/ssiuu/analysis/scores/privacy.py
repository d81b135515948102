"""PrivLeak of a model, against the control that never learned what it forgot."""

from __future__ import annotations

from ssiuu.analysis.column import Column, Model, never_learned
from ssiuu.records.schema import Cell
from ssiuu.statistics.tofu import privleak

PRIVLEAK = "min-k 40%"  # the membership score that PrivLeak is taken of


def privleak_column(group: str) -> Column:
    """Return the column of PrivLeak.

    Args:
        group: The columns it stands with.
    """
    meaning = (
        f"How far membership inference ({PRIVLEAK}) is from 0.5 against the never-learned control, "
        "in %; wanted: 0."
    )
    return Column("privleak", "PrivLeak → 0", group, "signed", _privleak, meaning)


def _privleak(model: Model) -> float | None:
    control = never_learned(model.record, model.cell.seed)
    scored = control if control and control.evaluation else None
    ours, theirs = _auc(model.cell), _auc(scored)
    return None if ours is None or theirs is None else privleak(ours, theirs)


def _auc(cell: Cell | None) -> float | None:
    """Return the AUC of membership inference that PrivLeak is taken of."""
    aucs = (attack.values.get(PRIVLEAK) for attack in (cell.attacks if cell else ()))
    return next((value for value in aucs if value is not None), None)
