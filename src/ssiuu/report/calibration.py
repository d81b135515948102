"""What a calibration says, as tables: for the terminal, and for the page in the docs.

python -m ssiuu.report.calibration docs/verdict.md

puts the tables of the calibration that ships with the package between their marks in the page.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ssiuu.analysis.calibration import SIZES, WORLDS, Calibrated, Rate, Row, Truth, shipped
from ssiuu.analysis.evidence import LEVEL
from ssiuu.records.schema import Verdict
from ssiuu.report.text import DASH

WORDS: tuple[Verdict, ...] = ("erased", "hidden", "not removed", "undecided")
TRUTHS: tuple[Truth, ...] = ("erased", "hidden", "not removed")
BASES = (0.1, 0.2, 0.5, 0.8)  # shares of facts that are truly erased
MARK = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def told(found: Calibrated) -> str:
    """Return what a calibration says, for a terminal."""
    rows = [["truth", "facts", *WORDS]]
    for truth in TRUTHS:
        words = found.words(truth)
        if words:
            rows.append([truth, str(words.total()), *(str(words[word]) for word in WORDS)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
    comfort, alarm = found.error("hidden", ["erased"]), found.error("erased", ["hidden"])
    return "\n".join(
        [
            "What was said of facts on worlds and ways of hiding that nothing was fitted on:",
            *lines,
            f"erased said of what is hidden: {_rate(comfort)}",
            f"hidden said of what is erased: {_rate(alarm)}",
        ]
    )


def filled(page: str, found: Calibrated) -> str:
    """Return a page with the tables of a calibration between their marks.

    Raises:
        KeyError: A mark names no table.
    """
    return MARK.sub(lambda m: m[1] + PARTS[m[2]](found) + "\n" + m[3], page)


def _made(found: Calibrated) -> str:
    """Say what the calibration was made of."""
    fitted = [row.world for row in found.rows if row.fitted]
    names = list(dict.fromkeys(row.world for row in found.rows))
    tried = [name for name in names if name not in fitted]
    count, told = (
        sum(sum(r.words.values()) for r in found.rows if r.fitted is f) for f in (True, False)
    )
    weights = ", ".join(f"{a} {w:+.2f}" for a, w in found.constants.weights.items())
    packages = ", ".join(f"{name} {found.versions[name]}" for name in sorted(found.versions))
    return "\n".join(
        [
            f"Calibration {found.constants.version}: {_listed(dict.fromkeys(fitted))} are fitted on, "
            f"{_listed(tried) or 'no other world is'} only tried; {count} facts were fitted on, and "
            f"nothing on {told} others (of another world, hidden in another way, or in a mixed model).",
            f"Weights: {weights}; shift {found.constants.shift:g}, caution "
            f"{found.constants.caution:g}. Made {found.created or DASH}"
            + (f" with {packages}." if packages else "."),
        ]
    )


def _facts(found: Calibrated) -> str:
    """Return what was said of facts of each truth."""
    lines = []
    for fitted in (False, True):
        for truth in TRUTHS:
            words = found.words(truth, fitted)
            if words:
                where = "fitted on" if fitted else "not fitted"
                lines.append([where, truth, *_counts(words), _wrong(truth, words), _open(words)])
    return _table(["", "truth", "facts", *WORDS, "said wrongly", "undecided, %"], lines)


def _errors(found: Calibrated) -> str:
    """Say both error rates in sentences, with whether they are what is promised."""
    comfort, alarm = found.error("hidden", ["erased"]), found.error("erased", ["hidden"])
    still = found.error("erased", ["hidden", "not removed"])
    undecided = [found.error(truth, ["undecided"]) for truth in ("erased", "hidden")]
    sentences = [
        f"*Erased* was said of {_rate(comfort)} of the facts that were hidden: {_kept(comfort)}.",
        f"*Hidden* was said of {_rate(alarm)} of the facts that were never learned: {_kept(alarm)}; "
        f"*hidden* or *not removed* of {_rate(still)}.",
        f"Undecided stay {_rate(undecided[0])} of the facts never learned and {_rate(undecided[1])} of "
        "those hidden (aim: at most 15 %).",
    ]
    return "\n".join(sentences)


def _kinds(found: Calibrated) -> str:
    """Return what was said of each kind of model, over worlds."""
    lines = []
    for case in dict.fromkeys(row.case for row in found.rows):
        for truth in TRUTHS:
            for fitted in (True, False):
                words = _sum(
                    r for r in found.rows if (r.case, r.truth, r.fitted) == (case, truth, fitted)
                )
                if words:
                    where = "yes" if fitted else "no"
                    lines.append([case, truth, where, *_counts(words), _wrong(truth, words)])
    return _table(["model", "truth", "fitted on", "facts", *WORDS, "said wrongly"], lines)


def _worlds(found: Calibrated) -> str:
    """Return both error rates of each world, over what was not fitted there."""
    lines = []
    for world in dict.fromkeys(row.world for row in found.rows):
        rows = [row for row in found.rows if row.world == world and not row.fitted]
        erased, hidden = (_sum(r for r in rows if r.truth == t) for t in ("erased", "hidden"))
        lines.append(
            [
                world,
                "yes" if WORLDS.get(world.rpartition("-")[0]) else "no",
                _share(hidden, "erased"),
                _share(erased, "hidden"),
                _share(erased + hidden, "undecided"),
            ]
        )
    heading = ["world", "also fitted on", "erased said of hidden", "hidden said of erased", "undecided"]
    return _table(heading, lines)


def _models(found: Calibrated) -> str:
    """Return what was said of models of so many facts, and how often their bounds held."""
    rows = [row for row in found.models if not row.fitted and row.facts]
    sizes = sorted({row.facts for row in rows if row.facts})
    some = {str(n): [n] for n in SIZES if n in sizes}
    rest = [n for n in sizes if n not in SIZES]
    if rest:
        some[f"all of them ({_range(rest)})"] = rest
    lines = []
    for name, counts in some.items():
        mine = [row for row in rows if row.facts in counts]
        erased = [row for row in mine if row.truth == "erased"]
        hidden = [row for row in mine if row.truth == "hidden"]
        lines.append(
            [
                name,
                _pooled(hidden, "erased"),
                _pooled(erased, "hidden"),
                _pooled(erased, "erased"),
                _pooled(hidden, "hidden"),
                _pooled([*erased, *hidden], "undecided"),
                _within(mine),
            ]
        )
    heading = [
        "facts",
        "erased said of hidden",
        "hidden said of erased",
        "erased found",
        "hidden found",
        "undecided",
        "bounds hold",
    ]
    return _table(heading, lines)


def _curve(found: Calibrated) -> str:
    """Return error against undecided over the levels."""
    lines = []
    for point in found.curve:
        erased, hidden = (Counter(point.words.get(t, {})) for t in ("erased", "hidden"))
        lines.append(
            [
                f"{point.level:.0%}".replace("%", " %"),
                _share(hidden, "erased"),
                _share(erased, "hidden"),
                _share(erased, "undecided"),
                _share(hidden, "undecided"),
            ]
        )
    heading = [
        "promised",
        "erased said of hidden",
        "hidden said of erased",
        "erased, undecided",
        "hidden, undecided",
    ]
    return _table(heading, lines)


def _worth(found: Calibrated) -> str:
    """Return what a word is worth where so many of the facts are truly erased, the others hidden."""
    erased, hidden = found.words("erased"), found.words("hidden")
    lines = [
        [
            f"{base:.0%}".replace("%", " %"),
            _right(base, _part(erased, "erased"), _part(hidden, "erased")),
            _right(1 - base, _part(hidden, "hidden"), _part(erased, "hidden")),
        ]
        for base in BASES
    ]
    return _table(["truly erased", "“erased” is right in", "“hidden” is right in"], lines)


PARTS = {
    "made": _made,
    "facts": _facts,
    "errors": _errors,
    "kinds": _kinds,
    "worlds": _worlds,
    "models": _models,
    "curve": _curve,
    "worth": _worth,
}


def _right(base: float, hit: float | None, wrong: float | None) -> str:
    """Return Bayes: how often a word is right that is said of both."""
    if hit is None or wrong is None or not hit + wrong:
        return DASH
    return f"{100 * base * hit / (base * hit + (1 - base) * wrong):.0f} %"


def _sum(rows: Iterable[Row]) -> Counter[Verdict]:
    return sum((Counter(row.words) for row in rows), Counter[Verdict]())


def _counts(words: Counter[Verdict]) -> list[str]:
    return [str(words.total()), *(str(words[word]) for word in WORDS)]


def _wrong(truth: Truth, words: Counter[Verdict]) -> str:
    """Return how often the word was one that the truth is not; undecided is none."""
    wrong = sum(words[word] for word in WORDS if word not in (truth, "undecided"))
    return _rate(Rate.of_counts(wrong, words.total()))


def _open(words: Counter[Verdict]) -> str:
    return f"{100 * words['undecided'] / words.total():.0f}"


def _part(words: Counter[Verdict], word: Verdict) -> float | None:
    return words[word] / words.total() if words else None


def _share(words: Counter[Verdict], word: Verdict) -> str:
    return _rate(Rate.of_counts(words[word], words.total()))


def _pooled(rows: Sequence[Row], word: Verdict) -> str:
    """Return how often it was said of models drawn from cases."""
    words = _sum(rows)
    return _of_cases(rows, words[word] / words.total() if words else None)


def _within(rows: Sequence[Row]) -> str:
    """Return how often bounds held, over all models drawn."""
    rates = [row.within for row in rows if row.within]
    count = sum(rate.of for rate in rates)
    return _of_cases(rows, sum(rate.share * rate.of for rate in rates) / count if count else None)


def _of_cases(rows: Sequence[Row], share: float | None) -> str:
    """Return a share; its interval counts cases, as models drawn from one overlap."""
    cases = len({(row.world, row.case) for row in rows})
    rate = Rate.of_counts(round((share or 0) * cases), cases)
    if share is None or rate is None:
        return DASH
    low, high = min(share, rate.low), max(share, rate.high)
    return f"{100 * share:.0f} % [{100 * low:.0f}, {100 * high:.0f}] of {cases}"


def _rate(rate: Rate | None) -> str:
    if rate is None:
        return DASH
    return f"{100 * rate.share:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def _kept(rate: Rate | None) -> str:
    if rate is None:
        return "not measured"
    if rate.high <= LEVEL:
        return f"below the promised {LEVEL:.0%}".replace("%", " %")
    word = "within" if rate.low <= LEVEL else "above"
    sure = ", as far as these facts can tell" if word == "within" else ": the promise is **not** kept"
    return f"{word} the promised {LEVEL:.0%}".replace("%", " %") + sure


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}–{high}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _table(heading: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [heading, ["---"] * len(heading), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(filled(page.read_text(encoding="utf-8"), shipped()), encoding="utf-8")
