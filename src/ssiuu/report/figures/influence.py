"""Influence variation: what was erased and what was added, neuron by neuron and by place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import FuncFormatter, NullLocator

from ssiuu.analysis.seen import SATURATED
from ssiuu.records.schema import Cell, Influence, RunRecord, Target
from ssiuu.report.figures.draw import (
    SIZE,
    Number,
    Panel,
    Plot,
    Style,
    legend,
    numbers,
    panel,
    plot,
    styled,
)
from ssiuu.report.text import plain, short

TARGETS: tuple[Target, ...] = ("logprob", "probability")
TARGET_NAMES: dict[Target, str] = {"logprob": "log-probability", "probability": "probability"}
BLIND = (
    "With target probability an attribution is the probability times that of the "
    "log-probability: where the unlearned model gives the answer a probability near 0, all "
    "attributions vanish and D− is blind."
)


def cumulative_curves(record: RunRecord) -> Plot:
    """Draw the cumulative D+ and D− over the top m neurons, one row of panels a target."""
    panels = []
    for target in TARGETS:
        influences = _influences(record, target)
        for sign in ("+", "−") if influences else ():
            panels.append(_cumulative_panel(influences, target, sign))
    return plot(
        "cumulative",
        "Erased and added influence, neuron by neuron",
        "How to read it: neurons sorted by their change, summed from the strongest on. D+ is "
        "positive influence on the answer that was taken away (erased), D− is negative influence "
        "that was added (what pushes a hidden answer down). In the paper's reading erasing shows as a "
        "high D+ and a flat D−, hiding as a high D−. Thin: what turned the other way counted against. "
        "Each row names its "
        f"attribution target. Of the hide ratio, D− / (D+ + D−): {SATURATED} {BLIND}",
        panels,
        legend(
            record,
            "cumulative",
            (style for target in TARGETS for _, style, _ in _influences(record, target)),
        ),
        absent="No diagnosis has run yet, so there are no influence curves.",
    )


def _cumulative_panel(
    influences: list[tuple[Cell, Style, Influence]], target: Target, sign: str
) -> Panel:
    curves = [
        (style, influence.m, influence.d_plus if sign == "+" else influence.d_minus)
        for _, style, influence in influences
    ]
    nets = [
        (style, influence.m, influence.curve_net_plus if sign == "+" else influence.curve_net_minus)
        for _, style, influence in influences
    ]
    drawn: list[Number] = []
    for (cell, _, _), (_, m, values), (_, _, net) in zip(influences, curves, nets, strict=True):
        drawn += numbers(cell, m, values)
        label = f"{cell.method.label}, net"
        drawn += [Number(label, cell.seed, x, y) for x, y in zip(m, net, strict=False)]
    top = max(_finite(value for _, _, values in curves for value in values), default=0.0)

    def draw(axes: Axes) -> None:
        for style, m, values in curves:
            axes.plot(m, values, color=style.colour, linestyle=style.dash, linewidth=1.7)
        for style, m, net in nets:
            if net:
                axes.plot(m, net, color=style.colour, linewidth=0.8, alpha=0.5)
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))
        axes.set_xlabel("top m neurons")
        axes.set_ylabel(f"cumulative D{sign}")
        _amount_axis(axes, top)

    title = f"D{sign} · target {TARGET_NAMES[target]}"
    return panel(f"cumulative-{target}-{_word(sign)}", title, draw, numbers=drawn)


def top_bars(record: RunRecord) -> Plot:
    """Draw D+ and D− of the top 100 neurons of each method."""
    panels = [_bars_panel(record, target) for target in TARGETS if _influences(record, target)]
    return plot(
        "bars",
        "The hundred strongest neurons",
        "How to read it: the sum over the 100 neurons with the largest change, means over seeds. "
        "A long D− bar beside a short D+ bar says that the method mostly added inhibition. Each "
        f"panel names its attribution target and has its own scale. {BLIND}",
        panels,
        [],
        absent="No diagnosis has run yet, so there are no bars.",
    )


def _bars_panel(record: RunRecord, target: Target) -> Panel:
    by_method: dict[str, list[Influence]] = {}
    for cell, _, influence in _influences(record, target):
        by_method.setdefault(cell.method.label, []).append(influence)
    plus = [sum(i.d_plus_100 for i in group) / len(group) for group in by_method.values()]
    minus = [sum(i.d_minus_100 for i in group) / len(group) for group in by_method.values()]

    def draw(axes: Axes) -> None:
        rows = range(len(by_method))
        axes.barh([r - 0.2 for r in rows], plus, 0.38, color="#2f6f9f", label="D+ erased")
        bars = axes.barh([r + 0.2 for r in rows], minus, 0.38, color="#f0b27a", label="D− added")
        for bar in bars:
            bar.set_hatch("////")
            bar.set_edgecolor("#9a4a00")
        for row, values in enumerate(zip(plus, minus, strict=True)):
            for offset, value in zip((-0.2, 0.2), values, strict=True):
                axes.annotate(
                    short(value),
                    (max(value, 0), row + offset),
                    (3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                )
        _bar_axes(axes, list(by_method))

    drawn = [
        Number(label, None, name, value, *_ends(group, field))
        for name, field, values in (("D+", "d_plus_100", plus), ("D−", "d_minus_100", minus))
        for (label, group), value in zip(by_method.items(), values, strict=True)
    ]
    height = 1.3 + 0.55 * len(by_method)
    title = f"Top 100 · target {TARGET_NAMES[target]}"
    return panel(f"bars-{target}", title, draw, numbers=drawn, size=(SIZE[0], height), fit=True)


def _ends(group: Sequence[Influence], field: str) -> tuple[float, float] | tuple[()]:
    """Return the interval over facts of one seed's value; an average over seeds has none."""
    if len(group) > 1 or group[0].bands is None:
        return ()
    band = getattr(group[0].bands, field)
    return band.low, band.high


def _bar_axes(axes: Axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), [_cut(label) for label in labels])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, (axes.get_xlim()[1] or 1.0) * 1.12)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))
    axes.set_xlabel("sum over the top 100 neurons")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)


def heat_maps(record: RunRecord) -> Plot:
    """Draw where D+ and D− sit: module by layer, one row of panels a method."""
    maps = _maps(record)
    panels = []
    if maps:
        tops = {
            sign: max(
                _finite(v for pair in maps.values() for row in pair[sign].values() for v in row),
                default=0.0,
            )
            for sign in ("+", "−")
        }
        panels = [_scale_panel(sign, tops[sign]) for sign in tops]
        for label, pair in maps.items():
            panels += [_heat_panel(label, sign, pair[sign], tops[sign]) for sign in tops]
    return plot(
        "heat",
        "Where in the network it sits",
        "How to read it: mean of the top 100 neurons of each module (rows) and layer (columns), "
        "means over seeds; darker is more. Left D+ (erased), right D− (added). One scale for all "
        "methods in a column, compressed by a square root: see the legends above the maps. "
        "Point at a cell for its value. Attribution target: log-probability.",
        panels,
        [],
        absent="No diagnosis with target log-probability has run yet, so there are no maps.",
    )


def _maps(record: RunRecord) -> dict[str, dict[str, Mapping[str, Sequence[float]]]]:
    groups: dict[str, list[Influence]] = {}
    for cell, _, influence in _influences(record, "logprob"):
        groups.setdefault(cell.method.label, []).append(influence)
    return {
        label: {
            "+": _mean_map([influence.map_plus for influence in group]),
            "−": _mean_map([influence.map_minus for influence in group]),
        }
        for label, group in groups.items()
    }


def _mean_map(maps: Sequence[Mapping[str, Sequence[float]]]) -> Mapping[str, Sequence[float]]:
    if len(maps) == 1:
        return maps[0]
    return {
        module: [sum(values) / len(values) for values in zip(*(m[module] for m in maps), strict=True)]
        for module in maps[0]
    }


def _mesh(axes: Axes, rows: Sequence[Sequence[float]], sign: str, top: float) -> None:
    """Colour cells of any size by value, on the scale that all maps of this sign share."""
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(np.asarray(rows, dtype=float)),
        # Grey where there is no value, so that it does not pass for 0.
        cmap=colormaps["Blues" if sign == "+" else "Oranges"].with_extremes(bad="#cccccc"),
        norm=PowerNorm(0.5, vmin=0.0, vmax=top or 1.0),
        gid="cells",
    )
    mesh.set_clip_on(False)
    # Labels alone decide the margins; measuring the cells only takes time.
    mesh.set_in_layout(False)


def _heat_panel(label: str, sign: str, rows: Mapping[str, Sequence[float]], top: float) -> Panel:
    layers = max((len(values) for values in rows.values()), default=0)
    padded = [[*values, *[math.nan] * (layers - len(values))] for values in rows.values()]
    drawn = [
        Number(label, None, f"{plain(module)}, layer {layer}", value)
        for module, values in zip(rows, padded, strict=True)
        for layer, value in enumerate(values)
    ]
    titles = [f"{cell.x}: {short(cell.y)}" for cell in drawn]

    def draw(axes: Axes) -> None:
        if titles:
            _mesh(axes, padded, sign, top)
        axes.set_xlim(0, max(layers, 1))
        axes.set_ylim(max(len(rows), 1), 0)
        _heat_axes(axes, list(rows), layers)

    title = f"{plain(label)} · D{sign}"
    size = (SIZE[0], 0.75 + 0.2 * len(rows))
    key = f"heat-{label}-{_word(sign)}"
    return panel(key, title, draw, numbers=drawn, size=size, fit=True, titles=titles)


def _heat_axes(axes: Axes, modules: list[str], layers: int) -> None:
    axes.grid(visible=False)
    axes.set_yticks([row + 0.5 for row in range(len(modules))], modules, fontsize=9)
    every = max(1, math.ceil(layers / 8))
    shown = range(0, layers, every)
    axes.set_xticks([layer + 0.5 for layer in shown], [str(layer) for layer in shown], fontsize=9)
    axes.tick_params(length=0)
    axes.set_xlabel("layer")
    for spine in axes.spines.values():
        spine.set_visible(False)


def _scale_panel(sign: str, top: float) -> Panel:
    """Draw the value legend of the heat maps; cells, because the SVG may hold no picture."""
    pieces = 40
    # Even steps of colour: a value is the square of its place on the bar.
    values = [((piece + 0.5) / pieces) ** 2 * (top or 1.0) for piece in range(pieces)]

    def draw(axes: Axes) -> None:
        _mesh(axes, [values], sign, top)
        axes.grid(visible=False)
        places = [0, 0.25, 0.5, 0.75, 1]
        labels = [short(place * place * top) for place in places]
        axes.set_xticks([place * pieces for place in places], labels, fontsize=9)
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)

    name = "D+ erased" if sign == "+" else "D− added"
    return panel(f"heat-scale-{_word(sign)}", f"Legend: {name}", draw, size=(SIZE[0], 0.55), fit=True)


def _influences(record: RunRecord, target: Target) -> list[tuple[Cell, Style, Influence]]:
    return [
        (cell, style, cell.diagnosis.influence[target])
        for cell, style in styled(record)
        if cell.diagnosis and target in cell.diagnosis.influence
    ]


def _amount_axis(axes: Axes, top: float) -> None:
    # An axis of nothing but zeros would otherwise be drawn from -0.05 to 0.05.
    axes.set_ylim(0, 1.06 * top or 1.0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _cut(label: str, room: int = 18) -> str:
    text = plain(label)
    return text if len(text) <= room else text[: room - 1] + "…"


def _word(sign: str) -> str:
    return "plus" if sign == "+" else "minus"
