"""What the rounds of a ledger together did to its model: what is still kept, and what has come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ssiuu.report.figures.draw import (
    RC,
    Number,
    Plot,
    Style,
    keys,
    line,
    looks,
    panel,
    percent_axis,
    plot,
)

KEPT, BACK = "still known of what to keep", "known again of earlier requests"


def rounds_figure(rounds: Sequence[dict[str, Any]]) -> Plot:
    """Draw, by round, the share of the first model's facts to keep that is left, and what came back.

    Args:
        rounds: Rows of `ssiuu.report.requests.round_rows`.
    """
    styles = looks([KEPT, BACK])
    curves = {
        KEPT: [_share(row["kept"], row["kept_of"]) for row in rounds],
        BACK: [_share(row["back"], row["sampled"]) for row in rounds],
    }
    found = {name: curve for name, curve in curves.items() if any(y is not None for y in curve)}
    with matplotlib.rc_context(RC):
        panels = [_panel([row["round"] for row in rounds], found, styles)] if found else []
        legend = keys(styles, "rounds", [styles[name] for name in found])
    return plot(
        "rounds",
        "What the rounds together did",
        "How to read it: a point a round. One line is the share of the facts to keep, of those that "
        "the first model knew, that this round's model still knows; the other the share of facts of "
        "earlier requests, of those asked again, that this model knows again: it should stay at 0.",
        panels,
        legend,
        columns=1,
        absent="No round has asked a model again yet.",
    )


def _share(part: int | None, whole: int | None) -> float | None:
    return part / whole if part is not None and whole else None


def _panel(xs: Sequence[int], curves: dict[str, list[float | None]], styles: dict[str, Style]) -> Any:
    def draw(axes: Axes) -> None:
        for name, curve in curves.items():
            line(axes, xs, curve, styles[name])
        percent_axis(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(0.5, max(xs) + 0.5)
        axes.set_xlabel("round")
        axes.set_ylabel("facts, %")

    drawn = [
        Number(name, None, x, y)
        for name, curve in curves.items()
        for x, y in zip(xs, curve, strict=True)
    ]
    return panel("rounds", "Kept and come back, round by round", draw, numbers=drawn, size=(7.2, 3.1))
