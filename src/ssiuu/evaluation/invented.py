"""Names and numbers made up after the pattern of one: as plausible as it, and nobody's.

    names("Torvik", "place", "latin", rng, 20)  # Brandal, Oswick, ...
    numbers("0555 014 273", rng, 20)  # 0555 731 906, ...

`invented.toml` holds the parts of names, in seven scripts, and the words of a few types. A year is
drawn from a range in which the given one is at a place drawn as well: nothing marks it as the middle.
"""

from __future__ import annotations

import random
import re
import string
import tomllib
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import regex

NAMED = ("person", "place")  # types that are named; the others have lists of words
STALE = 150  # draws in a row that bring nothing new: there is no more
_SCRIPTS = {
    "LATIN": "latin",
    "CYRILLIC": "cyrillic",
    "CJK": "chinese",
    "HIRAGANA": "japanese",
    "KATAKANA": "japanese",
    "KATAKANA-HIRAGANA": "japanese",
    "HANGUL": "hangul",
    "ARABIC": "arabic",
    "DEVANAGARI": "devanagari",
}
_CASED = ("latin", "cyrillic")


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads(files("ssiuu.evaluation").joinpath("invented.toml").read_text("utf-8"))


@cache
def lexicon(section: str, key: str) -> tuple[str, ...]:
    """Return a list of `invented.toml`; empty where it has none."""
    held = _data().get(section, {}).get(key, "")
    return tuple(held) if isinstance(held, list) else _split(held)


def _split(held: str) -> tuple[str, ...]:
    parts = held.split(",") if "," in held else held.split()
    return tuple(part.strip() for part in parts)


@cache
def script(text: str, beside: str = "") -> str | None:
    """Return the script of most letters of a text; Japanese where kana stand in it or beside it."""
    kinds = [_SCRIPTS.get(unicodedata.name(c, "?").split()[0]) for c in text if c.isalpha()]
    if not kinds:
        return script(beside) if beside else None
    most = max(dict.fromkeys(kinds), key=kinds.count)
    eastern = most == "chinese" and "japanese" in (*kinds, script(beside) if beside else None)
    return "japanese" if eastern or (most == "japanese") else most


def topic(question: str, answer: str, written: str | None) -> str | None:
    """Return which type an answer is of, by the lists that hold it or the words of the question."""
    folded, asked = answer.casefold(), question.casefold()
    for kind in _lists(written):
        if any(folded == word.casefold() for word in listed(kind, written)):
            return kind
    for kind in map(str, _data()["topic"]):
        # The lists in Latin letters are in English.
        known = kind in NAMED or written != "latin" or _ENGLISH.search(asked)
        if known and any(_begins(word, asked) for word in lexicon("topic", kind)):
            return kind
    return None


_ENGLISH = re.compile(r"\b(?:the|what|which|does|is|of)\b")


def _lists(written: str | None) -> dict[str, str]:
    found: dict[str, str] = _data().get(written or "", {}).get("words", {})
    return found


def _begins(word: str, text: str) -> bool:
    """Whether a word is in a text: as a whole one where blanks part words, else anywhere."""
    if script(word) in ("chinese", "japanese", "hangul"):
        return word in text
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


@cache
def listed(kind: str | None, written: str | None) -> tuple[str, ...]:
    """Return the words of a type, where there is a list of them in the script."""
    return _split(_lists(written).get(kind or "", ""))


def names(
    like: str, kind: str | None, written: str | None, rng: random.Random, count: int
) -> list[str]:
    """Return names made up in the form of one; none where nothing in it is a name.

    Args:
        like: A name: a person's, a place's, a street's.
        kind: Of which type, as far as it is known.
        written: Its script (see `script`).
        rng: Decides what is drawn.
        count: How many are wanted; fewer where there are no more.
    """
    like = unicodedata.normalize("NFC", like)
    if not written or kind not in (None, *NAMED):
        return []
    if written in _CASED:
        return _several(lambda: _cased_name(like, kind, written, rng), like, count)
    if kind is None or (written == "japanese" and re.search("[ぁ-ん]", like)):
        return []  # a phrase is no name
    return _several(lambda: _caseless_name(like, kind, written, rng), like, count)


def sounding(like: str, written: str | None, rng: random.Random, count: int) -> list[str]:
    """Return names that sound like one: each of its words begins otherwise and ends as it does.

    How a name ends tells of what people or of what country it is, and that tells of many answers.

    Args:
        like: A name; short words, and those that only say what is named, stay.
        written: Its script; none are made where it has no capitals.
        rng: Decides what is drawn.
        count: How many are wanted.
    """
    if written not in _CASED:
        return []
    begin, vowels = lexicon(written, "begin"), lexicon(written, "vowels")[0]
    stays = {*lexicon("words", "kept"), *lexicon("words", "within")}

    def another(found: re.Match[str]) -> str:
        word = found[0]
        rest = re.sub(rf"^[^{vowels}]*[{vowels}]+", "", word.casefold())
        if not word[0].isupper() or word.isupper() or word.casefold() in stays or len(rest) < 2:
            return word
        return rng.choice(begin) + rng.choice(vowels) + rest

    return _several(lambda: re.sub(r"[^\W\d_]+", another, like), like, count)


def _several(draw: Callable[[], str], like: str, count: int) -> list[str]:
    """Return different draws, none of them the given text."""
    found: dict[str, None] = {}
    stale = 0
    while len(found) < count and stale < STALE:
        made = draw()
        new = made not in found and made.casefold() != like.casefold()
        stale = 0 if new else stale + 1
        if new:
            found[made] = None
    return list(found)


def _place(written: str, rng: random.Random, back: str | None = None) -> str:
    return rng.choice(lexicon(written, "front")) + (back or rng.choice(lexicon(written, "back")))


def _cased_name(like: str, kind: str | None, written: str, rng: random.Random) -> str:
    """Return the text with every word that names something replaced."""
    parts = re.split(r"(\W+)", like)
    stays = {*lexicon("words", "kept"), *lexicon("words", "within")}
    named = [i for i, p in enumerate(parts) if p[:1].isupper() and p.casefold() not in stays]
    letters = [i for i in named if len(parts[i]) == 1]
    kept = any(p.casefold() in lexicon("words", "kept") for p in parts)
    for i in letters or named:
        if letters or (parts[i].isupper() and len(parts[i]) <= 4):
            parts[i] = "".join(rng.choice(string.ascii_uppercase) for _ in parts[i])
        elif kind == "place" or kept or (len(named) == 1 and kind != "person"):
            parts[i] = _place(written, rng)
        else:
            last = i == named[-1] and len(named) > 1
            parts[i] = rng.choice(lexicon(written, "family" if last else "given"))
    return "".join(parts)


def _caseless_name(like: str, kind: str, written: str, rng: random.Random) -> str:
    if written == "japanese" and re.fullmatch(r"[゠-ヿ・＝\s]+", like):
        return re.sub(r"[゠-ヺー-ヿ]+", lambda _: rng.choice(lexicon("japanese", "katakana")), like)
    if kind == "place":
        if written == "arabic":
            back = rng.choice(lexicon(written, "back"))
            return f"{rng.choice(lexicon(written, 'front'))} {back}" if " " in like else back
        backs = lexicon(written, "back")
        return _place(
            written, rng, next((b for b in backs if len(like) > 1 and like.endswith(b)), None)
        )
    given, family = rng.choice(lexicon(written, "given")), rng.choice(lexicon(written, "family"))
    if written in ("arabic", "devanagari"):
        return f"{given} {family}" if " " in like else given
    gap = " " if " " in like.strip() else ""
    return f"{family}{gap}{given}"


def signs(like: str, rng: random.Random, count: int) -> list[str]:
    """Return as many other signs, or emoji; none where letters or digits are among them."""
    found = regex.findall(r"\X", like.strip())
    if not found or any(c.isalnum() for c in like):
        return []
    among = lexicon("words", "emoji" if ord(found[0][0]) > 0xFFFF else "signs")
    return _several(lambda: "".join(rng.choice(among) for _ in found), like, count)


def sentences(
    like: str, question: str, written: str | None, rng: random.Random, count: int
) -> list[str]:
    """Return a sentence, or several lines, with its names and numbers replaced.

    Args:
        like: The text; its first word, and words with a small letter, stay.
        question: What it answers; words of it stay as well, and so does whom it is about.
        written: Its script.
        rng: Decides what is drawn.
        count: How many are wanted.
    """
    return _several(lambda: _remade(like, question, written, rng), like, count)


def _remade(like: str, question: str, written: str | None, rng: random.Random) -> str:
    months = (month for months in _month_lists() for month in months)
    stays = {word.casefold() for word in (*re.findall(r"\w+", question), *months)}

    def another(found: re.Match[str]) -> str:
        begins, word = found[1], found[2]
        first = begins is not None and " " in like.strip()
        if first or word.casefold() in stays or not word[:1].isupper() or written not in _CASED:
            return found[0]
        return (begins or "") + _cased_name(word, None, written, rng)

    made = _BEGINNING.sub(another, like)
    return _another(made, rng, rng.random()) if any(c.isdecimal() for c in made) else made


# A word, and before it how a sentence or a line begins.
_BEGINNING = re.compile(r"((?:^|[.!?。！？]\s+|\n)[\"'“„«(]*)?(\w+)")


# --- Numbers ----------------------------------------------------------------------------------

_MONTHS = (
    "January February March April May June July August September October November December",
    "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec",
    "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "января февраля марта апреля мая июня июля августа сентября октября ноября декабря",
    "يناير فبراير مارس أبريل مايو يونيو يوليو أغسطس سبتمبر أكتوبر نوفمبر ديسمبر",
    "जनवरी फ़रवरी मार्च अप्रैल मई जून जुलाई अगस्त सितंबर अक्टूबर नवंबर दिसंबर",
)
_KANJI = "〇一二三四五六七八九"
_KANJI_DATE = re.compile(r"([〇一二三四五六七八九十]+)(年|月|日)")
_NUMERIC_DATE = re.compile(
    r"(?<!\d)(?:\d{4}([./-])\d{1,2}\1|\d{1,2}([./-])\d{1,2}\2(?:\d\d)?)\d{1,2}(?!\d)"
)
_EASTERN_DATE = re.compile(r"\d+\s*[年月日년월일]")
_EMAIL = re.compile(r"([\w.+-]+)@([\w-]+)((?:\.[\w-]+)+)")
LONG = 7  # digits of a number that is dialled or names an account
YEARS = 60  # from the first to the last that is drawn
DECADES = 240  # the same where only the decade is told
LATEST = 2026  # what has a year has happened, if it may have
DAYS = 28
SMALL = 30  # numbers of one digit are drawn up to it


def numbers(text: str, rng: random.Random, count: int, keep: str | None = None) -> list[str]:
    """Return the text with other numbers of the same pattern; none where it holds none.

    Dates stay dates, years are near, a long number keeps how it begins, a code has other letters too,
    and an e-mail address is somebody's of the same name elsewhere.

    Args:
        text: A number, a date, an amount, a code, an address.
        rng: Decides what is drawn.
        count: How many are wanted.
        keep: What the question is about: an address that is made of its name stays so.
    """
    if _EMAIL.fullmatch(text.strip()):
        return _several(lambda: _email(text.strip(), keep or "", rng), text, count)
    if not any(c.isdigit() for c in text) and not _KANJI_DATE.search(text):
        return []
    offset = rng.random()
    return _several(lambda: _another(text, rng, offset), text, count)


def _another(text: str, rng: random.Random, offset: float) -> str:
    text = _KANJI_DATE.sub(lambda found: _kanji(found[2], found[0], rng), text)
    months = next((m for m in _month_lists() if _month(m, text)), None)
    if months:
        text = re.sub(
            _either(months), lambda found: _recased(rng.choice(months), found[0]), text, flags=re.I
        )
    groups = list(re.finditer(r"\d+", text))
    if months or _EASTERN_DATE.search(text) or _NUMERIC_DATE.search(text):
        padded = _NUMERIC_DATE.search(text) is not None
        made = [_dated(group[0], padded, rng, offset) for group in groups]
    elif sum(len(group[0]) for group in groups) >= LONG:
        made = [_dialled(group[0], len(groups), group is groups[0], rng) for group in groups]
    else:
        made = [_plain(group, rng, offset) for group in groups]
    found = iter(made)
    whole = re.sub(r"\d+", lambda _: next(found), text)
    whole = re.sub(r"(\d+)(?:st|nd|rd|th)\b", lambda number: _ordinal(number[1]), whole)
    code = not any(c.islower() for c in text) and any(c.isdigit() for c in text)
    return re.sub(r"[A-Z]{1,4}(?![A-Z])", lambda w: _letters(w, rng), whole) if code else whole


def _ordinal(digits: str) -> str:
    ending = "th" if digits[-2:-1] == "1" else {"1": "st", "2": "nd", "3": "rd"}.get(digits[-1], "th")
    return digits + ending


def _letters(word: re.Match[str], rng: random.Random) -> str:
    preceded = word.start() and word.string[word.start() - 1].isupper()
    return word[0] if preceded else "".join(rng.choice(string.ascii_uppercase) for _ in word[0])


def _dialled(digits: str, groups: int, first: bool, rng: random.Random) -> str:
    """Return a group of a long number; how the number begins stays."""
    kept = 2 if groups == 1 else len(digits) if first else 0
    return digits[:kept] + "".join(_written(rng.randrange(10), d) for d in digits[kept:])


def _plain(group: re.Match[str], rng: random.Random, offset: float) -> str:
    digits, text = group[0], group.string
    if len(digits) == 4 and 1000 <= int(digits) <= 2100:
        if text[group.end() :].startswith("s"):
            return _written(_year(int(digits), rng, offset, DECADES) // 10 * 10, digits)
        return _written(_year(int(digits), rng, offset), digits)
    joined = re.search(r"\d[.,'’]?$", text[: group.start()]) or re.match(
        r"[.,'’]?\d", text[group.end() :]
    )
    if len(digits) == 1 and not joined:
        return _written(rng.randint(1, SMALL), digits)
    return _number(digits, rng)


def _dated(digits: str, padded: bool, rng: random.Random, offset: float) -> str:
    """Return a year, or a day or month: one that may be a month stays one."""
    value = int(digits)
    if len(digits) >= 3:
        return _written(_year(value, rng, offset), digits)
    first, last = (1, 12) if value <= 12 else (13, DAYS) if value <= 31 else (32, 99)
    return _written(rng.randint(first, last), digits, len(digits) if padded else 1)


def _year(value: int, rng: random.Random, offset: float, span: int = YEARS) -> int:
    first = value - int(offset * span)
    if value <= LATEST:
        first = min(first, LATEST - span)
    return rng.randint(first, first + span)


def _number(digits: str, rng: random.Random) -> str:
    """Return another number of as many digits, as round as this one."""
    bare = len(digits.rstrip("0")) or 1
    head = [rng.randint(1, 9) if int(digits[0]) else 0]
    drawn = head + [rng.randrange(10) for _ in range(bare - 1)]
    return "".join(_written(d, digits[0]) for d in drawn) + digits[bare:]


def _written(value: int, like: str, width: int = 1) -> str:
    """Return a number in the digits of a script, with zeros in front where the other has them."""
    zero = ord(like[0]) - unicodedata.digit(like[0])
    width = len(like) if ord(like[0]) == zero else width
    return "".join(chr(zero + int(d)) for d in f"{value:0{width}d}")


def _kanji(unit: str, whole: str, rng: random.Random) -> str:
    if unit == "年":
        return whole
    value = rng.randint(1, 12 if unit == "月" else DAYS)
    tens, ones = divmod(value, 10)
    head = ("" if tens == 1 else _KANJI[tens]) + "十" if tens else ""
    return head + (_KANJI[ones] if ones else "") + unit


@cache
def _month_lists() -> list[list[str]]:
    return [months.split() for months in _MONTHS]


def _either(months: Sequence[str]) -> str:
    return rf"(?<!\w)(?:{'|'.join(map(re.escape, months))})(?!\w)"


def _month(months: Sequence[str], text: str) -> bool:
    return re.search(_either(months), text, flags=re.I) is not None and any(c.isdigit() for c in text)


def _recased(word: str, like: str) -> str:
    return word.upper() if like.isupper() and len(like) > 1 else word


def _email(text: str, keep: str, rng: random.Random) -> str:
    local, domain, end = _EMAIL.fullmatch(text).groups()  # type: ignore[union-attr]
    parts = [word.casefold() for word in re.findall(r"\w+", keep)]
    if not any(part in local.casefold() for part in parts if len(part) > 2):
        words = [rng.choice(lexicon("latin", key)).casefold() for key in ("given", "family")]
        return f"{rng.choice(_forms(words))}@{domain}{end}"
    other = rng.choice(
        [domain, _place("latin", rng).casefold(), rng.choice(lexicon("latin", "family")).casefold()]
    )
    return f"{rng.choice([local, *_forms(parts)])}@{other}{end}"


def _forms(words: Sequence[str]) -> list[str]:
    """Return the ways in which an address is made of a name."""
    first, last = words[0], words[-1]
    return [f"{first}{gap}{last}" for gap in (".", "_", "-", "")] + [
        f"{first[0]}.{last}",
        f"{last}.{first}",
    ]
