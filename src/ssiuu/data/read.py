"""Read facts and instructions, and say everything that is wrong with a file at once.

    facts = borrow_distractors(read_facts("forget.jsonl", "--forget"))
    check_pair(facts, read_facts("retain.csv", "--retain"))

A row of facts: question, answer, and if wanted entity, relation, id, statement, paraphrases,
distractors, perturbed, paraphrased_answer; ssiuu.data.columns knows what else these are called. A
row of instructions: instruction, output, and if wanted input.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ssiuu.data.columns import KNOWN, Columns, Tell, arranged
from ssiuu.data.fact import Fact, Instruction, normal
from ssiuu.data.files import PARQUET, decode, kind_of, read_bytes, stem_of
from ssiuu.data.formats import csv_rows, is_json, json_rows, parquet_rows
from ssiuu.data.hub import SET_NAME, hub_rows
from ssiuu.data.memory import memory_rows
from ssiuu.data.options import borrow_distractors
from ssiuu.data.problems import Problems, raise_all
from ssiuu.data.rows import FACT, INSTRUCTION, Raw, valid_rows
from ssiuu.errors import show

__all__ = ["borrow_distractors", "check_pair", "read_facts", "read_instructions"]

JSON = (".jsonl", ".ndjson", ".json-lines", ".json")
TABLES = (".csv", ".tsv", ".tab", ".txt", ".md")  # a spreadsheet's "Unicode text" is a .txt
FILES = (*JSON, *TABLES, ".parquet")
# A missing file of one of these kinds must not be asked for on the hub ("data/forget.yaml").
OTHER_FILES = (".xlsx", ".xls", ".ods", ".zip", ".arrow", ".yaml", ".yml", ".toml", ".gz", ".bz2")
FACT_SOURCES = (
    f"a file ({', '.join(FILES)}, each also as .gz), or the name of a data set on the hub "
    '("owner/name", "owner/name:split" or "owner/name:config:split")'
)
INSTRUCTION_SOURCES = (
    'a .jsonl file of {"instruction", "output"} or a .json file with a list of '
    '{"instruction", "input", "output"}'
)

Source: TypeAlias = str | Path | Iterable[Any]


def read_facts(
    source: Source, key: str = "--forget", columns: Columns | None = None, tell: Tell = lambda _: None
) -> list[Fact]:
    """Read facts from a file, from a data set on the hub, or from memory.

    Args:
        source: A path, or "owner/name", "owner/name:split" or "owner/name:config:split" on the hub
            (the split is "train" if not given);
            or rows: a list of dicts or of facts, a datasets.Dataset, a data frame. They are left
            as they are.
        key: The flag or key that the source was given under; for the messages, and the ids of
            rows in memory.
        columns: Which columns are read, by our keys: {"question": "text"}; all others are left
            out. None: those of our names and of the shapes in ssiuu.data.columns.
        tell: Told in a sentence what is read from columns of other names, and what is left out.

    Returns:
        The facts in their order; an id that is not given is "file name:line number", and
        "key[number]", counted from 0, of a row in memory.

    Raises:
        DataError: With every problem of the source, up to ten.
    """
    if not isinstance(source, (str, Path)):
        name = key.lstrip("-")
        problems = Problems(name, None)
        rows = memory_rows(source, problems)
        facts = [(line, row) for line, row in rows if isinstance(row, Fact)]
        rest = [raw for raw in rows if not isinstance(raw.row, Fact)]
        raw = arranged(rest, columns, problems, tell) if rest else []
        return _facts(raw, name, problems, facts)
    path = Path(source)
    if kind_of(path) not in FILES:
        return _hub_facts(str(source), key, columns, tell)
    problems = Problems(key, source)
    named = {theirs.casefold() for theirs in (columns or {}).values()}
    raw, cells = _file_rows(path, problems, KNOWN | named)
    raw = arranged(raw, columns, problems, tell, cells=cells)
    return _facts(raw, stem_of(path), problems)


def _file_rows(path: Path, problems: Problems, known: set[str]) -> tuple[list[Raw], bool]:
    """Return the rows of a file as they are found, and whether they are cells of a table.

    What stands in it decides; its suffix does where both could be.
    """
    data = read_bytes(path, problems)
    if data.startswith(PARQUET) or kind_of(path) == ".parquet":
        return parquet_rows(data, problems), False
    text = decode(data, problems)
    if is_json(text) or kind_of(path) in JSON:
        return json_rows(text, problems, known), False
    return csv_rows(text, problems, known), True


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
    if not os.path.isdir(path) and kind_of(path) not in JSON:
        problems.stop(f"cannot be read as instructions; give {INSTRUCTION_SOURCES}.")
    raw = json_rows(decode(read_bytes(path, problems), problems), problems, set(INSTRUCTION.keys))
    if kind_of(path) == ".json":
        raw = [item for item in raw if not _is_unanswered(item.row)]
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
    by_question = {normal(fact.question): fact for fact in retain}
    both = [(fact, by_question[q]) for fact in forget if (q := normal(fact.question)) in by_question]
    raise_all(
        f"--forget and --retain: the question {show(lost.question)} is in both: {lost.id!r} "
        f"(answer {show(lost.answer)}) is to be forgotten and {twin.id!r} (answer "
        f"{show(twin.answer)}) retained. Take it out of one of the two."
        for lost, twin in both
    )


def _hub_facts(source: str, key: str, columns: Columns | None, tell: Tell) -> list[Fact]:
    problems = Problems(key, source)
    exists = bool(source.strip()) and os.path.exists(source)
    if exists:
        read_bytes(Path(source), problems)  # says what it is, where that is known
    match = SET_NAME.fullmatch(source)
    if match is None or exists or source.lower().endswith(OTHER_FILES):
        problems.stop(f"cannot be read as facts; give {FACT_SOURCES}.")
    problems.unit = "row"
    raw = hub_rows(match["name"], match["config"], match["split"] or "train", problems)
    raw = arranged(raw, columns, problems, tell, foreign=True)
    return _facts(raw, match["stem"], problems)


def _facts(
    raw: list[Raw], stem: str, problems: Problems, ready: Sequence[tuple[int, Fact]] = ()
) -> list[Fact]:
    """Return the facts of rows under our keys, among those that are made already."""
    valid = valid_rows(raw, FACT, problems) if raw or not ready else []
    ids = {line: f"{stem}[{line}]" if problems.in_memory else f"{stem}:{line}" for line, _ in valid}
    read = [(line, Fact.model_validate({"id": ids[line], **row})) for line, row in valid]
    facts = sorted([*ready, *read], key=lambda pair: pair[0])
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
                f"answers {show(known.answer)}; keep one, or write them as one answer.",
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
