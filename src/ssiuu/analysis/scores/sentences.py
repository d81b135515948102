"""TOFU's numbers: answers are sentences, scored by what is written and how probable they are.

Forget quality and PrivLeak are of a model and the control that never learned the facts, of one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ssiuu.analysis.column import Column, Direction, Model, never_learned, of_facts
from ssiuu.analysis.scale import WRITTEN, mean
from ssiuu.analysis.score import ScoreColumns
from ssiuu.analysis.scores.aggregates import aggregate_columns, aggregate_notes, forget_fluency
from ssiuu.analysis.scores.privacy import privleak_column
from ssiuu.analysis.scores.rouge import recalls
from ssiuu.analysis.verdict import accuracy
from ssiuu.records.schema import Cell, Evaluation, FactScore, RunRecord
from ssiuu.statistics.tofu import (
    forget_quality,
    forget_truth_ratio,
    kept_truth_ratio,
    model_utility,
)

GROUP = "TOFU's numbers"
UTILITY = ("retain", "real_authors", "world_facts")  # the sets model utility is taken over
NOTE = (
    "In %, but for forget quality: the p-value of a test against the never-learned control (above "
    "0.05: not told apart), and PrivLeak: 0 as if never learned, below 0 the forget set still looks"
    " trained on. Utility is the harmonic mean of probability, ROUGE-L and truth ratio on the "
    "retain set, real authors and world facts. Probabilities and truth ratios count the end token; "
    "the truth ratio averages the wrong answers' probabilities, as TOFU does, the geometric one "
    "their logarithms, as OpenUnlearning and forget quality do."
)
FLUENT = "Mean probability that the written answers to the forget set are no gibberish."
OLDER = (
    " This run was scored before ssiuu counted the end token, and its truth ratios are all "
    "geometric: its numbers do not compare with later ones."
)


class SentenceColumns(ScoreColumns):
    """What TOFU reports of a model, and what OpenUnlearning adds."""

    name = "sentences"
    summary = "TOFU: ROUGE-L recall, probability and truth ratio of sentences; forget quality, utility"
    scale = WRITTEN
    forget = "forget_rouge"
    kept = "heldout_rouge"

    def columns(self, others: Sequence[str]) -> list[Column]:
        """Return recalls, what TOFU makes of them, and the scores they are made of."""
        control = "against the never-learned control"
        harmonic = (
            "Harmonic mean of probability, ROUGE-L and truth ratio on retain set, authors and world"
        )
        ratio = (
            "Truth ratio of the facts to forget: the wrong answers' probability against the right one's"
        )
        return [
            *recalls(),
            Column(
                "forget_quality",
                "forget quality",
                GROUP,
                "number",
                _quality,
                f"p-value of a test of the truth ratios {control}.",
                "higher",
            ),
            _share("model_utility", "model utility", _utility, f"{harmonic}.", "higher"),
            _share(
                "model_utility_geometric",
                "utility, geometric",
                lambda model: _utility(model, geometric=True),
                f"{harmonic}, with the geometric truth ratio.",
                "higher",
            ),
            privleak_column(GROUP),
            _mean_of("probability", "Mean probability of the answers, a token.", "forget_probability"),
            _share("forget_truth_ratio", "truth ratio", _forget_ratio, f"{ratio}.", "higher"),
            _share(
                "forget_truth_ratio_geometric",
                "truth ratio, geometric",
                lambda model: _forget_ratio(model, geometric=True),
                f"{ratio}, by mean log-probabilities.",
                "higher",
            ),
            _mean_of("reworded_probability", "Mean probability of the reworded answers, a token."),
            _mean_of("extraction_strength", "Share of an answer that is written when given the rest."),
            _mean_of("exact_memorisation", "Share of an answer's tokens that are the most probable."),
            of_facts(
                "heldout_probability",
                "held-out probability",
                GROUP,
                lambda e: e.heldout,
                lambda s: [s.probability],
                "Mean probability of the answers to the facts held out, a token.",
                direction="higher",
            ),
            _share(
                "heldout_truth_ratio",
                "held-out truth ratio",
                _kept_ratio,
                "Truth ratio of the facts held out.",
                "higher",
            ),
            _share("fluency", "fluency", forget_fluency, FLUENT, "higher"),
            *aggregate_columns(lambda model: _utility(model, geometric=True)),
        ]

    def guessing(self, record: RunRecord, cell: Cell) -> float | None:
        """Return chance, or the never-learned control's accuracy where that is higher.

        TOFU's wrong answers are reworded, so their form alone gives some of them away.
        """
        chance, control = record.header.chance, never_learned(record, cell.seed)
        if chance is None or control is None or control.evaluation is None:
            return chance
        return max(chance, accuracy(control.evaluation.forget.values()) or 0.0)

    def notes(self, record: RunRecord) -> dict[str, str]:
        """Say what the numbers are, and where those of an older record are others."""
        older = OLDER if record.header.benchmark.version == "1" else ""
        return {GROUP: NOTE + older, **aggregate_notes(record)}


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
        probability, rouge = mean(s.probability for s in facts), mean(s.rouge for s in facts)
        if probability is None or rouge is None or not ratios:
            return None
        scores += [probability, rouge, kept_truth_ratio(ratios)]
    return model_utility(scores)


# --- the columns ----------------------------------------


def _share(
    key: str, heading: str, read: Callable[[Model], float | None], meaning: str, direction: Direction
) -> Column:
    return Column(key, heading, GROUP, "share", read, meaning, direction)


def _mean_of(field: str, meaning: str, key: str = "") -> Column:
    """Return the mean of a field of `FactScore` over the forget set."""

    def read(score: FactScore) -> list[float | None]:
        return [getattr(score, field)]

    heading = (key or field).replace("_", " ")
    return of_facts(key or field, heading, GROUP, lambda e: e.forget, read, meaning, direction="lower")


# --- their values ----------------------------------------


def _forget(cell: Cell | None) -> Mapping[str, FactScore]:
    return cell.evaluation.forget if cell and cell.evaluation else {}


def _quality(model: Model) -> float | None:
    """Return forget quality; None without a control that was scored."""
    control = never_learned(model.record, model.cell.seed)
    ours, theirs = (_ratios(_forget(cell), geometric=True) for cell in (model.cell, control))
    return forget_quality(ours, theirs) if ours and theirs else None


def _utility(model: Model, geometric: bool = False) -> float | None:
    return utility(model.cell.evaluation, geometric) if model.cell.evaluation else None


def _forget_ratio(model: Model, geometric: bool = False) -> float | None:
    ratios = _ratios(_forget(model.cell), geometric)
    return forget_truth_ratio(ratios) if ratios else None


def _kept_ratio(model: Model) -> float | None:
    ratios = _ratios(model.cell.evaluation.heldout if model.cell.evaluation else {})
    return kept_truth_ratio(ratios) if ratios else None


def _ratios(scores: Mapping[str, FactScore], geometric: bool = False) -> list[float]:
    """Return the truth ratios; records of before there were two hold the geometric one alone."""
    ratios: Iterable[float | None] = (
        s.truth_ratio_geometric if geometric and s.truth_ratio_geometric is not None else s.truth_ratio
        for s in scores.values()
    )
    return [ratio for ratio in ratios if ratio is not None]
