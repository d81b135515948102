"""Rows of a long table that the page draws when they are wanted.

A table of more than `MANY` rows has its `FIRST` ones in the HTML. All of its rows lie in the page once
more, packed: columns of cells as JSON, deflated, in base64. The page's script unpacks them, sorts and
filters them there, and draws some at a time, as text.

A cell is a list: what it is sorted by, its title, then pieces, each the name of a part of the template
(`parts` in parts.html.j2; "" is plain text) and its text. What is of a fact or of a method alone stands
once.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from ssiuu.records.schema import FactScore, FactText, RunRecord
from ssiuu.report.audit import Audit, FactLine
from ssiuu.report.facts import AttackCell, FactGroup, FactRow, fact_groups, first_choice
from ssiuu.report.text import clip, nats, percent, printable

MANY = 1000  # rows that all stand in the HTML
FIRST = 100  # that do of a longer table

Cell: TypeAlias = list[str | float | None]
R = TypeVar("R")
NONE: Cell = [None, "", "none", "–"]


class Column(NamedTuple):
    """The cells of one column: one a fact, one a method, or, by method, one a fact."""

    name: str  # the class of a cell
    of: Literal["fact", "method", "both"]
    cells: Sequence[Any]


class Long(NamedTuple, Generic[R]):
    """A table: the rows (or groups of them) in the HTML, how many these are, how many there are in all,
    and all of them packed, where these are not all.
    """

    rows: Sequence[R]
    first: int
    total: int
    data: str = ""

    @property
    def rest(self) -> int:
        """How many rows do not stand in the HTML."""
        return self.total - self.first


def long_tables(record: RunRecord, said: Audit | None) -> dict[str, Any]:
    """Return the page's tables of facts: under every method, in an audit's request, not known."""
    groups, chosen = fact_groups(record), first_choice(record)
    total = sum(len(group.rows) for group in groups)
    facts: Long[FactGroup] = Long(groups, total, total)
    if total > MANY:
        top = [replace(g, rows=g.rows[:FIRST]) for g in groups if g.key == chosen]
        facts = Long(top, sum(len(g.rows) for g in top), total, fact_data(groups))
    lines = said.facts if said else []
    lacking = any(line.lacks for line in lines)
    words = record.header.knowledge.get("forget", {})
    unknown = [
        (fact.question, fact.answer, clip((word and word.says) or ""), word.why if word else "")
        for fact in record.header.split.unknown
        for word in [words.get(fact.id)]
    ]
    asked = [
        (f.question, f.answer, f.entity or "", f.relation or "") for f in record.header.split.forget
    ]
    return {
        "methods": [(group.key, group.name) for group in groups],
        "chosen": chosen,
        "facts": facts,
        "request": _long(lines, lambda: request_data(lines, lacking)),
        "lacking": lacking,
        "not_known": _long(unknown, lambda: plain_data(unknown)),
        "asked": _long(asked, lambda: plain_data(asked)),
    }


def _long(rows: Sequence[R], pack: Callable[[], str]) -> Long[R]:
    count = len(rows)
    return Long(rows[:FIRST], FIRST, count, pack()) if count > MANY else Long(rows, count, count)


def fact_data(groups: Sequence[FactGroup]) -> str:
    """Return the table of facts under every method, packed; its columns are those of facts.html.j2."""
    first = groups[0].rows

    def each(name: str, cell: Any) -> Column:
        return Column(name, "both", [[cell(row) for row in group.rows] for group in groups])

    columns = [
        Column("text question", "fact", [_question(row.fact, "answer") for row in first]),
        Column("text method", "method", [[g.name, "", "", g.name] for g in groups]),
        each("text", _verdict),
        Column("", "fact", [_answer(row.before) for row in first]),
        each("", lambda row: _answer(row.after)),
        *(each("", lambda row, n=n: _attacked(row.attacks[n])) for n, _ in enumerate(first[0].attacks)),
        Column("text free", "fact", [_free(row.before) for row in first]),
        each("text free", lambda row: _free(row.after)),
    ]
    verdicts = [[row.verdict or "" for row in group.rows] for group in groups]
    return packed([g.key for g in groups], columns, verdicts)


def request_data(lines: Sequence[FactLine], lacking: bool) -> str:
    """Return the table of an audit's request, packed; its columns are those of audit.html.j2."""
    columns = [
        Column("text question", "fact", [_question(line.fact, "answer-text") for line in lines]),
        Column("text free", "fact", [_said(line.before) for line in lines]),
        Column("text free", "fact", [_said(line.now) for line in lines]),
        Column("text", "fact", [[line.verdict, "", line.verdict, line.verdict] for line in lines]),
        Column("", "fact", [_plain(line.erased) for line in lines]),
        Column("", "fact", [_plain(line.hidden) for line in lines]),
    ]
    if lacking:
        columns.append(Column("text lacks", "fact", [_lacks(line.lacks) for line in lines]))
    return packed([""], columns, [[line.verdict for line in lines]])


def plain_data(rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts, packed."""
    columns = [
        Column("", "fact", [_plain(text) for text in cells]) for cells in zip(*rows, strict=True)
    ]
    return packed([""], columns, [[""] * len(columns[0].cells)])


def packed(methods: Sequence[str], columns: Sequence[Column], verdicts: Sequence[Any]) -> str:
    """Return columns as the script reads them: JSON, raw deflate, base64."""
    told = [{**column._asdict(), "cells": _printable(column.cells)} for column in columns]
    data: dict[str, Any] = {"methods": methods, "columns": told, "verdicts": verdicts}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    packer = zlib.compressobj(9, wbits=-15)
    return base64.b64encode(packer.compress(text.encode()) + packer.flush()).decode()


def _printable(value: Any) -> Any:
    if isinstance(value, list):
        return [_printable(part) for part in value]
    return printable(value) if isinstance(value, str) else value


def _question(fact: FactText, part: str) -> Cell:
    of = " · ".join(filter(None, (fact.entity, fact.relation))) if part == "answer" else ""
    return [
        fact.question,
        "",
        "",
        f"{fact.question} ",
        part,
        fact.answer,
        *(["small", of] if of else []),
    ]


def _verdict(row: FactRow) -> Cell:
    if row.verdict is None:
        return NONE
    p = ["p", f"p {row.erased} · {row.hidden}"] if row.erased else []
    return [row.verdict, "", row.verdict, row.verdict, *p]


def _answer(score: FactScore | None) -> Cell:
    if score is None:
        return NONE
    return [_short(score.logprob), "", *_ranked(score.correct), "small", nats(score.logprob)]


def _short(logprob: float) -> float:
    """Return what a column is sorted by, to the digits that sorting needs."""
    return round(logprob, 4)


def _ranked(correct: bool | None) -> Cell:
    if correct is None:
        return ["none", "–"]
    return ["yes", "first"] if correct else ["no", "not first"]


def _attacked(item: AttackCell) -> Cell:
    trained: Cell = ["trained", "trained on"] if item.trained else []
    if item.reading is None:
        return [None, "", *trained] if trained else NONE
    recall: Cell = (
        ["rouge", f"{percent(item.reading.rouge, 0)} %"] if item.reading.rouge is not None else []
    )
    ranked = _ranked(item.reading.correct)
    logprob = item.reading.logprob
    return [_short(logprob), item.where, *ranked, "small", nats(logprob), *recall, *trained]


def _free(score: FactScore | None) -> Cell:
    if score is None or score.free_text is None:
        return NONE
    said = clip(score.free_text)
    pieces: Cell = ["", said] if said else ["soft", "(nothing)"]
    if score.free_correct:
        pieces += ["", " ", "right", "(holds the answer)"]
    if score.other_text is not None:
        holds = " (holds the answer)" if score.other_free else ""
        pieces += ["", " ", "small", f"asked otherwise: {clip(score.other_text) or '(nothing)'}{holds}"]
    return [said, "", *pieces]


def _said(score: FactScore | None) -> Cell:
    if score is None or score.free_text is None:
        return NONE
    said = clip(score.free_text) or "(nothing)"
    if score.free_correct:
        return [None, "", "", f"{said} ", "right", "holds the answer"]
    if score.other_free:
        return [None, "", "", f"{said} ", "right", f"asked otherwise: {clip(score.other_text or '')}"]
    return [None, "", "", said]


def _lacks(text: str) -> Cell:
    return _plain(text) if text else NONE


def _plain(text: str) -> Cell:
    return [None, "", "", text]
