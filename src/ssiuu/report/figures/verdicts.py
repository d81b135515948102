"""The evidence of every fact, beside decoys and planted controls: what the verdict is made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import NullLocator
from matplotlib.transforms import IdentityTransform

from ssiuu.analysis.column import Model
from ssiuu.analysis.evidence import LEVEL, PARTS, constants, shown, threshold
from ssiuu.analysis.verdict import VERDICTS
from ssiuu.records.schema import Attacker, RunRecord
from ssiuu.report.answer import p_value
from ssiuu.report.figures.draw import FAINT, INK, Key, Number, Panel, Plot, panel, plot, swatch
from ssiuu.report.text import named, percent, plain, ratio

PLANTED = "hidden on purpose"
LOOKS: Mapping[str, tuple[str, str]] = {
    "erased": ("#00694b", "o"),
    "hidden": ("#c45100", "D"),
    "not removed": ("#a3123a", "s"),
    "undecided": ("#6b747d", "X"),
    PLANTED: ("#3f7fbf", "v"),
}
ROW = 0.3  # of a band's height, between dots that would else lie on each other
BINS = 48


class Dot(NamedTuple):
    """One fact on the axis of evidence, what it looks like, and what the pointer is told."""

    x: float
    look: str
    title: str


def verdict_dots(record: RunRecord) -> Plot:
    """Draw the evidence of every fact of every model that was examined, a panel a model."""
    models = [Model(record, cell) for cell in record.cells if cell.examination]
    panels = [_panel(model) for model in models if model.judgement.judged]
    seen = {fact.verdict for model in models for fact in model.judgement.facts.values()}
    looks: list[str] = [verdict for verdict in VERDICTS if verdict in seen]
    looks += [PLANTED] if record.planted and record.planted.facts else []
    share = 1 - LEVEL * PARTS[0] / constants().caution
    return plot(
        "verdicts",
        "The evidence, fact by fact",
        "How to read it: a dot is a fact, further right is more evidence that it is still inside, as "
        "the examination weighs it. Below, grey: the same of decoys, answers that the model never "
        f"learned; {percent(share, 0)}\u00a0% of them lie left of the dashed "
        "line, and no fact on its right is called erased. Above: facts hidden on purpose in the model "
        "as it was, which show where hidden facts of this model lie. Point at a dot for its "
        "question and numbers. No attribution is in it.",
        panels,
        [_key(look) for look in looks],
        columns=1 if len(panels) == 1 else 2,
        absent="No model was examined (examine.steps), so there is no evidence to draw.",
    )


def _planted(record: RunRecord, by: Collection[Attacker]) -> list[Dot]:
    if record.planted is None:
        return []
    texts = {fact.id: fact.question for fact in record.header.split.retain}
    found = shown(record.planted, constants().weights, by)
    return [
        Dot(
            float(fact.evidence[0]),
            PLANTED,
            f"{plain(texts.get(id, id))} ({PLANTED}: {plain(record.planted.hidden.get(id, ''))}) "
            f"evidence {ratio(float(fact.evidence[0]))}",
        )
        for id, fact in found.items()
    ]


def _panel(model: Model) -> Panel:
    examination, judged = model.cell.examination, model.judgement.judged
    assert examination is not None and judged is not None
    every = shown(examination, constants().weights, judged.looks)
    planted = _planted(model.record, judged.looks)
    decoys = np.concatenate([fact.evidence[1:] for fact in every.values()] or [np.empty(0)])
    facts = _dots(model)
    name = named(model)
    dots = [*facts, *planted]
    drawn = [Number(model.cell.method.label, model.cell.seed, dot.look, dot.x) for dot in dots]
    unread = len(model.judgement.facts) - len(facts)
    note = f"{unread} could not be read." if unread else ""
    return panel(
        f"verdicts-{name}",
        plain(name),
        _draw(facts, planted, decoys),
        note,
        numbers=drawn,
        titles=[dot.title for dot in dots],
    )


def _dots(model: Model) -> list[Dot]:
    texts = {fact.id: fact for fact in model.record.header.split.forget}
    dots = []
    for id, fact in model.judgement.facts.items():
        judged = fact.judged
        if judged is None or judged.evidence is None or id not in texts:
            continue
        said = (
            f"{plain(texts[id].question)} {plain(texts[id].answer)}: {fact.verdict}; evidence "
            f"{ratio(judged.evidence)}, p erased {p_value(judged.erased)}, p hidden "
            f"{p_value(judged.hidden)}"
        )
        dots.append(Dot(judged.evidence, fact.verdict, said))
    return dots


def _draw(
    facts: Sequence[Dot], planted: Sequence[Dot], decoys: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        values = [*(dot.x for dot in (*facts, *planted)), *decoys]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        edge = 0.04 * (high - low or 1.0)
        axes.set_xlim(low - edge, high + edge)
        axes.set_ylim(0, 3)
        if len(decoys):
            _mound(axes, decoys, low, high)
            line = threshold(decoys, constants())
            axes.axvline(line, color=INK, linestyle=(0, (4, 2)), linewidth=1.1, zorder=1)
        _scatter(axes, [*_spread(facts, 1.5, high - low), *_spread(planted, 2.5, high - low)])
        axes.set_yticks([0.5, 1.5, 2.5], ["decoys", "facts", "planted"])
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("evidence that it is still inside")

    return draw


def _mound(
    axes: Axes, decoys: np.ndarray[tuple[int], np.dtype[np.float64]], low: float, high: float
) -> None:
    """Draw how the decoys are spread, as high as their band."""
    counts, edges = np.histogram(decoys, bins=BINS, range=(low, high))
    heights = 0.85 * counts / max(1, counts.max())
    axes.stairs(heights, edges, fill=True, color=FAINT, alpha=0.55)


def _spread(dots: Sequence[Dot], middle: float, width: float) -> list[tuple[float, float, str]]:
    """Return a place for each dot in its band: those too close to each other stand above and below."""
    near, rows = 0.028 * (width or 1.0), [0, 1, -1, 2, -2, 3, -3, 4, -4]
    last = dict.fromkeys(rows, -np.inf)
    placed: dict[int, float] = {}
    for n in sorted(range(len(dots)), key=lambda n: dots[n].x):
        free = [row for row in rows if dots[n].x - last[row] >= near]
        row = free[0] if free else min(rows, key=lambda row: last[row])
        last[row] = dots[n].x
        placed[n] = middle + row * ROW / 3
    return [(dot.x, placed[n], dot.look) for n, dot in enumerate(dots)]


def _scatter(axes: Axes, dots: Sequence[tuple[float, float, str]]) -> None:
    if not dots:
        return
    markers = [MarkerStyle(LOOKS[look][1]) for _, _, look in dots]
    paths = [marker.get_path().transformed(marker.get_transform()) for marker in markers]
    # A path a dot, so that each is an element of its own that a pointer can rest on.
    collection = PathCollection(
        paths,
        sizes=[34.0],
        offsets=[(x, y) for x, y, _ in dots],
        offset_transform=axes.transData,
        facecolors=[LOOKS[look][0] for _, _, look in dots],
        edgecolors="white",
        linewidths=0.6,
        gid="cells",
        zorder=3,
    )
    collection.set_transform(IdentityTransform())  # sizes are points, whatever the axes are
    collection.set_clip_on(False)
    axes.add_collection(collection)


def _key(look: str) -> Key:
    colour, marker = LOOKS[look]
    return Key(look, swatch(colour, marker, f"verdicts-swatch-{look}"))
