"""Texts as rows that are trained on: pieces that fit the model, each begun by its own first word.

    rows = passages(tokenizer, texts, 2048, "forget")

A piece is a fact whose question is its first word and whose answer is the rest, asked in the form
"{question}": every token but those of the first word is predicted, whatever a tokenizer puts in front.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from ssiuu.records.schema import FactText

FORM: Final = "{question}"
ROOM: Final = 8  # tokens that a piece may grow by when it is read again, and that stand in front of it
_FIRST = re.compile(r"\s*(\S+?)(\s+)(?=\S)(.+)", re.DOTALL)


def passages(
    tokenizer: Any, texts: Sequence[str], tokens: int, name: str, first: bool = False
) -> list[FactText]:
    """Return texts in pieces; one of a single word is left out, as nothing of it would be predicted.

    Args:
        tokenizer: The model's.
        texts: Any text.
        tokens: Of a piece, at most; above `ROOM`.
        name: Of the texts, in the ids of the pieces.
        first: Only the first piece of every text.
    """
    rows = []
    for number, text in enumerate(texts):
        for piece, part in enumerate(_cut(tokenizer, text, tokens - ROOM)[: 1 if first else None]):
            if row := _row(f"{name}:{number}" + (f".{piece}" if piece else ""), part):
                rows.append(row)
    return rows


def begun(tokenizer: Any, text: str, tokens: int) -> str:
    """Return a text as far as so many tokens go."""
    return _cut(tokenizer, text, tokens)[0]


def _cut(tokenizer: Any, text: str, tokens: int) -> list[str]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) <= tokens:
        return [text]
    starts = range(0, len(ids), tokens)
    # A cut may go through a letter of several bytes.
    return [str(tokenizer.decode(ids[i : i + tokens])).strip("\ufffd") for i in starts]


def _row(id: str, text: str) -> FactText | None:
    found = _FIRST.fullmatch(text)
    if found is None:
        return None
    word, gap, rest = found.groups()
    # A blank comes before every answer by itself, another gap belongs to the question.
    return FactText(id=id, question=word if gap == " " else word + gap, answer=rest, scored=False)
