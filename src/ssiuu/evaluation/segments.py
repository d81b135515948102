"""Text in one spelling, and cut into the pieces that are compared: words, graphemes, numbers, signs.

Source: Unicode Standard Annexes 15 (normal forms), 24 (scripts) and 29 (graphemes), by way of
`unicodedata` and the package regex. Departures: what stands together in a word is decided by script
(digits with a unit are two pieces, Han after Latin is another piece); a Thai or Lao vowel is one piece
with its consonant.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Literal, NamedTuple, cast

import regex

SegmentKind = Literal["number", "katakana", "hangul", "cluster", "word", "sign", "mark"]


class Segment(NamedTuple):
    """A piece of a text that is compared as a whole.

    Attributes:
        text: In one case; of a number, without what groups its digits.
        kind: `number`; one grapheme of `katakana`; a run of `hangul`; a `cluster`, an orthographic
            syllable of a script without blanks; a `word` of any other script; a `sign` that counts
            (+, ★); a `mark` of punctuation, which counts only where there is nothing else.
        start: Where it begins in the text as normalised but for the case.
        end: Where it ends there.
    """

    text: str
    kind: SegmentKind
    start: int
    end: int


class Segmented(NamedTuple):
    """One way to read a text: as normalised but for the case, and its segments."""

    text: str
    segments: list[Segment]


def normalise(text: str) -> str:
    """Return the text in one spelling and one case.

    That is normal form KC, folded case, ASCII digits, one kind of hyphen, apostrophe and quote, nothing
    invisible, single blanks. Accents stay. Powers and fractions are kept apart: 10² is `10^2`.
    """
    return _fold(_plain(text))


def segments(text: str) -> list[Segment]:
    """Return what a text consists of, in order."""
    return readings(text)[0].segments


def words(text: str) -> list[str]:
    """Return the words of a text, in scripts without blanks its graphemes; no signs, no punctuation.

    Digits are taken as they stand, unlike in `segments`: 1,000 is two words, as ROUGE counts them.
    """
    return [word[0] for word in _WORD.finditer(normalise(text))]


# --- One spelling -----------------------------------------------------------------------------

_SPELLINGS = str.maketrans(
    dict.fromkeys("‘’‛ʼ′´׳", "'")
    | dict.fromkeys("“”„‟«»″״", '"')
    | dict.fromkeys("‐‑−⁃־", "-")
    | {"⁄": "/", "٫": ".", "٬": ",", "٪": "%", "\u2800": " ", "\u0640": None, "\u20e3": None}
    | {"ی": "ي", "ک": "ك"}  # Persian keyboards have codes of their own for the same letters
)
_POWER = regex.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_BASE = regex.compile(r"(?<=\d)[₀-₉]+")
_COMPATIBLE = regex.compile("[^™℠]+")  # these two become letters, which a name would take in
_JOINED = regex.compile(
    r"(?<=\p{Extended_Pictographic}[\ufe0f\U0001f3fb-\U0001f3ff]?)\u200d(?=\p{Extended_Pictographic})"
    r"|(?<=\U0001f3f4[\U000e0020-\U000e007f]*)[\U000e0020-\U000e007f]"  # the flags of regions
)
_INVISIBLE = regex.compile(r"[[\p{DI}\p{Cf}\p{Cc}]--\s]", regex.V1)
# Vowel points of Arabic and Hebrew, which are written in part or not at all.
_POINTS = regex.compile(r"[\u064b-\u0652\u0670\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]")
_IN_HEBREW = regex.compile(r"(?<=\p{Hebrew})[\"'](?=\p{Hebrew})")
# In Devanagari a nasal before a consonant of its class may be written as a dot: हिन्दी, हिंदी.
_NASAL = regex.compile(r"(?:ङ्(?=[क-घ])|ञ्(?=[च-झ])|ण्(?=[ट-ढ])|न्(?=[त-ध])|म्(?=[प-भ]))")


@lru_cache(maxsize=4096)
def _plain(text: str) -> str:
    """Return the text as `normalise` does, in its own case."""
    text = regex.sub(r"[\u3371-\u33ff]", lambda match: _unsquared(match[0]), text)
    text = _POWER.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]), text)
    text = _BASE.sub(lambda match: "_" + unicodedata.normalize("NFKC", match[0]), text)
    text = regex.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text.translate(_SPELLINGS))
    text = _COMPATIBLE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = _POINTS.sub("", _without_invisible(text.translate(_SPELLINGS)))
    text = regex.sub(r"\p{Nd}", lambda match: str(unicodedata.decimal(match[0])), text)
    text = unicodedata.normalize("NFC", _NASAL.sub("ं", _IN_HEBREW.sub("", text)))
    return regex.sub(r"[^\S\n]+", " ", regex.sub(r"\s*\n\s*", "\n", text)).strip()


def _unsquared(square: str) -> str:
    """Return the letters in one square (㎡), taken apart one step, so that a power stays one."""
    parts = unicodedata.decomposition(square).split()[1:]
    return "".join(chr(int(part, 16)) for part in parts) or square


def _without_invisible(text: str) -> str:
    joined = {match.start() for match in _JOINED.finditer(text)}
    return _INVISIBLE.sub(lambda match: match[0] if match.start() in joined else "", text)


def _fold(text: str) -> str:
    """Return the text in one case. Dotless and dotted i are one, as their capitals do not tell."""
    folded = unicodedata.normalize("NFC", text).casefold().replace("i\u0307", "i").replace("ı", "i")
    return unicodedata.normalize("NFC", folded)


# --- Segments ---------------------------------------------------------------------------------

_KANA = r"\p{Script=Katakana}ー\u3099\u309a"
_BLANKLESS = (
    r"\p{Script=Han}\p{Script=Hiragana}\p{Script=Bopomofo}\p{Script=Yi}"
    r"\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}\p{Script=Tibetan}"
)
LETTER = r"[\p{L}\p{M}\p{N}]"
_PARTED = rf"(?:(?![{_KANA}{_BLANKLESS}\p{{Script=Hangul}}]){LETTER})"
_RUNS = (
    rf"(?P<katakana>(?=[{_KANA}]){LETTER}\p{{M}}*)"
    r"|(?P<hangul>(?=\p{Script=Hangul})\p{L}[\p{Script=Hangul}\p{M}]*)"
    # A vowel of Thai or Lao that is written before its consonant belongs to it, so do those after it.
    rf"|(?P<cluster>(?:[เ-ไເ-ໄ](?=[ก-ฮກ-ຮ]))?(?=[{_BLANKLESS}])(?={LETTER})\X[\p{{M}}ะาๅະາー]*)"
    rf"|(?P<word>{_PARTED}++)"
)
_WORD = regex.compile(_RUNS)

_END = r"(?![.,:/]?\d)"
_GROUPED = (  # 1,000; 1'000; 1 000; in India 10,00,000
    r"[1-9]\d{0,2}(?:(?:,\d{3})+|(?:'\d{3})+|(?:[ ]\d{3})+)(?:\.\d+)?" + _END,
    r"[1-9]\d?(?:,\d\d)+,\d{3}(?:\.\d+)?" + _END,
)
_POINTED = (  # 1.000.000; 1.000,50; of one point before three digits only 1.000
    r"[1-9]\d{0,2}(?:(?:\.\d{3}){2,}(?:,\d+)?|(?:\.\d{3})+,\d+|\.000)" + _END,
)
_DATED = (r"\d\d?(?=\.\d\d?\.\d{4}(?!\d))", r"(?<=\d\.)\d\d?(?=\.\d{4}(?!\d))")  # 12.5.1950
_SIMPLE = (
    r"(?<![\d/])\d{1,3}/\d{1,3}(?![\d/])",
    r"(?:(?<![\d\p{L}.])\.)?\d+(?:[.,:]\d+)*",
)
_DIGITS = "|".join((*_GROUPED, *_POINTED, *_DATED, *_SIMPLE))
# No letter that also counts (5K, 5M) or belongs to a name (5A, the 1990s).
_UNIT = (
    r"(?:[kcdmnµμ]?m|[kmµμ]?g|[cdmh]?l|L|mL|ha|h|hrs?|min|[mµμn]s|[kMG]?Hz|[kMGT]?Wh?|[mk]?V|mAh?|[kM]J"
    r"|k?cal|[hkM]?Pa|[kKMGTP]i?B|[kMGT]bps|[kMG]bit|dB|mol|lbs?|oz|ft|in|yd|mi|mph|kph|kmh|rpm|fps|px|pt"
    rf"|[ap]m|[AP]M)(?!{LETTER})"
)
_OPENS = r"(?<![^\s(\[{<>=:;,\"'*/+×÷|~\p{Sc}])"
_NUMBER = (
    rf"(?P<number>(?:{_OPENS}[-–](?=\.?\d))?(?>{_DIGITS})"
    rf"(?:(?!{_PARTED})|(?={_UNIT})|(?<=\d[.,:/' ]\d+)))"
)
_INITIALS = rf"(?<!{LETTER})(?P<initials>\p{{L}}\p{{M}}*(?:\.\p{{L}}\p{{M}}*)+(?!{LETTER})\.?)"
_SIGN = (
    r"(?P<sign>(?=[\p{S}\p{Co}\p{Cn}#%‰&@*\\/_§†‡])(?!`)\X"
    rf"|{_OPENS}-(?=[\p{{L}}\p{{S}}])|(?<!\S)\.(?=\p{{L}})"  # -x, -$5, .NET
    rf"|(?<=(?<!{LETTER})[\p{{Lu}}\d]\p{{L}}?)-(?![\p{{L}}\p{{N}}]))"  # the grade A-, the group AB-
)
_SEGMENT = regex.compile(rf"{_NUMBER}|{_RUNS}|{_SIGN}|(?P<mark>\S)")
_SEGMENT_OR_INITIALS = regex.compile(rf"{_INITIALS}|{_SEGMENT.pattern}")
_EMPHASIS = regex.compile(rf"(?<!{LETTER}|\*)(\*{{1,3}})(?=\S)([^*\n]+)(?<=\S)\1(?!{LETTER}|\*)")


@lru_cache(maxsize=4096)
def readings(text: str) -> list[Segmented]:
    """Return the ways to read a text.

    Dotted initials are one word (U.S.A.), then one each; a currency stands where it was written, then
    before its number (5 €, €5), and a percent sign behind it (%5, 5%).
    """
    plain = _EMPHASIS.sub(r"\2", _plain(text))
    texts = dict.fromkeys((plain, _in_order(plain)))
    ways = [_cut(text, pattern) for text in texts for pattern in (_SEGMENT_OR_INITIALS, _SEGMENT)]
    return [reading for n, reading in enumerate(ways) if reading not in ways[:n]]


# Codes of currencies; a sign in the place of those that alone have it.
_CODES = dict.fromkeys(
    "USD GBP JPY CNY CHF CAD AUD NZD SEK NOK DKK PLN CZK HUF KRW BRL MXN ZAR HKD SGD".split(), ""
) | dict(
    pair.split(":")
    for pair in "EUR:€ INR:₹ RUB:₽ TRY:₺ UAH:₴ ILS:₪ VND:₫ NGN:₦ KZT:₸ GEL:₾ AZN:₼ GHS:₵ BTC:₿".split()
)
_CODE = rf"(?:{'|'.join(_CODES)})(?!{LETTER})"
_BEFORE = regex.compile(rf"(?P<minus>{_OPENS}-)?(?P<money>\p{{Sc}}|(?<!{LETTER}){_CODE}) ?(?=-?\d)")
_BEHIND = regex.compile(
    rf"(?<!{LETTER}|[\p{{Sc}}.,])(?P<number>(?:{_OPENS}-)?(?>{_DIGITS}))"
    rf" ?(?P<money>\p{{Sc}}|{_CODE})(?! ?\d)"
)
_PERCENT_FIRST = regex.compile(rf"(?<![\d%‰] ?)(?P<sign>[%‰])(?P<number>{_DIGITS})")


def _in_order(text: str) -> str:
    """Return a text with a currency right before its number and minus, and % behind it."""

    def sign(match: regex.Match[str]) -> str:
        return _CODES.get(match["money"]) or match["money"]

    text = _BEFORE.sub(lambda match: f"{sign(match)} {match['minus'] or ''}", text)
    text = _BEHIND.sub(lambda match: f"{sign(match)} {match['number']}", text)
    return _PERCENT_FIRST.sub(r"\g<number>\g<sign>", text)


def _cut(text: str, pattern: regex.Pattern[str]) -> Segmented:
    segments = []
    for match in pattern.finditer(text):
        kind = str(match.lastgroup)
        spelled = match[0].replace(".", "") if kind == "initials" else _fold(match[0])
        if kind == "number":
            spelled = _number(spelled)
        elif kind == "initials":
            kind, spelled = "word", _fold(spelled)
        segments.append(Segment(spelled, cast(SegmentKind, kind), *match.span()))
    return Segmented(text, segments)


def _number(digits: str) -> str:
    """Return a number without what groups its digits, with a point before decimals."""
    digits = digits.replace("–", "-")
    bare = digits.removeprefix("-")
    if any(regex.fullmatch(pattern, bare) for pattern in _GROUPED):
        return regex.sub("[,' ]", "", digits)
    if any(regex.fullmatch(pattern, bare) for pattern in _POINTED):
        return digits.replace(".", "").replace(",", ".")
    if regex.fullmatch(r"\d+,\d+", bare):
        return digits.replace(",", ".")
    return regex.sub(r"^(-?)\.", r"\g<1>0.", digits)
