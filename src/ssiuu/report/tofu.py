"""TOFU's columns of the table of a run, from the record alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ssiuu.diagnosis.verdict import accuracy
from ssiuu.records.schema import Attack, Cell, Evaluation, FactScore, RunRecord
from ssiuu.statistics.tofu import (
    forget_quality,
    forget_truth_ratio,
    kept_truth_ratio,
    model_utility,
)

UTILITY = ("retain", "real_authors", "world_facts")  # the sets model utility is taken over


def is_tofu(record: RunRecord) -> bool:
    """Whether the run has TOFU's sets, and with them its scores."""
    return UTILITY[1] in record.header.split.others


def rouge_sets(record: RunRecord) -> list[str]:
    """Return the sets of a run that are scored by ROUGE-L recall, where it has others than TOFU's."""
    others = record.header.split.others
    return ["forget", "heldout", *others] if others and not is_tofu(record) else []


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

    `forget_quality` needs the never-learned control of the same seed.
    """
    if not is_tofu(record):
        return {}
    evaluation = cell.evaluation
    forget = evaluation.forget if evaluation else {}
    heldout = evaluation.heldout if evaluation else {}
    ratios, kept = _ratios(forget), _ratios(heldout)
    control = _ratios(_control(record, cell.seed) or {})
    return {
        "forget_quality": forget_quality(ratios, control) if ratios and control else None,
        "model_utility": utility(evaluation) if evaluation else None,
        "forget_rouge": _mean(s.rouge for s in forget.values()),
        "forget_probability": _mean(s.probability for s in forget.values()),
        "forget_truth_ratio": forget_truth_ratio(ratios) if ratios else None,
        "extraction_strength": _mean(s.extraction_strength for s in forget.values()),
        "exact_memorisation": _mean(s.exact_memorisation for s in forget.values()),
        "heldout_rouge": _mean(s.rouge for s in heldout.values()),
        "heldout_probability": _mean(s.probability for s in heldout.values()),
        "heldout_truth_ratio": kept_truth_ratio(kept) if kept else None,
    }


def utility(evaluation: Evaluation) -> float | None:
    """Return the harmonic mean of {probability, ROUGE, truth ratio} x `UTILITY`; None if one lacks."""
    sets = {"retain": evaluation.retain, **evaluation.others}
    scores: list[float] = []
    for name in UTILITY:
        facts = sets.get(name, {}).values()
        ratios = _ratios(sets.get(name, {}))
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
    if chance is None or control is None or not record.header.split.others:
        return chance
    return max(chance, accuracy(control.values()) or 0.0)


def attack_rouge(attack: Attack, read: int, pool: Iterable[str]) -> float | None:
    """Return the mean ROUGE-L recall over `pool` at the read with this index; None if not scored."""
    facts = attack.reads[read].facts
    return _mean(facts[i].rouge for i in pool if i in facts)


def _control(record: RunRecord, seed: int) -> Mapping[str, FactScore] | None:
    """Return the forget set's scores under the never-learned control of this seed."""
    for cell in record.cells:
        if cell.method.name == "never-learned" and cell.seed == seed and cell.evaluation:
            return cell.evaluation.forget
    return None


def _ratios(scores: Mapping[str, FactScore]) -> list[float]:
    return [s.truth_ratio for s in scores.values() if s.truth_ratio is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what was scored, or None of nothing."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
