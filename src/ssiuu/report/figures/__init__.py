"""The figures of a report as inline SVG strings; made with matplotlib, never with pyplot.

    for plot in figures(record):
        plot.title, plot.reading, [panel.svg for panel in plot.panels]

A plot is a row of small panels, so that a page can stack them on a phone. Its SVG has no style
attributes and no style element (the page's security policy forbids them), no address of another
file, no date, and ids that are unique in the page. Equal records give equal strings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import matplotlib

from ssiuu.records.schema import RunRecord
from ssiuu.report.figures.attacks import attack_curves, best_curve, drawn_scale, retention_front
from ssiuu.report.figures.draw import RC, Key, Number, Panel, Plot, Style, styles
from ssiuu.report.figures.evidence import evidence_curves
from ssiuu.report.figures.influence import cumulative_curves, heat_maps, top_bars
from ssiuu.report.figures.lens import lens_curves
from ssiuu.report.figures.stability import stability_curves
from ssiuu.report.figures.strength import strength_curves, tried_strengths
from ssiuu.report.figures.svg import inline_svg
from ssiuu.report.figures.training import training_curves
from ssiuu.report.figures.verdicts import verdict_dots
from ssiuu.report.formats import csv_text

__all__ = [
    "Key",
    "Panel",
    "Plot",
    "Style",
    "attack_curves",
    "best_curve",
    "cumulative_curves",
    "drawn_scale",
    "evidence_curves",
    "figure_numbers",
    "figures",
    "heat_maps",
    "inline_svg",
    "lens_curves",
    "retention_front",
    "stability_curves",
    "strength_curves",
    "styles",
    "top_bars",
    "training_curves",
    "verdict_dots",
]


# Which figures show what one of the paper's does, by `Plot.key`; numbers as in the reviewed version.
PAPER = {
    "attacks": "the highest point of a curve is what the paper's Tables 1 and 2 hold",
    "cumulative": "as the paper's Fig. 3: influence variation over the top m neurons",
    "bars": "as the paper's Fig. 3, at m = 100",
    "heat": "as the paper's heat maps of module and layer",
    "lens": "as the paper's logit lens, Fig. 4",
    "strength": "as the paper's Fig. 7, over λ",
}


def figures(record: RunRecord, against: str | None = None) -> list[Plot]:
    """Return all figures of a run, in the order of the page.

    Args:
        record: The run.
        against: Key of a column to draw levels after attack against, before the two measures of what
            was kept.

    Raises:
        ConfigError: There is no such column.
    """
    front = partial(retention_front, against=against)
    # Of several methods the front says most, of one model its curves do.
    several = len({c.method.label for c in record.cells if c.method.origin != "control"}) > 1
    makers: list[Callable[[RunRecord], Plot]] = [
        *((front, attack_curves) if several else (attack_curves, front)),
        cumulative_curves,
        top_bars,
        heat_maps,
        lens_curves,
        training_curves,
    ]
    if any(cell.diagnosis and cell.diagnosis.evidence for cell in record.cells):
        makers.insert(-1, evidence_curves)
    if any(cell.stability for cell in record.cells):
        makers.insert(-1, stability_curves)
    if tried_strengths(record):
        makers.insert(2, strength_curves)
    if any(cell.examination for cell in record.cells):
        makers.insert(1 if several else 0, verdict_dots)
    with matplotlib.rc_context(RC):
        return [_labelled(make(record)) for make in makers]


def _labelled(plot: Plot) -> Plot:
    """Say in a figure's text which of the paper's shows the same."""
    same = PAPER.get(plot.key)
    return replace(plot, reading=f"{plot.reading} {same[0].upper()}{same[1:]}.") if same else plot


def figure_numbers(plots: Iterable[Plot]) -> str:
    """Return the numbers of all figures as CSV, a row a point: figure, panel, then `Number`.

    An empty field was not measured; an empty `low` and `high`: there is no interval.
    """
    lines = [
        [plot.key, panel.title, *number]
        for plot in plots
        for panel in plot.panels
        for number in panel.numbers
    ]
    return csv_text(["figure", "panel", *Number._fields], lines)
