"""What attacks bring back: curves over their steps, and against what was kept.

A curve is drawn in the score its benchmark is judged by: the accuracy of ranking, in TOFU the ROUGE-L
recall of the written answers, and the answers' log-probability where nothing is ranked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ssiuu.analysis.comparisons import level, looks, outcomes
from ssiuu.analysis.rows import Level, attack_names, level_of, mean, scored_of
from ssiuu.analysis.tofu import attack_rouge, is_tofu
from ssiuu.analysis.verdict import (
    accuracy,
    common_pool,
    level_interval,
    strongest,
)
from ssiuu.records.schema import Attack, Cell, MethodInfo, RunRecord
from ssiuu.report.figures.draw import (
    FAINT,
    INK,
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
from ssiuu.report.text import percent, plain, rate, short
from ssiuu.statistics import Estimate, Interval, wilson

NAMED = 5  # at most so many names fit on an axis


def attack_curves(record: RunRecord) -> Plot:
    """Draw the score on the common pool over the steps of each attack."""
    panels = [_attack_panel(record, name) for name in attack_names(record)]
    what = "mean answer log-probability"
    if any(strongest(cell) for cell in record.cells):
        what = "accuracy on the facts no attack trained on"
    if is_tofu(record):
        what = (
            "mean ROUGE-L recall of the written answers on the facts no attack trained on (accuracy "
            "where an attack writes none)"
        )
    return plot(
        "attacks",
        "What each attack brings back",
        f"How to read it: {what}, over the optimiser steps of the attack, or over what else it "
        "varies (0 is the unlearned model). Sampled answers: the share of facts that one of k answers "
        "gives away. A line that climbs means that the knowledge was still there. For each method the "
        "curve with the highest level is drawn. Grey dashes: the original model on the "
        "same facts; dots: guessing. No attribution is involved.",
        panels,
        legend(record, "attacks", (style for cell, style in styled(record) if cell.attacks)),
        absent="No attack has run yet, so there are no attack curves.",
    )


def _attack_panel(record: RunRecord, name: str) -> Panel:
    curves: list[tuple[Style, Attack, list[float | None]]] = []
    rates: dict[str, list[str]] = {}
    drawn: list[Number] = []
    for cell, style in styled(record):
        chosen = best_curve(cell, name, drawn_level(record, name))
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
        _attack_axes(axes, record, steps, name)
        if labels:
            _name_places(axes, labels)
        elif not rates and steps == [0, 1]:
            axes.set_xlabel("0: unlearned · 1: under the attack")

    fastest = [f"{speed} ({', '.join(dict.fromkeys(found))})" for speed, found in rates.items()]
    note = f"Learning rate drawn: {'; '.join(fastest)}." if fastest else ""
    if len(labels) > NAMED:
        note = "; ".join(f"{place}: {plain(label)}" for place, label in enumerate(labels)) + "."
    return panel(f"attack-{name}", plain(name), draw, note, numbers=drawn)


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


def drawn_level(record: RunRecord, name: str) -> Level:
    """Return how a reading of this attack is drawn: see `level_of`; log p where nothing is ranked."""
    ranked = any(strongest(cell) for cell in record.cells)
    score = level_of(record, name)
    return score if ranked or score is attack_rouge or scored_of(record, name) == "free" else _depth


def _depth(attack: Attack, read: int, pool: Iterable[str]) -> float | None:
    facts = attack.reads[read].facts
    return mean([facts[fact].logprob for fact in pool if fact in facts])


def best_curve(cell: Cell, name: str, score: Level) -> tuple[Attack, list[float | None]] | None:
    """Return the curve of this attack that reaches the highest level, and its levels.

    Args:
        cell: One method and seed.
        name: The attack's name; its learning rates compete.
        score: How a reading is scored over the common pool.
    """
    pool = sorted(common_pool(cell.attacks))
    best = None
    for attack in (attack for attack in cell.attacks if attack.name == name):
        levels = [score(attack, read, pool) for read in range(len(attack.reads))]
        top = max((level for level in levels[1:] if level is not None), default=-math.inf)
        if best is None or top > best[0]:
            best = (top, attack, levels)
    return None if best is None else best[1:]


def _attack_axes(axes: Axes, record: RunRecord, steps: list[int], name: str) -> None:
    score = drawn_level(record, name)
    # Steps double, and 0 must be on the axis: linear up to 1, logarithmic after.
    axes.set_xscale("symlog", linthresh=1, base=2)
    axes.xaxis.set_major_locator(FixedLocator(_thin(steps)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    label, scored = next(
        (attack.axis_label, attack.scored)
        for cell in record.cells
        for attack in cell.attacks
        if attack.name == name
    )
    axes.set_xlabel(label)
    if scored == "free":  # neither guessing nor the original's ranking is on this scale
        percent_axis(axes)
        axes.set_ylabel("facts that leaked, common pool, %")
        return
    if score is _depth:
        axes.set_ylabel("mean log p(answer), nats")
        return
    percent_axis(axes)
    written = score is attack_rouge
    axes.set_ylabel("ROUGE-L recall, common pool, %" if written else "accuracy, common pool, %")
    before = _original_level(record, written)
    if before is not None:
        axes.axhline(before, color=FAINT, linestyle=(0, (6, 3)), linewidth=1.1, zorder=1)
    if record.header.chance is not None and not written:  # guessing is a matter of ranking
        axes.axhline(record.header.chance, color=INK, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)


def _thin(steps: list[int]) -> list[int]:
    """Return at most about eight of the steps, always the first and the last."""
    every = max(1, math.ceil(len(steps) / 8))
    return sorted({*steps[::-1][::every], *steps[:1]})


def _original_level(record: RunRecord, written: bool) -> float | None:
    if record.original is None:
        return None
    pool = set().union(*(common_pool(cell.attacks) for cell in record.cells))
    scores = [score for fact, score in record.original.forget.items() if fact in pool]
    if written:
        return mean([score.rouge for score in scores if score.rouge is not None])
    return accuracy(scores)


def retention_front(record: RunRecord) -> Plot:
    """Draw what was kept (the held-out score) against what an attack brings back."""
    written = is_tofu(record)
    points = [
        (cell, style, kept, back)
        for cell, style in styled(record)
        if (kept := _kept(record, cell)) is not None and (back := _back(record, cell)) is not None
    ]
    bars = "bootstrap intervals over authors" if written else "Wilson intervals"

    drawn = [Number(cell.method.label, cell.seed, kept[0], *back) for cell, _, kept, back in points]

    def draw(axes: Axes) -> None:
        for _, style, kept, back in points:
            _cross(axes, style, kept, back)
        _front_axes(axes, record)

    return plot(
        "front",
        "What was kept against what comes back",
        "How to read it: one point a method and seed. Right is better (other facts of the "
        "same form are kept), low is better (the strongest attack brings little back), so the lower "
        "right corner is where to be; compare levels only at equal retention, and see in the table "
        "how far each moved on plain text (KL): the one does not tell the other. "
        f"{'Both are mean ROUGE-L recalls of the written answers. ' if written else ''}"
        f"Bars: 95\u00a0% {bars}, "
        "the upright ones widened for the number of attack curves. Star: the original model; "
        "dots: guessing. "
        "No attribution is involved.",
        [panel("front", "Held-out score and level after attack", draw, numbers=drawn)]
        if points
        else [],
        legend(record, "front", (style for _, style, _, _ in points)),
        columns=1,
        absent="This needs an evaluation and an attack of the same method; none has both yet.",
    )


def _kept(record: RunRecord, cell: Cell) -> Interval | Estimate | None:
    if is_tofu(record):
        return level(record, [outcomes(cell, "heldout_rouge")])
    scores = cell.evaluation.heldout.values() if cell.evaluation else ()
    right = [s.correct for s in scores if s.correct is not None]
    return wilson(sum(right), len(right)) if right else None


def _back(record: RunRecord, cell: Cell) -> Interval | Estimate | None:
    """Return the highest level after an attack, its interval widened for the number of settings."""
    if not is_tofu(record):
        return level_interval(cell)
    names = [name for name in attack_names(record) if scored_of(record, name) == "written"]
    tried = sum(looks(cell, name) for name in names)
    found = [level(record, [outcomes(cell, name)], tried) for name in names]
    return max((back for back in found if back is not None), key=lambda e: e.value, default=None)


def _cross(axes: Axes, style: Style, kept: Interval | Estimate, back: Interval | Estimate) -> None:
    (x, x_low, x_high), (y, y_low, y_high) = kept, back
    axes.plot([x_low, x_high], [y, y], color=style.colour, linewidth=0.9, alpha=0.6)
    axes.plot([x, x], [y_low, y_high], color=style.colour, linewidth=0.9, alpha=0.6)
    axes.plot([x], [y], style.marker, color=style.colour, markersize=8, markeredgecolor="white")


def _front_axes(axes: Axes, record: RunRecord) -> None:
    percent_axis(axes)
    axes.set_xlim(-0.02, 1.04)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 0)))
    written = is_tofu(record)
    what = "ROUGE-L recall" if written else "accuracy"
    axes.set_xlabel(f"held-out {what}, %  (right: more kept)")
    axes.set_ylabel("highest after attack, %  (low: gone)")
    if record.header.chance is not None and not written:
        axes.axhline(record.header.chance, color=INK, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
    nothing = MethodInfo(label="", name="none", origin="control", description="")
    kept = _kept(record, Cell(method=nothing, seed=0, evaluation=record.original))
    before = _original_level(record, written)
    if kept is not None and before is not None:
        axes.plot([kept[0]], [before], "*", color=FAINT, markersize=12, zorder=1)
