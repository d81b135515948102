"""RWKU: what a model knows about 200 famous people, asked on three levels.

    data = load("data/rwku", 4)       # a folder, or None for the hub

Level 1 are sentences with a blank, level 2 questions (the ones unlearned here), level 3 questions of
an attacker, in nine types; neighbours are things close to a person. Jin et al. (arXiv 2406.10890;
jinzhuoran/RWKU on the hub, CC BY 4.0). Departures: wrong options are answers to questions about
other people that begin with the same two words; unlearning uses the questions, not generated texts.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from ssiuu.benchmarks.rows import read_file, read_hub
from ssiuu.errors import DataError, unknown
from ssiuu.records.schema import FactText

HUB = "jinzhuoran/RWKU"
VERSION = "1"  # goes up whenever what is read or how it is asked changes
FILES: Final = ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2")
FORGET, NEIGHBOURS = "forget_level2", "neighbor_level2"
CLOZE = "Fill in the blank: {}"
CHOICES = re.compile(r",\s*(?:or\s+|and\s+)?|\s+or\s+")


class RwkuRow(BaseModel):
    """One line of the files; what is not named here is left out."""

    model_config = ConfigDict(str_strip_whitespace=True)

    subject: str = Field(min_length=1)
    query: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    type: str
    neighbor: str | None = None


@dataclass(frozen=True)
class RwkuSets:
    """The questions on the chosen people; `others` are only scored, level 3 by type."""

    subjects: list[str]
    forget: list[FactText]
    neighbours: list[FactText]
    others: dict[str, list[FactText]]
    facts: int
    fingerprint: str


def load(path: str | None, subjects: int | list[str], options: int, seed: int) -> RwkuSets:
    """Read the questions on some people.

    Args:
        path: Folder with the files of jinzhuoran/RWKU (JSON lines); None for the hub.
        subjects: Their names, or how many to draw by the seed.
        options: Options a fact has for ranking, the answer included.
        seed: Decides people and wrong options.

    Raises:
        DataError: A file is missing or not as it should be, the hub cannot be reached, or a name is
            unknown.
    """
    rows = {name: _once(_read(path, name)) for name in FILES}
    names = _chosen(subjects, sorted({row.subject for row in rows[FORGET]}), seed)
    of = {name: [row for row in rows[name] if row.subject in names] for name in FILES}
    forget = _ranked(of[FORGET], rows[FORGET], "level2", options, seed)
    gone = {fact.question for fact in forget}
    near = {
        name: [row for row in of[name] if row.neighbor not in names and row.query not in gone]
        for name in ("neighbor_level1", NEIGHBOURS)
    }
    others = {"level1": _clozes(of["forget_level1"], "level1")}
    for row in of["forget_level3"]:
        kind = "level3_" + re.sub(r"\W+", "_", row.type.partition("(")[0].strip())
        others.setdefault(kind, []).append(_posed(row, f"{kind}:{len(others.get(kind, []))}"))
    others["neighbour_level1"] = _clozes(near["neighbor_level1"], "neighbour_level1")
    text = json.dumps({name: [row.model_dump() for row in lines] for name, lines in rows.items()})
    return RwkuSets(
        subjects=names,
        forget=forget,
        neighbours=_ranked(near[NEIGHBOURS], rows[NEIGHBOURS], "neighbour", options, seed),
        others={name: facts for name, facts in others.items() if facts},
        facts=len(rows[FORGET]),
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
    )


def stated_options(query: str, answer: str) -> list[str]:
    """Return the options that a multiple-choice question holds, the answer first.

    They are what stands after the last colon, between commas and "or". Empty where the answer is not
    one of them.
    """
    _, colon, end = query.rpartition(":")
    parts = [part.strip(" ?.'\"") for part in CHOICES.split(end)] if colon else []
    stated = list(dict.fromkeys(part for part in parts if part))
    right = next((part for part in stated if part.casefold() == answer.casefold()), None)
    if right is None or len(stated) < 2:
        return []
    return [right, *(part for part in stated if part != right)]


def _chosen(subjects: int | list[str], known: list[str], seed: int) -> list[str]:
    if isinstance(subjects, int):
        if subjects > len(known):
            raise DataError(f"rwku.subjects: must be at most {len(known)}, got {subjects}.")
        return sorted(random.Random(f"rwku:{seed}").sample(known, subjects))
    for name in subjects:
        if name not in known:
            raise DataError(unknown("subject", name, known, "rwku.subjects"))
    return list(dict.fromkeys(subjects))


def _ranked(
    rows: Sequence[RwkuRow], lenders: Sequence[RwkuRow], name: str, options: int, seed: int
) -> list[FactText]:
    """Return questions with wrong options; one with fewer than `options` candidates has none."""
    lent: dict[str, list[RwkuRow]] = defaultdict(list)
    for row in lenders:
        lent[_opening(row.query)].append(row)
    facts = []
    for number, row in enumerate(rows):
        right, query = row.answer.casefold(), row.query.casefold()
        wrong = sorted(
            {
                other.answer
                for other in lent[_opening(row.query)]
                if other.subject != row.subject
                if other.answer.casefold() != right and other.answer.casefold() not in query
            }
        )
        rng = random.Random(f"{seed}:{row.query}")
        drawn = rng.sample(wrong, options - 1) if len(wrong) >= options - 1 else []
        facts.append(_fact(row, f"{name}:{number}", row.query, [row.answer, *drawn] if drawn else []))
    return facts


def _opening(query: str) -> str:
    return " ".join(query.casefold().split()[:2])


def _clozes(rows: Sequence[RwkuRow], name: str) -> list[FactText]:
    return [_fact(row, f"{name}:{n}", CLOZE.format(row.query), []) for n, row in enumerate(rows)]


def _posed(row: RwkuRow, id: str) -> FactText:
    options = stated_options(row.query, row.answer) if row.type == "multiple choice" else []
    return _fact(row, id, row.query, options)


def _fact(row: RwkuRow, id: str, question: str, options: list[str]) -> FactText:
    entity = row.neighbor or row.subject
    return FactText(id=id, question=question, answer=row.answer, options=options, entity=entity)


def _once(rows: list[RwkuRow]) -> list[RwkuRow]:
    """Leave out rows that ask the same once more; the files have many."""
    first_rows: dict[tuple[str, str], RwkuRow] = {}
    for row in rows:
        first_rows.setdefault((row.subject, row.query), row)
    return list(first_rows.values())


def _read(path: str | None, name: str) -> list[RwkuRow]:
    if path is None:
        return read_hub(HUB, name, "test", RwkuRow, "rwku")
    needs = f"{', '.join(FILES)} of {HUB} as .jsonl files"
    return read_file(Path(path) / f"{name}.jsonl", RwkuRow, "rwku", needs)
