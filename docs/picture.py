"""Draw the README's picture from the rows of a run, without its verdicts: short attacks show none.

ssiuu report RUN --json > docs/default-run.json && python docs/picture.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

HERE = Path(__file__).parent
INK, GONE, BACK, KEPT = "#1c2024", "#0072b2", "#d55e00", "#8a9199"
CHANCE = 1 / 3


def main() -> None:
    """Draw forgetting and what the strongest attack brings back, method by method."""
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "ssiuu", "text.parse_math": False}
    rows = json.loads((HERE / "default-run.json").read_text())["rows"]
    attacked = [row for row in rows if row.get("harmful_0.3") is not None]
    figure = Figure(figsize=(8.6, 0.62 * len(attacked) + 1.5), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(reversed(attacked)):
        after = max(row[name] for name in ("harmful_0.1", "harmful_0.3", "benign"))
        axes.annotate(
            "",
            (after, place),
            (row["forget"], place),
            arrowprops={"arrowstyle": "-|>", "color": BACK, "lw": 2, "shrinkA": 4, "shrinkB": 0},
        )
        axes.plot(row["forget"], place, "o", color=GONE, ms=9)
        axes.plot(row["heldout"], place, "|", color=KEPT, ms=16, mew=3)
    axes.axvline(CHANCE, color=INK, lw=0.8, ls=":")
    axes.text(CHANCE, len(attacked) - 0.4, "guessing", ha="center", fontsize=9, color=INK)
    axes.set_yticks(range(len(attacked)), [row["method"] for row in reversed(attacked)])
    axes.set_ylim(-0.6, len(attacked) - 0.2)
    axes.set_xlim(0, 1)
    axes.set_xlabel(
        "accuracy on three options:  blue dot, forget facts after unlearning;  arrow, after the "
        "strongest attack;\ngrey bar, facts that should stay (held out)"
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(HERE / "default-run.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
