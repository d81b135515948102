"""The public tasks of lm-eval: accuracies with intervals, and their mean (the paper's US)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

from ssiuu.analysis.column import Model
from ssiuu.records.schema import RunRecord, TaskScore
from ssiuu.statistics import Estimate, wilson

Z = 1.96


def task_names(record: RunRecord) -> list[str]:
    """Return the public tasks that a run has scores of, in their order."""
    evaluations = [record.original, *(cell.evaluation for cell in record.cells)]
    return list(dict.fromkeys(name for scores in evaluations if scores for name in scores.utility))


def tasks(model: Model) -> Mapping[str, TaskScore]:
    """Return the scores of a model on the public tasks; empty where it was not asked."""
    return model.cell.evaluation.utility if model.cell.evaluation else {}


def task_interval(model: Model, name: str) -> Estimate | None:
    """Return the accuracy on a task with Wilson's 95 % interval; None where it was not asked."""
    score = tasks(model).get(name)
    if score is None:
        return None
    interval = wilson(round(score.accuracy * score.items), score.items)
    return Estimate(score.accuracy, interval.low, interval.high)


def task_mean(models: Sequence[Mapping[str, TaskScore]]) -> Estimate | None:
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
