"""OpenUnlearning's numbers of TOFU, under its own names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ssiuu.analysis.column import Column, Direction, Form, Model, never_learned
from ssiuu.analysis.scale import mean
from ssiuu.analysis.scores.aggregates import (
    aggregate_columns,
    aggregate_notes,
    forget_fluency,
    harmonic_of,
)
from ssiuu.analysis.scores.rouge import recalls
from ssiuu.analysis.scores.sentences import FLUENT, SentenceColumns
from ssiuu.records.schema import Cell, Evaluation, FactScore, RunRecord
from ssiuu.statistics.tofu import forget_quality, forget_truth_ratio, kept_truth_ratio

GROUP = "OpenUnlearning's numbers"
EPSILON = 1e-10  # added to denominators
REFERENCE = 0.5  # AUC of the retained model where there is none
SETS = {"retain": "the retain set", "ra": "real authors", "wf": "world facts"}
AUCS = {
    "mia_loss": "loss",
    "mia_zlib": "zlib",
    "mia_min_k": "min-k 40%",
    "mia_min_k_plus_plus": "min-k++ 40%",
    "mia_reference": "reference",
    "mia_gradnorm": "gradnorm",
}
NOTE = (
    "By OpenUnlearning's conventions and under its names; privleak in %, 0.5 standing for the AUC of a "
    "model without the forget set where none is given."
)
Scores = Mapping[str, FactScore]


class OpenUnlearningColumns(SentenceColumns):
    """What TOFU_EVAL.json holds, but for what compares generated text by another model."""

    name = "open-unlearning"
    summary = "TOFU by OpenUnlearning's conventions and under its names, to continue its tables"

    def columns(self, others: Sequence[str]) -> list[Column]:
        """Return its metrics, each under its own name."""
        shares: dict[str, tuple[Callable[[Model], float | None], str, Direction]] = {
            "forget_Q_A_Prob": (_of("forget", _probability), "Probability, forget set.", "lower"),
            "forget_Q_A_ROUGE": (_of("forget", _rouge), "ROUGE-L recall, forget set.", "lower"),
            "forget_Q_A_PARA_Prob": (
                _of("forget", _reworded),
                "Probability of the reworded answers, forget set.",
                "lower",
            ),
            "forget_truth_ratio": (_of("forget", _ratio), "Truth ratio, forget set.", "higher"),
            "model_utility": (utility, "Harmonic mean of the nine of the kept sets.", "higher"),
            "extraction_strength": (_of("forget", _strength), "Extraction strength.", "lower"),
            "forget_Q_A_gibberish": (forget_fluency, FLUENT, "higher"),
            "exact_memorization": (_of("forget", _exact), "Exact memorisation.", "lower"),
        }
        for name, words in SETS.items():
            shares |= {
                _key(name, "Q_A_Prob"): (_of(name, _probability), f"Probability, {words}.", "higher"),
                f"{name}_Q_A_ROUGE": (_of(name, _rouge), f"ROUGE-L recall, {words}.", "higher"),
                _key(name, "Truth_Ratio"): (_of(name, _kept), f"Truth ratio, {words}.", "higher"),
            }
        found = [
            _column(key, read, meaning, direction) for key, (read, meaning, direction) in shares.items()
        ]
        quality = "p-value of a test of the truth ratios against the model without the forget set."
        leak = "Membership inference by Min-K against the model without the forget set; wanted: 0."
        return [
            *recalls(),
            _column("forget_quality", _quality, quality, "higher", "number"),
            *found,
            _column("privleak", _privleak, leak, None, "signed"),
            *(
                _column(key, _auc_of(name), f"AUC of {name}; 0.5: not told apart.", None)
                for key, name in AUCS.items()
            ),
            *_beneath(),
            *aggregate_columns(utility),
        ]

    def notes(self, record: RunRecord) -> dict[str, str]:
        """Say whose numbers they are."""
        return {GROUP: NOTE, **aggregate_notes(record)}


def _beneath() -> list[Column]:
    """Return what its other metrics are made of, which its file holds too; not shown in tables."""
    made: dict[str, tuple[Callable[[Model], float | None], str]] = {
        "retain_Q_A_PARA_Prob": (_of("retain", _reworded), "of the reworded answers, the retain set"),
        "ra_Q_A_Prob": (_of("ra", _reworded), f"of the answers, {SETS['ra']}"),
        "wf_Q_A_Prob": (_of("wf", _reworded), f"of the answers, {SETS['wf']}"),
    }
    for name, words in {"forget": "the forget set", **SETS}.items():
        made[f"{name}_Q_A_PERT_Prob"] = _of(name, _wrong), f"of the wrong answers, {words}"
    return [
        Column(key, key, GROUP, "share", read, f"Probability {words}.", shown=False)
        for key, (read, words) in made.items()
    ]


def utility(model: Model) -> float | None:
    """Return the harmonic mean of {probability, ROUGE-L, truth ratio} x {retain, authors, world}."""
    return harmonic_of(
        _of(name, read)(model) for name in SETS for read in (_probability, _rouge, _kept)
    )


def _key(name: str, metric: str) -> str:
    """Return what it is called there: on authors and world a probability is one among answers."""
    return f"{name}_{metric}" + ("_normalised" if metric == "Q_A_Prob" and name != "retain" else "")


def _column(
    key: str,
    read: Callable[[Model], float | None],
    meaning: str,
    direction: Direction | None,
    form: Form = "share",
) -> Column:
    return Column(key, key, GROUP, form, read, meaning, direction)


# --- their values ----------------------------------------


def _of(name: str, read: Callable[[Scores], float | None]) -> Callable[[Model], float | None]:
    """Return what reads one set of a model; its retain set is all of it, held out here or not."""

    def value(model: Model) -> float | None:
        evaluation = model.cell.evaluation
        return read(_set(evaluation, name)) if evaluation else None

    return value


def _set(evaluation: Evaluation, name: str) -> Scores:
    others = {"ra": "real_authors", "wf": "world_facts"}
    if name in others:
        return evaluation.others.get(others[name], {})
    return evaluation.forget if name == "forget" else {**evaluation.retain, **evaluation.heldout}


def _probability(scores: Scores) -> float | None:
    return mean(score.probability for score in scores.values())


def _reworded(scores: Scores) -> float | None:
    return mean(score.reworded_probability for score in scores.values())


def _wrong(scores: Scores) -> float | None:
    return mean(score.wrong_probability for score in scores.values())


def _rouge(scores: Scores) -> float | None:
    return mean(score.rouge for score in scores.values())


def _strength(scores: Scores) -> float | None:
    return mean(score.extraction_strength for score in scores.values())


def _exact(scores: Scores) -> float | None:
    return mean(score.exact_memorisation for score in scores.values())


def _ratio(scores: Scores) -> float | None:
    ratios = _ratios(scores.values())
    return forget_truth_ratio(ratios, EPSILON) if ratios else None


def _kept(scores: Scores) -> float | None:
    ratios = _ratios(scores.values())
    return kept_truth_ratio(ratios) if ratios else None


def _ratios(scores: Iterable[FactScore]) -> list[float]:
    found = (score.truth_ratio_geometric for score in scores)
    return [ratio for ratio in found if ratio is not None]


def _quality(model: Model) -> float | None:
    control = never_learned(model.record, model.cell.seed)
    cells = [cell for cell in (model.cell, control) if cell and cell.evaluation]
    ours, *theirs = (_ratios(c.evaluation.forget.values()) for c in cells if c.evaluation)
    return forget_quality(ours, theirs[0]) if theirs and ours and theirs[0] else None


def _auc_of(name: str) -> Callable[[Model], float | None]:
    return lambda model: _auc(model.cell, name)


def _auc(cell: Cell | None, name: str) -> float | None:
    found = (attack.values.get(name) for attack in (cell.attacks if cell else ()))
    return next((value for value in found if value is not None), None)


def _privleak(model: Model) -> float | None:
    ours = _auc(model.cell, AUCS["mia_min_k"])
    theirs = _auc(never_learned(model.record, model.cell.seed), AUCS["mia_min_k"])
    if ours is None:
        return None
    reference = 1 - (REFERENCE if theirs is None else theirs)
    return 100 * ((1 - ours) - reference) / (reference + EPSILON)
