"""What tuning tried of each method, how much stayed within the budget, and what forgot most there."""

from __future__ import annotations

from collections.abc import Mapping

from ssiuu.records.schema import RunRecord, Trial
from ssiuu.report.tables import Row, Table, cells, headings_of
from ssiuu.report.text import kl, percent

LIMITS = {
    "kl": "KL on plain text ≤ {:g} nats a token",
    "retain_ratio": "loss on plain text ≤ {:g} times that before",
}
HEADINGS = [
    "settings tried",
    "diverged",
    "within the budget",
    "reached the threshold",
    "lowest forget score, %",
    "its KL",
]


def budget(limits: Mapping[str, float]) -> str:
    """Return the limits of a budget in words; nothing where there is none."""
    return " and ".join(LIMITS[name].format(limit) for name, limit in limits.items())


def by_method(record: RunRecord) -> dict[str, list[Trial]]:
    """Return the trials of a run by the method's label."""
    trials: dict[str, list[Trial]] = {}
    for trial in record.trials:
        trials.setdefault(trial.method.label, []).append(trial)
    return trials


def tuning(record: RunRecord) -> Table | None:
    """Return a row a method that was tuned; None where none was."""
    tried = by_method(record)
    if not tried:
        return None
    limits = next((t.unlearning.budget for t in record.trials if t.unlearning), {})
    words = budget(limits) or "none"
    note = f"Budget of a setting: {words}; the same number of settings for every method."
    if limits:
        note += (
            " Within it: the first check found no more spent, so that something was changed; what was "
            "kept is the last check within it."
        )
    nothing = [label for label, trials in tried.items() if not any(t.fits for t in trials)]
    if nothing:
        note += f" No setting fit within it: {', '.join(nothing)}."
    rows = [Row(label, cells(_counts(trials))) for label, trials in tried.items()]
    return Table("Tuning", note, headings_of(HEADINGS), rows)


def _counts(trials: list[Trial]) -> list[str]:
    ran = [trial.unlearning for trial in trials if trial.unlearning is not None]
    within = [record for record in ran if record.fits]
    reached = sum(record.stopped == "threshold" for record in within)
    scored = [record for record in within if record.last_score is not None]
    best = min(scored, key=lambda record: record.last_score or 0.0, default=None)
    numbers = [len(trials), len(trials) - len(ran), len(within), reached]
    level = (percent(best.last_score), kl(best.last_kl)) if best else (percent(None), kl(None))
    return [*map(str, numbers), *level]
