"""What each layer still knows: the logit lens, before and after."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ssiuu.analysis.column import ORIGINAL
from ssiuu.records.schema import RunRecord
from ssiuu.report.figures.draw import (
    FAINT,
    INK,
    Number,
    Plot,
    legend,
    line,
    numbers,
    panel,
    percent_axis,
    plot,
    styled,
)


def lens_curves(record: RunRecord) -> Plot:
    """Draw the logit lens accuracy by layer, before and after."""
    diagnosed = [
        (cell, style, cell.diagnosis.lens_after)
        for cell, style in styled(record)
        if cell.diagnosis and (cell.diagnosis.lens_before or cell.diagnosis.lens_after)
    ]
    before = next((c.diagnosis.lens_before for c, _, _ in diagnosed if c.diagnosis), None)
    drawn = [Number(ORIGINAL, None, i, y) for i, y in enumerate(before.accuracy)] if before else []
    for cell, _, after in diagnosed:
        if after is not None:
            drawn += numbers(cell, range(len(after.accuracy)), after.accuracy)

    def draw(axes: Axes) -> None:
        if before is not None:
            layers = range(len(before.accuracy))
            axes.plot(layers, before.accuracy, color=FAINT, linewidth=3.5, alpha=0.6)
        for _, style, after in diagnosed:
            if after is not None:
                line(axes, list(range(len(after.accuracy))), list(after.accuracy), style, every=5)
        axes.axhline(0.5, color=INK, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
        percent_axis(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer (0: embeddings)")
        axes.set_ylabel("gold ranked above distractor, %")

    avoided = [
        f"{cell.method.label} in {', '.join(map(str, after.below_chance))}"
        for cell, _, after in diagnosed
        if after and after.below_chance
    ]
    note = f"Below guessing by more than noise, layers: {'; '.join(avoided)}." if avoided else ""
    return plot(
        "lens",
        "What each layer still knows (logit lens)",
        "How to read it: the hidden state of each layer is read through the output embedding; how "
        "often does it prefer the answer to a random distractor? Broad grey: before unlearning; "
        "coloured: after. Dots at 50\u00a0%: guessing. Near 50\u00a0% from early on looks "
        "erased; high in the middle and low at the end looks hidden; far below 50\u00a0% is "
        "over-unlearning. "
        "No attribution is involved.",
        [panel("lens", "Logit lens accuracy", draw, note, numbers=drawn)] if diagnosed else [],
        legend(record, "lens", (style for _, style, after in diagnosed if after)),
        columns=1,
        absent="No logit lens was read, so there is no curve by layer.",
    )
