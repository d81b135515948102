"""Write docs/study.md and its figures from the records of the study.

    python docs/study.py collect RUN NAME 0.9    # RUN/run.json and its cells -> docs/study/NAME.json
    python docs/study.py collect RUN NAME        # the same, each method at its own retention
    python docs/study.py predict RUN NAME        # of a run with `inside: true`: what foretells recovery
    python docs/study.py                         # docs/study/*.json -> docs/study.md, docs/study/*.svg

A leg of the study is one run. Its methods are tagged with their learning rate (gd@lr1e-3); those that
differ in nothing else are a family, and every family has the same number of settings. Methods are
compared at equal retention, a share of the held-out facts: a family's numbers are those of its setting
within a point of it, else interpolated between the two settings on either side, with weights that the
mean held-out accuracies give; intervals are those of the interpolated outcomes. Settings that did not
reach the threshold of forgetting with every seed are left out.

Every leg is one split of the facts: its seeds are orders of the rows, and its intervals are those over facts
and orders. So what a leg shows is a lead, and no number is marked as significant. A level is what is right
after an attack, whether it was ever forgotten or not; a gain is the level less what was right before it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ssiuu.analysis.comparisons import entities, level, outcomes
from ssiuu.analysis.prediction import prediction
from ssiuu.analysis.rows import rows
from ssiuu.analysis.scale import mean
from ssiuu.records.files import load_run
from ssiuu.records.schema import RunRecord
from ssiuu.statistics import bootstrap_mean

HERE = Path(__file__).parent
BASE, CONTROL, ORIGINAL = "gd", "never-learned", "none"
COLUMNS = (
    "method", "held out", "forget", "level", "gain", "less gd's", "beyond the never-learned", "less half of gd's",
    "log p", "D+", "D−", "hide ratio", "moved",
)  # fmt: skip
TITLES = {  # the legs, in the order of the page
    "fictional": "The made-up world",
    "inside": "What foretells recovery",
    "rivals": "Every rival, every knob",
    "gate": "What stood out there, over three orders",
    "strong": "Under the swept attacker",
    "swept": "Under the swept attacker, the others",
    "large": "Three times as large",
    "worldfacts": "A real model and real facts",
    "adapters": "The same, attacked with adapters",
    "earlier": "Two of these orders on another processor",
    "gemma": "Another architecture",
    "tofu": "TOFU",
}
MANY = 20  # lines a figure can tell apart
DIFFERENCES = ("against_gd", "beyond_control", "half")
NEAR = 0.01  # a setting this near to the wanted retention stands for itself
MEANS = (
    "steps", "forget", "heldout", "forget_logprob", "heldout_logprob", "distance", "penalty_share",
    "d_plus_100", "d_minus_100", "hide_ratio", "causal_share", "depth_score",
)  # fmt: skip


# --- from a record to a leg ------------------------------------------------------------------------


def collect(record: RunRecord, attacks: Sequence[str], kept: float | None) -> dict[str, Any]:
    """Return what the page needs of a run, over the seeds that every method was run with.

    Without `kept` every method has one setting, which stands for it, whether it reached the threshold
    or not.
    """
    done: dict[str, set[int]] = {}
    for cell in record.cells:
        if cell.method.label not in (CONTROL, ORIGINAL):
            done.setdefault(cell.method.label, set()).update({cell.seed} if cell.attacks else ())
    whole = set.intersection(*done.values())
    record = record.model_copy(update={"cells": [c for c in record.cells if c.seed in whole]})
    table = rows(record)["rows"]
    labels = list(dict.fromkeys(row["method"] for row in table))
    settings = {label: _setting(record, table, label, attacks) for label in labels}
    mixes = _mixes(settings, kept)
    stacks = {name: _Stacks(record, mixes, name) for name in attacks}
    return {
        "benchmark": record.header.benchmark.name,
        "chance": record.header.chance,
        "attacks": list(attacks),
        "kept": kept,
        "settings": settings,
        "predictions": foretold(record),
        "families": {
            family: {
                "mix": mix,
                **{name: _mean(settings, mix, name) for name in MEANS},
                **{name: stack.compared(family) for name, stack in stacks.items()},
            }
            for family, mix in mixes.items()
        },
    }


def foretold(record: RunRecord) -> list[list[Any]]:
    """Return measure, outcome, settings, and the correlation with its interval."""
    return [
        [found.measure, found.outcome, found.cells, *found.correlation]
        for found in prediction([record])
        if found.correlation is not None
    ]


def _setting(
    record: RunRecord, table: list[dict[str, Any]], label: str, attacks: Sequence[str]
) -> dict[str, Any]:
    cells = [cell for cell in record.cells if cell.method.label == label and cell.attacks]
    mine = [row for row in table if row["method"] == label]
    found: dict[str, Any] = {"seeds": len(cells)}
    for name in MEANS:
        # TOFU's texts are scored by ROUGE-L recall, before an attack as after it.
        values = [row[f"{name}_rouge"] for row in mine if row.get(f"{name}_rouge") is not None]
        found[name] = mean(values or [row[name] for row in mine if row.get(name) is not None])
    stops = [cell.unlearning.stopped for cell in cells if cell.unlearning]
    found["reached"] = bool(cells) and set(stops) <= {"threshold"}
    for name in attacks:
        estimate = level(record, [outcomes(record, c, name) for c in cells], 1) if cells else None
        found[name] = list(estimate) if estimate else None
    return found


def _mixes(settings: dict[str, Any], kept: float | None) -> dict[str, dict[str, float]]:
    """Return, by family, the settings on either side of the wanted retention and their weights."""
    if kept is None:
        return {_family(label): {label: 1.0} for label in settings if label != ORIGINAL}
    families: dict[str, list[tuple[float, str]]] = {}
    for label, setting in settings.items():
        if setting["reached"] and label != ORIGINAL:
            families.setdefault(_family(label), []).append((setting["heldout"], label))
    mixes = {CONTROL: {CONTROL: 1.0}} if CONTROL in families else {}
    for family, found in families.items():
        nearest = min(found, key=lambda x: abs(x[0] - kept))
        below = max((x for x in found if x[0] < kept), default=None)
        above = min((x for x in found if x[0] >= kept), default=None)
        if family != CONTROL and abs(nearest[0] - kept) <= NEAR:
            mixes[family] = {nearest[1]: 1.0}
        elif below and above:
            share = (kept - below[0]) / (above[0] - below[0])
            mixes[family] = {below[1]: 1 - share, above[1]: share}
    return mixes


def _family(label: str) -> str:
    return label.partition("lr")[0].rstrip("@-")


def _mean(settings: dict[str, Any], mix: dict[str, float], name: str) -> float | None:
    values = [(settings[label][name], weight) for label, weight in mix.items()]
    if any(value is None for value, _ in values):
        return None
    return sum(value * weight for value, weight in values)


class _Stacks:
    """Outcomes of one attack by family, [unlearning seeds, attack seeds, facts], all of one shape."""

    def __init__(self, record: RunRecord, mixes: dict[str, dict[str, float]], attack: str) -> None:
        cells = {(c.method.label, c.seed): outcomes(record, c, attack) for c in record.cells}
        labels = [label for mix in mixes.values() for label in mix]
        seeds = sorted({seed for label, seed in cells if label == BASE or _family(label) == BASE})
        used = [cells[label, seed] for label in labels for seed in seeds]
        items = sorted(set.intersection(*(set(table) for table in used))) if used else []
        owners = entities(record)
        self.names = [owners[fact] for fact, _ in items]
        self.chance = record.header.chance
        self.values = {
            family: sum(
                weight * np.array([_attack_seeds(cells[label, seed], items) for seed in seeds])
                for label, weight in mix.items()
            )
            for family, mix in mixes.items()
            if items
        }

    def compared(self, family: str) -> dict[str, Any]:
        """Return the level, and how it stands to gd and to half of gd's way above the control.

        Where there is no control, half of gd's way is that above guessing.
        """
        one, base, control = (self.values.get(name) for name in (family, BASE, CONTROL))
        wanted = {"level": one}
        if one is not None and base is not None and family != BASE:
            wanted["against_gd"] = one - base
        if one is not None and control is not None and family != CONTROL:
            wanted["beyond_control"] = one - control
        if one is not None and base is not None and family != CONTROL:
            floor = self.chance if control is None else control
            wanted["half"] = one - floor - (base - floor) / 2
        return {
            name: list(bootstrap_mean(values, self.names))
            for name, values in wanted.items()
            if values is not None
        }


def _attack_seeds(table: Any, items: Sequence[Any]) -> list[list[float]]:
    """Return [attack seeds, facts]."""
    seeds = sorted(table[items[0]])
    return [[table[item][seed] for item in items] for seed in seeds]


# --- from the legs to the page ---------------------------------------------------------------------


def page(legs: dict[str, Any]) -> str:
    """Return the generated part of the page: one section a leg."""
    return "\n".join(_section(name, leg) for name, leg in legs.items())


def _section(name: str, leg: dict[str, Any]) -> str:
    if "settings" not in leg:
        return "\n".join([f"## {TITLES[name]}", "", *_predictions(leg["predictions"])])
    attacks, settings = leg["attacks"], leg["settings"]
    seeds = max(setting["seeds"] for setting in settings.values())
    lines = [f"## {TITLES[name]}", ""]
    kept = leg["kept"]
    where = "each method at its own retention" if kept is None else (
        f"at {_percent(kept)} % of the held-out facts")  # fmt: skip
    for attack in attacks:
        lines += [
            f"*{attack}*, {where}, one split, {seeds} order{'s' * (seeds > 1)} of its rows. "
            "In %; gain and differences in points; 95 % intervals over facts and orders.",
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "|---" * len(COLUMNS) + "|",
        ]
        families = leg["families"].items()
        for family, found in sorted(families, key=lambda x: x[1][attack].get("level", [9])[0]):
            compared = found[attack]
            cells = [f"`{family}`", _percent(found["heldout"]), _percent(found["forget"])]
            cells += [_level(compared.get("level")), _gain(compared.get("level"), found["forget"])]
            cells += [
                _difference(compared.get(key)) for key in ("against_gd", "beyond_control", "half")
            ]
            cells += [_number(found["forget_logprob"], ".1f"), _number(found["d_plus_100"], ".2g")]
            cells += [_number(found["d_minus_100"], ".2g"), _number(found["hide_ratio"], ".3f")]
            lines.append("| " + " | ".join([*cells, _number(found["distance"], ".3f")]) + " |")
        lines.append("")
    lines += [f"![What an attack brings back against what was kept](study/{name}.svg)", ""]
    lines += _predictions(leg["predictions"])
    lines += [
        "Every setting:",
        "",
        "| setting | orders | steps | forget | held out | " + " | ".join(attacks) + " |",
    ]
    lines.append("|---" * (5 + len(attacks)) + "|")
    for label, setting in settings.items():
        cells = [f"`{label}`", str(setting["seeds"]), _number(setting["steps"], ".0f")]
        cells += [_percent(setting[key]) for key in ("forget", "heldout")]
        cells += [_level(setting[attack]) for attack in attacks]
        cells[3] += "" if setting["reached"] or label in (CONTROL, ORIGINAL) else " (not reached)"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _predictions(found: list[list[Any]]) -> list[str]:
    """Return the table of what was measured before the attack against what the attack got."""
    if not found:
        return []
    lines = [
        "Rank correlation over settings of what is measured right after unlearning with what the",
        "strongest attack then gets, with 95 % intervals from a bootstrap over the settings of this leg:",
        "",
        "| measure | settings | with recovery | with level |",
        "|---|---|---|---|",
    ]
    for measure in dict.fromkeys(row[0] for row in found):
        by_outcome = {row[1]: row[2:] for row in found if row[0] == measure}
        cells = [_correlation(by_outcome.get(name)) for name in ("recovery", "level")]
        lines.append(
            "| " + " | ".join([measure, str(next(iter(by_outcome.values()))[0]), *cells]) + " |"
        )
    return [*lines, ""]


def _correlation(found: list[Any] | None) -> str:
    if found is None:
        return "–"
    value, low, high = (format(x, "+.2f").replace("-", "−") for x in found[1:])
    return f"{value} ({low}, {high})"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form).replace("-", "−")


def _percent(value: float | None) -> str:
    return _number(None if value is None else 100 * value, ".0f")


def _level(estimate: list[float] | None) -> str:
    if estimate is None:
        return "–"
    value, low, high = (_percent(x) for x in estimate)
    return f"{value} ({low}–{high})"


def _gain(level: list[float] | None, before: float | None) -> str:
    """Return what an attack brings back, in points.

    The level is over the facts that no attack trained on, what is right before it over all.
    """
    if level is None or before is None:
        return "–"
    return _number(100 * (level[0] - before), "+.0f")


def _difference(estimate: list[Any] | None) -> str:
    if estimate is None:
        return "–"
    value, low, high = (format(100 * x, "+.0f").replace("-", "−") for x in estimate[:3])
    return f"{value} ({low}, {high})"


def draw(leg: dict[str, Any], path: Path) -> None:
    """Draw the front: held-out accuracy against the level after the first attack, a line a family."""
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "ssiuu", "text.parse_math": False}
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    name = leg["attacks"][0]
    families: dict[str, list[tuple[float, float]]] = {}
    for label, setting in leg["settings"].items():
        found = setting[name]
        shown = setting["reached"] or leg["kept"] is None
        if found is None or setting["heldout"] is None or label == ORIGINAL or not shown:
            continue
        families.setdefault(_family(label), []).append((100 * setting["heldout"], 100 * found[0]))
    if len(families) > MANY:
        families = {f: points for f, points in families.items() if len(points) > 1 or f == CONTROL}
    colours = matplotlib.colormaps["tab20"]
    for place, (family, points) in enumerate(sorted(families.items())):
        points.sort()
        style = {"color": "black", "marker": "*", "ms": 14} if family == CONTROL else {
            "color": colours(place % 20), "marker": "osD^v<>Ph"[place % 9], "ms": 6}  # fmt: skip
        axes.plot(*zip(*points, strict=True), label=family, lw=1, **style)
    if leg["benchmark"] == "tofu":
        axes.set_xlabel("ROUGE-L recall of held-out answers, %")
        axes.set_ylabel(f"ROUGE-L recall of forgotten answers after {name}, %")
    else:
        axes.axhline(100 * leg["chance"], color="0.5", lw=0.8, ls=":")
        axes.set_xlabel("held-out facts still right, %")
        axes.set_ylabel(f"forgotten facts right after {name}, %")
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Collect one leg, or render all."""
    if sys.argv[1:]:
        task, run, name, *kept = sys.argv[1:]
        record = load_run(Path(run))
        if task == "predict":
            leg: dict[str, Any] = {"predictions": foretold(record)}
        else:
            made = {attack.name for cell in record.cells for attack in cell.attacks}
            attacks = [name for name in ("harmful_0.3", "benign") if name in made]
            leg = collect(record, attacks, float(kept[0]) if kept else None)
        (HERE / "study" / f"{name}.json").write_text(json.dumps(leg, indent=1) + "\n")
        return
    paths = {name: HERE / "study" / f"{name}.json" for name in TITLES}
    legs = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    for name, leg in legs.items():
        if "settings" in leg:
            draw(leg, HERE / "study" / f"{name}.svg")
    text = (HERE / "study.md").read_text(encoding="utf-8")
    start, end = "<!-- tables -->\n", "<!-- end of tables -->"
    before, _, rest = text.partition(start)
    after = rest.partition(end)[2]
    (HERE / "study.md").write_text(f"{before}{start}\n{page(legs)}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
