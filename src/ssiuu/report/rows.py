"""The table of a run: one row a method and seed, made from the record alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ssiuu.diagnosis.verdict import (
    accuracy,
    attack_accuracy,
    cell_verdict,
    common_pool,
    reference_level,
)
from ssiuu.records.schema import (
    SCHEMA,
    Attack,
    Cell,
    Evaluation,
    FactScore,
    RunRecord,
    Verdict,
)
from ssiuu.report.tofu import attack_rouge, rouge_columns, tofu_columns

PROBES = ("multi_hop", "same_answer")


def rows(record: RunRecord) -> dict[str, Any]:
    """Return the table as plain data: `{"schema": ..., "rows": [...]}`.

    Accuracies are shares in [0, 1], log-probabilities nats a fact, seconds wall time; None means
    "not measured" or "not scored". Attack columns hold the highest accuracy along the curves of all
    learning rates over the common pool; `_wrong_only` is the same over the facts that the unlearned
    model got wrong (the paper's pool). Runs of TOFU have columns of their own, and their attack
    columns hold mean ROUGE-L recalls; `_ranking` is then the accuracy. Other runs with further sets
    have `<set>_rouge`, the mean ROUGE-L recall of the written answers. `forget_multi_hop` and
    `forget_same_answer` are over the probes that the original model got right.
    """
    names = attack_names(record)
    return {"schema": SCHEMA, "rows": [_row(record, cell, names) for cell in record.cells]}


def verdict(record: RunRecord, cell: Cell) -> Verdict:
    """Judge a cell against chance, or against the never-learned control where the run has one."""
    reference = reference_level(record.cells, cell.seed)
    if cell.method.name == "never-learned":
        reference = None
    return cell_verdict(record.original, cell, record.header.chance, reference)


def attack_names(record: RunRecord) -> list[str]:
    """Return the attacks of a run in their order: harmful by fraction, then the others."""
    found = {attack.name: attack for cell in record.cells for attack in cell.attacks}
    return sorted(found, key=lambda n: (found[n].fraction is None, found[n].fraction or 0.0, n))


def peak(
    attacks: Iterable[Attack],
    name: str,
    pool: Iterable[str],
    score: Callable[[Attack, int, Iterable[str]], float | None] = attack_accuracy,
) -> float | None:
    """Return the highest score over `pool` along every curve of the attack with this name."""
    pool = list(pool)
    levels = [
        level
        for attack in attacks
        if attack.name == name
        for index in range(1, len(attack.reads))
        if (level := score(attack, index, pool)) is not None
    ]
    return max(levels) if levels else None


def wrong_only(cell: Cell) -> set[str]:
    """Return the facts of the common pool that the unlearned model ranks wrong."""
    if cell.evaluation is None:
        return set()
    forget = cell.evaluation.forget
    return {i for i in common_pool(cell.attacks) if i in forget and forget[i].correct is False}


def known_probes(record: RunRecord, cell: Cell, kind: str) -> list[bool]:
    """Return how the forget set's probes of a kind of `PROBES` are answered now, of those that the
    original model got right.
    """
    before = record.original.forget if record.original else {}
    after = cell.evaluation.forget if cell.evaluation else {}
    return [
        bool(now)
        for id in before.keys() & after.keys()
        for was, now in zip(getattr(before[id], kind), getattr(after[id], kind), strict=True)
        if was
    ]


def _row(record: RunRecord, cell: Cell, names: list[str]) -> dict[str, Any]:
    evaluation, unlearning, diagnosis = cell.evaluation, cell.unlearning, cell.diagnosis
    row: dict[str, Any] = {
        "method": cell.method.label,
        "origin": cell.method.origin,
        "seed": cell.seed,
        "steps": len(unlearning.steps) if unlearning else None,
        **_scores(evaluation),
        **{f"forget_{kind}": mean(known_probes(record, cell, kind)) for kind in PROBES},
    }
    pool, wrong = common_pool(cell.attacks), wrong_only(cell)
    tofu = tofu_columns(record, cell)
    score = attack_rouge if tofu else attack_accuracy
    for name in names:
        row[name] = peak(cell.attacks, name, pool, score)
        row[f"{name}_wrong_only"] = peak(cell.attacks, name, wrong, score)
        if tofu:
            row[f"{name}_ranking"] = peak(cell.attacks, name, pool)
    row |= tofu | rouge_columns(record, cell)
    row["pool"] = len(pool) or None
    row["pool_wrong_only"] = len(wrong) if cell.attacks else None
    influence = diagnosis.influence.get("logprob") if diagnosis else None
    row["d_plus_100"] = influence.d_plus_100 if influence else None
    row["d_minus_100"] = influence.d_minus_100 if influence else None
    row["hide_ratio"] = influence.hide_ratio if influence else None
    row["penalty_share"] = _penalty_share(cell)
    row["verdict"] = verdict(record, cell)
    row["seconds"] = seconds(cell)
    row["peak_memory_mb"] = unlearning.peak_memory_mb if unlearning else None
    return row


def _scores(evaluation: Evaluation | None) -> dict[str, float | None]:
    if evaluation is None:
        keys = ["forget", "forget_paraphrase", "retain", "heldout"]
        extra = ["forget_free", "retain_free", "heldout_free"]
        logs = ["forget_logprob", "retain_logprob", "heldout_logprob"]
        return dict.fromkeys([*keys, *extra, *logs])
    sets: dict[str, Mapping[str, FactScore]] = {
        "forget": evaluation.forget,
        "retain": evaluation.retain,
        "heldout": evaluation.heldout,
    }
    paraphrases = [c for s in evaluation.forget.values() for c in s.paraphrases if c is not None]
    result: dict[str, float | None] = {name: accuracy(scores.values()) for name, scores in sets.items()}
    result["forget_paraphrase"] = mean(paraphrases)
    for name, scores in sets.items():
        free = [s.free_correct for s in scores.values() if s.free_correct is not None]
        result[f"{name}_free"] = mean(free)
        result[f"{name}_logprob"] = mean([s.logprob for s in scores.values()])
    return result


def mean(values: list[Any]) -> float | None:
    """Return the mean, or None of nothing."""
    return float(sum(values) / len(values)) if values else None


def _penalty_share(cell: Cell) -> float | None:
    steps = cell.unlearning.steps if cell.unlearning else []
    return mean([s.penalty_share for s in steps if s.penalty_share is not None])


def seconds(cell: Cell) -> float:
    """Return the wall time of all stages of a cell."""
    stages = [cell.unlearning, cell.evaluation, cell.diagnosis, *cell.attacks]
    return round(sum(stage.seconds for stage in stages if stage is not None), 2)
