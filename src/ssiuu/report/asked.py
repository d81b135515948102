"""The table of `ssiuu ask`: what a model knows of every fact, and why. Imports no torch."""

from __future__ import annotations

import textwrap
import unicodedata
from collections import Counter
from typing import Any

from ssiuu.records.schema import FactText, Knowledge, ModelKnowledge
from ssiuu.report.knowledge import STATES, counts
from ssiuu.report.text import DASH, nats, plain

COLUMNS = (8, 5, 6, 6, 33, 16, 19)  # state, rank, margin, log p, question, answer, what it says
NUMBERS = (1, 2, 3)  # of these, those that stand right
TEXTS = 4  # and where the texts begin
WIDTH = sum(COLUMNS) + len(COLUMNS) - 1
NOTE = "Rank and margin (nats a token): against the best alternative; log p: nats, of the answer."
REASONS = 12  # facts that are not known, or are not said as they were asked, each with why


def knowledge_rows(record: ModelKnowledge) -> dict[str, Any]:
    """Return what a model knows as plain data, a row a fact; None means "not scored"."""
    rows = [
        {"id": f.id, "question": f.question, "answer": f.answer, **record.knowledge[f.id].model_dump()}
        for f in record.facts
    ]
    states = Counter(known.state for known in record.knowledge.values())
    return {
        "schema": record.schema_version,
        "model": record.model.name,
        "form": record.form,
        "counts": {state: states[state] for state in STATES},
        "rows": rows,
    }


def table(record: ModelKnowledge, room: int = WIDTH) -> str:
    """Return what a model knows for a terminal, at most so many columns wide (60 or more)."""
    room = min(room, WIDTH)
    rooms = _rooms(room)
    lines = [_line(["state", "rank", "margin", "log p", "question", "answer", "it says"], rooms)]
    lines.append("-" * (sum(rooms) + len(rooms) - 1))
    lines += [_line(_cells(fact, record.knowledge[fact.id]), rooms) for fact in record.facts]
    unclear = [
        f"{fact.id}: {record.knowledge[fact.id].state}: {record.knowledge[fact.id].why}"
        for fact in record.facts
        if record.knowledge[fact.id].state != "known" or record.knowledge[fact.id].holds is False
    ]
    if unclear:
        lines += ["", *(cut(plain(text), room) for text in unclear[:REASONS])]
        if len(unclear) > REASONS:
            lines.append(f"… and {len(unclear) - REASONS} more; --json has all")
    many = f"{len(record.facts)} fact{'s' if len(record.facts) > 1 else ''}"
    tally = f"{many}: {counts(record.knowledge)}."
    said = [*record.notes, tally, f"Asked as {record.asked}", NOTE]
    if any(record.knowledge[fact.id].rank is None for fact in record.facts):
        said.append(f"{DASH}: too few alternatives to rank it against.")
    return "\n".join([*lines, "", *(textwrap.fill(plain(text), room) for text in said)])


def _cells(fact: FactText, known: Knowledge) -> list[str]:
    return [
        "no score" if known.state == "cannot be scored" else known.state,
        DASH if known.rank is None else f"{known.rank}/{known.among}",
        DASH if known.margin is None else f"{known.margin:+.1f}".replace("-", "−"),
        nats(known.logprob),
        fact.question,
        fact.answer,
        DASH if known.says is None else known.says or (known.says_otherwise or ""),
    ]


def _rooms(room: int) -> list[int]:
    """Return how wide each column is in so many: the texts share what the numbers leave."""
    given, texts = COLUMNS[:TEXTS], COLUMNS[TEXTS:]
    left = room - sum(given) - len(COLUMNS) + 1
    return [*given, *(left * wanted // sum(texts) for wanted in texts)]


def _line(cells: list[str], rooms: list[int]) -> str:
    fitted = []
    for number, (cell, room) in enumerate(zip(cells, rooms, strict=True)):
        text = cut(plain(" ".join(cell.split())), room)
        space = " " * (room - width(text))
        fitted.append(space + text if number in NUMBERS else text + space)
    return " ".join(fitted).rstrip()


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes; Chinese and Japanese letters take two."""
    return sum(_columns(char) for char in text)


def cut(text: str, room: int) -> str:
    """Return the text, or as much of it as fits into so many columns, with an ellipsis."""
    if width(text) <= room:
        return text
    fitting, used = "", 0
    for char in text:
        used += _columns(char)
        if used > room - 1:
            break
        fitting += char
    return f"{fitting}…"


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
