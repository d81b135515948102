"""Does a free answer hold the right one? By the rules of Unicode, for any script.

The segments of the answer (`ssiuu.evaluation.segments`) are looked for in a row in those of the text.
A word must be found whole where its script parts words: by blanks (Latin, Cyrillic, Greek, Arabic,
Hebrew, Devanagari …), or by a change of script (katakana). In scripts that do not part them (Han,
hiragana, Thai, Lao, Khmer, Myanmar, Tibetan) whole graphemes are enough. What is attached by rule is
allowed for: particles after Hangul, the article and prepositions of one letter before Arabic and
Hebrew. The choices and their reasons: docs/decisions/0007-matching-in-any-script.md.

Source: Unicode Standard Annexes 15 (normal forms), 24 (scripts) and 29 (graphemes), by way of
`unicodedata` and the package regex.

Not covered: a negation ("not Paris") holds the name that it denies. Inflected forms are other words
("Budapesten" is not "Budapest"), so are synonyms ("5 percent"), numerals in letters, "5 million €" for
"€5 million", and the other spelling of simplified and traditional characters. A word within a longer
one is found in scripts that do not part words (京都 in 東京都): what cannot be told counts as held,
which for a deletion is the careful side.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import regex

from ssiuu.evaluation.segments import LETTER, Segment, Segmented, readings


def holds(answer: str, text: str) -> bool:
    """Return whether a text holds an answer; one without anything visible is never held.

    Signs count: C++ is not C#, A is not A+. An article is left out only where something follows it. A
    word that any text may have (a, the, it) must come in the same case. A number is compared by its
    digits, its sign and its percent, money by its currency, wherever that is written. An accent may be
    missing, but not be another one.
    """
    return _dialled(answer, text) or any(
        _found(answer_segments, segmented)
        for reading, segmented in product(readings(answer), readings(text))
        for answer_segments in _without_article(reading)
    )


# Digits in groups, as telephone numbers, accounts and cards are written.
_GROUPED = regex.compile(r"\+?\p{Nd}(?:[ ./()\-]{0,2}\p{Nd})*")
_DIALLED = 7  # digits of such a number, at least


def _dialled(answer: str, text: str) -> bool:
    """Return whether a text holds a long number in whatever groups it is written."""
    wanted = answer.strip()
    if not _GROUPED.fullmatch(wanted) or len(_digits(wanted)) < _DIALLED or "." in wanted:
        return False
    return any(_digits(number.group()) == _digits(wanted) for number in _GROUPED.finditer(text))


def _digits(number: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", number) if c.isdigit())


# --- The search -------------------------------------------------------------------------------

# What follows a word or a number at once and makes it another one: C++, F#, 10^2.
_SUFFIX = regex.compile(rf"[+#]{{2,}}|[+#](?!{LETTER})|\^|_+{LETTER}")
_SUFFIX_OF_ONE = regex.compile(r"\*|'\p{L}")  # the grade A*, C'est
_PERCENT = regex.compile(r" ?[%‰]")
_ARTICLES = {"a", "an", "the"}
# After these "A" is a name: of a blood group, a key, a level.
_NAMED_A = set("positive negative plus minus major minor flat sharp level levels".split())
_COMMON = _ARTICLES | set(
    "i am and as at be but by can do for go he her him his if in is it its may me my no not of on or "
    "our out so to too up us was we who will you".split()
)
# What may follow a letter that is a name, at the beginning of a sentence.
_LINKING = set("and are is or was e est es et ist o oder und y".split())


def _without_article(answer: Segmented) -> list[Segmented]:
    """Return an answer by the segments that count, then without an English article in front."""
    counting = [segment for segment in answer.segments if segment.kind != "mark"] or answer.segments
    whole, rest = answer._replace(segments=counting), answer._replace(segments=counting[1:])
    if len(counting) < 2 or counting[0].text not in _ARTICLES:
        return [whole]
    article, following = counting[:2]
    if article.text == "the":
        return [whole, rest]
    fits = (following.text[0] in "aeiouh") if article.text == "an" else following.text[0] not in "aei"
    name = len(following.text) < 2 or (_cased(answer, article) == "A" and following.text in _NAMED_A)
    return [whole, rest] if following.kind == "word" and fits and not name else [whole]


def _found(wanted: Segmented, text: Segmented) -> bool:
    """Return whether the segments of an answer stand in a row in a text, with their boundaries."""
    parts, count = wanted.segments, len(wanted.segments)
    if not parts:
        return False
    among = text.segments
    if parts[0].kind != "mark":
        among = [segment for segment in among if segment.kind != "mark"]
    for at in range(len(among) - count + 1):
        row = among[at : at + count]
        if (
            all(_alike(a, b, a is parts[0], a is parts[-1]) for a, b in zip(parts, row, strict=True))
            and _bounded(text.text, among, at, at + count)
            and (count > 1 or len(among) == 1 or _is_meant(wanted, parts[0], text, row[0]))
        ):
            return True
    return False


def _cased(reading: Segmented, segment: Segment) -> str:
    return reading.text[segment.start : segment.end]


def _bounded(text: str, among: Sequence[Segment], start: int, end: int) -> bool:
    """Return whether nothing is attached to the segments from `start` to `end` that changes them."""
    first, last = among[start], among[end - 1]
    before = among[start - 1] if start and among[start - 1].end == first.start else None
    after = among[end] if end < len(among) and among[end].start == last.end else None
    if first.kind == "katakana" and before is not None and before.kind == "katakana":
        return False
    if last.kind == "katakana" and after is not None and after.kind == "katakana":
        return False
    worded = before is not None and before.kind == "word" and before.text != "us"
    if worded and regex.match(r"\p{Sc}", first.text):
        return False  # A$5 is another currency
    if before is not None and before.kind == "sign":
        if first.kind == "sign" and _one_sign(before.text, first.text):
            return False
        if before.text == "^" or (before.text in ("-", "%", "‰") and first.kind != "word"):
            return False
        if before.text == "_" and regex.search(rf"{LETTER}_+$", text[: first.start]):
            return False
    if last.kind == "sign":
        return after is None or after.kind != "sign" or not _one_sign(last.text, after.text)
    if last.kind == "number" and _PERCENT.match(text, last.end):
        return False
    if len(last.text) == 1 and last.kind == "word" and _SUFFIX_OF_ONE.match(text, last.end):
        return False
    suffixed = after is not None and after.kind == "sign" and after.text == "-"
    return not suffixed and not _SUFFIX.match(text, last.end)


def _one_sign(left: str, right: str) -> bool:
    """Return whether two signs side by side are one: <=, ++, ★★; a row of emoji is not."""
    if left == right:
        return not regex.match(r"\p{Emoji_Presentation}", left)
    return left in "<>=-" and right in "<>=-"


def _is_meant(wanted: Segmented, part: Segment, text: Segmented, found: Segment) -> bool:
    """Return whether one word of an answer is that word, not one that any text may have.

    Letters and such words must come in the same case. A letter or an article at the beginning of a
    sentence, or a small one anywhere, is no name where another word follows.
    """
    letter = len(part.text) == 1 and part.kind == "word" and part.text.isalpha()
    if not letter and part.text not in _COMMON:
        return True
    ours, theirs = _cased(wanted, part), _cased(text, found)
    if letter and theirs != ours:
        return False
    if not letter and theirs.islower() and not ours.islower() and ours.isupper():
        return False  # US, WHO, IT
    if not letter and theirs.islower() and not ours.islower():
        # "No" is said by "no, he is not" and "the answer is no.", not by "there is no town".
        return part.text not in _ARTICLES and _apart(text.text, found)
    if not letter and part.text not in _ARTICLES:
        return True
    follows = regex.compile(r" (\p{L}+)").match(text.text, found.end)
    begins = regex.search(r"(?:^|[.!?\n])[\s\"'(]*$", text.text[: found.start]) is not None
    named = follows is None or follows[1] in _LINKING
    return named or not (begins or ours.islower() or ours == "I")


def _apart(text: str, found: Segment) -> bool:
    """Return whether a word begins or ends what is said."""
    begins = not text[: found.start].strip()
    return begins or regex.match(r"\s*(?:[.,!?;:)\n]|$)", text[found.end :]) is not None


# --- Two segments -----------------------------------------------------------------------------

_PLAIN_LETTERS = str.maketrans(
    {"ł": "l", "đ": "d", "ð": "d", "ø": "o", "ħ": "h", "ŧ": "t", "æ": "ae", "œ": "oe", "þ": "th"}
    | {"ё": "е", "أ": "ا", "إ": "ا", "آ": "ا", "ٱ": "ا", "ँ": "ं"}
)
_TWO_LETTERS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
# Accents of Latin and Greek, the stress of Cyrillic, the dot of Devanagari's foreign sounds.
_ACCENT = regex.compile(
    r"(?<=[\p{Latin}\p{Greek}]\p{M}*)\p{Mn}|(?<=\p{Cyrillic})[\u0300\u0301]|(?<=[कखगजफ])\u093c"
)


@lru_cache(maxsize=65536)
def _bare(word: str) -> frozenset[str]:
    """Return a word without its accents, in the ways it may be written so."""
    return frozenset(_unaccented(form) for form in (word, word.translate(_TWO_LETTERS)))


def _unaccented(word: str) -> str:
    word = unicodedata.normalize("NFC", word).translate(_PLAIN_LETTERS)
    cyrillic = regex.search(r"\p{Cyrillic}", word) is not None  # й is no accented и
    word = word if cyrillic else unicodedata.normalize("NFD", word)
    return unicodedata.normalize("NFC", _ACCENT.sub("", word))


def _alike(wanted: Segment, found: Segment, first: bool, last: bool) -> bool:
    """Return whether two segments are the same but for accents, and for what is attached by rule.

    Args:
        wanted: Of the answer.
        found: Of the text.
        first: It is the answer's first: an article or preposition may be attached (Arabic, Hebrew).
        last: It is the answer's last: particles may be attached (Hangul).
    """
    ours, theirs = wanted.text, found.text
    if ours == theirs:
        return True
    if wanted.kind == found.kind == "hangul":
        return last and theirs.startswith(ours) and _are_particles(ours[-1], theirs[len(ours) :])
    if wanted.kind != "word" or found.kind != "word":
        return False
    if ours in _bare(theirs) or theirs in _bare(ours):
        return True
    if not first or len(ours) < (3 if last else 2) or not _ATTACHES.match(ours):
        return False
    return any(
        _attached(ours).fullmatch(theirs) is not None
        for ours, theirs in product({ours, *_bare(ours)}, {theirs, *_bare(theirs)})
    )


_ATTACHES = regex.compile(r"[\p{Arabic}\p{Hebrew}]")


@lru_cache(maxsize=4096)
def _attached(word: str) -> regex.Pattern[str]:
    """Return a pattern of a word with what Arabic and Hebrew write together with it."""
    name = regex.escape(word)
    if word[0] < "\u0600":
        return regex.compile(rf"ו?(?:כש|ש)?[בכלמ]?ה?{name}")
    without_article = regex.escape(word.removeprefix("ال"))
    return regex.compile(rf"[وف]?[بكل]?(?:ال)?{name}|[وف]?لل{without_article}")


_PARTICLES = (
    "의 에 에서 에게 에게서 께 께서 한테 도 만 까지 부터 보다 처럼 마저 조차 밖에 하고 라고 이라고 "
    "라는 이라는 입니다 이다 이었다 이에요 였다 예요 님 씨 들 시 특별시 광역시"
).split()
_AFTER_CONSONANT = "은 이 을 과 이랑 으로 이며 이고 이나".split()
_AFTER_VOWEL = "는 가 를 와 랑 로".split()


def _are_particles(end: str, attached: str) -> bool:
    """Return whether what follows a Hangul syllable is a chain of particles, of its kind of ending."""
    final = (ord(end) - 0xAC00) % 28  # no final consonant is 0; the list of finals has ㄹ at 8
    fitting = (
        _PARTICLES + (_AFTER_CONSONANT if final else _AFTER_VOWEL) + (["로"] if final == 8 else [])
    )
    return not attached or any(
        attached.startswith(particle) and _are_particles(particle[-1], attached[len(particle) :])
        for particle in fitting
    )
