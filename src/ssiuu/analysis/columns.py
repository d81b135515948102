"""The one list of columns: terminal, page, Markdown, LaTeX, CSV, JSON and docs draw from it.

    for column in shown(record):
        print(column.title, [column.read(model) for model in models(record)])

Every run has those of `ssiuu.analysis.standard`; a score adds its own (`ssiuu.analysis.scores`), and so
does, by its name, every attack, public task and membership score of a run. They stand by group, in the
order of `TABLES`; one that no model of a run has a value of is left out of its tables, and stays in the
rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ssiuu.analysis.column import ORIGINAL, Column, Form, Model
from ssiuu.analysis.divergence import DAMAGED
from ssiuu.analysis.kept import RANKED, lost
from ssiuu.analysis.known import known
from ssiuu.analysis.levels import (
    Setting,
    attack_names,
    attacked,
    over_control,
    peak,
    share_back,
    strongest_attacker,
)
from ssiuu.analysis.once import once
from ssiuu.analysis.scale import FREE, RANKING, Scale
from ssiuu.analysis.score import ScoreColumns
from ssiuu.analysis.scores import score_of
from ssiuu.analysis.standard import answers, cost, inside, moved
from ssiuu.analysis.utility import task_interval, task_mean, task_names, tasks
from ssiuu.analysis.verdict import VERDICTS, judgement
from ssiuu.records.schema import AttackCurve, Cell, MethodInfo, RunRecord, Verdict
from ssiuu.statistics import Estimate

# The table that each group of columns stands in, in their order; a group of a score's own is a table of
# its own name, after the first.
MAIN, INSIDE = "All numbers", "Inside and cost"
TABLES = {
    "Verdict": MAIN,
    "Forget set": MAIN,
    "Kept": MAIN,
    "Moved": MAIN,
    "After attack": MAIN,
    "Utility": "Utility",
    "The strongest attacker": "The strongest attacker",
    "Membership inference": "Membership inference",
    "Inside": INSIDE,
    "Cost": INSIDE,
}


@once
def columns(record: RunRecord) -> list[Column]:
    """Return every column of a run, in its order."""
    score, scales = score_of(record), attack_scales(record)
    others = list(record.header.split.others)
    return every(score, others, scales, task_names(record), auc_names(record))


def every(
    score: ScoreColumns,
    others: Sequence[str],
    attacks: Mapping[str, Scale],
    tasks: Sequence[str],
    aucs: Sequence[str],
) -> list[Column]:
    """Return the columns of runs that have these.

    Args:
        score: What models are judged by.
        others: Names of further sets.
        attacks: Attacks by name, each with the scale of its levels.
        tasks: Names of public tasks.
        aucs: Names of membership scores.
    """
    columns = [
        *_verdict(),
        *answers(),
        *score.columns(others),
        *moved(),
        _kept(),
        *(column for name, scale in attacks.items() for column in attack_columns(name, scale)),
        *_pools(),
        *utility_columns(tasks),
        *strongest_columns(score.scale),
        *membership_columns(aucs),
        *inside(),
        *cost(),
    ]
    order = [*TABLES]
    own = order.index("Utility") - 0.5  # a score's own group stands after the main table
    return sorted(columns, key=lambda c: order.index(c.group) if c.group in order else own)


@once
def attack_scales(record: RunRecord) -> dict[str, Scale]:
    """Return the scale that the levels of each of a run's attacks are on."""
    score, first = score_of(record), dict[str, AttackCurve]()
    for cell in record.cells:
        for attack in cell.attacks:
            first.setdefault(attack.name, attack)
    return {name: score.scale_of(first[name]) for name in attack_names(record)}


def shown(record: RunRecord) -> list[Column]:
    """Return the columns of the tables: those that some model of the run has a value of."""
    run = models(record)
    return [
        column
        for column in columns(record)
        if column.shown and any(column.read(model) is not None for model in run)
    ]


@once
def compared(record: RunRecord) -> list[Column]:
    """Return the columns that models are compared in: those with outcomes of single facts."""
    return [
        column
        for column in columns(record)
        if column.shown
        and column.outcomes
        and any(column.outcomes(Model(record, cell), None) for cell in record.cells)
    ]


def models(record: RunRecord) -> list[Model]:
    """Return the models of a run: the one before unlearning, where it was scored, and every cell's."""
    before = original(record)
    return [*([before] if before else []), *(Model(record, cell) for cell in record.cells)]


def original(record: RunRecord) -> Model | None:
    """Return the model before unlearning; None where it was not scored."""
    if record.original is None:
        return None
    method = MethodInfo(label=ORIGINAL, name="none", origin="control", description="")
    # Its seed says which never-learned control it is held against.
    seed = record.cells[0].seed if record.cells else record.header.split.seed
    return Model(record, Cell(method=method, seed=seed, evaluation=record.original))


def auc_names(record: RunRecord) -> list[str]:
    """Return the membership scores of a run in their order."""
    attacks = [attack for cell in record.cells for attack in cell.attacks]
    return list(dict.fromkeys(name for attack in attacks for name in attack.values))


def verdict(record: RunRecord, cell: Cell) -> Verdict:
    """Return the word on one model."""
    return judgement(record, cell).verdict


def _verdict() -> list[Column]:
    def read(model: Model) -> Verdict | None:
        return None if model.before else model.judgement.verdict

    word = Column("verdict", "verdict", "Verdict", "words", read, "What the examination says together.")
    return [word, *map(_count, VERDICTS), *_judged(), *_known()]


def _count(verdict: Verdict) -> Column:
    def read(model: Model) -> int | None:
        return None if model.before or not model.judgement.facts else model.judgement.count(verdict)

    meaning = f"Facts to forget whose own verdict is {verdict}."
    return _data(f"facts_{verdict.replace(' ', '_')}", f"facts {verdict}", "whole", read, meaning)


def _judged() -> list[Column]:
    """Return the interval of the number of hidden facts, and what the examination can see."""

    def read(field: str) -> Callable[[Model], Any]:
        return lambda model: None if model.before else getattr(model.judgement.judged, field, None)

    ends = {"least": "At least", "most": "At most"}
    return [
        *(
            _data(
                f"hidden_{field}",
                f"hidden, {words.lower()}",
                "whole",
                read(field),
                f"{words} so many facts are hidden or still there (95 %).",
            )
            for field, words in ends.items()
        ),
        _data(
            "power",
            "power",
            "share",
            read("power"),
            "Share of hidden facts that the examination finds, the hardest ways of hiding included.",
        ),
    ]


def _known() -> list[Column]:
    """Return the shares that are known along the examination, on one set of facts."""

    def read(field: str) -> Callable[[Model], float | None]:
        def value(model: Model) -> float | None:
            found = known(model.cell.examination) if model.cell.examination else None
            return getattr(found, field) if found else None

        return value

    fields = {
        "before": "before unlearning",
        "after": "after it",
        "strongest": "at the strongest look of its examination",
    }
    return [
        _data(
            f"known_{field}",
            f"known, {field}",
            "share",
            read(field),
            f"Share of the facts read before and after that are known {words}: the right answer "
            "beats 95 % of the decoys.",
        )
        for field, words in fields.items()
    ]


def _data(key: str, heading: str, form: Form, read: Callable[[Model], Any], meaning: str) -> Column:
    return Column(key, heading, "Verdict", form, read, meaning, shown=False)


def _kept() -> Column:
    def read(model: Model) -> str | None:
        gone = None if model.before else lost(model.record, model.cell)
        if not gone:
            return None if gone is None else "yes"
        return f"no: {gone[0]}" if len(gone) == 1 else "no: both"

    meaning = (
        f"Whether it kept both: KL on plain text at most {DAMAGED:g}, and at least {RANKED:.0%} of the "
        "original's score on facts held out (or to retain); either alone calls a broken model whole."
    )
    return Column("kept", "kept both", "Kept", "words", read, meaning)


# --- of attacks ----------------------------------------


def attack_columns(name: str, scale: Scale) -> list[Column]:
    """Return the level of an attack, and that level held against what it may be held against."""
    form: Form = "share" if scale.share else "number"

    def beside(
        tail: str, read: Callable[[Model], float | None], meaning: str, below: str = ""
    ) -> Column:
        heading = f"{name}, {tail.replace('_', ' ')}"
        return Column(
            f"{name}_{tail}", heading, "After attack", form, read, meaning, beside=below, shown=False
        )

    level = Column(
        name,
        name,
        "After attack",
        form,
        lambda model: peak(model, name, scale),
        f"Highest {scale.unit} along the attack's curves, over the facts that no attack trained on: "
        "of its best setting, a mean over its seeds.",
        "lower",
        lambda model, pool: attacked(model, name, scale, pool),
        chance=scale.chance,
    )
    columns = [
        level,
        beside(
            "wrong_only",
            lambda model: peak(model, name, scale, model.wrong),
            "The same over those that the unlearned model got wrong (the paper's pool).",
            name,
        ),
        beside(
            "way_back",
            lambda model: share_back(model, name, scale),
            "(level − unlearned) / (original − unlearned), on the attack's own scale.",
        ),
        beside(
            "over_control",
            lambda model: over_control(model, name, scale),
            "Level less the never-learned control's under the same attack, or less chance without one.",
        ),
    ]
    if scale not in (RANKING, FREE):
        columns.append(
            beside("ranking", lambda model: peak(model, name, RANKING), "The accuracy along it.")
        )
    return columns


def _pools() -> list[Column]:
    def wrong(model: Model) -> int | None:
        return len(model.wrong) if model.cell.attacks else None

    return [
        Column(
            "pool",
            "pool",
            "After attack",
            "whole",
            lambda model: len(model.pool) or None,
            "Number of facts that every attack is scored on and none trained on.",
        ),
        Column(
            "pool_wrong_only",
            "pool, wrong only",
            "After attack",
            "whole",
            wrong,
            "Number of those that the unlearned model got wrong.",
            beside="pool",
            shown=False,
        ),
    ]


def strongest_columns(scale: Scale) -> list[Column]:
    """Return what the strongest attacker is: attack, what it trains, learning rate, and its level."""

    def column(
        tail: str, heading: str, form: Form, read: Callable[[Model, Setting], Any], meaning: str
    ) -> Column:
        def value(model: Model) -> Any:
            best = strongest_attacker(model, scale)
            return read(model, best) if best else None

        key = f"strongest_{tail}" if tail else "strongest"
        return Column(key, heading, "The strongest attacker", form, value, meaning)

    share: Form = "share" if scale.share else "number"
    return [
        column(
            "", "strongest", "words", lambda _, best: best.name, "The attack with the highest level."
        ),
        column(
            "space",
            "trained",
            "words",
            lambda _, best: None if best.learning_rate is None else best.space,
            "What of the model it trains.",
        ),
        column(
            "learning_rate", "rate", "rate", lambda _, best: best.learning_rate, "Its learning rate."
        ),
        column("level", "level", share, lambda _, best: best.level, f"Its level, {scale.unit}."),
        column(
            "way_back",
            "way back",
            share,
            lambda model, best: share_back(model, best.name, scale),
            "How far it gets from the unlearned model to the original.",
        ),
        column(
            "over_control",
            "over control",
            share,
            lambda model, best: over_control(model, best.name, scale),
            "Level less the never-learned control's under the same attack, or less chance without one.",
        ),
    ]


def membership_columns(names: Sequence[str]) -> list[Column]:
    """Return the AUC of every score of membership inference."""

    def column(name: str) -> Column:
        def read(model: Model) -> float | None:
            values = {
                key: value for attack in model.cell.attacks for key, value in attack.values.items()
            }
            return values.get(name)

        meaning = f"AUC of {name} in telling facts to forget from others; 0.5: not told apart."
        return Column(f"auc_{name}", f"AUC {name}", "Membership inference", "ratio", read, meaning)

    return [column(name) for name in names]


# --- of public tasks ----------------------------------------


def utility_columns(names: Sequence[str]) -> list[Column]:
    """Return the accuracies on the public tasks and their mean; none where none were asked."""
    if not names:
        return []
    mean = _estimated(
        "utility", "utility", lambda model: task_mean([tasks(model)]), "Mean over the tasks."
    )
    return [mean, *map(_task, names)]


def _task(name: str) -> Column:
    return _estimated(
        f"utility_{name}",
        name,
        lambda model: task_interval(model, name),
        f"Accuracy on {name}, by lm-eval.",
    )


def _estimated(
    key: str, heading: str, interval: Callable[[Model], Estimate | None], meaning: str
) -> Column:
    def read(model: Model) -> float | None:
        estimate = interval(model)
        return estimate.value if estimate else None

    return Column(key, heading, "Utility", "share", read, meaning, "higher", interval=interval)
