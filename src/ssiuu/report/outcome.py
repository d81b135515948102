"""What an unlearning run led to, and the learning rates that were tried, as lines of text."""

from __future__ import annotations

from ssiuu.analysis.divergence import UNCOUNTED
from ssiuu.records.schema import Attempt, Unlearning

RANGE = "range test: the rate grows until the threshold"
HEADINGS = (
    *("rate", "steps", "forget", "answered", "kept", "said", "KL text", "KL instr.", "seconds"),
    "",
)


def attempt_line(attempt: Attempt) -> str:
    """Return one line about an attempt."""
    pairs = zip(HEADINGS, _cells(attempt), strict=True)
    return " | ".join(f"{title} {cell}".strip() for title, cell in pairs if cell)


def attempts(record: Unlearning) -> list[str]:
    """Return the table of what was tried; nothing where no rate was searched."""
    if not record.attempts:
        return []
    rows = [HEADINGS, *(_cells(attempt) for attempt in record.attempts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False))
        + f"  {row[-1]}".rstrip()
        for row in rows
    ]


def outcome(record: Unlearning) -> list[str]:
    """Return what the run led to: the word, its reasons, and the numbers behind it."""
    result = record.outcome
    if result is None:
        return []
    which = "set aside" if result.set_aside else "trained on"
    lines = [
        f"{result.state}: {'; '.join(result.reasons)}" if result.reasons else result.state,
        f"forget score {result.forget:.0%} of {result.facts} facts (stop at {result.threshold:.0%}), "
        f"{result.answered:.0%} still answered freely",
    ]
    if result.kept is None:
        lines.append("kept: none of the facts to keep was known before, so nothing is known of it")
    else:
        lines.append(f"kept {result.kept:.0%} of {result.kept_of} facts to keep ({which})")
    if result.said is not None:
        lines.append(
            f"still answers {result.said:.0%} of {result.said_of} facts to keep that it answered freely"
        )
    if result.kl is not None:
        moved = f"moved {result.kl:.3f} nats a token on plain text{UNCOUNTED * (not result.kl_counts)}"
        if result.kl_instructions is not None:
            uncounted = UNCOUNTED * (not result.kl_instructions_counts)
            moved += f", {result.kl_instructions:.3f} on instructions{uncounted}"
        lines.append(moved)
    return lines


def _cells(attempt: Attempt) -> tuple[str, ...]:
    """Return an attempt as a row of the table that `HEADINGS` stand over."""
    rate = f"up to {attempt.learning_rate:.1e}" if attempt.growing else f"{attempt.learning_rate:.1e}"
    return (
        rate,
        str(attempt.steps),
        _share(attempt.forget),
        _share(attempt.answered),
        _share(attempt.kept),
        _share(attempt.said),
        _nats(attempt.kl),
        _nats(attempt.kl_instructions),
        f"{attempt.seconds:.0f}",
        attempt.note or (RANGE if attempt.growing else "reached" if attempt.reached else "not reached"),
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _nats(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
