"""Draw the README's picture: what was said of facts whose truth is known, from the calibration that ships.

python docs/words.py
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

HERE = Path(__file__).parent
CALIBRATED = HERE.parent / "src" / "ssiuu" / "analysis" / "calibrated.json"
INK = "#1c2024"
WORDS = {"erased": "#0072b2", "hidden": "#d55e00", "not removed": "#7a2f00", "undecided": "#d7dbdf"}
TRUTHS = {
    "erased": "never learned",
    "hidden": "hidden on purpose",
    "not removed": "still there",
}


def main() -> None:
    """Draw the share of every word, truth by truth, over facts that nothing was fitted on."""
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "ssiuu"}
    rows = [r for r in json.loads(CALIBRATED.read_text())["rows"] if not r["fitted"] and r["facts"] is None]
    figure = Figure(figsize=(5.8, 2.7), layout="constrained")
    axes = figure.add_subplot()
    for place, (truth, label) in enumerate(reversed(TRUTHS.items())):
        counts = sum((Counter(r["words"]) for r in rows if r["truth"] == truth), Counter())
        whole, left = sum(counts.values()), 0.0
        for word, colour in WORDS.items():
            share = counts[word] / whole
            axes.barh(place, share, left=left, color=colour, height=0.62)
            if share > 0.05:
                ink = INK if word == "undecided" else "white"
                axes.text(left + share / 2, place, f"{share:.0%}", ha="center", va="center", color=ink)
            left += share
        axes.text(-0.01, place, f"{label}\n{whole:,} facts", ha="right", va="center", color=INK)
    axes.set_xlim(0, 1)
    axes.axis("off")
    handles = [matplotlib.patches.Patch(color=colour, label=word) for word, colour in WORDS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, title="The verdict says")
    figure.savefig(HERE / "words.svg", metadata={"Date": None, "Creator": "ssiuu"})


if __name__ == "__main__":
    main()
