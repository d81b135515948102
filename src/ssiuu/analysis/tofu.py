"""TOFU's columns of the table of a run, from the record alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ssiuu.analysis.verdict import accuracy
from ssiuu.records.schema import Attack, Cell, Evaluation, FactScore, RunRecord
from ssiuu.statistics.tofu import (
    forget_quality,
    forget_truth_ratio,
    kept_truth_ratio,
    model_utility,
    privleak,
)

UTILITY = ("retain", "real_authors", "world_facts")  # the sets model utility is taken over
PRIVLEAK = "min-k 40%"  # the membership score that PrivLeak is taken of


def is_tofu(record: RunRecord) -> bool:
    """Whether the run is scored as TOFU is."""
    return record.header.score == "sentences"


def rouge_sets(record: RunRecord) -> list[str]:
    """Return the sets of a run that are scored by ROUGE-L recall, where it has others than TOFU's."""
    return ["forget", "heldout", *record.header.split.others] if record.header.score == "rouge" else []


def rouge_columns(record: RunRecord, cell: Cell) -> dict[str, float | None]:
    """Return the mean ROUGE-L recall of the written answers of those sets."""
    scores = cell.evaluation
    sets = {"forget": scores.forget, "heldout": scores.heldout, **scores.others} if scores else {}
    return {
        f"{name}_rouge": _mean(s.rouge for s in sets.get(name, {}).values())
        for name in rouge_sets(record)
    }


def tofu_columns(record: RunRecord, cell: Cell) -> dict[str, float | None]:
    """Return what TOFU reports of one cell; nothing for the runs of other benchmarks.

    `forget_quality` and `privleak` need the never-learned control of the same seed.
    """
    if not is_tofu(record):
        return {}
    evaluation, control = cell.evaluation, _control(record, cell.seed)
    forget = evaluation.forget if evaluation else {}
    heldout = evaluation.heldout if evaluation else {}
    kept, ratios, geometric = _ratios(heldout), _ratios(forget), _ratios(forget, geometric=True)
    twin = control.evaluation if control else None
    before = _ratios(twin.forget if twin else {}, geometric=True)
    auc, retrained = _auc(cell), _auc(control)
    return {
        "forget_quality": forget_quality(geometric, before) if geometric and before else None,
        "model_utility": utility(evaluation) if evaluation else None,
        "model_utility_geometric": utility(evaluation, geometric=True) if evaluation else None,
        "privleak": None if auc is None or retrained is None else privleak(auc, retrained),
        "forget_rouge": _mean(s.rouge for s in forget.values()),
        "forget_probability": _mean(s.probability for s in forget.values()),
        "forget_truth_ratio": forget_truth_ratio(ratios) if ratios else None,
        "forget_truth_ratio_geometric": forget_truth_ratio(geometric) if geometric else None,
        "extraction_strength": _mean(s.extraction_strength for s in forget.values()),
        "exact_memorisation": _mean(s.exact_memorisation for s in forget.values()),
        "heldout_rouge": _mean(s.rouge for s in heldout.values()),
        "heldout_probability": _mean(s.probability for s in heldout.values()),
        "heldout_truth_ratio": kept_truth_ratio(kept) if kept else None,
    }


def utility(evaluation: Evaluation, geometric: bool = False) -> float | None:
    """Return the harmonic mean of {probability, ROUGE, truth ratio} x `UTILITY`; None if one lacks.

    Args:
        evaluation: Of one model.
        geometric: Take the geometric truth ratio, as OpenUnlearning does.
    """
    sets = {"retain": evaluation.retain, **evaluation.others}
    scores: list[float] = []
    for name in UTILITY:
        facts = sets.get(name, {}).values()
        ratios = _ratios(sets.get(name, {}), geometric)
        probability, rouge = _mean(s.probability for s in facts), _mean(s.rouge for s in facts)
        if probability is None or rouge is None or not ratios:
            return None
        scores += [probability, rouge, kept_truth_ratio(ratios)]
    return model_utility(scores)


def guessing(record: RunRecord, cell: Cell) -> float | None:
    """Return the accuracy of guessing: for TOFU the never-learned control's, where it is higher.

    TOFU's wrong answers are reworded, so their form alone gives some of them away.
    """
    chance, control = record.header.chance, _control(record, cell.seed)
    scores = control.evaluation if control else None
    if chance is None or scores is None or not record.header.split.others:
        return chance
    return max(chance, accuracy(scores.forget.values()) or 0.0)


def attack_rouge(attack: Attack, read: int, pool: Iterable[str]) -> float | None:
    """Return the mean ROUGE-L recall over `pool` at the read with this index; None if not scored."""
    facts = attack.reads[read].facts
    return _mean(facts[i].rouge for i in pool if i in facts)


def _control(record: RunRecord, seed: int) -> Cell | None:
    """Return the never-learned control of this seed, once it is scored."""
    for cell in record.cells:
        if cell.method.name == "never-learned" and cell.seed == seed and cell.evaluation:
            return cell
    return None


def _auc(cell: Cell | None) -> float | None:
    """Return the AUC of membership inference that PrivLeak is taken of."""
    found = (attack.values.get(PRIVLEAK) for attack in (cell.attacks if cell else ()))
    return next((value for value in found if value is not None), None)


def _ratios(scores: Mapping[str, FactScore], geometric: bool = False) -> list[float]:
    """Return the truth ratios; records of before there were two hold the geometric one alone."""
    found = (
        s.truth_ratio_geometric if geometric and s.truth_ratio_geometric is not None else s.truth_ratio
        for s in scores.values()
    )
    return [ratio for ratio in found if ratio is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what was scored, or None of nothing."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
