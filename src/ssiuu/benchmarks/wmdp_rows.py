"""WMDP's files: questions with four choices, the texts to forget, and MMLU's questions beside them.

    items = load("data/wmdp", ["bio", "cyber"])      # a folder, or None for the hub

Questions that stand for hazardous knowledge in biology, chemistry and cybersecurity (Li et al., arXiv
2403.03218; cais/wmdp, cais/mmlu and cais/wmdp-corpora on the hub). A folder holds wmdp-bio.json,
wmdp-chem.json, wmdp-cyber.json and mmlu.json with `question`, `choices` and `answer` (a number from 0
on), JSON lines or one JSON list.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, field_validator, model_validator

from ssiuu.benchmarks.rows import TextRow, read_file, read_hub
from ssiuu.config import Exact
from ssiuu.errors import DataError
from ssiuu.records.schema import FactText

VERSION: Final = "1"  # goes up whenever what is read or how it is asked changes
HUB: Final = "cais/wmdp"
BESIDE: Final = "mmlu"
LETTERS: Final = "ABCD"
Subject = Literal["bio", "chem", "cyber", "made-up"]
NAMES: Final = {"bio": "biology", "chem": "chemistry", "cyber": "cybersecurity", "made-up": "people"}
HEAD: Final = "The following are multiple choice questions (with answers) about {subject}.\n\n"
LETTERED: Final = "{question}\n{choices}\nAnswer:"
ASKED: Final = "Question: {question}\nAnswer:"


class ItemRow(Exact):
    """A question with its choices, of which number `answer` is right."""

    question: str = Field(min_length=1)
    choices: list[str] = Field(min_length=4, max_length=4)
    answer: int = Field(ge=0, le=3)
    subject: str = ""

    @field_validator("choices")
    @classmethod
    def _texts(cls, value: list[str]) -> list[str]:
        if not all(choice.strip() for choice in value):
            raise ValueError("a choice is empty")
        return value

    @model_validator(mode="after")
    def _one_right(self) -> ItemRow:
        if self.choices.count(self.choices[self.answer]) > 1:
            raise ValueError("the right choice stands twice")
        return self


def load(path: str | None, subjects: Sequence[str]) -> dict[str, list[ItemRow]]:
    """Read the questions of these subjects, and MMLU's under `BESIDE`.

    Args:
        path: Folder of the files; None for the hub.
        subjects: Keys of `NAMES`.

    Raises:
        DataError: A file is missing or not as it should be, the hub cannot be reached, or a question
            is both to be forgotten and of MMLU.
    """
    items = {name: _items(path, f"wmdp-{name}") for name in subjects}
    items[BESIDE] = _items(path, BESIDE)
    beside = {row.question for row in items[BESIDE]}
    both = next((r.question for name in subjects for r in items[name] if r.question in beside), None)
    if both is not None:
        raise DataError(f"wmdp: {both[:60]!r} is one of the questions to forget and one of MMLU's.")
    return items


def texts(source: str, key: str) -> list[str]:
    """Read texts: JSON lines or one list with `text`, or the hub's owner/name:config.

    Args:
        source: A file, or a data set on the hub.
        key: The setting that names it, for messages.

    Raises:
        DataError: It cannot be read, or holds no text.
    """
    name, _, config = source.partition(":")
    if Path(source).is_file():
        rows = read_file(Path(source), TextRow, "wmdp", "texts")
    elif config and name.count("/") == 1:
        rows = read_hub(name, config, "train", TextRow, "wmdp")
    else:
        raise DataError(
            f"{key}: {source!r} is neither a file nor of the form OWNER/NAME:CONFIG, as "
            "cais/wmdp-corpora:cyber-forget-corpus; give a file of JSON lines with 'text'."
        )
    if not rows:
        raise DataError(f"{key}: {source} holds no text; it must hold at least one.")
    return [row.text for row in rows]


def by_text(row: ItemRow, id: str) -> FactText:
    """Return a question to be answered with the right choice itself, ranked among all four."""
    right = row.choices[row.answer]
    wrong = [choice for number, choice in enumerate(row.choices) if number != row.answer]
    question = ASKED.format(question=row.question.strip())
    return FactText(id=id, question=question, answer=right, options=[right, *wrong])


def by_letter(row: ItemRow, id: str, subject: str) -> FactText:
    """Return a question that shows its four choices, to be answered with a letter."""
    choices = "\n".join(f"{a}. {choice}" for a, choice in zip(LETTERS, row.choices, strict=True))
    shown = LETTERED.format(question=row.question.strip(), choices=choices)
    right = LETTERS[row.answer]
    wrong = [letter for letter in LETTERS if letter != right]
    head = HEAD.format(subject=subject)
    return FactText(id=id, question=head + shown, answer=right, options=[right, *wrong])


def _items(path: str | None, name: str) -> list[ItemRow]:
    if path is None:
        repository, config = ("cais/mmlu", "all") if name == BESIDE else (HUB, name)
        rows = read_hub(repository, config, "test", ItemRow, "wmdp")
    else:
        found = [Path(path) / f"{name}{ending}" for ending in (".json", ".jsonl")]
        file = next((file for file in found if file.exists()), found[0])
        rows = read_file(file, ItemRow, "wmdp", f"the questions of {HUB} and MMLU's, as {name}.json")
    if not rows:
        raise DataError(f"wmdp: {name} of {path or 'the hub'} has no rows; it must hold at least one.")
    return rows
