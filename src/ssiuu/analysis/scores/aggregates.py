"""OpenUnlearning's overall scores of a model of TOFU, as far as they can be computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ssiuu.analysis.column import Column, Direction, Model, never_learned
from ssiuu.analysis.scale import mean
from ssiuu.records.schema import Cell, FactScore, RunRecord
from ssiuu.statistics.aggregates import alignment, harmonic, kept, knowledge, memorisation

GROUP = "OpenUnlearning's overall scores"
AUCS = ("loss", "zlib", "min-k 40%", "min-k++ 40%")
NOTE = (
    "In %. Memorisation: the harmonic mean of what is gone of extraction strength, exact "
    "memorisation, the probability of the reworded answer and the truth ratio right / (right + "
    "wrong), each over what it was before unlearning (arXiv 2506.12618, F.1). Utility is model "
    "utility over that before; the paper's, which takes in how fluent written answers are, lies "
    "between 0 and 2u / (1 + u). How the paper makes privacy of membership scores is not printed: "
    "here 1 − |AUC − never-learned's| / |before's − never-learned's|, which gives the model before "
    "unlearning 0 where its table has 10. The overall scores are harmonic means: of memorisation and "
    "utility, and of privacy too, neither of them with fluency unless it says so."
)
RATIO = "Truth ratio, right / (right + wrong), of the forget set"
MEAN = "Harmonic mean of"
NEAR = "how near each membership score is to that of the never-learned control"
KEPT = "Model utility over that before unlearning, at most 1"
LACKS = " Not scored here: {}."
Value = Callable[[Model], float | None]


def aggregate_columns(utility: Value) -> list[Column]:
    """Return the columns of the overall scores.

    Args:
        utility: How model utility is read, with the geometric truth ratio.
    """

    def fluent(model: Model) -> float | None:
        return harmonic_of([_kept(model, utility), _kept(model, forget_fluency)])

    def both(model: Model) -> float | None:
        return harmonic_of([_memorisation(model), _kept(model, utility)])

    def all_three(model: Model) -> float | None:
        return harmonic_of([_memorisation(model), _privacy(model), _kept(model, utility)])

    return [
        _column("truth_ratio_knowledge", "right over all", _knowledge, f"{RATIO}.", "lower"),
        _column(
            "memorisation_score", "memorisation", _memorisation, f"{MEAN} what is gone of four scores."
        ),
        _column("privacy_alignment", "privacy, aligned", _privacy, f"{MEAN} {NEAR}."),
        _column(
            "utility_without_fluency", "utility, no fluency", lambda m: _kept(m, utility), f"{KEPT}."
        ),
        _column("utility_score", "utility, with fluency", fluent, f"{MEAN} utility and fluency kept."),
        _column("overall_without_privacy", "overall, two", both, f"{MEAN} memorisation and utility."),
        _column("overall_alignment", "overall, three", all_three, f"{MEAN} all three."),
        _column(
            "overall_fluent",
            "overall, two, with fluency",
            lambda m: harmonic_of([_memorisation(m), fluent(m)]),
            f"{MEAN} memorisation and the utility score.",
        ),
    ]


def aggregate_notes(record: RunRecord) -> dict[str, str]:
    """Say what the overall scores are, and what they lack in a run."""
    lacking = []
    if record.original is None:
        lacking.append("memorisation and utility, as the model before unlearning was not evaluated")
    elif not any(score.reworded_probability is not None for score in record.original.forget.values()):
        lacking.append("memorisation, as the run is older than the probability of the reworded answer")
    if record.original is None or all(s.fluency is None for s in record.original.forget.values()):
        lacking.append("the paper's utility, for which tofu.fluency names a classifier of gibberish")
    seeds = {cell.seed for cell in record.cells}
    if not all(_aucs(_before(record, seed)) for seed in seeds):
        lacking.append("privacy, which takes membership inference on the method none")
    elif not all(_aucs(never_learned(record, seed)) for seed in seeds):
        lacking.append("privacy, which takes membership inference on the never-learned control")
    return {GROUP: NOTE + (LACKS.format("; ".join(lacking)) if lacking else "")}


def _column(
    key: str, heading: str, read: Value, meaning: str, direction: Direction = "higher"
) -> Column:
    return Column(key, heading, GROUP, "share", read, meaning, direction)


# --- their values ----------------------------------------


def forget_fluency(model: Model) -> float | None:
    """Return the mean probability that an answer to the forget set is no gibberish."""
    return mean(score.fluency for score in model.scores("forget").values())


def harmonic_of(parts: Iterable[float | None]) -> float | None:
    """Return the harmonic mean, None where a part is."""
    parts = list(parts)
    known = [part for part in parts if part is not None]
    return harmonic(known) if len(known) == len(parts) else None


def _four(scores: Mapping[str, FactScore]) -> list[float | None]:
    """Return extraction strength, exact memorisation, P(reworded answer) and the truth ratio."""
    values = scores.values()
    ratios = [s.truth_ratio_geometric for s in values if s.truth_ratio_geometric is not None]
    return [
        mean(score.extraction_strength for score in values),
        mean(score.exact_memorisation for score in values),
        mean(score.reworded_probability for score in values),
        knowledge(ratios) if ratios else None,
    ]


def _knowledge(model: Model) -> float | None:
    return _four(model.scores("forget"))[-1]


def _memorisation(model: Model) -> float | None:
    original = model.record.original
    if original is None:
        return None
    now, before = (_four(scores) for scores in (model.scores("forget"), original.forget))
    scored = [value for value in (*now, *before) if value is not None]
    half = len(now)
    return memorisation(scored[:half], scored[half:]) if len(scored) == 2 * half else None


def _kept(model: Model, utility: Value) -> float | None:
    original = model.record.original
    if original is None:
        return None
    before = replace(model, cell=model.cell.model_copy(update={"evaluation": original}))
    now, start = utility(model), utility(before)
    return None if now is None or start is None else kept(now, start)


def _privacy(model: Model) -> float | None:
    seed = model.cell.seed
    before = _before(model.record, seed)
    ours = _aucs(before) if model.before else _aucs(model.cell)
    theirs, start = _aucs(never_learned(model.record, seed)), _aucs(before)
    if not (ours and theirs and start):
        return None
    return harmonic_of(
        alignment(auc, retrained, first)
        for auc, retrained, first in zip(ours, theirs, start, strict=True)
    )


def _before(record: RunRecord, seed: int) -> Cell | None:
    """Return the cell of this seed that was not unlearned: its attacks are the original's."""
    cells = [cell for cell in record.cells if cell.method.name == "none" and cell.seed == seed]
    return cells[0] if cells else None


def _aucs(cell: Cell | None) -> list[float]:
    """Return the AUC of the four membership scores; empty where one of them is missing."""
    found: dict[str, float] = {}
    for attack in cell.attacks if cell else ():
        found |= {name: value for name, value in attack.values.items() if value is not None}
    return [found[name] for name in AUCS] if found.keys() >= set(AUCS) else []
