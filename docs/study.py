"""Write docs/study.md and its figures from the records of the study.

    python docs/study.py collect RUN NAME    # RUN/run.json and its cells -> docs/study/NAME.json
    python docs/study.py                     # docs/study/*.json -> docs/study.md, docs/study/*.svg

A leg of the study is one run. Its methods are tagged with their learning rate (gd@lr1e-3); those that
differ in nothing else are a family, and every family has the same number of settings. A family's matched setting is, of those whose every seed reached the threshold of forgetting,
the one whose held-out accuracy is nearest to that of the matched gd; gd's own is the one that keeps most.
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

from ssiuu.records.files import load_run
from ssiuu.records.schema import RunRecord
from ssiuu.report.comparisons import compare, entities, level, looks, outcomes
from ssiuu.report.rows import rows
from ssiuu.statistics import bootstrap_mean

HERE = Path(__file__).parent
BASE, CONTROL, ORIGINAL = "gd", "never-learned", "none"
MEANS = (
    "steps", "forget", "heldout", "forget_logprob", "heldout_logprob", "distance", "penalty_share",
    "d_plus_100", "d_minus_100", "hide_ratio", "causal_share", "depth_score",
)  # fmt: skip


# --- from a record to a leg ------------------------------------------------------------------------


def collect(record: RunRecord, attacks: Sequence[str]) -> dict[str, Any]:
    """Return what the page needs of a run."""
    table = rows(record)["rows"]
    labels = list(dict.fromkeys(row["method"] for row in table))
    settings = {label: _setting(record, table, label, attacks) for label in labels}
    matched = _matched(settings)
    base = matched.get(BASE)
    against = {
        f"{c.label} {c.column}": [*c.difference, c.differs]
        for c in (compare(record, base) if base else [])
        if c.label in matched.values() and c.column in ("heldout", *attacks)
    }
    return {
        "header": {
            "benchmark": record.header.benchmark.model_dump(mode="json"),
            "chance": record.header.chance,
                        "versions": record.header.versions,
        },
        "attacks": list(attacks),
        "settings": settings,
        "matched": matched,
        "against_gd": against,
        "half": {
            f"{label} {name}": half
            for label in matched.values()
            for name in attacks
            if base and (half := _half(record, label, base, name)) is not None
        },
    }


def _setting(
    record: RunRecord, table: list[dict[str, Any]], label: str, attacks: Sequence[str]
) -> dict[str, Any]:
    cells = [cell for cell in record.cells if cell.method.label == label]
    mine = [row for row in table if row["method"] == label]
    found: dict[str, Any] = {"seeds": len(cells), "hyperparameters": cells[0].method.hyperparameters}
    for name in MEANS:
        values = [row[name] for row in mine if row.get(name) is not None]
        found[name] = sum(values) / len(values) if values else None
    found["reached"] = all(c.unlearning is None or c.unlearning.stopped == "threshold" for c in cells)
    for name in ("heldout", *attacks):
        estimate = level(record, [outcomes(c, name) for c in cells], max(looks(c, name) for c in cells))
        found[f"{name}_level"] = list(estimate) if estimate else None
    return found


def _matched(settings: dict[str, Any]) -> dict[str, str]:
    families: dict[str, list[str]] = {}
    for label, setting in settings.items():
        if setting["reached"] and setting["heldout"] is not None and label not in (CONTROL, ORIGINAL):
            families.setdefault(_family(label), []).append(label)
    if BASE not in families:
        return {}
    kept = {label: settings[label]["heldout"] for labels in families.values() for label in labels}
    base = max(families[BASE], key=lambda label: kept[label])
    chosen = {
        family: min(labels, key=lambda label: abs(kept[label] - kept[base]))
        for family, labels in families.items()
    }
    return chosen | {BASE: base}


def _family(label: str) -> str:
    return label.partition("lr")[0].rstrip("@-")


def _half(record: RunRecord, label: str, base: str, attack: str) -> list[float] | None:
    """Return (method - control) - (gd - control) / 2 with its interval: the target is below 0."""
    stacks = [_stack(record, name, attack) for name in (label, base, CONTROL)]
    items = sorted(set.intersection(*(set(stack) for stack in stacks)))
    if not items:
        return None
    one, two, control = (np.stack([stack[i] for i in items], axis=-1) for stack in stacks)
    if not one.shape == two.shape or one.shape[1] != control.shape[1]:
        return None
    owners = entities(record)
    return list(bootstrap_mean(one - two / 2 - control / 2, [owners[fact] for fact, _ in items]))


def _stack(record: RunRecord, label: str, attack: str) -> dict[Any, np.ndarray]:
    """Return the outcomes by item, [unlearning seeds, attack seeds]."""
    tables = [outcomes(c, attack) for c in record.cells if c.method.label == label]
    if not tables:
        return {}
    items = set.intersection(*(set(table) for table in tables))
    return {
        item: np.array([[table[item][seed] for seed in sorted(table[item])] for table in tables])
        for item in items
    }


# --- from the legs to the page ---------------------------------------------------------------------


def page(legs: dict[str, Any]) -> str:
    """Return the generated part of the page: one section a leg."""
    return "\n".join(_section(name, leg) for name, leg in legs.items())


def _section(name: str, leg: dict[str, Any]) -> str:
    head = leg["header"]
    lines = [
        f"## {name}",
        "",
        f"Benchmark {head['benchmark']['name']}; chance {_percent(head['chance'])} %; "
        f"{max(s['seeds'] for s in leg['settings'].values())} unlearning seeds. Accuracies in %, with 95 % "
        "intervals clustered by entity. *Against gd*: paired difference in points; bold where its interval "
        "excludes 0. *Half*: recovery beyond the control less half of gd's; the target is an interval below 0.",
        "",
    ]
    lines += _table(leg)
    lines += ["", f"![{name}: what an attack brings back against what was kept](study/{name}.svg)", ""]
    return "\n".join(lines)


def _table(leg: dict[str, Any]) -> list[str]:
    attacks = leg["attacks"]
    heads = ["method", "steps", "forget", "held out", "log p", "moved", "D+", "D−"]
    for attack in attacks:
        heads += [attack, "against gd", "half"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    shown = [*leg["matched"].values(), *(x for x in (CONTROL, ORIGINAL) if x in leg["settings"])]
    first = attacks[0] if attacks else "heldout"
    for label in sorted(shown, key=lambda x: (leg["settings"][x][f"{first}_level"] or [9])[0]):
        setting = leg["settings"][label]
        cells = [
            f"`{label}`",
            _number(setting["steps"], ".0f"),
            _percent(setting["forget"]),
            _level(setting["heldout_level"]),
            _number(setting["forget_logprob"], ".1f"),
            _number(setting["distance"], ".3f"),
            _number(setting["d_plus_100"], ".2g"),
            _number(setting["d_minus_100"], ".2g"),
        ]
        for attack in attacks:
            cells += [_level(setting[f"{attack}_level"])]
            cells += [_difference(leg["against_gd"].get(f"{label} {attack}"))]
            cells += [_difference(leg["half"].get(f"{label} {attack}"))]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form).replace("-", "−")


def _percent(value: float | None) -> str:
    return _number(None if value is None else 100 * value, ".0f")


def _level(estimate: list[float] | None) -> str:
    if estimate is None:
        return "–"
    value, low, high = (_percent(x) for x in estimate)
    return f"{value} ({low}–{high})"


def _difference(estimate: list[Any] | None) -> str:
    if estimate is None:
        return "–"
    value, low, high = (format(100 * x, "+.0f").replace("-", "−") for x in estimate[:3])
    text = f"{value} ({low}, {high})"
    return f"**{text}**" if estimate[1] > 0 or estimate[2] < 0 else text


def draw(leg: dict[str, Any], path: Path) -> None:
    """Draw the front: held-out accuracy against the level after the first attack, a line a family."""
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "ssiuu", "text.parse_math": False}
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    name = leg["attacks"][0]
    families: dict[str, list[tuple[float, float]]] = {}
    for label, setting in leg["settings"].items():
        found = setting[f"{name}_level"]
        if found is None or setting["heldout"] is None or label == ORIGINAL or not setting["reached"]:
            continue
        families.setdefault(_family(label), []).append((100 * setting["heldout"], 100 * found[0]))
    colours = matplotlib.colormaps["tab20"]
    for place, (family, points) in enumerate(sorted(families.items())):
        points.sort()
        style = {"color": "black", "marker": "*", "ms": 14} if family == CONTROL else {
            "color": colours(place % 20), "marker": "osD^v<>Ph"[place % 9], "ms": 6}  # fmt: skip
        axes.plot(*zip(*points, strict=True), label=family, lw=1, **style)
    axes.axhline(100 * leg["header"]["chance"], color="0.5", lw=0.8, ls=":")
    axes.set_xlabel("held-out facts still right, %")
    axes.set_ylabel(f"forgotten facts right after {name}, %")
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Collect one leg, or render all."""
    if sys.argv[1:2] == ["collect"]:
        record = load_run(Path(sys.argv[2]))
        attacks = [a for a in ("harmful_0.3", "benign") if any(
            x.name == a for c in record.cells for x in c.attacks)]  # fmt: skip
        target = HERE / "study" / f"{sys.argv[3]}.json"
        target.write_text(json.dumps(collect(record, attacks), indent=1) + "\n")
        return
    legs = {p.stem: json.loads(p.read_text()) for p in sorted((HERE / "study").glob("*.json"))}
    for name, leg in legs.items():
        draw(leg, HERE / "study" / f"{name}.svg")
    text = (HERE / "study.md").read_text(encoding="utf-8")
    start, end = "<!-- tables -->\n", "<!-- end of tables -->"
    before, _, rest = text.partition(start)
    after = rest.partition(end)[2]
    (HERE / "study.md").write_text(f"{before}{start}\n{page(legs)}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
