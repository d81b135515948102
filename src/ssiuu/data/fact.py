"""The rows of a fact set, in the shape of FaithUn's clusters."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field


class DataRow(BaseModel):
    """Base of every row: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Probe(DataRow):
    """A question about a fact that is asked but never trained on."""

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    distractors: tuple[str, ...] = ()


class Fact(DataRow):
    """One fact: a base question with its answer, and every other way it is asked.

    Attributes:
        id: Unique within its set.
        question: The base question; training uses this one.
        answer: The answer as it would be written, short.
        entity: What the fact is about; splits are disjoint by it.
        relation: Facts of one relation share the type of their answers.
        paraphrases: The same question in other words; evaluation only.
        statement: The fact as a declarative sentence.
        distractors: Wrong answers of the same type.
        multi_hop: Questions that need this fact and another one.
        same_answer: Questions about other things that have the same answer.
        perturbed: Wrong answers of the same form, whole sentences (TOFU's `perturbed_answer`).
        paraphrased_answer: The right answer in other words (TOFU).
    """

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    entity: str | None = None
    relation: str | None = None
    paraphrases: tuple[str, ...] = ()
    statement: str | None = None
    distractors: tuple[str, ...] = ()
    multi_hop: tuple[Probe, ...] = ()
    same_answer: tuple[Probe, ...] = ()
    perturbed: tuple[str, ...] = ()
    paraphrased_answer: str | None = None


class Instruction(DataRow):
    """One row of an instruction set (benign data)."""

    instruction: str = Field(min_length=1)
    output: str = Field(min_length=1)


@lru_cache(maxsize=1 << 16)  # lineups ask it of every fact for every other one
def normal(text: str) -> str:
    """Return the text without differences of case, of spaces and of composed accents."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
