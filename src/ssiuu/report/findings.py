"""What is said of each model in words: the verdict, the numbers that made it, what to mind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ssiuu.analysis.column import Model
from ssiuu.analysis.columns import original
from ssiuu.analysis.divergence import damaged
from ssiuu.analysis.known import Known, known
from ssiuu.analysis.scale import mean
from ssiuu.analysis.scores import score_of
from ssiuu.analysis.standard import known_probes
from ssiuu.analysis.verdict import (
    accuracy,
    common_pool,
    judgement,
    level_interval,
    strongest,
)
from ssiuu.records.schema import AttackCurve, Cell, FactScore, RunRecord, Verdict
from ssiuu.report.answer import SENTENCES, answer, sentence
from ssiuu.report.kept import kept
from ssiuu.report.text import named, percent, rate
from ssiuu.statistics import Interval, wilson

# Below this share of the gradient the page says that the regulariser hardly acted.
TINY = 0.01


@dataclass(frozen=True)
class Finding:
    """What the page says about one method and seed.

    `answer` says of how many facts what was found, or why nothing was; `known` is what was known along
    the examination, on one set of facts. `remarks`: what a careful reader must know. The
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
    answer: str
    known: Known | None
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


def findings(record: RunRecord) -> list[Finding]:
    """Return what is said of every model of a run, controls last."""
    cells = sorted(record.cells, key=lambda cell: cell.method.origin == "control")
    return [finding(record, cell) for cell in cells]


def finding(record: RunRecord, cell: Cell) -> Finding:
    """Put the verdict of one method and seed into words, with the numbers that made it."""
    word = judgement(record, cell)
    before = accuracy(record.original.forget.values()) if record.original else None
    after = accuracy(cell.evaluation.forget.values()) if cell.evaluation else None
    best = strongest(cell)
    return Finding(
        label=cell.method.label,
        name=named(Model(record, cell)),
        origin=cell.method.origin,
        description=cell.method.description,
        verdict=word.verdict,
        # The model as it was needs no examination: it is the one that knows.
        sentence=SENTENCES[word.verdict] if cell.method.name == "none" else sentence(word),
        answer=" ".join(answer(word)) if word.judged else _unexamined(record, cell),
        known=known(cell.examination) if cell.examination else None,
        kept=kept(record, cell),
        damaged=damaged(cell),
        remarks=_remarks(record, cell),
        before=before,
        after=after,
        level=level_interval(cell),
        by=attack_name(best[0], best[0].reads[best[1]].step) if best else "",
        pool=len(common_pool(cell.attacks)),
        curves=len(cell.attacks),
        logprob_before=_depth(record.original.forget) if record.original else None,
        logprob_after=_depth(cell.evaluation.forget) if cell.evaluation else None,
    )


def _depth(scores: Mapping[str, FactScore]) -> float | None:
    return mean(score.logprob for score in scores.values())


def attack_name(attack: AttackCurve, step: int) -> str:
    """Return what a reading of an attack is called: its name, learning rate and place."""
    speed = f", learning rate {rate(attack.learning_rate)}" if attack.learning_rate else ""
    return f"{attack.name}{speed}, step {step}"


def _unexamined(record: RunRecord, cell: Cell) -> str:
    """Say why there is no answer."""
    if cell.failed:
        return f"It broke off: {cell.failed.reason}"
    if record.original is None:
        return "The model before unlearning has not been evaluated."
    if cell.evaluation is None:
        return "The unlearned model has not been evaluated yet."
    if cell.method.name == "none":
        return "Nothing was done to this model."
    return "It was not examined, and without that erased and hidden look the same."


def _remarks(record: RunRecord, cell: Cell) -> list[str]:
    notes = [*_below_chance(record, cell), *_probes(record, cell), *_written(record, cell)]
    unlearning = cell.unlearning
    if unlearning is None:
        return notes
    share = mean(step.penalty_share for step in unlearning.steps)
    if share is not None and share < TINY:
        tiny = f"{100 * share:.1g}" if share >= 1e-7 else "under 0.00001"
        notes.append(
            f"The regulariser moved {tiny}\u00a0% of the gradient (penalty share "
            f"{rate(share)}): this run hardly differs from one without it."
        )
    if unlearning.stopped == "max_steps":
        notes.append("Unlearning was stopped by its limit of steps, not by its threshold.")
    return notes + unlearning.notes


def _probes(record: RunRecord, cell: Cell) -> list[str]:
    """Say how the probes are answered that the original model got right."""
    kinds = {"multi_hop": "Multi-hop questions", "same_answer": "Other facts with the same answer"}
    return [
        f"{words}: {sum(answers)} of the {len(answers)} that the original model knew are still right."
        for kind, words in kinds.items()
        if (answers := known_probes(Model(record, cell), kind).values())
    ]


def _written(record: RunRecord, cell: Cell) -> list[str]:
    """Say how the score's own columns changed, where the score wants that said."""
    score, first, now = score_of(record), original(record), Model(record, cell)
    if not score.told or first is None or cell.evaluation is None:
        return []
    parts = [
        f"{column.heading} {percent(column.read(first))} → {percent(column.read(now))} %"
        for column in score.columns(list(record.header.split.others))
    ]
    return [f"{score.told}: {', '.join(parts)}."]


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
    below = f"Over-unlearning: {_share(after.share, 1)} is below guessing ({_share(chance, 1)})"
    if after.high < chance:
        return [f"{below}, so the answer is avoided rather than unknown."]
    return [f"{below}, though by less than {len(right)} facts can tell apart."]


def _share(value: float, digits: int = 0) -> str:
    # A no-break space keeps a number and its sign on one line.
    return f"{percent(value, digits)}\u00a0%"
