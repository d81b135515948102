"""How every figure is drawn: one look a method, panels as SVG, legends, axes."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ssiuu.analysis.column import Column
from ssiuu.records.schema import Cell, RunRecord
from ssiuu.report.figures.svg import inline_svg
from ssiuu.report.text import percent, short

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
    # Text stays text, in the page's own font; ids are the same in every run.
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
SMALL = 0.001  # nats a token: below it the axis of the KL is linear
TICKS = (0, 0.001, 0.01, 0.1, 1, 10)


class Style(NamedTuple):
    """How a method is drawn in every figure."""

    colour: str
    marker: str
    dash: str | tuple[int, tuple[int, ...]]


class Number(NamedTuple):
    """One point of a figure, or one cell of a map; `low` and `high`: the ends of y's interval.

    `seed`: None where seeds are averaged.
    """

    method: str
    seed: int | None
    x: float | str
    y: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Panel:
    """One drawing: `title` says what it shows, `note` what the eye cannot read off it.

    `numbers`: what is drawn.
    """

    title: str
    svg: str
    note: str = ""
    numbers: Sequence[Number] = ()


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


def styles(record: RunRecord) -> dict[str, Style]:
    """Return the look of each method, by label, the same in every figure."""
    return looks(cell.method.label for cell in record.cells)


def looks(labels: Iterable[str]) -> dict[str, Style]:
    """Return a look for each of some labels, in their order."""
    return {
        label: Style(
            COLOURS[index % len(COLOURS)],
            # With more than eight methods a colour returns with another marker.
            MARKERS[(index + index // len(COLOURS)) % len(MARKERS)],
            DASHES[(index + index // len(COLOURS)) % len(DASHES)],
        )
        for index, label in enumerate(dict.fromkeys(labels))
    }


def styled(record: RunRecord) -> list[tuple[Cell, Style]]:
    """Return the cells of a run, each with its look."""
    looks = styles(record)
    return [(cell, looks[cell.method.label]) for cell in record.cells]


def numbers(cell: Cell, xs: Sequence[float | str], ys: Sequence[float | None]) -> list[Number]:
    """Return the points of one cell's curve."""
    return [Number(cell.method.label, cell.seed, x, y) for x, y in zip(xs, ys, strict=True)]


def line(
    axes: Axes, xs: Sequence[float], ys: Sequence[float | None], style: Style, every: int = 1
) -> None:
    """Draw a curve with gaps where a value is missing; a marker at every so many points."""
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


def percent_axis(axes: Axes) -> None:
    """Give the upright axis shares from 0 to 1, written in per cent."""
    axes.set_ylim(-0.03, 1.05)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1.0]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 0)))


def kept_axis(axes: Axes, kept: Column, values: Sequence[float]) -> None:
    """Give the level axis what was kept: shares from 0 to 1, a KL by powers of ten."""
    better = "left" if kept.direction == "lower" else "right"
    unit = {"share": ", %", "divergence": ", nats a token"}.get(kept.form, "")
    axes.set_xlabel(f"{kept.heading}{unit}  ({better}: more kept)")
    if kept.form == "share":
        axes.set_xlim(-0.02, 1.04)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 0)))
    elif kept.form == "divergence":
        axes.set_xscale("symlog", linthresh=SMALL)
        axes.set_xlim(-0.4 * SMALL, max(2 * max(values), 10 * SMALL))
        axes.xaxis.set_major_locator(FixedLocator(TICKS))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))


def plot(
    key: str,
    title: str,
    reading: str,
    panels: list[Panel],
    legend: list[Key],
    columns: int = 2,
    absent: str = "",
) -> Plot:
    """Put a figure together; without panels it says why instead."""
    return Plot(key, title, reading, panels, legend, columns, "" if panels else absent)


def panel(
    key: str,
    title: str,
    draw: Callable[[Axes], None],
    note: str = "",
    *,
    numbers: Sequence[Number] = (),
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
        numbers: What is drawn.
        size: Width and height in inches of 72 units.
        fit: Let labels decide the margins; else margins are equal, so that panels line up.
        titles: Texts shown when the pointer rests on the cells of `_mesh`, row by row.
    """
    figure = Figure(figsize=size, layout="constrained" if fit else None)
    axes = figure.add_subplot()
    if not fit:
        figure.subplots_adjust(left=0.145, right=0.975, bottom=0.175, top=0.965)
    draw(axes)
    return Panel(title, inline_svg(_svg(figure), key, title, titles), note, numbers)


def legend(record: RunRecord, plot: str, drawn: Iterable[Style]) -> list[Key]:
    """Return the legend of what is drawn; `plot` keeps the ids of equal legends apart."""
    return keys(styles(record), plot, drawn)


def keys(every: Mapping[str, Style], plot: str, drawn: Iterable[Style]) -> list[Key]:
    """Return a legend of those looks that are drawn."""
    shown = set(drawn)
    return [
        Key(label, inline_svg(_swatch(style), f"{plot}-swatch-{index}", ""))
        for index, (label, style) in enumerate(every.items())
        if style in shown
    ]


def swatch(colour: str, marker: str, key: str) -> str:
    """Return a marker alone, for a legend; `key` keeps the ids of equal ones apart."""
    return inline_svg(_swatch(Style(colour, marker, "none")), key, "")


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
    # No date and no version: the same record gives the same page.
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(target, format="svg", metadata=nothing, transparent=True)
    return target.getvalue()
