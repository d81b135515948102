"""How attributions move from the original to the unlearned to the attacked model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ssiuu.records.schema import Cell, RunRecord, Stability
from ssiuu.report.figures.draw import (
    FAINT,
    Number,
    Panel,
    Plot,
    Style,
    legend,
    line,
    numbers,
    panel,
    percent_axis,
    plot,
    styled,
)
from ssiuu.report.text import plain, short

StyledStability = list[tuple[Cell, Style, Stability]]
PAIRS = ("original-unlearned", "original-attacked", "unlearned-attacked")
LOOKS: dict[str, dict[str, Any]] = {
    "original": {"color": FAINT, "linewidth": 3.5, "alpha": 0.6},
    "unlearned": {"color": "#0072b2", "linewidth": 1.7},
    "attacked": {"color": "#d55e00", "linewidth": 1.7, "linestyle": (0, (5, 2))},
}


def stability_curves(record: RunRecord) -> Plot:
    """Draw how the three models' attributions correlate, which return, and how they are spread."""
    compared = [
        (cell, style, cell.stability)
        for cell, style in styled(record)
        if cell.stability is not None and cell.stability.lowest is not None
    ]
    panels = []
    if compared:
        panels = [
            _correlation(compared, "lowest", "Correlation, lowest over tokens (D−)"),
            _correlation(compared, "highest", "Correlation, highest over tokens (D+)"),
            _returned(compared),
        ]
    first = min((cell.seed for cell, _, _ in compared), default=0)
    panels += [_spread(cell, stability) for cell, _, stability in compared if cell.seed == first]
    names = dict.fromkeys(stability.attack for _, _, stability in compared)
    notes = {cell.stability.note for cell in record.cells if cell.stability} - {""}
    return plot(
        "stability",
        "Do the old attributions come back with an attack?",
        f"How to read it: attribution of every neuron, its mean over facts, in the original, the "
        f"unlearned and the attacked model: {plain('; '.join(names))}. Correlation is Pearson's, over "
        "neurons. Where original and attacked agree better than original and unlearned, the attack "
        "took away what unlearning had laid over the old attributions, which speaks for hiding. "
        "Neurons that come back: of the m with the largest D−, the share of which more than half of "
        "the change is undone. Spread: how many neurons have which attribution (lowest over tokens); "
        "grey original, blue unlearned, orange dashes attacked. Facts that attacks of this run trained "
        "on are left out. Attribution target: log-probability.",
        panels,
        legend(record, "stability", (style for _, style, _ in compared)),
        absent=f"No attributions could be compared after the attack: {'; '.join(sorted(notes))}.",
    )


def _correlation(compared: StyledStability, side: Literal["highest", "lowest"], title: str) -> Panel:
    curves = []
    drawn: list[Number] = []
    for cell, style, stability in compared:
        end = getattr(stability, side)
        values = [end.pearson[pair] for pair in PAIRS]
        curves.append((style, values))
        drawn += numbers(cell, PAIRS, values)

    def draw(axes: Axes) -> None:
        for place, (style, values) in enumerate(curves):
            # Side by side, so that equal values do not hide each other.
            shift = 0.5 * ((place + 0.5) / len(curves) - 0.5)
            line(axes, [x + shift for x in range(len(PAIRS))], values, style._replace(dash="none"))
        axes.set_xticks(range(len(PAIRS)), [pair.replace("-", "\n") for pair in PAIRS], fontsize=9)
        axes.set_xlim(-0.5, len(PAIRS) - 0.5)
        axes.set_ylim(min([0.0, *(v for _, values in curves for v in values if v)]) - 0.05, 1.05)
        axes.set_ylabel("correlation over neurons")

    return panel(f"stability-{side}", title, draw, numbers=drawn)


def _returned(compared: StyledStability) -> Panel:
    curves: list[tuple[Style, dict[int, float]]] = []
    drawn: list[Number] = []
    for cell, style, stability in compared:
        shares = stability.lowest.returned if stability.lowest else {}
        curves.append((style, shares))
        drawn += numbers(cell, list(shares), list(shares.values()))

    def draw(axes: Axes) -> None:
        for style, shares in curves:
            line(axes, list(shares), list(shares.values()), style)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sorted({m for _, s in curves for m in s})))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))
        axes.set_xlabel("m neurons with the largest D−")
        axes.set_ylabel("of which back, %")
        percent_axis(axes)

    return panel("stability-returned", "Neurons that come back", draw, numbers=drawn)


def _spread(cell: Cell, stability: Stability) -> Panel:
    counts = stability.lowest.histogram if stability.lowest else {}
    edges = _closed(stability.edges)
    drawn = [
        Number(f"{cell.method.label}, {model}", cell.seed, f"{low:.3g} to {high:.3g}", count)
        for model, values in counts.items()
        for low, high, count in zip(edges[:-1], edges[1:], values, strict=True)
    ]
    return panel(
        f"stability-spread-{cell.method.label}",
        f"{plain(cell.method.label)} · spread",
        _spread_drawer(edges, counts),
        numbers=drawn,
    )


def _closed(edges: Sequence[float]) -> list[float]:
    """Return the edges with ends for the outer bins, half a decade further out."""
    return [edges[0] * 10**0.5, *edges, edges[-1] * 10**0.5]


def _spread_drawer(edges: Sequence[float], counts: dict[str, list[int]]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for model, values in counts.items():
            axes.stairs(values, edges, **LOOKS[model])
        axes.set_xscale("symlog", linthresh=min(abs(edge) for edge in edges))
        axes.set_yscale("symlog", linthresh=1)
        axes.xaxis.set_major_locator(FixedLocator([-1, -1e-3, 0, 1e-3, 1]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))
        axes.set_ylim(0, None)
        axes.set_xlabel("attribution, lowest over tokens, nats")
        axes.set_ylabel("neurons")

    return draw
