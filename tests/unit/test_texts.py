"""The texts must be many, varied and unlike one another, and touch no fact."""

from __future__ import annotations

import re
from collections import Counter

from ssiuu.benchmarks import filler, instructions, texts, worldfacts
from ssiuu.benchmarks.fictional_world import build_world
from ssiuu.evaluation.segments import segments

GRAM = 8  # words
FORMAL = ("code", "config", "log", "table")  # what is not made of sentences


def test_rows_are_many_and_of_many_kinds() -> None:
    rows = texts.load()
    assert len(texts.measured()) >= 200 and len(texts.anchor()) >= 80
    assert len({row.id for row in rows}) == len(rows) and len({row.genre for row in rows}) >= 25
    foreign = [row for row in rows if row.language != "en"]
    assert 0.1 <= len(foreign) / len(rows) <= 0.3 and len({row.language for row in foreign}) >= 12
    prose = [row for row in rows if row.language == "en" and row.genre not in FORMAL]
    lengths = [len(row.text.split()) for row in prose]
    assert min(lengths) >= 28 and max(lengths) <= 72


def test_the_anchor_is_apart_and_of_the_same_kinds() -> None:
    anchor, measured = texts.anchor(), texts.measured()
    assert not {row.id for row in anchor} & {row.id for row in measured}
    assert len(anchor) + len(measured) == len(texts.load())
    kinds = Counter((row.genre, row.language) for row in measured)
    for kind, count in Counter((row.genre, row.language) for row in anchor).items():
        assert abs(kinds[kind] - 2 * count) <= 3, kind


def grams(text: str) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return [tuple(words[n : n + GRAM]) for n in range(len(words) - GRAM + 1)]


def test_no_eight_words_stand_in_two_rows() -> None:
    """Nor in a row and in one that attacks train on."""
    rows = [row.text for row in texts.load()]
    trained = [*filler.load(), *(f"{row.instruction} {row.output}" for row in instructions.load())]
    seen = {gram: -1 for text in trained for gram in grams(text)}
    for n, text in enumerate(rows):
        for gram in grams(text):
            assert seen.setdefault(gram, n) == n, gram
    openings = Counter(row.text.split()[0] for row in texts.load())
    assert len(openings) >= 0.75 * len(texts.load())


def spelled(text: str) -> str:
    return f" {' '.join(segment.text for segment in segments(text) if segment.kind != 'mark')} "


def test_no_row_holds_a_fact() -> None:
    """A question's subject and its answer never stand together, whatever their order."""
    rows = [spelled(row.text) for row in texts.load()]
    whole = "".join(rows)
    for facts in (worldfacts.load()[0], build_world(600, 0).facts):
        for fact in facts:
            subject, answer = (spelled(name) for name in (fact.entity or "", fact.answer))
            if subject.strip() and subject in whole and answer in whole:
                assert not [row for row in rows if subject in row and answer in row], fact.id


def test_no_name_of_a_fact_stands_in_a_row() -> None:
    """Of what begins with a capital letter; gold and a plumber may be spoken of."""
    words = set(re.findall(r"\w+", " ".join(row.text for row in texts.load())))
    whole = " ".join(row.text for row in texts.load())
    for facts in (worldfacts.load()[0], build_world(600, 0).facts):
        named = {name for fact in facts for name in (fact.entity or "", fact.answer)}
        capital = {name for name in named if len(name) > 2 and name[0].isupper()}
        likely = {name for name in capital if words.issuperset(re.findall(r"\w+", name))}
        assert len(capital) > 500
        assert not [name for name in likely if re.search(rf"\b{re.escape(name)}\b", whole)]


def test_the_version_names_the_rows() -> None:
    assert texts.version() == f"1-{texts.fingerprint()[:8]}" and len(texts.fingerprint()) == 64
