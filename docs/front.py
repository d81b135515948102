"""Write the tables and the figure of the front in docs/rivals.md from what perf/front.py found.

    python docs/front.py collect smollm2 front-0 front-1  # OUT/METHOD.json -> rivals/smollm2.json
    python docs/front.py                                  # these -> the tables, and rivals/front.svg

A method's numbers are sums over its splits: facts ranked first of all facts asked. Intervals are
Wilson's, over facts. A method that has forgotten on some splits only counts as one that has not.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ssiuu.report.figures.draw import COLOURS, FAINT, INK, MARKERS
from ssiuu.statistics import wilson

HERE = Path(__file__).parent / "rivals"
TITLES = {
    "made-up": "two made-up worlds, 48 facts each",
    "smollm2": "SmolLM2-135M, 12 facts, three splits",
    "smollm2-24": "SmolLM2-135M, 24 facts, one split",
    "smollm2-48": "SmolLM2-135M, 48 facts, one split",
}
GUESS, SMALLEST = 1 / 3, 1e-3
BUDGETS = (0.01, 0.03, 0.1, 0.3)


def collect(name: str, folders: Sequence[str]) -> None:
    """Write the rows of all splits into one file."""
    splits = {}
    for folder in folders:
        files = sorted(Path(folder).glob("*.json"))
        found = [json.loads(f.read_text()) for f in files if f.stem not in ("split", "original")]
        before = json.loads((Path(folder) / "original.json").read_text())["kept"]
        splits[Path(folder).name] = {
            m["method"]: [_short(row) | {"kept_before": round(before, 5)} for row in m["rows"]]
            for m in found
        }
    HERE.mkdir(exist_ok=True)
    (HERE / f"{name}.json").write_text(json.dumps(splits, indent=1) + "\n")


def _short(row: dict[str, Any]) -> dict[str, Any]:
    told = ("budget", "values", "step", "reached", "forget", "heldout", "retain", "free", "pool")
    attacks = {rate: max(levels) for rate, levels in row.get("attacks", {}).items()}
    rounded = {key: round(row[key], 5) for key in ("kl", "kl_instructions", "kept")}
    return {key: row[key] for key in told if key in row} | rounded | {"attacks": attacks}


class Point:
    """A method within a budget, over its splits."""

    def __init__(self, rows: Sequence[dict[str, Any]], of: int) -> None:
        self.splits, self.of = len(rows), of
        self.reached = all(row["reached"] for row in rows) and len(rows) == of
        self.forget, self.held, self.free = (_share(rows, k) for k in ("forget", "heldout", "free"))
        self.kl = _geometric([row["kl"] for row in rows])
        self.instructions = _geometric([row["kl_instructions"] for row in rows])
        # Mean probability of an answer token, over the facts set aside, of what it was.
        self.kept = _geometric([row["kept"] / row["kept_before"] for row in rows])
        attacked = [row for row in rows if row["attacks"]]
        self.whole = len(attacked) == len(rows)
        self.back = sum(max(row["attacks"].values()) for row in attacked)
        self.pool = sum(row["pool"] for row in attacked)

    @property
    def level(self) -> float | None:
        """The highest share ranked first after an attack; None: not attacked on every split."""
        return self.back / self.pool if self.whole and self.pool else None

    @property
    def cell(self) -> str:
        """What stands in the table; the first number is bold where all splits reached the threshold."""
        if self.splits < self.of:
            return "–"
        first = f"{100 * self.forget:.0f}"
        first = f"**{first}**" if self.reached else first
        return f"{first} · {100 * self.held:.0f} · {100 * self.kept:.0f}"


def _share(rows: Sequence[dict[str, Any]], key: str) -> float:
    return sum(row[key][0] for row in rows) / sum(row[key][1] for row in rows)


def _geometric(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(max(value, 1e-6)) for value in values) / len(values))


def points(name: str) -> dict[str, dict[float, Point]]:
    """Return the points of every method by budget; those that not every split has are left out."""
    splits = json.loads((HERE / f"{name}.json").read_text())
    methods = dict.fromkeys(method for split in splits.values() for method in split)
    found: dict[str, dict[float, Point]] = {}
    for method in methods:
        rows = [row for split in splits.values() for row in split.get(method, [])]
        of = sum(method in split for split in splits.values())
        budgets = sorted({row["budget"] for row in rows})
        found[method] = {b: Point([r for r in rows if r["budget"] == b], of) for b in budgets}
    return found


def table(name: str) -> str:
    """Return the table of one ground as Markdown."""
    found = points(name)
    budgets = sorted({budget for of in found.values() for budget in of})
    within = [f"KL ≤ {budget:g}" for budget in budgets]
    heads = ["method", *within, "spent, plain · instructions", "after attack"]
    lines = [" | ".join(["", *heads, ""]).strip(), "|" + " --- |" * len(heads)]
    for method, of in sorted(found.items(), key=lambda pair: _order(pair[1])):
        cells = [of[b].cell if b in of else "–" for b in budgets]
        last = of[max(of)]
        spent = f"{_kl(last.kl)} · {_kl(last.instructions)}"
        back = "–"
        if last.level is not None:
            ends = wilson(last.back, last.pool)
            back = f"{100 * last.level:.0f} ({100 * ends.low:.0f} to {100 * ends.high:.0f})"
        lines.append(" | ".join(["", f"`{method}`", *cells, spent, back, ""]).strip())
    return "\n".join(lines)


def _order(of: dict[float, Point]) -> float:
    """Return the area under what is still ranked first, over the budgets."""
    return sum(point.forget for point in of.values()) / len(of)


def _kl(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else f"{value:.2f}"


def draw(names: Sequence[str]) -> None:
    """Draw what is still ranked first against the KL that was spent, and against what was kept.

    A line joins a method's budgets; an arrow goes up to the highest level after an attack.
    """
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "ssiuu", "text.parse_math": False}
    figure = Figure(figsize=(9.6, 3.9 * len(names)), layout="constrained")
    shown = list(dict.fromkeys(method for name in names for method in points(name)))
    looks = {m: {"color": COLOURS[n % 8], "marker": MARKERS[n % 8]} for n, m in enumerate(shown)}
    for row, name in enumerate(names):
        by_cost, by_kept = (figure.add_subplot(len(names), 2, 2 * row + n) for n in (1, 2))
        for method, of in points(name).items():
            found = [of[budget] for budget in sorted(of)]
            for axes, xs in (
                (by_cost, [max(p.kl, SMALLEST) for p in found]),
                (by_kept, [min(p.kept, 1.0) for p in found]),
            ):
                axes.plot(xs, [p.forget for p in found], lw=1.0, ms=6, label=method, **looks[method])
                if (level := found[-1].level) is not None:
                    arrow = {"arrowstyle": "-|>", "color": looks[method]["color"], "lw": 0.8}
                    axes.annotate("", (xs[-1], level), (xs[-1], found[-1].forget), arrowprops=arrow)
        by_cost.set_xscale("log")
        by_cost.set_xlim(0.002, 0.4)
        by_cost.set_xticks(BUDGETS, [f"{budget:g}" for budget in BUDGETS])
        by_cost.minorticks_off()
        for budget in BUDGETS:
            by_cost.axvline(budget, color=FAINT, lw=0.5)
        by_cost.set_xlabel("KL on plain text, nats a token (left: kept)")
        by_kept.set_xlabel("probability left to answers to keep, of before (1: all or more)")
        by_kept.set_xlim(0, 1.05)
        for axes in (by_cost, by_kept):
            axes.axhline(GUESS, color=INK, ls=(0, (1, 2)), lw=1.0)
            axes.set_ylim(0.2, 1.02)
            axes.set_ylabel("facts to forget still ranked first")
            axes.set_title(TITLES[name], fontsize=10)
        by_kept.legend(fontsize=7, frameon=False, loc="upper left")
    figure.savefig(HERE / "front.svg", metadata={"Date": None})


def main() -> None:
    """Collect, or print and draw."""
    if sys.argv[1:2] == ["collect"]:
        collect(sys.argv[2], sys.argv[3:])
        return
    names = [name for name in TITLES if (HERE / f"{name}.json").exists()]
    for name in names:
        print(f"{name}\n\n{table(name)}\n")
    draw(names)


if __name__ == "__main__":
    main()
