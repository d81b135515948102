"""The table of a run: one row a method and seed, made from the record alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ssiuu.analysis.divergence import divergence_columns
from ssiuu.analysis.tofu import attack_rouge, guessing, is_tofu, rouge_columns, tofu_columns
from ssiuu.analysis.utility import utility_columns
from ssiuu.analysis.verdict import (
    accuracy,
    attack_accuracy,
    cell_verdict,
    common_pool,
    ranking,
    reference_level,
    way_back,
)
from ssiuu.records.schema import (
    SCHEMA,
    Attack,
    Cell,
    Evaluation,
    FactScore,
    RunRecord,
    Scored,
    Space,
    Verdict,
)

ORIGINAL = "before unlearning"
PROBES = ("multi_hop", "same_answer")


def rows(record: RunRecord) -> dict[str, Any]:
    """Return the table as plain data: `{"schema": ..., "rows": [...]}`.

    Accuracies are shares in [0, 1], log-probabilities nats a fact, seconds wall time; None means
    "not measured" or "not scored". Attack columns hold the attack's level over the common pool: each
    curve's highest accuracy, averaged over the attack's seeds, for the best learning rate and space.
    Beside each column stand

        _wrong_only     the level over the facts that the unlearned model got wrong (the paper's pool)
        _way_back       (level - unlearned) / (original - unlearned) on the attack's own scale
        _over_control   level less the never-learned control's under the same attack; less chance
                        where the run has no such control

    `kl` and `kl_instructions`: KL from the original, nats a token, on plain text and on the answers to
    instructions, with standard errors `kl_se` and `kl_instructions_se`; `perplexity`: on plain text.
    `strongest` is the attack with the highest level among those that read the ranking, and
    `auc_<score>` the AUC of a membership score. Runs of TOFU have columns of their own, and their
    attack columns hold mean ROUGE-L recalls where answers are written (retraining, rounded weights);
    `_ranking` is then the accuracy. `utility` is the mean over the public tasks, if they were asked.
    Other runs with further sets have `<set>_rouge`, the mean ROUGE-L recall of the written answers.
    `forget_other` and `forget_other_free`: the base question asked in the header's other form.
    `forget_multi_hop` and `forget_same_answer` are over the probes that the original got right.
    """
    names = attack_names(record)
    return {"schema": SCHEMA, "rows": [_row(record, cell, names) for cell in record.cells]}


def verdict(record: RunRecord, cell: Cell) -> Verdict:
    """Judge a cell against chance, or against the never-learned control where the run has one."""
    reference = reference_level(record.cells, cell.seed)
    if cell.method.name == "never-learned":
        reference = None
    return cell_verdict(record.original, cell, guessing(record, cell), reference)


def asked_otherwise(record: RunRecord) -> bool:
    """Whether facts were asked in another form as well."""
    scored = [record.original, *(cell.evaluation for cell in record.cells)]
    scores = [s for evaluation in scored if evaluation for s in evaluation.forget.values()]
    return any(s.other_form is not None or s.other_free is not None for s in scores)


def attack_names(record: RunRecord) -> list[str]:
    """Return the attacks of a run in their order: harmful by fraction, then the others.

    Those that bring back values alone (membership inference) have no level and are not among them.
    """
    attacks = [attack for cell in record.cells for attack in cell.attacks]
    found = {attack.name: attack for attack in attacks if attack.scored != "values"}
    return sorted(found, key=lambda n: (found[n].fraction is None, found[n].fraction or 0.0, n))


def auc_names(record: RunRecord) -> list[str]:
    """Return the membership scores of a run in their order."""
    attacks = [attack for cell in record.cells for attack in cell.attacks]
    return list(dict.fromkeys(name for attack in attacks for name in attack.values))


Level = Callable[[Attack, int, Iterable[str]], float | None]


class Setting(NamedTuple):
    """What an attacker may choose beside the attack; its level is the mean over the attack's seeds."""

    name: str
    learning_rate: float | None
    space: Space
    level: float


def scored_of(record: RunRecord, name: str) -> Scored:
    """Return what the readings of a run's attack are by."""
    attacks = [attack for cell in record.cells for attack in cell.attacks]
    return next((attack.scored for attack in attacks if attack.name == name), "ranking")


def level_of(record: RunRecord, name: str) -> Level:
    """Return how a reading of an attack is scored: in TOFU ROUGE-L recall, else accuracy.

    Attacks of TOFU that ask with other prompts or draw samples are ranked all the same.
    """
    written = is_tofu(record) and scored_of(record, name) == "written"
    return attack_rouge if written else attack_accuracy


def settings(
    attacks: Iterable[Attack], pool: Iterable[str], level: Level = attack_accuracy
) -> list[Setting]:
    """Return every setting that was tried, with the mean over seeds of its curves' highest level.

    A curve that diverged before its first reading counts with the model as it was.
    """
    pool = list(pool)
    tops: dict[tuple[str, float | None, Space], list[float]] = {}
    for attack in attacks:
        places = range(1, len(attack.reads)) or [0]
        levels = [level(attack, place, pool) for place in places]
        scored = [value for value in levels if value is not None]
        if scored:
            key = (attack.name, attack.learning_rate, attack.space)
            tops.setdefault(key, []).append(max(scored))
    return [Setting(*key, sum(found) / len(found)) for key, found in tops.items()]


def peak(
    attacks: Iterable[Attack], name: str, pool: Iterable[str], level: Level = attack_accuracy
) -> float | None:
    """Return the level of the attack with this name: that of its best setting."""
    found = settings([a for a in attacks if a.name == name], pool, level)
    return max((setting.level for setting in found), default=None)


def strongest_setting(cell: Cell, level: Level = attack_accuracy) -> Setting | None:
    """Return the setting with the highest level among the attacks that read the ranking."""
    found = settings(ranking(cell.attacks), common_pool(cell.attacks), level)
    return max(found, key=lambda setting: setting.level, default=None)


def share_back(record: RunRecord, cell: Cell, name: str) -> float | None:
    """Return (level - unlearned) / (original - unlearned); None where nothing was lost."""
    pool, level = common_pool(cell.attacks), level_of(record, name)
    top = peak(cell.attacks, name, pool, level)
    attack = next((a for a in cell.attacks if a.name == name), None)
    if attack is None or top is None or record.original is None:
        return None
    forget = [record.original.forget[i] for i in pool if i in record.original.forget]
    if attack.scored == "free":
        original = mean([s.free_correct for s in forget if s.free_correct is not None])
    elif level is attack_rouge:
        original = mean([s.rouge for s in forget if s.rouge is not None])
    else:
        original = accuracy(forget)
    after = level(attack, 0, pool)
    return None if original is None or after is None else way_back(original, after, top)


def over_control(record: RunRecord, cell: Cell, name: str) -> float | None:
    """Return the level less the never-learned control's under the same attack, or less chance.

    Chance is that of ranking, so sampled answers and ROUGE-L recall have no such substitute.
    """
    level = level_of(record, name)
    top = peak(cell.attacks, name, common_pool(cell.attacks), level)
    attack = next((a for a in cell.attacks if a.name == name), None)
    if attack is None or top is None:
        return None
    twins = [c for c in record.cells if c.method.name == "never-learned" and c.seed == cell.seed]
    floor = None if attack.scored == "free" or level is attack_rouge else record.header.chance
    if twins and cell.method.name != "never-learned":
        floor = peak(twins[0].attacks, name, common_pool(twins[0].attacks), level)
    return None if floor is None else top - floor


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
        **divergence_columns(evaluation),
        **{f"forget_{kind}": mean(known_probes(record, cell, kind)) for kind in PROBES},
    }
    pool, wrong = common_pool(cell.attacks), wrong_only(cell)
    tofu = tofu_columns(record, cell)
    for name in names:
        level = level_of(record, name)
        row[name] = peak(cell.attacks, name, pool, level)
        row[f"{name}_wrong_only"] = peak(cell.attacks, name, wrong, level)
        row[f"{name}_way_back"] = share_back(record, cell, name)
        row[f"{name}_over_control"] = over_control(record, cell, name)
        if level is attack_rouge:
            row[f"{name}_ranking"] = peak(cell.attacks, name, pool)
    row |= tofu | rouge_columns(record, cell) | utility_columns(record, cell)
    best = strongest_setting(cell, attack_rouge if tofu else attack_accuracy)
    row["strongest"] = best.name if best else None
    row["strongest_learning_rate"] = best.learning_rate if best else None
    row["strongest_space"] = best.space if best else None
    row["strongest_level"] = best.level if best else None
    aucs = {name: value for attack in cell.attacks for name, value in attack.values.items()}
    row |= {f"auc_{name}": aucs.get(name) for name in auc_names(record)}
    row["pool"] = len(pool) or None
    row["pool_wrong_only"] = len(wrong) if cell.attacks else None
    influence = diagnosis.influence.get("logprob") if diagnosis else None
    row["d_plus_100"] = influence.d_plus_100 if influence else None
    row["d_minus_100"] = influence.d_minus_100 if influence else None
    row["hide_ratio"] = influence.hide_ratio if influence else None
    evidence = diagnosis.evidence if diagnosis else None
    causal, depth = (evidence.causal, evidence.depth) if evidence else (None, None)
    row["causal_share"] = causal.share.value if causal and causal.share else None
    row["depth_score"] = depth.score.value if depth and depth.score else None
    row["penalty_share"] = _penalty_share(cell)
    row["distance"] = unlearning.distance if unlearning else None
    row["verdict"] = verdict(record, cell)
    row["seconds"] = seconds(cell)
    row["peak_memory_mb"] = unlearning.peak_memory_mb if unlearning else None
    return row


def _scores(evaluation: Evaluation | None) -> dict[str, float | None]:
    if evaluation is None:
        keys = ["forget", "forget_paraphrase", "retain", "heldout"]
        extra = ["forget_free", "retain_free", "heldout_free", "forget_other", "forget_other_free"]
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
    asked = evaluation.forget.values()
    result["forget_other"] = mean([s.other_form for s in asked if s.other_form is not None])
    result["forget_other_free"] = mean([s.other_free for s in asked if s.other_free is not None])
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
