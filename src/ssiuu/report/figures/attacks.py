"""What attacks bring back: curves over their steps, and against what was kept.

A curve is drawn on the scale that the run's score gives its attack, and as the answers' log-probability
where nothing is ranked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ssiuu.analysis.column import Column, Model
from ssiuu.analysis.columns import attack_scales, columns, original
from ssiuu.analysis.comparisons import interval, score_level
from ssiuu.analysis.front import axes_of
from ssiuu.analysis.kept import lost
from ssiuu.analysis.levels import attacked, looks
from ssiuu.analysis.scale import DEPTH, FREE, Scale, level, mean
from ssiuu.analysis.scores import score_of
from ssiuu.analysis.verdict import common_pool, level_interval, strongest
from ssiuu.records.schema import AttackCurve, Cell, RunRecord
from ssiuu.report.figures.draw import (
    FAINT,
    INK,
    Number,
    Panel,
    Plot,
    Style,
    kept_axis,
    legend,
    line,
    numbers,
    panel,
    percent_axis,
    plot,
    styled,
)
from ssiuu.report.text import Z, plain, rate, short
from ssiuu.statistics import Estimate, Interval

NAMED = 5  # at most so many names fit on an axis


def attack_curves(record: RunRecord) -> Plot:
    """Draw the score on the common pool over the steps of each attack."""
    scales = {name: drawn_scale(record, name) for name in attack_scales(record)}
    panels = [_attack_panel(record, name, scale) for name, scale in scales.items()]
    units = dict.fromkeys(scale.unit for scale in scales.values() if scale is not FREE)
    what = " or ".join(units) or "score"
    return plot(
        "attacks",
        "What each attack brings back",
        f"How to read it: {what} on the facts no attack trained on, over the optimiser steps of the "
        "attack, or over what else it varies (0 is the unlearned model). Sampled answers: the share of "
        "facts that one of k answers gives away. A line that climbs means that the knowledge was still "
        "there. For each method the "
        "curve with the highest level is drawn. Grey dashes: the original model on the "
        "same facts; dots: guessing. No attribution is involved.",
        panels,
        legend(record, "attacks", (style for cell, style in styled(record) if cell.attacks)),
        absent="No attack has run yet, so there are no attack curves.",
    )


def _attack_panel(record: RunRecord, name: str, scale: Scale) -> Panel:
    curves: list[tuple[Style, AttackCurve, list[float | None]]] = []
    rates: dict[str, list[str]] = {}
    drawn: list[Number] = []
    for cell, style in styled(record):
        chosen = best_curve(cell, name, scale)
        if chosen is not None:
            curves.append((style, *chosen))
            drawn += numbers(cell, [read.label or read.step for read in chosen[0].reads], chosen[1])
            speed = rate(chosen[0].learning_rate) if chosen[0].learning_rate else ""
            rates.setdefault(speed, []).append(cell.method.label)
    # An attack that does not train (quantisation, a prompt) has no learning rate.
    rates.pop("", None)

    labels = _place_labels([attack for _, attack, _ in curves])

    def draw(axes: Axes) -> None:
        steps = sorted({read.step for _, attack, _ in curves for read in attack.reads})
        for style, attack, levels in curves:
            if labels:  # places in no order of their own: points, no line
                line(axes, list(range(len(levels))), levels, style._replace(dash="none"))
            else:
                line(axes, [read.step for read in attack.reads], levels, style)
        _attack_axes(axes, record, steps, name, scale)
        if labels:
            _name_places(axes, labels)
        elif not rates and steps == [0, 1]:
            axes.set_xlabel("0: unlearned · 1: under the attack")

    fastest = [f"{speed} ({', '.join(dict.fromkeys(labels_at))})" for speed, labels_at in rates.items()]
    note = f"Learning rate drawn: {'; '.join(fastest)}." if fastest else ""
    if len(labels) > NAMED:
        note = "; ".join(f"{place}: {plain(label)}" for place, label in enumerate(labels)) + "."
    return panel(f"attack-{name}", plain(name), draw, note, numbers=drawn)


def _place_labels(attacks: list[AttackCurve]) -> list[str]:
    """Return what stands at each place of an attack that has names there; empty where numbers do."""
    longest = max((attack.reads for attack in attacks), key=len, default=[])
    labels = [read.label for read in longest]
    return ["unlearned", *labels[1:]] if any(labels) else []


def _name_places(axes: Axes, labels: list[str]) -> None:
    """Put names on the axis, or numbers where they would not fit (the panel's note explains them)."""
    shown = [plain(label) for label in labels] if len(labels) <= NAMED else map(str, range(len(labels)))
    axes.set_xscale("linear")
    axes.set_xticks(range(len(labels)), list(shown))


def drawn_scale(record: RunRecord, name: str) -> Scale:
    """Return the scale an attack is drawn on: log p in the ranking's place where there is none."""
    scale = attack_scales(record)[name]
    ranked = any(strongest(cell) for cell in record.cells)
    return DEPTH if scale.chance and not ranked else scale


def best_curve(cell: Cell, name: str, scale: Scale) -> tuple[AttackCurve, list[float | None]] | None:
    """Return the curve of this attack that reaches the highest level, and its levels."""
    pool = sorted(common_pool(cell.attacks))
    best = None
    for attack in (attack for attack in cell.attacks if attack.name == name):
        levels = [level(attack, read, pool, scale) for read in range(len(attack.reads))]
        top = max((height for height in levels[1:] if height is not None), default=-math.inf)
        if best is None or top > best[0]:
            best = (top, attack, levels)
    return None if best is None else best[1:]


def _attack_axes(axes: Axes, record: RunRecord, steps: list[int], name: str, scale: Scale) -> None:
    # Steps double, and 0 must be on the axis: linear up to 1, logarithmic after.
    axes.set_xscale("symlog", linthresh=1, base=2)
    axes.xaxis.set_major_locator(FixedLocator(_thin(steps)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))
    labels = (a.axis_label for cell in record.cells for a in cell.attacks if a.name == name)
    axes.set_xlabel(next(labels, ""))
    axes.set_ylabel(f"{scale.unit}, common pool, %" if scale.share else scale.unit)
    if scale.share:
        percent_axis(axes)
    if scale.share and scale is not FREE:
        _reference_lines(axes, record, scale)


def _reference_lines(axes: Axes, record: RunRecord, scale: Scale) -> None:
    """Draw what the original model scores, and guessing where that is on this scale."""
    before = _original_level(record, scale)
    if before is not None:
        axes.axhline(before, color=FAINT, linestyle=(0, (6, 3)), linewidth=1.1, zorder=1)
    if record.header.chance is not None and scale.chance:
        axes.axhline(record.header.chance, color=INK, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)


def _thin(steps: list[int]) -> list[int]:
    """Return at most about eight of the steps, always the first and the last."""
    every = max(1, math.ceil(len(steps) / 8))
    return sorted({*steps[::-1][::every], *steps[:1]})


def _original_level(record: RunRecord, scale: Scale) -> float | None:
    if record.original is None:
        return None
    pool = set().union(*(common_pool(cell.attacks) for cell in record.cells))
    return mean(scale.before(score) for fact, score in record.original.forget.items() if fact in pool)


def retention_front(record: RunRecord, against: str | None = None) -> Plot:
    """Draw what an attack brings back against what was kept: by KL and by the score of facts to stay.

    Args:
        record: The run.
        against: Key of another column to draw it against first.

    Raises:
        ConfigError: There is no such column.
    """
    panels: list[Panel] = []
    seen: list[Style] = []
    for kept in axes_of(record, against):
        points = _points(record, kept)
        if points:
            panels.append(_front_panel(record, kept, points))
            seen += [style for _, style, _, _ in points]
    return plot(
        "front",
        "What was kept against what comes back",
        "How to read it: one point a method and seed. Low is better (the strongest attack brings "
        "little back); the axis says where more was kept, on plain text (KL) and of other facts of the "
        "same form. A model must keep both: one that did not is drawn hollow. Compare levels only at "
        f"equal retention. Levels in {score_of(record).scale.unit}. Bars: 95\u00a0% intervals, "
        "the upright ones widened for the number of attack curves. Star: the original model; "
        "dots: guessing. No attribution is involved.",
        panels,
        legend(record, "front", dict.fromkeys(seen)),
        columns=min(2, max(1, len(panels))),
        absent="This needs an evaluation and an attack of the same method; none has both yet.",
    )


FrontPoint = tuple[Cell, Style, Estimate, Interval | Estimate]


def _points(record: RunRecord, kept: Column) -> list[FrontPoint]:
    return [
        (cell, style, x, back)
        for cell, style in styled(record)
        if (x := _kept(Model(record, cell), kept)) is not None
        and (back := _back(Model(record, cell))) is not None
    ]


def _front_panel(record: RunRecord, kept: Column, points: Sequence[FrontPoint]) -> Panel:
    def draw(axes: Axes) -> None:
        for cell, style, x, back in points:
            _cross(axes, style, x, back, bool(lost(record, cell)))
        _front_axes(axes, record, kept, [x.value for _, _, x, _ in points])

    drawn = [Number(cell.method.label, cell.seed, x.value, *back) for cell, _, x, back in points]
    key = "front" if kept.key == score_of(record).kept else f"front-{kept.key}"
    return panel(key, f"{kept.heading} and level after attack", draw, numbers=drawn)


def _kept(model: Model, kept: Column) -> Estimate | None:
    """Return what was kept, with its interval where it has one."""
    value = kept.read(model)
    if value is None:
        return None
    spread = next((c.read(model) for c in columns(model.record) if c.key == kept.error), None)
    if spread is not None:
        return Estimate(value, value - Z * spread, value + Z * spread)
    return interval(model, kept) or Estimate(value, value, value)


def _back(model: Model) -> Interval | Estimate | None:
    """Return the highest level after an attack, its interval widened for the number of settings."""
    record, scale = model.record, score_of(model.record).scale
    if scale.chance:
        return level_interval(model.cell)
    names = [name for name, unit in attack_scales(record).items() if unit is scale]
    tried = sum(looks(model.cell.attacks, name) for name in names)
    levels = [score_level(record, [attacked(model, name, scale)], tried) for name in names]
    return max((back for back in levels if back is not None), key=lambda e: e.value, default=None)


def _cross(
    axes: Axes, style: Style, kept: Estimate, back: Interval | Estimate, hollow: bool = False
) -> None:
    (x, x_low, x_high), (y, y_low, y_high) = kept, back
    axes.plot([x_low, x_high], [y, y], color=style.colour, linewidth=0.9, alpha=0.6)
    axes.plot([x, x], [y_low, y_high], color=style.colour, linewidth=0.9, alpha=0.6)
    edge = {"markerfacecolor": "white", "markeredgecolor": style.colour, "markeredgewidth": 1.6}
    look = edge if hollow else {"markeredgecolor": "white"}
    axes.plot([x], [y], style.marker, color=style.colour, markersize=8, **look)


def _front_axes(axes: Axes, record: RunRecord, kept: Column, values: Sequence[float]) -> None:
    percent_axis(axes)
    kept_axis(axes, kept, values)
    scale = score_of(record).scale
    axes.set_ylabel("highest after attack, %  (low: gone)")
    if record.header.chance is not None and scale.chance:
        axes.axhline(record.header.chance, color=INK, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
    first, before = original(record), _original_level(record, scale)
    whole = _kept(first, kept) if first else None
    if whole is not None and before is not None:
        axes.plot([whole.value], [before], "*", color=FAINT, markersize=12, zorder=1)
