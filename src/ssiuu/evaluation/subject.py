"""What a question asks about: the entity of the fact, or what looks like a name in the question.

    subject("In which town does Arvo live?")  # "Arvo"
    about("In which town does Arvo live?", "Arvo", "Ilvar")  # "In which town does Ilvar live?"

A row of a question and an answer names no entity. It is found, in this order, by what questions of
the same words differ in; in quotes; by capitals inside the sentence; by digits; and in scripts without
capitals by what stands before or behind a name there. Where none of these holds, nothing is found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

from ssiuu.evaluation.alternatives import PIECE, SHARED, common_start, may_name
from ssiuu.evaluation.invented import lexicon, script

_QUOTED = re.compile(r"[\"“„«「『‘《]([^\"”“»」』’》]{1,60})[\"”“»」』’》]")
MARKS = "?？¿؟!！.。।,，、:：;；"
# What follows a name in a question that begins with it.
_AFTER = {
    "japanese": re.compile(r"^(.{1,20}?)(?:さん|くん|ちゃん|先生|様|氏|の|は|が|を|に|で|と|、)"),
    "chinese": re.compile(
        r"^(.{1,12}?)(?:先生|女士|小姐|的|是|在|住|有|出生|毕业|叫|位于|几|什么|哪|多少|，)"
    ),
    "hangul": re.compile(r"^(.{1,20}?)(?:씨|님)?(?:은|는|이|가|의|을|를|에서|에게|에)\s"),
    "devanagari": re.compile(r"^(.{1,40}?)\s+(?:का|की|के|ने|को|में|से|पर|कहाँ|कौन|किस|क्या|कब|कितन)"),
}
# What stands before a name, in a question that ends with it.
_BEFORE_ARABIC = set(
    "ما ماذا من أين متى كم كيف هل هي هو في أي إلى على عن يعيش تعيش يسكن تسكن ولد ولدت يعمل تعمل "
    "كان كانت اسم رقم هاتف مدينة مهنة عاصمة لون تاريخ عنوان قرية بلد ميلاد".split()
)


def subject(question: str, entity: str | None = None, others: Sequence[str] = ()) -> str | None:
    """Return the part of a question that names what it is about; None where nothing looks like it.

    Args:
        question: The question.
        entity: Of its fact; it counts where the question holds it.
        others: Further questions; what those of the same words differ in is a name.
    """
    if entity and entity in question:
        return entity
    found = _apart(question, others) or _quoted(question) or _named(question)
    whole = found == question.strip(MARKS + " ") or found in lexicon("words", "asking")
    return None if whole else found


def about(question: str, named: str, other: str) -> str:
    """Return the question about something else: whole words first, "Al" is not in "capital"."""
    whole, count = re.subn(rf"(?<!\w){re.escape(named)}(?!\w)", lambda _: other, question)
    return whole if count else question.replace(named, other)


def _apart(question: str, others: Sequence[str]) -> str | None:
    """Return what most questions of the same words have another name for."""
    spans = Counter(span for other in others if (span := _difference(question, other)))
    return max(spans, key=lambda span: (spans[span], len(span), span), default=None)


@cache
def _pieces(question: str) -> tuple[tuple[str, int, int], ...]:
    return tuple((found[0], *found.span()) for found in PIECE.finditer(question))


def _difference(question: str, other: str) -> str | None:
    """Return the part in which two questions of the same form differ, where both may be names."""
    pieces = _pieces(question)
    mine, theirs = [word for word, _, _ in pieces], [word for word, _, _ in _pieces(other)]
    front = common_start(mine, theirs)
    back = common_start(mine[front:][::-1], theirs[front:][::-1])
    middle = pieces[front : len(mine) - back]
    inside = [word for word, _, _ in middle], theirs[front : len(theirs) - back]
    within = lexicon("words", "within")
    named = all(
        words and all(may_name(word) or word in within or not word.isalnum() for word in words)
        for words in inside
    )
    if not named or 2 * (front + back) < SHARED * (len(mine) + len(theirs)):
        return None
    return question[middle[0][1] : middle[-1][2]]


def _quoted(question: str) -> str | None:
    found = _QUOTED.search(question)
    return found[1].strip(MARKS + " ") or None if found else None


def _named(question: str) -> str | None:
    kind = script(question)
    if kind in _AFTER:
        found = _AFTER[kind].match(question.strip())
        return found[1].strip() or None if found else None
    if kind == "arabic":
        return _last_words(question)
    return _capitals(question) or _digits(question)


def _capitals(question: str) -> str | None:
    """Return the longest run of words with capitals inside the sentence; the last of equals.

    The first word counts where it is part of a longer run, or alone has a capital.
    """
    words = [(found[0], *found.span()) for found in re.finditer(r"(?:[\w.-]|['’](?!s\b))*\w", question)]
    within, empty = lexicon("words", "within"), lexicon("words", "empty")
    runs: list[list[int]] = []
    for i, (word, _, _) in enumerate(words):
        if not word[0].isupper() or (word.casefold() in empty and i == 0) or word == "I":
            continue
        joins = runs and _joined(words[runs[-1][-1] + 1 : i], within)
        if joins and question[words[i - 1][2] : words[i][1]].isspace():
            runs[-1].append(i)
        else:
            runs.append([i])
    inside = [run for run in runs if run != [0]] or runs
    if not inside:
        return None
    best = max(inside, key=lambda run: (len(run), run[0]))
    return question[words[best[0]][1] : words[best[-1]][2]]


def _joined(between: Sequence[tuple[str, int, int]], within: Sequence[str]) -> bool:
    """Whether what stands between two words with capitals may be part of a name: "am", "de la"."""
    of_names = set(within) - {"of", "the", "and", "am", "an"}
    return len(between) <= 2 and all(word in of_names for word, _, _ in between)


def _digits(question: str) -> str | None:
    found = re.search(r"[\w./-]*\d[\w./-]*\w|\d", question)
    return found[0] if found else None


def _last_words(question: str) -> str | None:
    """Return what follows the last function word: one word or several."""
    words = question.strip(MARKS + " ").split()
    start = max((i + 1 for i, word in enumerate(words) if word in _BEFORE_ARABIC), default=0)
    return " ".join(words[start:]) or None if start and len(words) - start <= 4 else None
