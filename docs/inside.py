"""Measure which parts of the look inside tell hidden facts from facts never learned.

    python docs/inside.py kin-1 neox-1 strangers-2 kin-3   # measures what docs/inside.json lacks
    python docs/inside.py                                  # puts its table into docs/verdict.md

A world takes minutes. Worlds and models are those of `ssiuu calibrate`: a model taught a made-up world,
its never-learned twin, one retrained without the facts from another start, and the model with them
hidden in each way of `ssiuu.hiding`. Every number is of one model, as a page shows it. A model in which
less than half of the facts could be hidden is left out.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from ssiuu.attribution.neuron import extremes
from ssiuu.diagnosis.influence import Baseline, influence
from ssiuu.errors import ModelError
from ssiuu.experiment.calibrate import MadeUp
from ssiuu.experiment.examine import contrasted
from ssiuu.experiment.inside import Inside
from ssiuu.hiding import HIDING
from ssiuu.models.sites import find_sites

HERE = Path(__file__).parent
KEPT, PAGE = HERE / "inside.json", HERE / "verdict.md"
MARK = re.compile(r"(<!-- inside -->\n).*?(<!-- end -->)", re.DOTALL)
PEOPLE = 30
ERASED = ("twin", "retrained")
# By key in docs/inside.json: what it is on the page, and whether it is higher where facts are hidden.
MEASURES: dict[str, tuple[str, bool]] = {
    "hide_ratio": ("hide ratio, gradient × activation", True),
    "d_minus": ("D− over all neurons, gradient × activation", True),
    "integrated": ("hide ratio, integrated gradients (8 facts)", True),
    "causal": ("causal share: 100 neurons of D− set to 0", True),
    "mean_ablation": ("the same, set to their mean", True),
    "probe": ("linear probe, selectivity", True),
    "depth": ("depth score", False),
    "read_out": ("read-out, in spreads of the other answers", True),
}
Row = dict[str, Any]


def main() -> None:
    """Measure the worlds that are named, then write the table."""
    rows: list[Row] = json.loads(KEPT.read_text()) if KEPT.exists() else []
    for world in sys.argv[1:]:
        there = {row["model"] for row in rows if row["world"] == world}
        rows += measured(world, [name for name in (*ERASED, *HIDING) if name not in there])
        KEPT.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    text = table(rows)
    PAGE.write_text(MARK.sub(lambda m: m[1] + text + m[2], PAGE.read_text()))
    print(text)


def measured(world: str, names: list[str]) -> list[Row]:
    """Return the numbers of these models of a world."""
    if not names:
        return []
    kind, _, seed = world.partition("-")
    bench = MadeUp(kind, int(seed), PEOPLE, [], print)
    session = bench.session
    session.never_learned = bench.never_learned  # for the depth score
    sites = find_sites(session.model)
    inside = Inside(session, sites)
    given = (session.model, sites, inside.examples, session.pad)
    baseline = Baseline.of(extremes(*given))
    rows = []
    for name in names:
        session.original.restore()
        try:
            facts = len(bench.put(name, session.split.forget))
        except ModelError:
            facts = 0
        row: Row = {"world": world, "model": name, "facts": facts, "of": len(session.split.forget)}
        if _counts(row):
            by_gradient = influence(baseline, extremes(*given), sites, session.split.forget)["logprob"]
            row |= {"hide_ratio": by_gradient.hide_ratio, "d_minus": by_gradient.d_minus_all}
            row |= numbers(bench, inside, baseline)
        rows.append(row)
    return rows


def numbers(bench: MadeUp, inside: Inside, baseline: Baseline) -> Row:
    """Return the rest of what is measured of the model as it is."""
    examiner = bench.examiner
    values = [each for each in contrasted(examiner._here(examiner.forget)[1]) if each]
    found = inside.look(baseline)
    assert found.causal and found.attributions and found.depth and found.depth.score
    assert found.probe_after
    ablated = {c.mode: p.share for c in found.causal.curves[:2] for p in c.points if p.m == 100}
    selectivity = [each.value for each in found.probe_after.selectivity]
    zero, mean = ablated["zero"], ablated["mean"]
    assert zero and mean
    return {
        "integrated": found.attributions.integrated.hide_ratio,
        "causal": zero.value,
        "causal_ends": [zero.low, zero.high],
        "mean_ablation": mean.value,
        "probe": sum(selectivity) / len(selectivity),
        "depth": found.depth.score.value,
        "read_out": sum(each[0] for each in values) / len(values),
    }


def table(rows: list[Row]) -> str:
    """Return the table in Markdown: a row a measure."""
    rows = [row for row in rows if _counts(row)]
    erased = [row for row in rows if row["model"] in ERASED]
    hidden = [row for row in rows if row["model"] not in ERASED]
    headings = ["measure", f"never learned ({len(erased)} models)", f"hidden ({len(hidden)} models)"]
    lines = [[*headings, "told apart", "not told apart"], ["---"] * 5]
    for key, (name, higher) in MEASURES.items():
        apart = [row for row in hidden if _apart(row, erased, key, higher)]
        missed = Counter(row["model"] for row in hidden if row not in apart)
        listed = ", ".join(f"{n} {model}" for model, n in missed.items()) or "none"
        told = f"{len(apart)} of {len(hidden)}"
        lines.append([name, _span(erased, key), _span(hidden, key), told, listed])
    worlds = ", ".join(dict.fromkeys(row["world"] for row in rows))
    least = min(row["facts"] / row["of"] for row in hidden)
    said = f"Worlds {worlds}; in each hidden model {least:.0%} or more of the facts could be hidden."
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", said, ""])


def _counts(row: Row) -> bool:
    return bool(row["facts"] >= row["of"] / 2)


def _apart(row: Row, erased: list[Row], key: str, higher: bool) -> bool:
    """Whether a model is beyond every never-learned one of its world, in the two digits of a page."""
    others = [round(other[key], 2) for other in erased if other["world"] == row["world"]]
    value = round(row[key], 2)
    return value > max(others) if higher else value < min(others)


def _span(rows: list[Row], key: str) -> str:
    low, high = (end(row[key] for row in rows) for end in (min, max))
    return f"{low:.2f} to {high:.2f}".replace("-", "−")


if __name__ == "__main__":
    main()
