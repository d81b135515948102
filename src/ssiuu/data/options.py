"""Wrong options for facts that have none: answers of other facts of the same type."""

from __future__ import annotations

import random
import re

from ssiuu.data.fact import Fact, normal

BLANK = "____"


def borrow_distractors(facts: list[Fact], count: int = 5, seed: int = 0) -> list[Fact]:
    """Give facts without distractors the answers of other facts of the same type.

    The type is the relation if the fact has one, else the question with the entity blanked out.
    A fact of neither, or with fewer than two candidates, stays without: its rank is not scored.

    Args:
        facts: All facts to lend and borrow; those with distractors keep their own.
        count: How many to borrow at most.
        seed: With the id of a fact it decides the choice; the order of the facts does not.
    """
    lent = {kind: _Answers(answers) for kind, answers in _answers_by_type(facts).items()}
    right: dict[str, set[str]] = {}
    for fact in facts:
        right.setdefault(normal(fact.question), set()).add(normal(fact.answer))
    return [
        fact if fact.distractors else _borrow(fact, lent, right[normal(fact.question)], count, seed)
        for fact in facts
    ]


class _Answers:
    """The answers of one type, in sorted order; drawing from them costs no look at each."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.spelled = list(answers.values())
        self.places = {folded: place for place, folded in enumerate(answers)}

    def draw(self, right: set[str], count: int, generator: random.Random) -> list[str]:
        """Return up to `count` answers that are not right; none where fewer than two are left."""
        gaps = sorted(self.places[folded] for folded in right if folded in self.places)
        wrong = len(self.spelled) - len(gaps)
        if wrong < 2:
            return []
        chosen = []
        for place in generator.sample(range(wrong), min(count, wrong)):
            for gap in gaps:  # from the place among what is left to the place among all
                place += gap <= place
            chosen.append(self.spelled[place])
        return chosen


def _template(fact: Fact) -> str | None:
    """Return the question with its entity blanked out, or None where it does not name one."""
    entity, question = normal(fact.entity or ""), normal(fact.question)
    if not entity or entity not in question:
        return None
    # Whole words first ("Al" is not in "capital"); scripts without spaces have none.
    words, count = re.subn(rf"(?<!\w){re.escape(entity)}(?!\w)", BLANK, question)
    return words if count else question.replace(entity, BLANK)


def _types(fact: Fact) -> list[tuple[str, str]]:
    """Return the types that the answer of a fact is of; the first is the one it borrows from."""
    relation, template = fact.relation, _template(fact)
    named = [("relation", relation)] if relation else []
    return named + ([("template", template)] if template else [])


def _answers_by_type(facts: list[Fact]) -> dict[tuple[str, str], dict[str, str]]:
    """Return for each type its answers: normal form to spelling, both in sorted order."""
    answers: dict[tuple[str, str], dict[str, str]] = {}
    spelled = sorted((normal(fact.answer), fact.answer, _types(fact)) for fact in facts)
    for folded, answer, kinds in spelled:
        for kind in kinds:
            answers.setdefault(kind, {}).setdefault(folded, answer)
    return answers


def _borrow(
    fact: Fact, lent: dict[tuple[str, str], _Answers], right: set[str], count: int, seed: int
) -> Fact:
    answers = next((lent[kind] for kind in _types(fact)), None)
    if answers is None:
        return fact
    chosen = answers.draw(right, count, random.Random(f"{seed}:{fact.id}"))
    return fact.model_copy(update={"distractors": tuple(chosen)}) if chosen else fact
