"""What ablating neurons brings back, and what a linear probe can read."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from ssiuu.analysis.column import ORIGINAL
from ssiuu.analysis.seen import ABLATED
from ssiuu.records.schema import CausalCurve, Cell, Evidence, RunRecord
from ssiuu.report.figures.draw import FAINT, INK, Number, Plot, Style, legend, line, panel, plot, styled
from ssiuu.report.text import short

CURVES = {
    ("minus", "zero"): "D\u2212 neurons set to 0",
    ("minus", "mean"): "D\u2212 neurons set to their mean",
    ("minus", "restore"): "D\u2212 neurons' old weights put back",
    ("plus", "restore"): "D+ neurons' old weights put back",
}
POWERS = (1, 10, 100, 1000)  # on the axis; the last point is all neurons of that side
StyledEvidence = list[tuple[Cell, Style, Evidence]]


def evidence_curves(record: RunRecord) -> Plot:
    """Draw the causal test, one panel for each way to ablate, and the linear probe by layer."""
    diagnosed = [
        (cell, style, cell.diagnosis.evidence)
        for cell, style in styled(record)
        if cell.diagnosis and cell.diagnosis.evidence
    ]
    panels = [
        panel(
            f"causal-{side}-{mode}",
            title,
            _causal(diagnosed, side, mode),
            numbers=_shares(diagnosed, side, mode),
        )
        for (side, mode), title in CURVES.items()
        if any(_curve(evidence, side, mode) for _, _, evidence in diagnosed)
    ]
    if any(evidence.probe_after for _, _, evidence in diagnosed):
        panels.append(
            panel(
                "probe", "Linear probe by layer", _probe(diagnosed), numbers=_selectivities(diagnosed)
            )
        )
    return plot(
        "evidence",
        "Does the answer come back when neurons are taken out?",
        "How to read it: the m neurons with the largest influence variation are ablated in the "
        "unlearned model; drawn is the share of the answers' lost log-probability that returns beyond "
        "what ablating m random neurons of the same maps brings back, with its 95\u00a0% interval over "
        "entities. Above the never-learned control after neurons are set to 0 or to their mean: "
        f"the answer was still there, hidden. {ABLATED} Putting old weights back also undoes erasure, "
        "so it tells where the change sits. "
        "Probe: how much better than with shuffled labels the right answer can be read from the last "
        "state of the question; grey: before unlearning.",
        panels,
        legend(record, "evidence", (style for _, style, _ in diagnosed)),
        absent="The causal test and the probe were not asked for (inside: true).",
    )


def _curve(evidence: Evidence, side: str, mode: str) -> CausalCurve | None:
    curves = evidence.causal.curves if evidence.causal else []
    return next((c for c in curves if (c.side, c.mode) == (side, mode)), None)


def _shares(diagnosed: StyledEvidence, side: str, mode: str) -> list[Number]:
    return [
        Number(cell.method.label, cell.seed, point.m, share.value, share.low, share.high)
        for cell, _, evidence in diagnosed
        if (curve := _curve(evidence, side, mode))
        for point in curve.points
        if (share := point.share)
    ]


def _selectivities(diagnosed: StyledEvidence) -> list[Number]:
    probes = [(c.method.label, c.seed, e.probe_after) for c, _, e in diagnosed]
    first = next((e.probe_before for _, _, e in diagnosed if e.probe_before), None)
    return [
        Number(label, seed, layer, s.value, s.low, s.high)
        for label, seed, probe in [(ORIGINAL, None, first), *probes]
        if probe
        for layer, s in enumerate(probe.selectivity)
    ]


def _causal(diagnosed: StyledEvidence, side: str, mode: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        grid: set[int] = set()
        for _, style, evidence in diagnosed:
            curve = _curve(evidence, side, mode)
            for point in curve.points if curve else ():
                if point.share is not None:
                    ends = [point.share.low, point.share.high]
                    axes.plot([point.m] * 2, ends, color=style.colour, linewidth=0.9, alpha=0.6)
            points = curve.points if curve else []
            line(
                axes, [p.m for p in points], [p.share.value if p.share else None for p in points], style
            )
            grid |= {p.m for p in points}
        axes.axhline(0, color=INK, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator([m for m in sorted(grid) if m in POWERS]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))
        axes.set_xlabel("m, neurons")
        axes.set_ylabel("share that returns, over random")

    return draw


def _probe(diagnosed: StyledEvidence) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        before = next((e.probe_before for _, _, e in diagnosed if e.probe_before), None)
        if before is not None:
            values = [s.value for s in before.selectivity]
            axes.plot(range(len(values)), values, color=FAINT, linewidth=3.5, alpha=0.6)
        for _, style, evidence in diagnosed:
            if evidence.probe_after is not None:
                values = [s.value for s in evidence.probe_after.selectivity]
                line(axes, list(range(len(values))), list(values), style, every=5)
        axes.axhline(0, color=INK, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer (0: embeddings)")
        axes.set_ylabel("accuracy less shuffled labels")

    return draw
