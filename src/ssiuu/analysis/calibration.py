"""How often the rules of the verdict are right on facts of known truth. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from ssiuu.analysis.verdict import GONE, RETURNED, FactEvidence, judge
from ssiuu.records.schema import Verdict

VERDICTS: tuple[Verdict, ...] = ("erased", "hidden", "not removed", "undecided")
STEPS = tuple(n / 20 for n in range(1, 20))

Known = tuple[Verdict, FactEvidence]  # the truth, and what was seen


def confusion(
    facts: Sequence[Known], returned: float = RETURNED, gone: float = GONE
) -> dict[Verdict, dict[Verdict, int]]:
    """Return counts[truth][verdict]."""
    table: dict[Verdict, dict[Verdict, int]] = {
        truth: dict.fromkeys(VERDICTS, 0) for truth in VERDICTS[:-1]
    }
    for truth, found in facts:
        table[truth][judge(found, returned, gone)] += 1
    return table


def balanced_accuracy(table: dict[Verdict, dict[Verdict, int]]) -> float | None:
    """Return the mean over the true classes of the share judged right; "undecided" is not right.

    None where a class has no facts.
    """
    counts = {truth: sum(row.values()) for truth, row in table.items()}
    if not all(counts.values()):
        return None
    return sum(table[truth][truth] / counts[truth] for truth in table) / len(table)


def best_thresholds(facts: Sequence[Known]) -> tuple[float, float]:
    """Return (returned, gone) of the highest balanced accuracy, gone <= returned, in steps of 0.05.

    Of equally good ones, those nearest to the present ones.
    """

    def rank(pair: tuple[float, float]) -> tuple[float, float]:
        accuracy = balanced_accuracy(confusion(facts, *pair))
        return (accuracy or 0.0, -abs(pair[0] - RETURNED) - abs(pair[1] - GONE))

    return max(((r, g) for r in STEPS for g in STEPS if g <= r), key=rank)
