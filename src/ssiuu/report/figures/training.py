"""How unlearning went, step by step."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes

from ssiuu.records.schema import RunRecord, StepLog
from ssiuu.report.figures.draw import (
    INK,
    Number,
    Panel,
    Plot,
    legend,
    line,
    numbers,
    panel,
    percent_axis,
    plot,
    styled,
)


def training_curves(record: RunRecord) -> Plot:
    """Draw how unlearning itself went."""
    measures: list[tuple[str, str, Callable[[StepLog], float | None]]] = [
        ("forget-loss", "Forget loss, nats", lambda step: step.forget_loss),
        ("forget-score", "Forget score (stop rule), %", lambda step: step.forget_score),
        ("retain-loss", "Retain loss, nats", lambda step: step.retain_loss),
        ("gradient-norm", "Gradient norm, L2 over all parameters", lambda step: step.gradient_norm),
        ("budget-kl", "KL on plain text (stop rule), nats a token", lambda step: step.kl),
        ("budget-ratio", "Loss on plain text (stop rule), over that before", lambda s: s.retain_ratio),
        ("text-loss", "Divergence on the texts held to, nats a token", lambda step: step.text_loss),
    ]
    steps = [step for cell in record.cells if cell.unlearning for step in cell.unlearning.steps]
    panels = [
        _training_panel(record, key, title, read)
        for key, title, read in measures
        if any(read(step) is not None for step in steps)
    ]
    return plot(
        "training",
        "How unlearning went",
        "How to read it: losses and the score of the stop rule over the optimiser steps of "
        "unlearning. Dashes in the score: the threshold at which unlearning stops; on plain text: what "
        "may be spent. A run that ends above the threshold was stopped by its limit of steps or of "
        "what it may spend. No attribution is involved.",
        panels,
        legend(
            record,
            "training",
            (style for cell, style in styled(record) if cell.unlearning and cell.unlearning.steps),
        ),
        absent="No unlearning steps were recorded, so there are no training curves.",
    )


def _training_panel(
    record: RunRecord, key: str, title: str, read: Callable[[StepLog], float | None]
) -> Panel:
    drawn: list[Number] = []
    curves = []
    for cell, style in styled(record):
        steps = cell.unlearning.steps if cell.unlearning else []
        points = [(s.step, value) for s in steps if (value := read(s)) is not None]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        curves.append((xs, ys, style))
        drawn += numbers(cell, xs, ys)

    def draw(axes: Axes) -> None:
        for xs, ys, style in curves:
            line(axes, xs, ys, style, every=1 + len(xs) // 8)
        axes.set_xlabel("unlearning steps")
        axes.set_ylabel(title.partition(", ")[2])
        if key == "forget-score":
            percent_axis(axes)
            thresholds = {c.unlearning.threshold for c in record.cells if c.unlearning}
            for threshold in sorted(thresholds):
                axes.axhline(threshold, color=INK, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        limit = {"budget-kl": "kl", "budget-ratio": "retain_ratio"}.get(key, "")
        for most in sorted({c.unlearning.budget.get(limit, 0.0) for c in record.cells if c.unlearning}):
            if most:
                axes.axhline(most, color=INK, linestyle=(0, (4, 3)), linewidth=1, zorder=1)

    scores = dict.fromkeys(c.unlearning.stop_score for c in record.cells if c.unlearning)
    note = f"Score: {', '.join(scores)}." if key == "forget-score" else ""
    return panel(f"training-{key}", title.split(",")[0], draw, note, numbers=drawn)
