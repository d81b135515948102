"""The figures of a report as inline SVG strings; made with matplotlib, never with pyplot.

    for plot in figures(record):
        plot.title, plot.reading, [panel.svg for panel in plot.panels]

A plot is a row of small panels, so that a page can stack them on a phone. Its SVG has no style
attributes and no style element (the page's security policy forbids them), no address of another
file, no date, and ids that are unique in the page. Equal records give equal strings.
"""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ssiuu.diagnosis.verdict import (
    accuracy,
    attack_accuracy,
    common_pool,
    level_interval,
    strongest,
)
from ssiuu.records.schema import (
    Attack,
    Axis,
    Cell,
    Evaluation,
    Influence,
    RunRecord,
    StepLog,
    Target,
)
from ssiuu.report.rows import attack_names, mean
from ssiuu.report.text import percent, plain, rate, short
from ssiuu.statistics import Interval, wilson

TARGETS: tuple[Target, ...] = ("logprob", "probability")
TARGET_NAMES: dict[Target, str] = {"logprob": "log-probability", "probability": "probability"}
INK = "#1c2024"
FAINT = "#8a9199"
# Okabe and Ito's colours, told apart with any colour vision; darkened where white washes them out.
COLOURS = ["#0072b2", "#d55e00", "#00805f", "#b0508a", "#8a6d00", "#3f9bd1", "#4b4b4b", "#6a3d9a"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES: list[str | tuple[int, tuple[int, ...]]] = [
    "-",
    (0, (5, 2)),
    (0, (1, 1)),
    (0, (6, 2, 1, 2)),
    (0, (3, 1)),
    (0, (8, 2)),
    (0, (2, 2)),
    (0, (4, 1, 1, 1, 1, 1)),
]
RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ssiuu",
    # A "$" in a method's label is a dollar sign.
    "text.parse_math": False,
    "font.size": 10.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8ea",
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.7,
}
SIZE = (4.7, 3.1)
AXIS_NAMES: dict[Axis, str] = {
    "steps": "attack steps",
    "bits": "weights",
    "k": "k sampled answers (0: the greedy one)",
    "shots": "answered examples in front",
    "prompt": "prompt",
    "score": "score",
}
NAMED = 5  # at most so many names fit on an axis
BLIND = (
    "With target probability an attribution is the probability times that of the "
    "log-probability: where the unlearned model gives the answer a probability near 0, all "
    "attributions vanish and D− is blind."
)


class Style(NamedTuple):
    """How a method is drawn in every figure."""

    colour: str
    marker: str
    dash: str | tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class Panel:
    """One drawing: `title` says what it shows, `note` what the eye cannot read off it."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class Key:
    """One line of a legend."""

    label: str
    svg: str


@dataclass(frozen=True)
class Plot:
    """A figure of the report; where it could not be drawn, `absent` says why."""

    key: str
    title: str
    reading: str
    panels: list[Panel]
    legend: list[Key]
    columns: int = 2
    absent: str = ""


def figures(record: RunRecord) -> list[Plot]:
    """Return all figures of a run, in the order of the page."""
    makers = [
        attack_curves,
        retention_front,
        cumulative_curves,
        top_bars,
        heat_maps,
        lens_curves,
        training_curves,
    ]
    with matplotlib.rc_context(RC):
        return [make(record) for make in makers]


# --- what is drawn ----------------------------------------


def attack_curves(record: RunRecord) -> Plot:
    """Draw accuracy on the common pool over the steps of each attack."""
    scored = any(strongest(cell) for cell in record.cells)
    panels = [_attack_panel(record, name, scored) for name in attack_names(record)]
    what = "accuracy on the facts no attack trained on" if scored else "mean answer log-probability"
    return _plot(
        "attacks",
        "What each attack brings back",
        f"How to read it: {what}, over the optimiser steps of the attack, or over what else it "
        "varies (0 is the unlearned model). Sampled answers: the share of facts that one of k answers "
        "gives away. A line that climbs means that the knowledge was still there. For each method the "
        "curve with the highest level is drawn. Grey dashes: the original model on the "
        "same facts; dots: guessing. No attribution is involved.",
        panels,
        _legend(record, "attacks", (style for cell, style in _styled(record) if cell.attacks)),
        absent="No attack has run yet, so there are no attack curves.",
    )


def _attack_panel(record: RunRecord, name: str, scored: bool) -> Panel:
    curves: list[tuple[Style, Attack, list[float | None]]] = []
    rates: dict[str, list[str]] = {}
    for cell, style in _styled(record):
        chosen = best_curve(cell, name, scored)
        if chosen is not None:
            curves.append((style, *chosen))
            speed = rate(chosen[0].learning_rate) if chosen[0].learning_rate else ""
            rates.setdefault(speed, []).append(cell.method.label)
    # An attack that does not train (quantisation, a prompt) has no learning rate.
    rates.pop("", None)
    labels = _place_labels([attack for _, attack, _ in curves])
    axis = curves[0][1].axis if curves else "steps"

    def draw(axes: Axes) -> None:
        steps = sorted({read.step for _, attack, _ in curves for read in attack.reads})
        for style, attack, levels in curves:
            if labels:  # places in no order of their own: points, no line
                _line(axes, list(range(len(levels))), levels, style._replace(dash="none"))
            else:
                _line(axes, [read.step for read in attack.reads], levels, style)
        _attack_axes(axes, record, steps, scored, axis)
        if labels:
            _name_places(axes, labels)
        elif not rates and steps == [0, 1]:
            axes.set_xlabel("0: unlearned · 1: under the attack")

    drawn = [f"{speed} ({', '.join(dict.fromkeys(found))})" for speed, found in rates.items()]
    note = f"Learning rate drawn: {'; '.join(drawn)}." if drawn else ""
    if len(labels) > NAMED:
        note = "; ".join(f"{place}: {plain(label)}" for place, label in enumerate(labels)) + "."
    return _panel(f"attack-{name}", plain(name), draw, note)


def _place_labels(attacks: list[Attack]) -> list[str]:
    """Return what stands at each place of an attack that has names there; empty where numbers do."""
    longest = max((attack.reads for attack in attacks), key=len, default=[])
    labels = [read.label for read in longest]
    return ["unlearned", *labels[1:]] if any(labels) else []


def _name_places(axes: Axes, labels: list[str]) -> None:
    """Put names on the axis, or numbers where they would not fit (the panel's note explains them)."""
    shown = [plain(label) for label in labels] if len(labels) <= NAMED else map(str, range(len(labels)))
    axes.set_xscale("linear")
    axes.set_xticks(range(len(labels)), list(shown))


def best_curve(cell: Cell, name: str, scored: bool = True) -> tuple[Attack, list[float | None]] | None:
    """Return the curve of this attack that reaches the highest level, and its levels.

    Args:
        cell: One method and seed.
        name: The attack's name; its learning rates compete.
        scored: Levels are accuracies over the common pool; mean log-probabilities otherwise.
    """
    pool = sorted(common_pool(cell.attacks))
    best = None
    for attack in (attack for attack in cell.attacks if attack.name == name):
        levels = [_level(attack, read, pool, scored) for read in range(len(attack.reads))]
        top = max((level for level in levels[1:] if level is not None), default=-math.inf)
        if best is None or top > best[0]:
            best = (top, attack, levels)
    return None if best is None else best[1:]


def _level(attack: Attack, read: int, pool: Sequence[str], scored: bool) -> float | None:
    if scored or attack.axis == "k":
        return attack_accuracy(attack, read, pool)
    facts = attack.reads[read].facts
    return mean([facts[fact].logprob for fact in pool if fact in facts])


def _attack_axes(axes: Axes, record: RunRecord, steps: list[int], scored: bool, axis: Axis) -> None:
    # Steps double, and 0 must be on the axis: linear up to 1, logarithmic after.
    axes.set_xscale("symlog", linthresh=1, base=2)
    axes.xaxis.set_major_locator(FixedLocator(_thin(steps)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set_xlabel(AXIS_NAMES[axis])
    if axis == "k":  # neither guessing nor the original's ranking is on this scale
        _percent_axis(axes)
        axes.set_ylabel("facts that leaked, common pool, %")
        return
    if not scored:
        axes.set_ylabel("mean log p(answer), nats")
        return
    _percent_axis(axes)
    axes.set_ylabel("accuracy, common pool, %")
    before = _original_level(record)
    if before is not None:
        axes.axhline(before, color=FAINT, linestyle=(0, (6, 3)), linewidth=1.1, zorder=1)
    if record.header.chance is not None:
        axes.axhline(record.header.chance, color=INK, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)


def _original_level(record: RunRecord) -> float | None:
    if record.original is None:
        return None
    pool = set().union(*(common_pool(cell.attacks) for cell in record.cells))
    return accuracy(score for fact, score in record.original.forget.items() if fact in pool)


def retention_front(record: RunRecord) -> Plot:
    """Draw what was kept (held-out accuracy) against what an attack brings back."""
    points = [
        (style, kept, level)
        for cell, style in _styled(record)
        if (kept := _kept(cell.evaluation)) is not None and (level := level_interval(cell)) is not None
    ]

    def draw(axes: Axes) -> None:
        for style, kept, level in points:
            _cross(axes, style, kept, level)
        _front_axes(axes, record)

    return _plot(
        "front",
        "What was kept against what comes back",
        "How to read it: one point a method and seed. Right is better (other facts are kept), low "
        "is better (the strongest attack brings little back), so the lower right corner is where "
        "to be; compare levels only at equal retention. Bars: 95\u00a0% Wilson intervals, "
        "the upright ones widened for the number of attack curves. Star: the original model; "
        "dots: guessing. "
        "No attribution is involved.",
        [_panel("front", "Held-out accuracy and level after attack", draw)] if points else [],
        _legend(record, "front", (style for style, _, _ in points)),
        columns=1,
        absent="This needs an evaluation and an attack of the same method; none has both yet.",
    )


def _kept(evaluation: Evaluation | None) -> Interval | None:
    if evaluation is None:
        return None
    right = [s.correct for s in evaluation.heldout.values() if s.correct is not None]
    return wilson(sum(right), len(right)) if right else None


def _cross(axes: Axes, style: Style, kept: Interval, level: Interval) -> None:
    (x, x_low, x_high), (y, y_low, y_high) = kept, level
    axes.plot([x_low, x_high], [y, y], color=style.colour, linewidth=0.9, alpha=0.6)
    axes.plot([x, x], [y_low, y_high], color=style.colour, linewidth=0.9, alpha=0.6)
    axes.plot([x], [y], style.marker, color=style.colour, markersize=8, markeredgecolor="white")


def _front_axes(axes: Axes, record: RunRecord) -> None:
    _percent_axis(axes)
    axes.set_xlim(-0.02, 1.04)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 0)))
    axes.set_xlabel("held-out accuracy, %  (right: more kept)")
    axes.set_ylabel("highest after attack, %  (low: gone)")
    if record.header.chance is not None:
        axes.axhline(record.header.chance, color=INK, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
    kept, before = _kept(record.original), _original_level(record)
    if kept is not None and before is not None:
        axes.plot([kept[0]], [before], "*", color=FAINT, markersize=12, zorder=1)


def cumulative_curves(record: RunRecord) -> Plot:
    """Draw the cumulative D+ and D− over the top m neurons, one row of panels a target."""
    panels = []
    for target in TARGETS:
        found = _influences(record, target)
        for sign in ("+", "−") if found else ():
            panels.append(_cumulative_panel(found, target, sign))
    return _plot(
        "cumulative",
        "Erased and added influence, neuron by neuron",
        "How to read it: neurons sorted by their change, summed from the strongest on. D+ is "
        "positive influence on the answer that was taken away (erased), D− is negative influence "
        "that was added (what pushes a hidden answer down). Erasing shows as a high D+ and a flat "
        "D−; hiding as a high D−. Each row names its attribution target. " + BLIND,
        panels,
        _legend(
            record,
            "cumulative",
            (style for target in TARGETS for _, style, _ in _influences(record, target)),
        ),
        absent="No diagnosis has run yet, so there are no influence curves.",
    )


def _cumulative_panel(found: list[tuple[Cell, Style, Influence]], target: Target, sign: str) -> Panel:
    curves = [
        (style, influence.m, influence.d_plus if sign == "+" else influence.d_minus)
        for _, style, influence in found
    ]
    top = max(_finite(value for _, _, values in curves for value in values), default=0.0)

    def draw(axes: Axes) -> None:
        for style, m, values in curves:
            axes.plot(m, values, color=style.colour, linestyle=style.dash, linewidth=1.7)
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.set_xlabel("top m neurons")
        axes.set_ylabel(f"cumulative D{sign}")
        _amount_axis(axes, top)

    title = f"D{sign} · target {TARGET_NAMES[target]}"
    return _panel(f"cumulative-{target}-{_word(sign)}", title, draw)


def top_bars(record: RunRecord) -> Plot:
    """Draw D+ and D− of the top 100 neurons of each method."""
    panels = [_bars_panel(record, target) for target in TARGETS if _influences(record, target)]
    return _plot(
        "bars",
        "The hundred strongest neurons",
        "How to read it: the sum over the 100 neurons with the largest change, means over seeds. "
        "A long D− bar beside a short D+ bar says that the method mostly added inhibition. Each "
        "panel names its attribution target and has its own scale. " + BLIND,
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

    height = 1.3 + 0.55 * len(by_method)
    title = f"Top 100 · target {TARGET_NAMES[target]}"
    return _panel(f"bars-{target}", title, draw, size=(SIZE[0], height), fit=True)


def _bar_axes(axes: Axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), [_cut(label) for label in labels])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, (axes.get_xlim()[1] or 1.0) * 1.12)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
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
    return _plot(
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
    titles = [
        f"{plain(module)}, layer {layer}: {short(value)}"
        for module, values in zip(rows, padded, strict=True)
        for layer, value in enumerate(values)
    ]

    def draw(axes: Axes) -> None:
        if titles:
            _mesh(axes, padded, sign, top)
        axes.set_xlim(0, max(layers, 1))
        axes.set_ylim(max(len(rows), 1), 0)
        _heat_axes(axes, list(rows), layers)

    title = f"{plain(label)} · D{sign}"
    size = (SIZE[0], 0.75 + 0.2 * len(rows))
    return _panel(f"heat-{label}-{_word(sign)}", title, draw, size=size, fit=True, titles=titles)


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
    return _panel(f"heat-scale-{_word(sign)}", f"Legend: {name}", draw, size=(SIZE[0], 0.55), fit=True)


def lens_curves(record: RunRecord) -> Plot:
    """Draw the logit lens accuracy by layer, before and after."""
    found = [
        (style, cell.diagnosis.lens_before, cell.diagnosis.lens_after)
        for cell, style in _styled(record)
        if cell.diagnosis and (cell.diagnosis.lens_before or cell.diagnosis.lens_after)
    ]

    def draw(axes: Axes) -> None:
        before = next((lens for _, lens, _ in found if lens is not None), None)
        if before is not None:
            layers = range(len(before.accuracy))
            axes.plot(layers, before.accuracy, color=FAINT, linewidth=3.5, alpha=0.6)
        for style, _, after in found:
            if after is not None:
                _line(axes, list(range(len(after.accuracy))), list(after.accuracy), style, every=5)
        axes.axhline(0.5, color=INK, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
        _percent_axis(axes)
        axes.set_xlabel("layer (0: embeddings)")
        axes.set_ylabel("gold ranked above distractor, %")

    return _plot(
        "lens",
        "What each layer still knows (logit lens)",
        "How to read it: the hidden state of each layer is read through the output embedding; how "
        "often does it prefer the answer to a random distractor? Broad grey: before unlearning; "
        "coloured: after. Dots at 50\u00a0%: guessing. Near 50\u00a0% from early on looks "
        "erased; high in the middle and low at the end looks hidden; far below 50\u00a0% is "
        "over-unlearning. "
        "No attribution is involved.",
        [_panel("lens", "Logit lens accuracy", draw)] if found else [],
        _legend(record, "lens", (style for style, _, after in found if after)),
        columns=1,
        absent="No logit lens was read, so there is no curve by layer.",
    )


def training_curves(record: RunRecord) -> Plot:
    """Draw how unlearning itself went."""
    measures: list[tuple[str, str, Callable[[StepLog], float | None]]] = [
        ("forget-loss", "Forget loss, nats", lambda step: step.forget_loss),
        ("forget-score", "Forget score (stop rule), %", lambda step: step.forget_score),
        ("retain-loss", "Retain loss, nats", lambda step: step.retain_loss),
    ]
    panels = [
        _training_panel(record, key, title, read)
        for key, title, read in measures
        if any(read(step) is not None for step in _all_steps(record))
    ]
    return _plot(
        "training",
        "How unlearning went",
        "How to read it: losses and the score of the stop rule over the optimiser steps of "
        "unlearning. Dashes in the score: the threshold at which unlearning stops. A run that "
        "ends above it was stopped by its limit of steps. No attribution is involved.",
        panels,
        _legend(
            record,
            "training",
            (style for cell, style in _styled(record) if cell.unlearning and cell.unlearning.steps),
        ),
        absent="No unlearning steps were recorded, so there are no training curves.",
    )


def _training_panel(
    record: RunRecord, key: str, title: str, read: Callable[[StepLog], float | None]
) -> Panel:
    def draw(axes: Axes) -> None:
        for cell, style in _styled(record):
            steps = cell.unlearning.steps if cell.unlearning else []
            points = [(s.step, value) for s in steps if (value := read(s)) is not None]
            _line(
                axes,
                [x for x, _ in points],
                [y for _, y in points],
                style,
                every=1 + len(points) // 8,
            )
        axes.set_xlabel("unlearning steps")
        axes.set_ylabel(title.partition(", ")[2])
        if key == "forget-score":
            _percent_axis(axes)
            thresholds = {c.unlearning.threshold for c in record.cells if c.unlearning}
            for threshold in sorted(thresholds):
                axes.axhline(threshold, color=INK, linestyle=(0, (4, 3)), linewidth=1, zorder=1)

    return _panel(f"training-{key}", title.split(",")[0], draw)


def _all_steps(record: RunRecord) -> list[StepLog]:
    return [step for cell in record.cells if cell.unlearning for step in cell.unlearning.steps]


# --- how it is drawn ----------------------------------------


def styles(record: RunRecord) -> dict[str, Style]:
    """Return the look of each method, by label, the same in every figure."""
    labels = dict.fromkeys(cell.method.label for cell in record.cells)
    return {
        label: Style(
            COLOURS[index % len(COLOURS)],
            # With more than eight methods a colour returns with another marker.
            MARKERS[(index + index // len(COLOURS)) % len(MARKERS)],
            DASHES[(index + index // len(COLOURS)) % len(DASHES)],
        )
        for index, label in enumerate(labels)
    }


def _styled(record: RunRecord) -> list[tuple[Cell, Style]]:
    looks = styles(record)
    return [(cell, looks[cell.method.label]) for cell in record.cells]


def _influences(record: RunRecord, target: Target) -> list[tuple[Cell, Style, Influence]]:
    return [
        (cell, style, cell.diagnosis.influence[target])
        for cell, style in _styled(record)
        if cell.diagnosis and target in cell.diagnosis.influence
    ]


def _line(
    axes: Axes, xs: Sequence[float], ys: Sequence[float | None], style: Style, every: int = 1
) -> None:
    values = [math.nan if y is None or not math.isfinite(y) else y for y in ys]
    axes.plot(
        xs,
        values,
        color=style.colour,
        linestyle=style.dash,
        marker=style.marker,
        markevery=every,
        markersize=5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linewidth=1.7,
    )


def _percent_axis(axes: Axes) -> None:
    axes.set_ylim(-0.03, 1.05)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1.0]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 0)))


def _amount_axis(axes: Axes, top: float) -> None:
    # An axis of nothing but zeros would otherwise be drawn from -0.05 to 0.05.
    axes.set_ylim(0, 1.06 * top or 1.0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _thin(steps: list[int]) -> list[int]:
    """Return at most about eight of the steps, always the first and the last."""
    every = max(1, math.ceil(len(steps) / 8))
    return sorted({*steps[::-1][::every], *steps[:1]})


def _cut(label: str, room: int = 18) -> str:
    text = plain(label)
    return text if len(text) <= room else text[: room - 1] + "…"


def _word(sign: str) -> str:
    return "plus" if sign == "+" else "minus"


def _plot(
    key: str,
    title: str,
    reading: str,
    panels: list[Panel],
    legend: list[Key],
    columns: int = 2,
    absent: str = "",
) -> Plot:
    return Plot(key, title, reading, panels, legend, columns, "" if panels else absent)


def _panel(
    key: str,
    title: str,
    draw: Callable[[Axes], None],
    note: str = "",
    *,
    size: tuple[float, float] = SIZE,
    fit: bool = False,
    titles: Sequence[str] = (),
) -> Panel:
    """Draw one panel.

    Args:
        key: Unique in the page; becomes the prefix of the ids.
        title: Heading of the panel and name of the picture for a screen reader.
        draw: Draws on the axes it is given.
        note: A sentence below the panel.
        size: Width and height in inches of 72 units.
        fit: Let labels decide the margins; else margins are equal, so that panels line up.
        titles: Texts shown when the pointer rests on the cells of `_mesh`, row by row.
    """
    figure = Figure(figsize=size, layout="constrained" if fit else None)
    axes = figure.add_subplot()
    if not fit:
        figure.subplots_adjust(left=0.145, right=0.975, bottom=0.175, top=0.965)
    draw(axes)
    return Panel(title, inline_svg(_svg(figure), key, title, titles), note)


def _legend(record: RunRecord, plot: str, drawn: Iterable[Style]) -> list[Key]:
    """Return the legend of what is drawn; `plot` keeps the ids of equal legends apart."""
    shown = set(drawn)
    return [
        Key(label, inline_svg(_swatch(style), f"{plot}-swatch-{index}", ""))
        for index, (label, style) in enumerate(styles(record).items())
        if style in shown
    ]


@lru_cache(maxsize=64)
def _swatch(style: Style) -> str:
    """Draw a short line with its marker, by matplotlib too, so that it looks as in the figure."""
    figure = Figure(figsize=(0.5, 0.2))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    axes.set_xlim(0, 1)
    axes.set_ylim(-1, 1)
    axes.plot([0.03, 0.97], [0, 0], color=style.colour, linestyle=style.dash, linewidth=1.8)
    axes.plot([0.5], [0], style.marker, color=style.colour, markersize=6, markeredgecolor="white")
    return _svg(figure)


def _svg(figure: Figure) -> str:
    target = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(target, format="svg", metadata=nothing, transparent=True)
    return target.getvalue()


# --- from matplotlib's SVG to one that a strict page may hold ----------------------------

SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"
REFERENCE = re.compile(r"#([A-Za-z_][\w.-]*)")
NUMBER = re.compile(r"-?\d+\.\d{3,}")
# The system's own fonts are set by the page; matplotlib's list names fonts that few have.
DROPPED = {"font-family", "version"}


def inline_svg(source: str, key: str, label: str, titles: Sequence[str] = ()) -> str:
    """Return a matplotlib SVG as an element to be put into an HTML page.

    Style attributes become presentation attributes and the style element goes, because the page's
    policy would block both; ids get the panel's prefix or go; numbers keep two decimals.

    Args:
        source: What matplotlib wrote.
        key: Unique in the page.
        label: Name of the picture for a screen reader; empty: decoration, hidden from it.
        titles: Tooltips for the children of the group with the id "cells", in their order.
    """
    root = ET.fromstring(source)
    # Labels may hold what an id cannot; a checksum of the key is short and keeps them apart.
    prefix = f"s{zlib.crc32(key.encode()):x}-"
    for parent in list(root.iter()):
        _strip(parent)
    _tooltips(root.find(".//*[@id='cells']"), titles)
    used = {found for e in root.iter() for v in e.attrib.values() for found in _references(v)}
    for element in root.iter():
        _rewrite(element, prefix, used)
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    # What the dropped style element said for all.
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}
    root.attrib |= {"role": "img", "aria-label": label} if label else {"aria-hidden": "true"}
    return ET.tostring(root, encoding="unicode", short_empty_elements=True)


def _strip(parent: ET.Element) -> None:
    """Remove metadata and style elements, and the white space between elements."""
    for child in list(parent):
        if child.tag in {SVG + "metadata", SVG + "style"}:
            parent.remove(child)
        else:
            child.tail = None
    if not parent.tag.endswith("text"):
        parent.text = None


def _references(value: str) -> list[str]:
    return REFERENCE.findall(value) if value.startswith("#") or "url(" in value else []


def _rewrite(element: ET.Element, prefix: str, used: set[str]) -> None:
    # An HTML parser knows SVG without its name space, and the page then holds no address at all.
    element.tag = element.tag.removeprefix(SVG)
    attributes = {name.removeprefix(XLINK): value for name, value in element.attrib.items()}
    attributes |= _declarations(attributes.pop("style", ""))
    name = attributes.pop("id", "")
    if name in used:
        attributes["id"] = prefix + name
    element.attrib.clear()
    for attribute, value in attributes.items():
        if attribute not in DROPPED:
            element.set(attribute, _value(value, prefix))


def _tooltips(cells: ET.Element | None, titles: Sequence[str]) -> None:
    if cells is not None and titles:
        for cell, text in zip(cells, titles, strict=True):
            ET.SubElement(cell, "title").text = text


def _declarations(style: str) -> dict[str, str]:
    pairs = (part.partition(":") for part in style.split(";") if part.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _value(value: str, prefix: str) -> str:
    if value.startswith("#") and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return value
    if _references(value):
        return REFERENCE.sub(lambda found: f"#{prefix}{found[1]}", value)
    rounded = NUMBER.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)
    return " ".join(rounded.split())
