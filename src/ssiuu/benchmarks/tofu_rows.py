"""TOFU: 4,000 questions about 200 authors who do not exist, 20 in a row for each.

    data = load("data/tofu", "forget01")       # a folder, or None for the hub

A model is first fine-tuned on them, then made to forget the last authors. Beside the forget set it
is scored on the first 400 questions, on real authors and on world facts. The data are Maini et al.'s
(arXiv 2401.06121; locuslab/TOFU on the hub, MIT).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, Field

from ssiuu.benchmarks.rows import read_file, read_hub
from ssiuu.errors import DataError
from ssiuu.records.schema import FactText

HUB = "locuslab/TOFU"
VERSION = "2"  # goes up whenever what is read or how it is asked changes
AUTHOR = 20  # questions each
# Forget set -> the retain set that is the rest of the questions.
SPLITS: Final = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
OTHERS: Final = ("real_authors", "world_facts")


class TofuRow(BaseModel):
    """One line of the files; what is not named here is left out."""

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    paraphrased_question: str | None = None
    paraphrased_answer: str | None = None
    perturbed_answer: list[str] = []


@dataclass(frozen=True)
class TofuSets:
    """The sets of one split; only facts with perturbed answers can be scored.

    `non_members`: the questions nobody was trained on; where they cannot be had, `lacking` says why.
    """

    forget: list[FactText]
    retain: list[FactText]
    others: dict[str, list[FactText]]
    non_members: list[FactText]
    lacking: str
    fingerprint: str


def load(path: str | None, split: str, options: int) -> TofuSets:
    """Read the sets.

    Args:
        path: Folder with the files of locuslab/TOFU (JSON lines); None for the hub.
        split: A key of `SPLITS`.
        options: Options a fact keeps for ranking, the answer included.

    Raises:
        DataError: A file is missing or not as it should be, or the hub cannot be reached. Only the
            questions for membership inference may be missing.
    """
    names = [f"{split}_perturbed", SPLITS[split], "retain_perturbed"]
    names += [f"{name}_perturbed" for name in OTHERS]
    rows = {name: _read(path, name) for name in names}
    forget, retain, scored, *others = (rows[name] for name in names)
    scored = scored[: len(retain)]
    if [r.question for r in scored] != [r.question for r in retain[: len(scored)]]:
        raise DataError(f"tofu: {names[2]} does not hold the first questions of {names[1]}.")
    bare = [row.question for row in (*forget, *others[0], *others[1]) if not row.perturbed_answer]
    if bare:
        raise DataError(f"tofu: {bare[0]!r} has no perturbed_answer.")
    first = len(retain)  # the forget set is the end of the same 4,000
    outside, lacking = _outside(path, split.replace("forget", "holdout"))
    learned = {row.question for row in (*forget, *retain)}
    known = next((row.question for row in outside if row.question in learned), None)
    if known is not None:
        raise DataError(f"tofu: {known!r} is held out from training and is one of the 4,000 as well.")
    text = json.dumps({name: [r.model_dump() for r in rows[name]] for name in names})
    return TofuSets(
        forget=_facts(forget, first, options),
        retain=_facts([*scored, *retain[len(scored) :]], 0, options),
        others={
            name: [_fact(row, f"{name}:{n}", None, options) for n, row in enumerate(set_rows)]
            for name, set_rows in zip(OTHERS, others, strict=True)
        },
        non_members=[_fact(row, f"holdout:{n}", None, options) for n, row in enumerate(outside)],
        lacking=lacking,
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
    )


def _facts(rows: Sequence[TofuRow], first: int, options: int) -> list[FactText]:
    """Return the questions from number `first` on, each with its author."""
    return [
        _fact(row, f"tofu:{number}", f"author {number // AUTHOR}", options)
        for number, row in enumerate(rows, start=first)
    ]


def _fact(row: TofuRow, id: str, entity: str | None, options: int) -> FactText:
    wrong = row.perturbed_answer
    return FactText(
        id=id,
        question=row.question,
        answer=row.answer,
        paraphrases=[row.paraphrased_question] if row.paraphrased_question else [],
        options=[row.answer, *wrong[: options - 1]] if wrong else [],
        entity=entity,
        paraphrased_answer=row.paraphrased_answer,
        perturbed=wrong,
    )


def _outside(path: str | None, name: str) -> tuple[list[TofuRow], str]:
    """Return the questions that are in no training set, and what is lacking where there are none."""
    if path is not None and not (Path(path) / f"{name}.json").exists():
        return [], f"{name}.json of {HUB} is not in {path}"
    try:
        return _read(path, name), ""
    except DataError as error:
        if path is not None:
            raise
        return [], f"{name} cannot be had: {' '.join(error.problems)}"


def _read(path: str | None, name: str) -> list[TofuRow]:
    if path is None:
        return read_hub(HUB, name, "train", TofuRow, "tofu")
    needs = f"the JSON lines of {HUB} under their own names"
    return read_file(Path(path) / f"{name}.json", TofuRow, "tofu", needs)
