"""A whole run as one HTML page that needs nothing else: no network, no other file.

    Path("report.html").write_text(render(load_run(Path("runs/first"))), encoding="utf-8")

Everything that comes from a model or a data set is escaped by jinja2; the only markup let through
is the SVG made in `figures.py`. The page's security policy allows the one style and the one script
of the template by their hashes and nothing else. Equal records give equal pages.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ssiuu.analysis.divergence import damaged
from ssiuu.analysis.rows import (
    ORIGINAL,
    asked_otherwise,
    attack_names,
    auc_names,
    known_probes,
    mean,
    rows,
)
from ssiuu.analysis.rows import verdict as judge
from ssiuu.analysis.tofu import rouge_columns
from ssiuu.analysis.verdict import (
    accuracy,
    common_pool,
    fact_verdicts,
    level_interval,
    still_known,
    strongest,
)
from ssiuu.records.schema import (
    Attack,
    Cell,
    FactScore,
    FactText,
    Reading,
    RunRecord,
    Verdict,
)
from ssiuu.report.figures import Plot, best_curve, drawn_level, figures
from ssiuu.report.kept import kept
from ssiuu.report.knowledge import sentences
from ssiuu.report.tables import page_context
from ssiuu.report.text import Z, before_row, kl, nats, percent, points, rate, short, span
from ssiuu.statistics import Interval, wilson

# Below this share of the gradient the page says that the regulariser hardly acted.
TINY = 0.01
# Free answers are cut here; a model that rambles would else fill the page.
ANSWER = 240
VERDICTS: tuple[Verdict, ...] = ("erased", "hidden", "not removed", "undecided")
ORIGINS = {
    "paper": "the Ssiuu paper",
    "literature": "literature",
    "ours": "this project",
    "control": "control",
    "given": "given",
}


def render(record: RunRecord, baseline: str | None = None, plots: Sequence[Plot] | None = None) -> str:
    """Return the report of a run as one HTML page.

    Args:
        record: The run.
        baseline: Label of the method the others are compared with; None: gd, or the first that trains.
        plots: The record's figures; None: they are drawn.

    Raises:
        ConfigError: The run has no method with this label.
    """
    environment = _environment()
    template = environment.get_template("template.html.j2")
    block = {
        name: "".join(template.blocks[name](template.new_context())) for name in ("style", "script")
    }
    return template.render(
        policy=_policy(block["style"], block["script"]),
        header=record.header,
        trials=record.trials,
        several=_several(record),
        findings=[finding(record, cell) for cell in record.cells],
        before=before_row(record),
        otherwise=asked_otherwise(record),
        rows=rows(record)["rows"],
        attacks=attack_names(record),
        aucs=auc_names(record),
        members=_members(record),
        descriptions={cell.method.label: cell.method for cell in record.cells},
        plots=figures(record) if plots is None else plots,
        facts=fact_groups(record),
        unknown=[
            (fact, record.header.knowledge.get("forget", {}).get(fact.id))
            for fact in record.header.split.unknown
        ],
        knowledge=sentences(record.header.knowledge),
        chosen=_first_choice(record),
        config=flatten(record.header.config, record.header.sources),
        verdicts=VERDICTS,
        origins=ORIGINS,
        original_label=ORIGINAL,
        **page_context(record, baseline),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ssiuu.report", ""),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "nats": nats,
        "kl": kl,
        "error": lambda error: f"± {Z * error:.2g}",
        "short": short,
        "span": span,
        "points": points,
        "rate": rate,
        # Only ever used on SVG that figures.py made.
        "own_svg": Markup,
        "clip": clip,
    }
    return environment


# What HTML may not hold, except for the white space among it.
CONTROL = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n\r"}


def _printable(value: Any) -> Any:
    return value.translate(CONTROL) if type(value) is str else value


def _policy(style: str, script: str) -> str:
    """Return a Content-Security-Policy that allows these two texts and nothing else."""
    return (
        "default-src 'none'; "
        f"style-src 'sha256-{_hash(style)}'; "
        f"script-src 'sha256-{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def clip(text: str) -> str:
    """Return the text, cut where it is very long."""
    return text if len(text) <= ANSWER else text[:ANSWER].rstrip() + " …"


def _members(record: RunRecord) -> str:
    """Return what the membership attack compared, as it says itself."""
    attacks = [attack for cell in record.cells for attack in cell.attacks]
    return next((attack.note for attack in attacks if attack.values), "")


def _several(record: RunRecord) -> bool:
    return len({cell.seed for cell in record.cells}) > 1


# --- the verdict, in words ----------------------------------------


@dataclass(frozen=True)
class Finding:
    """What the page says about one method and seed.

    `decided` says which numbers made the verdict; `remarks` what a careful reader must know. The
    shares (`before`, `after`, `level`) are accuracies on the forget facts; `level` is the highest
    after an attack, over the common pool of `pool` facts, and `by` names that attack. `kept` says
    what became of the rest, by both measures, `damaged` whether that is a warning.
    """

    label: str
    name: str
    origin: str
    description: str
    verdict: Verdict
    sentence: str
    decided: str
    kept: str
    damaged: bool
    remarks: list[str]
    before: float | None
    after: float | None
    level: Interval | None
    by: str
    pool: int
    curves: int
    logprob_before: float | None
    logprob_after: float | None
    facts: dict[Verdict, int]


SENTENCES: Mapping[Verdict, str] = {
    "erased": "The facts are gone, and none of these attacks brought them back.",
    "hidden": "The facts were hidden, not erased: an attack brings them back.",
    "not removed": "The facts were not removed: the model still answers too many of them.",
    "undecided": "Undecided: these measurements do not tell erased from hidden.",
}


def finding(record: RunRecord, cell: Cell) -> Finding:
    """Put the verdict of one method and seed into words, with the numbers that made it."""
    verdict = judge(record, cell)
    before = accuracy(record.original.forget.values()) if record.original else None
    after = accuracy(cell.evaluation.forget.values()) if cell.evaluation else None
    best = strongest(cell)
    facts = Counter(_fact_verdicts(record, cell).values())
    return Finding(
        label=cell.method.label,
        name=_name(record, cell),
        origin=cell.method.origin,
        description=cell.method.description,
        verdict=verdict,
        sentence=SENTENCES[verdict],
        decided=_decided(record, cell, verdict, before, after),
        kept=kept(record, cell),
        damaged=damaged(cell),
        remarks=_remarks(record, cell),
        before=before,
        after=after,
        level=level_interval(cell),
        by=_attack_name(best[0], best[0].reads[best[1]].step) if best else "",
        pool=len(common_pool(cell.attacks)),
        curves=len(cell.attacks),
        logprob_before=_depth(record.original.forget) if record.original else None,
        logprob_after=_depth(cell.evaluation.forget) if cell.evaluation else None,
        facts={name: facts[name] for name in VERDICTS if facts[name]},
    )


def _name(record: RunRecord, cell: Cell) -> str:
    return f"{cell.method.label}, seed {cell.seed}" if _several(record) else cell.method.label


def _depth(scores: Mapping[str, FactScore]) -> float | None:
    return mean([score.logprob for score in scores.values()])


def _fact_verdicts(record: RunRecord, cell: Cell) -> Mapping[str, Verdict]:
    return fact_verdicts(record.original, cell) if record.original else {}


def _attack_name(attack: Attack, step: int) -> str:
    speed = f", learning rate {rate(attack.learning_rate)}" if attack.learning_rate else ""
    return f"{attack.name}{speed}, step {step}"


def _decided(
    record: RunRecord, cell: Cell, verdict: Verdict, before: float | None, after: float | None
) -> str:
    """Return the sentence that compares the deciding numbers (rules M1-M4 in docs/verdict.md)."""
    if record.original is None:
        return "The model before unlearning has not been evaluated."
    if cell.evaluation is None:
        return "The unlearned model has not been evaluated yet."
    chance = record.header.chance
    if before is None or after is None or chance is None:
        return "Ranking is not scored here: the verdict is that of more than half of the facts."
    half = f"{_share((before + chance) / 2)}, half way from guessing to the original score"
    if verdict == "not removed":
        low = _share(still_known(cell.evaluation).low)
        return f"What decided: the low end of {_share(after)}'s interval, {low}, is above guessing."
    interval = level_interval(cell)
    if interval is None:
        return "No attack has been scored, and without one erased and hidden look the same."
    return _compared(verdict, interval, _share(chance), half)


def _compared(verdict: Verdict, interval: Interval, chance: str, half: str) -> str:
    low, high = _share(interval.low), _share(interval.high)
    if verdict == "hidden":
        return f"What decided: the low end of the interval, {low}, is above guessing ({chance})."
    if verdict == "erased":
        return (
            f"What decided: the interval reaches down to guessing ({chance}), and its high end, "
            f"{high}, stays below {half}."
        )
    return (
        f"What decided: the interval, {low} to {high}, holds both guessing ({chance}) and {half}. "
        "More facts or fewer attack curves would narrow it."
    )


def _remarks(record: RunRecord, cell: Cell) -> list[str]:
    notes = [*_below_chance(record, cell), *_probes(record, cell), *_written(record, cell)]
    unlearning = cell.unlearning
    if unlearning is None:
        return notes
    share = mean([s.penalty_share for s in unlearning.steps if s.penalty_share is not None])
    if share is not None and share < TINY:
        notes.append(
            f"The regulariser moved {_tiny(share)}\u00a0% of the gradient (penalty share "
            f"{rate(share)}): this run hardly differs from one without it."
        )
    if unlearning.stopped == "max_steps":
        notes.append("Unlearning was stopped by its limit of steps, not by its threshold.")
    return notes + unlearning.notes


def _probes(record: RunRecord, cell: Cell) -> list[str]:
    """Say how the probes are answered that the original model got right."""
    kinds = {"multi_hop": "Multi-hop questions", "same_answer": "Other facts with the same answer"}
    return [
        f"{words}: {sum(found)} of the {len(found)} that the original model knew are still right."
        for kind, words in kinds.items()
        if (found := known_probes(record, cell, kind))
    ]


def _written(record: RunRecord, cell: Cell) -> list[str]:
    """Say how the written answers changed, set by set, where a run has further sets."""
    if record.original is None or cell.evaluation is None:
        return []
    before = rouge_columns(record, cell.model_copy(update={"evaluation": record.original}))
    after = rouge_columns(record, cell)
    parts = [
        f"{key.removesuffix('_rouge').replace('_', ' ')} {percent(before[key])} → {percent(level)} %"
        for key, level in after.items()
    ]
    return [f"Mean ROUGE-L recall of the written answers: {', '.join(parts)}."] if parts else []


def _below_chance(record: RunRecord, cell: Cell) -> list[str]:
    """Flag a forget score below chance, and say whether it is more than noise."""
    chance = record.header.chance
    scores = cell.evaluation.forget.values() if cell.evaluation else []
    right = [score.correct for score in scores if score.correct is not None]
    if chance is None or not right:
        return []
    after = wilson(sum(right), len(right))
    if after.share >= chance - 1e-9:  # a third of the facts is not a third of one
        return []
    seen = f"Over-unlearning: {_share(after.share, 1)} is below guessing ({_share(chance, 1)})"
    if after.high < chance:
        return [f"{seen}, so the answer is avoided rather than unknown."]
    return [f"{seen}, though by less than {len(right)} facts can tell apart."]


def _share(value: float, digits: int = 0) -> str:
    # A no-break space keeps a number and its sign on one line.
    return f"{percent(value, digits)}\u00a0%"


def _tiny(share: float) -> str:
    return f"{100 * share:.1g}" if share >= 1e-7 else "under 0.00001"


# --- the facts ----------------------------------------


@dataclass(frozen=True)
class AttackCell:
    """One fact after one attack: at the read where the attack's level is highest."""

    name: str
    trained: bool
    reading: Reading | None
    where: str


@dataclass(frozen=True)
class FactRow:
    """One row of the table of facts."""

    fact: FactText
    before: FactScore | None
    after: FactScore | None
    attacks: list[AttackCell]
    trained: bool
    verdict: Verdict | None


@dataclass(frozen=True)
class FactGroup:
    """The facts under one method and seed; `key` names the group in the page's select."""

    key: str
    name: str
    rows: list[FactRow]


def fact_groups(record: RunRecord) -> list[FactGroup]:
    """Return the table of facts, one group a cell that has been evaluated."""
    return [
        FactGroup(f"c{index}", _name(record, cell), _fact_rows(record, cell))
        for index, cell in enumerate(record.cells)
        if cell.evaluation is not None or cell.attacks
    ]


def _first_choice(record: RunRecord) -> str:
    """Return the group shown first: the first that is no control."""
    keys = [
        (cell.method.origin == "control", f"c{index}")
        for index, cell in enumerate(record.cells)
        if cell.evaluation is not None or cell.attacks
    ]
    return min(keys, key=lambda key: key[0])[1] if keys else ""


def _fact_rows(record: RunRecord, cell: Cell) -> list[FactRow]:
    verdicts = _fact_verdicts(record, cell)
    before = record.original.forget if record.original else {}
    after = cell.evaluation.forget if cell.evaluation else {}
    peaks = [_peak(record, cell, name) for name in attack_names(record)]
    return [
        FactRow(
            fact=fact,
            before=before.get(fact.id),
            after=after.get(fact.id),
            attacks=(cells := [peak.cell(fact.id) for peak in peaks]),
            trained=any(item.trained for item in cells),
            verdict=verdicts.get(fact.id),
        )
        for fact in record.header.split.forget
    ]


@dataclass(frozen=True)
class Peak:
    """The read of an attack at which the common pool's level is highest, over learning rates."""

    name: str
    attack: Attack | None
    read: int

    def cell(self, fact: str) -> AttackCell:
        """Return what this read says about one fact."""
        if self.attack is None or not self.attack.reads:
            return AttackCell(self.name, False, None, "")
        read = self.attack.reads[self.read]
        where = _attack_name(self.attack, read.step)
        return AttackCell(self.name, fact in self.attack.trained, read.facts.get(fact), where)


def _peak(record: RunRecord, cell: Cell, name: str) -> Peak:
    best = best_curve(cell, name, drawn_level(record, name))
    if best is None:
        return Peak(name, None, 0)
    attack, levels = best
    heights = [(level, -index) for index, level in enumerate(levels) if index and level is not None]
    return Peak(name, attack, -max(heights)[1] if heights else -1)


# --- the run ----------------------------------------


@dataclass(frozen=True)
class Setting:
    """One resolved key of the configuration and where its value came from."""

    key: str
    value: str
    source: str


def flatten(config: Mapping[str, Any], sources: Mapping[str, str]) -> list[Setting]:
    """Return a nested configuration as dotted keys, each with its own or its parent's source."""
    return [
        Setting(key, value if isinstance(value, str) else _json(value), _source(key, sources))
        for key, value in _leaves(config, "")
    ]


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    children: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        children = [(str(name), child) for name, child in value.items()]
    elif isinstance(value, list) and any(isinstance(child, Mapping) for child in value):
        children = [(str(index), child) for index, child in enumerate(value)]
    if not children:
        yield key, value
    for name, child in children:
        yield from _leaves(child, f"{key}.{name}" if key else name)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _source(key: str, sources: Mapping[str, str]) -> str:
    while key:
        if key in sources:
            return sources[key]
        key = key.rpartition(".")[0]
    return ""
