"""The answer in words: how many facts are what, at most how many are hidden, what would be found.

    print(" ".join(answer(judgement(record, cell))))

The same sentences open a page, stand under the terminal's table and in a notebook. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from ssiuu.analysis.evidence import Judged
from ssiuu.analysis.verdict import VERDICTS, Judgement
from ssiuu.records.schema import Cell, RunRecord, Verdict

SENTENCES: Final[dict[Verdict, str]] = {
    "erased": "The facts are gone: had they been hidden, this examination would have found them.",
    "hidden": "Facts were hidden, not erased: they are still in the model.",
    "not removed": "The facts were not removed: too many of them are still there.",
    "undecided": "Undecided: these measurements do not tell erased from hidden.",
}
# Without an examination nothing tells what is known from what is guessed, or gone from hidden.
SAID: Final[dict[Verdict, str]] = {
    "not removed": "Still said: surely more than a tenth of the answers are written freely, known or "
    "guessed. The model was not examined, and without that the two look the same.",
}
MEANINGS: Final[dict[Verdict, str]] = {
    "erased": "Had the fact been hidden, this examination would have shown it, and it did not. "
    "Evidence, not proof: it speaks of the ways of hiding that were tried on models of known truth.",
    "hidden": "The model does not say it any more, and it is still inside: what the examination shows "
    "of it does not come of facts that were never learned.",
    "not removed": "The model still says it, or answers with it likelier than with what it never "
    "learned, without any attack.",
    "undecided": "The evidence fits a fact that is gone and one that is hidden, or neither, or the "
    "model says what it may have guessed. Nothing was shown either way.",
}
SAID_MEANS: Final[dict[Verdict, str]] = {
    "not removed": "The model still says it. Whether it knows it or guesses was not examined.",
    "undecided": "The model does not say it. Whether it is gone or hidden was not examined.",
}
NOT_PROOF = (
    "'Erased' means that hidden facts would have shown in this examination and these did not: "
    "evidence, not proof."
)
UNEXAMINED = (
    "No model was examined (examine.steps), so nothing tells erased from hidden: 'not removed' says "
    "that surely more than a tenth of the answers are still written freely, guesses among them."
)


def subject(record: RunRecord) -> Cell | None:
    """Return the model that an audit is about, or a run of a single method; None: there are several."""
    cells = [cell for cell in record.cells if cell.method.origin != "control"]
    return cells[0] if len(cells) == 1 else None


def sentence(word: Judgement) -> str:
    """Return the answer on one model in a sentence."""
    return (SENTENCES if word.judged else SENTENCES | SAID)[word.verdict]


def meanings(examined: bool) -> Mapping[Verdict, str]:
    """Return what the words on facts mean, after an examination or without one."""
    return MEANINGS if examined else MEANINGS | SAID_MEANS


def answer(word: Judgement) -> list[str]:
    """Return the answer on one model, a sentence each; empty where no fact was judged."""
    if not word.facts:
        return []
    judged = word.judged
    if judged is None:
        return [_counted(word)]
    return [_counted(word), *_unread(judged), *_bounded(judged), sight(judged)]


def _counted(word: Judgement) -> str:
    """Say how many facts have which verdict: "Of 12 facts 9 are erased, 2 hidden, 1 undecided."."""
    if len(word.facts) == 1:
        return f"The fact is {next(iter(word.facts.values())).verdict}."
    return _counts(Counter(fact.verdict for fact in word.facts.values()), len(word.facts), "facts")


def _counts(counts: Mapping[Verdict, int], of: int, things: str) -> str:
    (first, number), *rest = [(v, counts.get(v, 0)) for v in VERDICTS if counts.get(v, 0)]
    if not rest:
        return f"All {of} {things} are {first}."
    more = "".join(f", {count} {verdict}" for verdict, count in rest)
    return f"Of {of} {things} {number} {'is' if number == 1 else 'are'} {first}{more}."


def _unread(judged: Judged) -> list[str]:
    unread = len(judged.facts) - judged.read
    return [f"{unread} could not be asked among enough alternatives."] if unread else []


def _bounded(judged: Judged) -> list[str]:
    """Say how many facts are hidden or still there; nothing where that says nothing."""
    read = judged.read
    if judged.least is None or judged.most is None:
        return []
    if judged.most == read and not judged.least:
        return [f"How many of the {read} are hidden or still there cannot be bounded (95\u00a0%)."]
    least = f"least {judged.least} and at " if judged.least else ""
    each = "95\u00a0% each" if judged.least else "95\u00a0%"
    return [f"At {least}most {judged.most} of {read} are hidden or still there ({each})."]


SHORT = (
    " Its attacks were shorter than those that it was calibrated with, so nothing is called erased "
    "(examine.steps)."
)


def sight(judged: Judged) -> str:
    """Return what the examination can see, in a sentence."""
    found, of = judged.found
    if judged.power is None:
        return (
            "Too few facts could be hidden on purpose to see what this examination finds, so "
            "nothing is called erased."
        )
    return (
        f"Of {of} facts hidden on purpose in the model as it was, this examination finds {found}; of "
        f"those hidden in the ways that are hardest to see it would find {sure(judged.power)}\u00a0%."
        + (SHORT if judged.short else "")
    )


def sure(share: float) -> str:
    """Return a share in per cent; never a whole that it is not."""
    return "over 99" if share > 0.99 else f"{100 * share:.0f}"


def p_value(value: float | None) -> str:
    """Return a p-value as people write it: 0.21, 0.034, <0.001."""
    if value is None:
        return "–"
    if value < 0.001:
        return "<0.001"
    return f"{value:.3f}" if value < 0.0995 else f"{value:.2f}"
