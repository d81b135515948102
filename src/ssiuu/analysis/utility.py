"""Utility in a report: the public tasks of lm-eval, and in TOFU real authors and world facts.

The paper's US is the mean over five public tasks, and for TOFU the ROUGE-L recall on Real Authors and
World Facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from ssiuu.analysis.tofu import UTILITY
from ssiuu.records.schema import Cell, Evaluation, RunRecord, TaskScore
from ssiuu.statistics import Estimate

Z = 1.96


def task_names(record: RunRecord) -> list[str]:
    """Return the public tasks that a run has scores of, in their order."""
    found = [record.original, *(cell.evaluation for cell in record.cells)]
    return list(dict.fromkeys(name for scores in found if scores for name in scores.utility))


def utility_columns(record: RunRecord, cell: Cell) -> dict[str, float | None]:
    """Return `utility`, the mean over the tasks, and `utility_<task>`; nothing where a run has none."""
    names = task_names(record)
    scores = cell.evaluation.utility if cell.evaluation else {}
    found = {f"utility_{name}": scores[name].accuracy if name in scores else None for name in names}
    mean = task_mean([scores]) if scores else None
    return {"utility": mean.value if mean else None, **found} if names else {}


def task_mean(models: Sequence[dict[str, TaskScore]]) -> Estimate | None:
    """Return the mean over tasks and models, with a 95 % interval over the tasks' items.

        mean_t p_t ± 1.96 sqrt(Σ_t p_t (1 - p_t) / n_t) / T

    p_t is the mean over models: all are asked the same items, so that more models narrow nothing.

    Returns:
        None where no model was asked, or not all were asked the same tasks.
    """
    if not models or not models[0] or any(scores.keys() != models[0].keys() for scores in models):
        return None
    shares = {name: sum(s[name].accuracy for s in models) / len(models) for name in models[0]}
    variance = sum(p * (1 - p) / models[0][name].items for name, p in shares.items())
    value, half = sum(shares.values()) / len(shares), Z * sqrt(variance) / len(shares)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half))


def world_recalls(evaluation: Evaluation) -> dict[str, float]:
    """Return TOFU's ROUGE-L recalls on Real Authors and World Facts, by fact."""
    return {
        fact: score.rouge
        for name in UTILITY[1:]
        for fact, score in evaluation.others.get(name, {}).items()
        if score.rouge is not None
    }
