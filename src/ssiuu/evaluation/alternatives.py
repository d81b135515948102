"""Alternatives to an answer: what it is ranked among when a model is asked what it knows.

They are, in this order, the options that a fact has, the answers of facts that ask the same thing of
something else (the same relation, or the same words around a name), numbers nearby, and last answers
that only look alike. The last say little: a model may tell a town from a colour without knowing which
town. Nothing here changes what an evaluation ranks.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from ssiuu.data.fact import normal
from ssiuu.records.schema import FactText, Source

MOST = 7  # alternatives a fact is ranked against
FEWEST = 3  # with fewer, being first says little and is not counted
POOL = 500  # facts looked through; more would only take time
CONTROLS = 3  # other questions that the same answers are offered to
SHARED = 0.5  # least share of its words that a question has in common with one of the same form
# A word; a letter where no blank parts words; a mark.
PIECE = re.compile(r"[぀-ヿ㐀-鿿가-힯฀-๿]|[^\W぀-ヿ㐀-鿿가-힯฀-๿]+|[^\w\s]")


@dataclass(frozen=True)
class Alternatives:
    """Wrong answers for one fact, where they come from, and facts that ask the same of something else.

    `lenders`: all of these that have another answer, the closest in form first.
    """

    answers: tuple[str, ...] = ()
    source: Source | None = None
    lenders: tuple[FactText, ...] = ()


def alternatives(fact: FactText, others: Sequence[FactText], seed: int = 0) -> Alternatives:
    """Return the alternatives of a fact; none where there are fewer than `FEWEST`.

    Args:
        fact: Its own options come first.
        others: Facts to borrow from, of whatever set; the fact itself may be among them.
        seed: With the fact's id it decides the choice where there are more than `MOST`.
    """
    rng = random.Random(f"{seed}:{fact.id}")
    right = {normal(fact.answer)} | {
        normal(o.answer) for o in others if normal(o.question) == normal(fact.question)
    }
    strangers = sorted((o for o in others if normal(o.answer) not in right), key=lambda o: o.question)
    strangers = rng.sample(strangers, min(POOL, len(strangers)))
    likeness = [(_likeness(fact, o), o) for o in strangers]
    lenders = tuple(o for share, o in sorted(likeness, key=lambda pair: -pair[0]) if share)
    kind = answer_kind(fact.answer)
    alike = [o for o in strangers if answer_kind(o.answer) == kind]
    given = [option for option in fact.options if normal(option) not in right]
    borrowed = [o.answer for o in lenders]
    ways: list[tuple[Source, list[str]]] = [
        ("options", given),
        ("same question", given + borrowed),
        ("numbers nearby", given + borrowed + numbers_nearby(fact.answer, rng)),
        ("same kind", given + borrowed + [o.answer for o in alike]),
    ]
    for source, answers in ways:
        unlike = list({normal(a): a for a in answers if normal(a) not in right}.values())[:MOST]
        if len(unlike) >= FEWEST:
            return Alternatives(tuple(unlike), source, lenders)
    return Alternatives(lenders=lenders)


def _likeness(fact: FactText, other: FactText) -> float:
    """Return how much of its form a question shares with another one; 0 where it asks another thing."""
    if fact.relation and other.relation:
        return float(fact.relation == other.relation)
    if answer_kind(fact.answer) != answer_kind(other.answer):
        return 0.0
    mine, theirs = _words(fact.question, fact.entity), _words(other.question, other.entity)
    front = common_start(mine, theirs)
    back = common_start(mine[front:][::-1], theirs[front:][::-1])
    share = 2 * (front + back) / (len(mine) + len(theirs))
    apart = [words[front : len(words) - back] for words in (mine, theirs)]
    named = all(any(map(may_name, words)) for words in apart)
    return share if share >= SHARED and share < 1 and named else float(mine == theirs)


@cache
def _words(question: str, entity: str | None) -> list[str]:
    """Return the words of a question, its entity as one blank; letters where no blank parts words."""
    text = unicodedata.normalize("NFC", question)
    if entity and entity in text:
        text = text.replace(entity, " ____ ")
    return PIECE.findall(text)


def common_start(one: Sequence[str], two: Sequence[str]) -> int:
    """Return how many first words two lists share."""
    count = 0
    for a, b in zip(one, two, strict=False):
        if a.casefold() != b.casefold():
            break
        count += 1
    return count


def may_name(word: str) -> bool:
    """Whether a word may be (part of) a name: a capital, a digit, or a script without capitals."""
    return word == "____" or any(c.isdigit() or c.isupper() or _caseless(c) for c in word)


def _caseless(char: str) -> bool:
    return unicodedata.category(char) == "Lo"


@cache
def answer_kind(answer: str) -> str:
    """Return what an answer looks like: a number, a name, words, a sentence, and in which script.

    Only answers of one kind can be mixed up; so a phone number is no alternative to a town.
    """
    text = unicodedata.normalize("NFKC", answer).strip()
    if "\n" in text:
        return "lines"
    letters = [c for c in text if c.isalpha()]
    if any(c.isdigit() for c in text):
        return "words with digits" if letters else "number"
    if not letters:
        return "signs"
    script = unicodedata.name(letters[0], "?").split()[0]
    if script in {"HIRAGANA", "KATAKANA"}:
        script = "CJK"
    words = text.split()
    if len(words) > 6 or (script == "CJK" and len(letters) > 16):
        return f"sentence {script}"
    if _caseless(letters[0]):
        return f"words {script}"
    return f"name {script}" if words[0][:1].isupper() else f"words {script}"


def numbers_nearby(answer: str, rng: random.Random) -> list[str]:
    """Return the answer with its last number a little larger or smaller; none where it has none.

    A long number (a phone's, say) has its last digits changed; the number of digits stays.
    """
    found = list(re.finditer(r"[0-9]+", answer))
    if not found:
        return []
    last = found[-1]
    digits = last.group()[-3:]
    start, low = last.end() - len(digits), 10 ** (len(digits) - 1) if digits[0] != "0" else 0
    near = [n for n in range(int(digits) - 9, int(digits) + 10) if n != int(digits)]
    near = [n for n in near if low <= n < 10 ** len(digits)]
    rng.shuffle(near)
    return [f"{answer[:start]}{n:0{len(digits)}d}{answer[last.end() :]}" for n in near]
