"""What a row must be: its keys, texts and lists. Every row is checked and all problems are noted."""

from __future__ import annotations

import json
import unicodedata
from typing import Any, NamedTuple

from ssiuu.data.fact import normal
from ssiuu.data.problems import Problems, kind
from ssiuu.errors import show, unknown

UNSEEN = {"Cc", "Cf", "Cn", "Zl", "Zp", "Zs"}
# Letters and marks that are blank by definition: joiner, Hangul, Khmer, Mongolian, Braille.
FILLERS = set("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
NO_ROWS = "has no rows; give at least one."


class Raw(NamedTuple):
    """A row as it was found, with the line it starts on."""

    line: int
    row: Any


class Shape(NamedTuple):
    """The keys of a row: texts that must be there, texts that may be, lists of texts."""

    required: tuple[str, ...]
    texts: tuple[str, ...]
    lists: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys a row may have."""
        return self.required + self.texts + self.lists


FACT = Shape(
    ("question", "answer"),
    ("entity", "id", "relation", "statement", "paraphrased_answer"),
    ("paraphrases", "distractors", "perturbed"),
)
INSTRUCTION = Shape(("instruction", "output"), ("input",), ())


def valid_rows(raw: list[Raw], shape: Shape, problems: Problems) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows without problems, with what is left empty taken out."""
    if not raw and not problems.by_line:
        problems.stop(NO_ROWS)
    valid = []
    for line, row in raw:
        wrong = _row_problems(row, shape)
        for problem in wrong:
            problems.at(line, problem)
        if not wrong:
            valid.append((line, {key: value for key, value in row.items() if _is_given(value)}))
    return valid


def _row_problems(row: Any, shape: Shape) -> list[str]:
    if not isinstance(row, dict):
        keys = ", ".join(f'"{key}": ...' for key in shape.required)
        return [f"is {kind(row)} ({show(row)}), not an object; write {{{keys}}}."]
    problems = [unknown("key", key, shape.keys) for key in row if key not in shape.keys]
    for key in shape.required:
        if key not in row:
            problems.append(f'the key "{key}" is missing; a row must have {_both(shape)}.')
        else:
            problems += _text_problems(f'"{key}"', row[key], required=True)
    for key in shape.texts:
        problems += _text_problems(f'"{key}"', row.get(key), required=False)
    for key in shape.lists:
        problems += _list_problems(key, row.get(key))
    return problems or _distractor_problems(row)


def _text_problems(name: str, value: Any, required: bool) -> list[str]:
    if value is None and not required:
        return []
    if isinstance(value, (bool, int, float)):
        quoted = json.dumps(json.dumps(value))
        return [f"{name} is {kind(value)} ({show(value)}), not a text; quote it: {quoted}."]
    if not isinstance(value, str):
        return [f'{name} is {kind(value)} ({show(value)}), not a text; write it in quotes "".']
    if required and not value.strip():
        return [f"{name} is empty ({show(value)}); write at least one character."]
    if not any(map(is_visible, value)) and value.strip():
        shown = show(value.encode("unicode_escape").decode())
        return [f"{name} has no visible character ({shown}); write at least one."]
    if "\0" in value:
        return [f"{name} holds a NUL character ({show(value)}); take it out."]
    if any("\ud800" <= character <= "\udfff" for character in value):
        return [f"{name} holds half a character ({show(value)}); write both halves or none."]
    return []


def is_visible(character: str) -> bool:
    """Whether a character shows, alone or upon another one: no space, control or filler."""
    return (
        unicodedata.category(character) not in UNSEEN
        and character not in FILLERS
        and not "\ufe00" <= character <= "\ufe0f"  # variation selectors
        and not "\U000e0100" <= character <= "\U000e01ef"
    )


def _list_problems(key: str, value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        return [f'"{key}" is {kind(value)} ({show(value)}), not a list; write ["...", "..."].']
    return [
        problem
        for number, item in enumerate(value, start=1)
        for problem in _text_problems(f'item {number} of "{key}"', item, required=True)
    ]


def _distractor_problems(row: dict[str, Any]) -> list[str]:
    names = {"distractors": "distractor", "perturbed": "perturbed answer"}
    alike = [
        f'all {len(row[key])} items of "{key}" are {show(row[key][0])}; a model cannot choose among '
        "answers that are one: write different ones."
        for key in names
        if len(row.get(key) or []) > 1 and len({*map(normal, row[key])}) == 1
    ]
    return alike + [
        f"the {name} {show(wrong)} is the answer {show(row['answer'])}; a {name} must "
        "be a wrong answer."
        for key, name in names.items()
        for wrong in row.get(key) or []
        if normal(wrong) == normal(row["answer"])
    ]


def _is_given(value: Any) -> bool:
    return value is not None and (not isinstance(value, str) or bool(value.strip()))


def _both(shape: Shape) -> str:
    return " and ".join(f'"{key}"' for key in shape.required)
