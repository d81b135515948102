"""Read facts and instructions, and say everything that is wrong with a file at once.

    facts = borrow_distractors(read_facts("forget.jsonl", "--forget"))
    check_pair(facts, read_facts("retain.csv", "--retain"))

A row of facts: question, answer, and if wanted entity, relation, id, statement, paraphrases,
distractors, perturbed, paraphrased_answer; TOFU's rows are read as they are. A row of instructions:
instruction, output, and if wanted input.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from ssiuu.data.fact import Fact, Instruction, normal
from ssiuu.data.formats import csv_rows, line_rows, list_rows, read_text
from ssiuu.data.hub import HUB_NAME, hub_rows
from ssiuu.data.memory import memory_rows
from ssiuu.data.options import borrow_distractors
from ssiuu.data.problems import Problems, raise_all, show
from ssiuu.data.rows import FACT, INSTRUCTION, Raw, from_tofu, valid_rows

__all__ = ["borrow_distractors", "check_pair", "read_facts", "read_instructions"]

LINES = (".jsonl", ".json-lines")
# A missing file of one of these kinds must not be asked for on the hub ("data/forget.json").
OTHER_FILES = (".json", ".txt", ".tsv", ".parquet", ".xlsx", ".yaml", ".yml", ".toml")
FACT_SOURCES = (
    "a .jsonl file (one JSON object a line), a .csv file with a header, or the name of a data "
    'set on the hub ("owner/name" or "owner/name:split")'
)
INSTRUCTION_SOURCES = (
    'a .jsonl file of {"instruction", "output"} or a .json file with a list of '
    '{"instruction", "input", "output"}'
)


Source: TypeAlias = str | Path | Iterable[Any]


def read_facts(source: Source, key: str = "--forget") -> list[Fact]:
    """Read facts from a .jsonl or .csv file, from a data set on the hub, or from memory.

    Args:
        source: A path, or "owner/name" or "owner/name:split" (the split is "train" if not given);
            or rows: a list of dicts or of facts, a datasets.Dataset, a data frame. They are left
            as they are.
        key: The flag or key that the source was given under; for the messages, and the ids of
            rows in memory.

    Returns:
        The facts in their order; an id that is not given is "file name:line number", and
        "key[number]", counted from 0, of a row in memory.

    Raises:
        DataError: With every problem of the source, up to ten.
    """
    if not isinstance(source, (str, Path)):
        name = key.lstrip("-")
        problems = Problems(name, None)
        return _facts(memory_rows(source, problems), name, problems)
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix in LINES or suffix == ".csv":
        problems = Problems(key, source)
        text = read_text(path, problems)
        raw = csv_rows(text, problems) if suffix == ".csv" else line_rows(text, problems)
        return _facts(raw, path.stem, problems)
    return _hub_facts(str(source), key)


def read_instructions(source: str | Path, key: str) -> list[Instruction]:
    """Read instructions from a .jsonl file or from a .json file in Alpaca's form.

    An input follows its instruction after a blank line. Rows of a .json file with an empty
    output are skipped, as Alpaca has some; in a .jsonl file they are an error.

    Args:
        source: A path.
        key: The flag or key that the source was given under; only for the messages.

    Raises:
        DataError: With every problem of the file, up to ten.
    """
    path = Path(source)
    problems = Problems(key, source)
    suffix = path.suffix.lower()
    if not os.path.isdir(path) and suffix not in (*LINES, ".json"):
        problems.stop(f"cannot be read as instructions; give {INSTRUCTION_SOURCES}.")
    text = read_text(path, problems)
    if suffix == ".json":
        raw = [item for item in list_rows(text, problems) if not _is_unanswered(item.row)]
    else:
        raw = line_rows(text, problems)
    valid = valid_rows(raw, INSTRUCTION, problems)
    problems.settle()
    return [_instruction(row) for _, row in valid]


def check_pair(forget: list[Fact], retain: list[Fact]) -> None:
    """Check that no fact is to be both forgotten and retained.

    A fact is in both when its question is, whatever the case and the spaces; an id alone may
    repeat, since two files of one name number their lines alike.

    Raises:
        DataError: With every such fact, up to ten.
    """
    kept = {normal(fact.question): fact for fact in retain}
    both = [(fact, kept[q]) for fact in forget if (q := normal(fact.question)) in kept]
    raise_all(
        f"--forget and --retain: the question {show(lost.question)} is in both: {lost.id!r} "
        f"(answer {show(lost.answer)}) is to be forgotten and {held.id!r} (answer "
        f"{show(held.answer)}) retained. Take it out of one of the two."
        for lost, held in both
    )


def _hub_facts(source: str, key: str) -> list[Fact]:
    problems = Problems(key, source, unit="row")
    if source.strip() and os.path.isdir(source):
        problems.stop("is a folder; give a file.")
    match = HUB_NAME.fullmatch(source)
    is_file = source.lower().endswith(OTHER_FILES) or os.path.exists(source)
    if match is None or is_file:
        problems.stop(f"cannot be read as facts; give {FACT_SOURCES}.")
    raw = hub_rows(match["name"], match["split"] or "train", problems)
    return _facts(raw, match["stem"], problems)


def _facts(raw: list[Raw], stem: str, problems: Problems) -> list[Fact]:
    made = {line: row for line, row in raw if isinstance(row, Fact)}
    rows = [Raw(line, from_tofu(row)) for line, row in raw if line not in made]
    for line, row in valid_rows(rows, FACT, problems) if rows or not made else ():
        id = f"{stem}[{line}]" if problems.in_memory else f"{stem}:{line}"
        made[line] = Fact.model_validate({"id": id, **row})
    facts = sorted(made.items())
    _check_questions(facts, problems)
    _check_ids(facts, problems)
    problems.settle()
    return [fact for _, fact in facts]


def _check_questions(facts: list[tuple[int, Fact]], problems: Problems) -> None:
    first: dict[str, tuple[int, Fact]] = {}
    for line, fact in facts:
        before, known = first.setdefault(normal(fact.question), (line, fact))
        if before == line:
            continue
        asks = f"asks {show(fact.question)} again, as {problems.name(before)} does"
        if normal(fact.answer) == normal(known.answer):
            problems.at(line, f"{asks}, with the same answer {show(fact.answer)}; keep one.")
        else:
            problems.at(
                line,
                f"{asks}, but answers {show(fact.answer)} where {problems.name(before)} "
                f"answers {show(known.answer)}; a question must have one answer.",
            )


def _check_ids(facts: list[tuple[int, Fact]], problems: Problems) -> None:
    first: dict[str, int] = {}
    for line, fact in facts:
        before = first.setdefault(fact.id, line)
        if before != line:
            problems.at(
                line,
                f"the id {show(fact.id)} is that of {problems.name(before)} too; ids must "
                'differ (one that is not given is "file name:line number").',
            )


def _instruction(row: dict[str, Any]) -> Instruction:
    parts = [row["instruction"].strip(), row.get("input", "").strip()]
    return Instruction(instruction="\n\n".join(filter(None, parts)), output=row["output"])


def _is_unanswered(row: Any) -> bool:
    output = row.get("output") if isinstance(row, dict) else None
    return isinstance(output, str) and not output.strip()
