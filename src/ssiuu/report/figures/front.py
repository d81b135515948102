"""What comes back against what was kept, over several runs: a panel for all that compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import matplotlib
from matplotlib.axes import Axes

from ssiuu.analysis.across import Ground, Member
from ssiuu.analysis.column import Column
from ssiuu.analysis.front import axis, front
from ssiuu.report.figures.draw import (
    FAINT,
    INK,
    RC,
    Number,
    Panel,
    Plot,
    Style,
    kept_axis,
    keys,
    looks,
    panel,
    percent_axis,
    plot,
)
from ssiuu.report.text import Z, plain
from ssiuu.statistics import Estimate

# With more methods than this only those that none beats have a look of their own.
MOST = 16
OTHERS = Style(FAINT, "o", "none")


class _Point(NamedTuple):
    member: Member
    style: Style
    x: Estimate
    y: Estimate


def fronts(grounds: Sequence[Ground], against: str | None = None) -> Plot:
    """Draw the highest level after attacks against what was kept, a point a method.

    Args:
        grounds: What compares, each a panel.
        against: Key of the column that is drawn to the right; None: see `ssiuu.analysis.front.axis`.

    Raises:
        ConfigError: A ground has no such column.
    """
    styles, named = _looks(grounds, against)
    panels: list[Panel] = []
    drawn: list[Style] = []
    with matplotlib.rc_context(RC):
        for place, ground in enumerate(grounds):
            kept = axis(ground, against)
            if points := _points(ground, kept, styles):
                panels.append(_panel(ground, kept, points, f"front-{place}"))
                drawn += [point.style for point in points]
        legend = keys(named, "front", drawn)
    return plot(
        "front",
        "What comes back against what was kept",
        "How to read it: one point a method under one group of settings, a mean over its seeds. Low is "
        "better: the strongest of the attacks that all of these models met brings little back. The "
        "axis says where more was kept: left for the KL (the model moved little on plain text), right "
        "for a score of other facts. The grey line joins the methods that no other one beats in "
        "both. Dots: guessing. Compare levels only at equal retention, and never from panel to panel. "
        "Bars: 95\u00a0% intervals.",
        panels,
        legend,
        columns=2 if len(panels) > 1 else 1,
        absent="No method was both attacked and scored for what was kept.",
    )


def _looks(grounds: Sequence[Ground], against: str | None) -> tuple[dict[str, Style], dict[str, Style]]:
    """Return the look of every method, and of what the legend names."""
    labels = list(dict.fromkeys(m.name for g in grounds for m in g.members if not m.before))
    if len(labels) <= MOST:
        return (styles := looks(labels)), styles
    best = {member.name for ground in grounds for member in front(ground, axis(ground, against))}
    named = looks(label for label in labels if label in best)
    return {label: named.get(label, OTHERS) for label in labels}, named | {
        "all others, which stand in the tables": OTHERS
    }


def _points(ground: Ground, kept: Column, styles: Mapping[str, Style]) -> list[_Point]:
    points = []
    for member in ground.members:
        x, y = member.read(kept), ground.highest(member)
        if x is not None and y is not None and not member.before:
            points.append(_Point(member, styles[member.name], _ends(ground, member, kept, x), y))
    return points


def _ends(ground: Ground, member: Member, kept: Column, value: float) -> Estimate:
    """Return what was kept with its interval; without one where it has none."""
    if kept.error and len(member.models) == 1:
        half = Z * (member.read(ground.column(kept.error)) or 0.0)
        return Estimate(value, value - half, value + half)
    return member.interval(kept) or Estimate(value, value, value)


def _panel(ground: Ground, kept: Column, points: Sequence[_Point], key: str) -> Panel:
    def draw(axes: Axes) -> None:
        _level_axis(axes, ground)
        kept_axis(axes, kept, [point.x.value for point in points])
        _staircase(axes, front(ground, kept), points, kept)
        for point in points:
            _cross(axes, point)

    numbers = [Number(point.member.name, None, point.x.value, *point.y) for point in points]
    return panel(key, ground.name, draw, _note(ground), numbers=numbers)


def _note(ground: Ground) -> str:
    """Say which attacks the level is of."""
    return f"Highest of {', '.join(plain(name) for name in ground.met)}." if ground.met else ""


def _level_axis(axes: Axes, ground: Ground) -> None:
    scale, chance = ground.score.scale, next(iter(ground.headers.values())).chance
    if scale.share:
        percent_axis(axes)
    if scale.chance and chance is not None:
        axes.axhline(chance, color=INK, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
    axes.set_ylabel("highest after attack, %  (low: gone)" if scale.share else "highest after attack")


def _staircase(axes: Axes, best: Sequence[Member], points: Sequence[_Point], kept: Column) -> None:
    """Join the methods that none beats in both by the edge of what they beat."""
    names = {member.name for member in best}
    steps = sorted((p.x.value, p.y.value) for p in points if p.member.name in names)
    if not steps:
        return
    lower, (left, right) = kept.direction == "lower", axes.get_xlim()
    top = max(p.y.value for p in points)
    # On to the edges: what lies beyond the line is beaten.
    begin = (steps[0][0], top) if lower else (left, steps[0][1])
    end = (right, steps[-1][1]) if lower else (steps[-1][0], top)
    where: Literal["pre", "post"] = "post" if lower else "pre"
    xs, ys = zip(begin, *steps, end, strict=True)
    axes.step(xs, ys, where=where, color=FAINT, linewidth=1.1, zorder=1)


def _cross(axes: Axes, point: _Point) -> None:
    _, style, (x, x_low, x_high), (y, y_low, y_high) = point
    axes.plot([x_low, x_high], [y, y], color=style.colour, linewidth=0.9, alpha=0.6)
    axes.plot([x, x], [y_low, y_high], color=style.colour, linewidth=0.9, alpha=0.6)
    axes.plot([x], [y], style.marker, color=style.colour, markersize=8, markeredgecolor="white")
