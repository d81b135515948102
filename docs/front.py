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
TITLES = {"smollm2": "SmolLM2-135M, 12 facts", "made-up": "the made-up world, 48 facts"}
GUESS = 1 / 3


def collect(name: str, folders: Sequence[str]) -> None:
    """Write the rows of all splits into one file."""
    splits = {}
    for folder in folders:
        files = sorted(Path(folder).glob("*.json"))
        found = [json.loads(f.read_text()) for f in files if f.stem not in ("split", "original")]
        splits[Path(folder).name] = {m["method"]: [_short(row) for row in m["rows"]] for m in found}
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
        self.kept = sum(row["kept"] for row in rows) / len(rows)
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
        """What stands in the table."""
        if self.splits < self.of:
            return "–"
        before = f"{100 * self.forget:.0f}"
        if not self.reached:
            return f"{before} · {100 * self.held:.0f}"
        back = "–" if self.level is None else f"{100 * self.level:.0f}"
        return f"**{before} → {back}** · {100 * self.held:.0f}"


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
    heads = ["method", "splits", *within, "KL, plain · instructions", "p kept", "after attack, 95 %"]
    lines = [" | ".join(["", *heads, ""]).strip(), "|" + " --- |" * len(heads)]
    for method, of in sorted(found.items(), key=lambda pair: _order(pair[1])):
        cells = [of[b].cell if b in of else "–" for b in budgets]
        first = next((p for p in of.values() if p.reached), None)
        spent = f"{_kl(first.kl)} · {_kl(first.instructions)}" if first else "–"
        ends = wilson(first.back, first.pool) if first and first.level is not None else None
        span = f"{100 * ends.low:.0f} to {100 * ends.high:.0f}" if ends else "–"
        splits = str(max(point.of for point in of.values()))
        kept = f"{first.kept:.2f}".lstrip("0") if first else "–"
        lines.append(" | ".join(["", f"`{method}`", splits, *cells, spent, kept, span, ""]).strip())
    return "\n".join(lines)


def _order(of: dict[float, Point]) -> tuple[float, float]:
    reached = [budget for budget, point in of.items() if point.reached]
    last = of[max(of)]
    return min(reached, default=9.0), last.level if last.level is not None else last.forget


def _kl(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else f"{value:.2f}"


def draw(names: Sequence[str]) -> None:
    """Draw what comes back against the KL that was spent, a panel for each ground."""
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "ssiuu", "text.parse_math": False}
    figure = Figure(figsize=(5.2 * len(names), 4.6), layout="constrained")
    for place, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), place + 1)
        for n, (method, of) in enumerate(points(name).items()):
            look = {"color": COLOURS[n % len(COLOURS)], "marker": MARKERS[(n // len(COLOURS) + n) % 8]}
            drawn = [p for p in of.values() if p.reached and p.level is not None]
            xs, ys = [p.kl for p in drawn], [p.level for p in drawn]
            if drawn:
                axes.plot(xs, ys, lw=0.8, ms=7, label=method, **look)
        axes.axhline(GUESS, color=INK, ls=(0, (1, 2)), lw=1.0)
        for budget in (0.01, 0.03, 0.1, 0.3):
            axes.axvline(budget, color=FAINT, lw=0.5)
        axes.set_xscale("log")
        axes.set_ylim(0.2, 1.02)
        axes.set_xlabel("KL on plain text, nats a token (left: kept)")
        axes.set_ylabel("ranked first after the strongest attack (low: gone)")
        axes.set_title(TITLES[name], fontsize=10)
        axes.legend(fontsize=7, frameon=False, loc="upper left", ncols=2)
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
