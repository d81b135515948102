"""What the strength of the regulariser does: the scores of a run that tried Ssiuu at several λ."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes

from ssiuu.analysis.rows import rows
from ssiuu.analysis.scale import mean
from ssiuu.analysis.scores import score_of
from ssiuu.records.schema import Cell, RunRecord
from ssiuu.report.figures.draw import Key, Plot, Style, legend, line, panel, percent_axis, plot, styled
from ssiuu.report.text import short

Series = tuple[Style, dict[float, list[dict[str, Any]]]]


def strength_curves(record: RunRecord) -> Plot:
    """Draw forget score, held-out score and level after attack over λ, a line a method."""
    strengths, score = tried_strengths(record), score_of(record)
    measures = {
        score.forget: f"forget {score.scale.unit}, %",
        score.kept: f"held-out {score.scale.unit}, %",
        "strongest_level": "highest after attack, %",
    }
    panels = [
        panel(f"strength-{key}", title.removesuffix(", %").capitalize(), _draw(strengths, key, title))
        for key, title in measures.items()
    ]
    keys = legend(record, "strength", (style for style, _ in strengths))
    return plot(
        "strength",
        "What the strength of the regulariser does",
        "How to read it: the same method at several λ, means over seeds. A λ is worth its place where "
        "the level after the attack falls and the held-out score stays. A flat line says that the "
        "penalty is too small to act or has no effect.",
        panels if strengths else [],
        [Key(key.label.partition("@")[0], key.svg) for key in keys],  # a tag names one λ
        absent="Ssiuu was not run at several λ.",
    )


def tried_strengths(record: RunRecord) -> list[Series]:
    """Return each method that was run at two λ or more: its look, and its table rows by λ.

    A method is the same where everything but λ and the tag is.
    """
    table = rows(record)["rows"]
    groups: dict[str, Series] = {}
    for (cell, style), row in zip(styled(record), table, strict=True):
        strength = cell.method.hyperparameters.get("lambda")
        if strength is not None and cell.evaluation is not None:
            _, tried = groups.setdefault(_rest(cell), (style, {}))
            tried.setdefault(float(strength), []).append(row)
    return [series for series in groups.values() if len(series[1]) > 1]


def _rest(cell: Cell) -> str:
    settings = cell.method.hyperparameters
    others = {key: value for key, value in settings.items() if key not in ("lambda", "tag")}
    return json.dumps([cell.method.name, others], sort_keys=True, default=str)


def _draw(series: list[Series], key: str, title: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for style, tried in series:
            strengths = sorted(tried)
            levels = [mean(row[key] for row in tried[strength]) for strength in strengths]
            line(axes, strengths, levels, style)
        smallest = min((s for _, tried in series for s in tried if s > 0), default=1.0)
        axes.set_xscale("symlog", linthresh=smallest)  # 0 is the backbone alone
        tried_at = sorted({strength for _, tried in series for strength in tried})
        axes.set_xticks(tried_at, [short(strength) for strength in tried_at])
        axes.minorticks_off()
        percent_axis(axes)
        axes.set_xlabel("λ")
        axes.set_ylabel(title)

    return draw
