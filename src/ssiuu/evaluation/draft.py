"""A fact while its lineup is made: what it is about, and which answers may stand beside its own."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Literal

from ssiuu.data.fact import normal
from ssiuu.evaluation import invented
from ssiuu.evaluation.alternatives import answer_kind
from ssiuu.evaluation.match import holds
from ssiuu.evaluation.subject import about
from ssiuu.records.schema import FactText

Origin = Literal[
    "options",
    "same relation",
    "same question",
    "same type",
    "numbers nearby",
    "sampled",
    "made up",
    "same kind",
]
WHOLE = 60  # letters: longer ones are sentences, and none is part of another but letter by letter
SAID = 0.5  # of the words that are new in the right answer: who says more of them says it


@dataclass(frozen=True)
class Draft:
    """A fact while its lineup is made. `ways`: wrong answers by where they come from, best first."""

    fact: FactText
    subject: str | None
    written: str | None
    lenders: tuple[FactText, ...]
    right: frozenset[str]
    strangers: tuple[str, ...]  # invented entities, the last of them for asking the model
    ways: tuple[tuple[Origin, list[str]], ...] = ()

    @property
    def kind(self) -> str:
        """What the answer looks like."""
        return answer_kind(self.fact.answer)

    @property
    def told(self) -> bool:
        """Whether the answer is told in a sentence or in several lines."""
        answer = self.fact.answer
        named = self.subject is not None and self.subject in answer and "@" not in answer
        return named or self.kind.startswith(("sentence", "lines")) or len(answer.split()) > 6

    def asking(self, name: str) -> str:
        """Return the question about something else."""
        return about(self.fact.question, self.subject or "", name)


def fits(answer: str, origin: Origin, draft: Draft) -> bool:
    """Whether an answer may stand in a lineup: wrong, of the same form, no part of the right one."""
    fact, folded = draft.fact, normal(answer)
    if not folded or folded in draft.right or _overlap(fact.answer, answer):
        return False
    if origin in ("options", "same relation"):
        return True
    if origin in ("sampled", "same kind", "same question") and _says_it(answer, draft):
        return False
    named = normal(draft.subject or "")
    if named and (named in folded) != (named in normal(fact.answer)):
        return False
    return alike(answer, draft)


def alike(answer: str, draft: Draft) -> bool:
    """Whether an answer is of the right one's kind; a short sentence and a long one are."""
    if not draft.told or "\n" in answer + draft.fact.answer:
        return answer_kind(answer) == draft.kind
    return invented.script(answer, draft.fact.question) == draft.written


def _says_it(told: str, draft: Draft) -> bool:
    """Whether a sentence tells what the right one does: most words of it that the question lacks."""
    fact, empty = draft.fact, invented.lexicon("words", "empty")
    new = words_of(folded(fact.answer)) - words_of(folded(fact.question)) - set(empty)
    return draft.told and bool(new) and len(new & words_of(folded(told))) > SAID * len(new)


def _overlap(right: str, other: str) -> bool:
    """Whether one of two answers contains the other."""
    one, two = sorted((folded(right), folded(other)), key=len)
    within = one in two
    if within and len(one) > 2 and not one.isdigit():
        return True
    if len(one) > WHOLE:
        return False
    shared = within or not words_of(one).isdisjoint(words_of(two))  # else the long way finds nothing
    return shared and (holds(right, other) or holds(other, right))


@cache
def folded(text: str) -> str:
    """Return the text as `normal` has it, without accents."""
    return "".join(
        c for c in unicodedata.normalize("NFD", normal(text)) if not unicodedata.combining(c)
    )


@cache
def words_of(text: str) -> frozenset[str]:
    """Return the different words of a text."""
    return frozenset(re.findall(r"\w+", text))
