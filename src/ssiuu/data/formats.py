"""Text and tables as rows: JSON in all its layouts, CSV, Markdown, parquet.

What cannot be read is noted with its line, and with what to write in its place.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from ssiuu.data.files import UNPACKED
from ssiuu.data.problems import Problems, listed
from ssiuu.data.rows import NO_ROWS, Raw
from ssiuu.errors import show

LINES = "each line must be one JSON object"
LIST = "the file must be one JSON list of objects"
SEPARATORS = ",;\t|"


# --- JSON ------------------------------------------------------------------------------------


def is_json(text: str) -> bool:
    """Whether a text begins as JSON does and a header of columns does not."""
    return text.lstrip().startswith(("{", "["))


def json_rows(text: str, problems: Problems, known: set[str]) -> list[Raw]:
    """Return the rows of JSON: one object a line, one list, or objects one after another.

    One object around a single list (`{"data": [...]}`) stands for that list.

    Args:
        text: Not empty.
        problems: Told what cannot be read.
        known: Names of keys in lower case, that tell a row from an object around rows.
    """
    # JSON has no raw line ends inside its texts, so all of them may be made one kind. Not
    # splitlines(): it also splits at U+2028 and others, which may stand inside a text.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    first = next(line for line in text.split("\n") if line.strip()).strip()
    if first.startswith("[") and not _is_whole(first, text):
        return _list_rows(text, problems)
    if first.startswith("{") and _spans_lines(first, text):
        raw = _following(text, problems)
    else:
        raw = _line_rows(text, problems)
    alone = len(raw) == 1 and not problems.by_line
    return _unwrapped(raw[0], problems, known) if alone else raw


def _is_whole(first: str, text: str) -> bool:
    """Whether the first line is a list of its own, with others below it."""
    return first != text.strip() and _loads(first)


def _loads(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _spans_lines(first: str, text: str) -> bool:
    """Whether the first object goes over several lines."""
    if first == "{":
        return True
    try:
        _, end = json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return False
    return end > len(first)


def _line_rows(text: str, problems: Problems) -> list[Raw]:
    return [
        Raw(number, value)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
        for value in _parse(line.rstrip(), number, LINES, problems)
    ]


def _list_rows(text: str, problems: Problems) -> list[Raw]:
    raw: list[Raw] = []
    for value in _parse(text, 1, LIST, problems):
        raw = [Raw(line, item) for line, item in zip(_item_lines(text), value, strict=True)]
    return _told_apart(raw, problems)


def _told_apart(raw: list[Raw], problems: Problems) -> list[Raw]:
    """Number the rows from 1 where several are on one line."""
    if len({line for line, _ in raw}) == len(raw):
        return raw
    problems.unit = "row"
    return [Raw(number, row) for number, (_, row) in enumerate(raw, start=1)]


def _item_lines(text: str) -> Iterator[int]:
    """Yield the line on which each item of a valid JSON list starts."""
    decoder = json.JSONDecoder()
    gap = re.compile(r"[^\s,]")
    line, counted, end = 1, 0, text.index("[") + 1
    while (item := gap.search(text, end)) and item.group() != "]":
        line += text.count("\n", counted, item.start())
        counted = item.start()
        yield line
        _, end = decoder.raw_decode(text, counted)


def _following(text: str, problems: Problems) -> list[Raw]:
    """Return values that follow each other with nothing but space in between."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    raw: list[Raw] = []
    line, counted = 1, 0
    while beginning := re.compile(r"\S").search(text, counted):
        line += text.count("\n", counted, beginning.start())
        start = beginning.start()

        def read(text: str = text, start: int = start) -> tuple[Any, int]:
            return decoder.raw_decode(text, start)

        for value, end in _tried(read, text, line, "objects must follow each other", problems):
            raw.append(Raw(line, value))
            line += text.count("\n", start, end)
            counted = end
        if problems.by_line:
            break
    return _told_apart(raw, problems)


def _parse(text: str, line: int, rule: str, problems: Problems) -> list[Any]:
    """Return the JSON value in a list, or an empty list and a problem."""

    def read() -> Any:
        return json.loads(text, object_pairs_hook=_object)

    return _tried(read, text, line, rule, problems)


def _tried(read: Callable[[], Any], text: str, line: int, rule: str, problems: Problems) -> list[Any]:
    try:
        return [read()]
    except json.JSONDecodeError as raised:
        error = _placed(text, raised)
        # The whole text tells the line where it spans several; a line of its own is given.
        number = error.lineno if "\n" in text else line
        problem = f"is not JSON at column {error.colno} ({error.msg})"
        problems.at(number, f"{problem}; {_remedy(text, error) or rule}.")
    except RecursionError:
        problems.at(line, f"is nested too deeply; {rule}.")
    except ValueError as error:  # a key twice, or a number of thousands of digits
        problems.at(line, f"cannot be read as JSON: {str(error).rstrip('.')}.")
    return []


def _placed(text: str, error: json.JSONDecodeError) -> json.JSONDecodeError:
    """Return the error where every Python sees it: from 3.13 on a comma too many is at fault itself.

    Before, it was the bracket behind it.
    """
    if "trailing comma" not in error.msg:
        return error
    behind = text[error.pos + 1 :]
    return json.JSONDecodeError(error.msg, text, len(text) - len(behind.lstrip()))


def _remedy(text: str, error: json.JSONDecodeError) -> str:
    """Return what to write in place of a well-known mistake, or nothing."""
    after, before = text[error.pos :].lstrip(), text[: error.pos].rstrip()
    if "escape" in error.msg:
        return r"a backslash inside a text is written twice: \\"
    if "control character" in error.msg:
        return r"a line break inside a text is written \n, a tab \t"
    if after.startswith("'"):
        return 'texts and keys stand in double quotes ""; Python\'s json.dumps writes them so'
    if after.startswith(("\u201c", "\u201d", "\u201e")):
        return 'texts and keys stand in straight double quotes ""'
    if re.match(r"None|True|False|undefined", after):
        return "JSON has null, true and false"
    if error.msg == "Extra data" and after.startswith(","):
        return "take the comma at the end of the line out, or put all rows between [ and ]"
    if before.endswith(",") and after.startswith(("]", "}")):
        return f"take the comma before {after[:1]} out"
    if not after or "Unterminated" in error.msg:
        return "it is cut off; write the rest of it, or take it out"
    return ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {show(key)} stands twice in one object; keep one of them")
        values[key] = value
    return values


def _unwrapped(only: Raw, problems: Problems, known: set[str]) -> list[Raw]:
    """Return the rows of the one list that a lone object holds, or the object as it is."""
    if not isinstance(only.row, dict) or not only.row:
        return [only]
    if all(_is_column(value) for value in only.row.values()):
        problems.stop(
            "holds one object of columns or of numbered rows; write one object a row (pandas: "
            "to_json(path, orient='records', lines=True))."
        )
    inside = {key: value for key, value in only.row.items() if _holds_rows(value)}
    if not inside or known & {key.casefold() for key in only.row}:
        return [only]
    if len(inside) > 1:
        names = listed(inside)
        problems.stop(f"holds one object of several lists ({names}); give each its own file.")
    problems.unit = "row"
    [rows] = inside.values()
    return [Raw(number, row) for number, row in enumerate(rows, start=1)]


def _holds_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _is_column(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and not _holds_rows(value))


# --- CSV -------------------------------------------------------------------------------------


def csv_rows(text: str, problems: Problems, known: set[str]) -> list[Raw]:
    """Return the rows of a table with a header; its separator is found in the header.

    Args:
        text: Cells separated by comma, semicolon, tab or |; or a text with a Markdown table in it.
        problems: Told what cannot be read.
        known: Names of columns in lower case, that tell which separator it is.
    """
    text, separator, skipped = _without_declaration(text)
    separator = separator or _separator(text, known)
    if rows := _markdown(text, problems):
        separator = r"\|"
    else:
        rows = _cells(text, separator, skipped, problems)
    if not rows:
        problems.settle()
        problems.stop(NO_ROWS)
    header = [name.strip() for name in rows[0].row]
    # Two columns without a name are told apart by nothing, and left out if they hold nothing.
    twice = sorted(name for name, times in Counter(header).items() if name and times > 1)
    for name in twice:
        problems.at(rows[0].line, f"the column {name!r} stands twice; keep one of them.")
    if twice:
        problems.settle()
    return [row for cells in rows[1:] for row in _row(cells, header, separator, problems)]


# The line below the header of a Markdown table: |---|:-:|
_RULE = re.compile(r"\|?(\s*:?-+:?\s*\|)+(\s*:?-+:?)?")


def _markdown(text: str, problems: Problems) -> list[Raw]:
    """Return header and rows of the Markdown table in a text, with their lines; none where none is."""
    lines = re.split(r"\r\n|\r|\n", text)
    rules = [
        n for n, line in enumerate(lines) if n and _RULE.fullmatch(line.strip()) and "|" in lines[n - 1]
    ]
    if not rules or "".join(lines[: rules[0]]).count('"') % 2:  # the second: in a cell of CSV
        return []
    if len(rules) > 1:
        problems.stop("holds several tables; give each its own file.", rules[1])
    rows = [Raw(rules[0], lines[rules[0] - 1])]
    rows += [Raw(n, line) for n, line in enumerate(lines[rules[0] + 1 :], start=rules[0] + 2)]
    ends = next((n for n, row in enumerate(rows) if "|" not in row.row), len(rows))
    return [Raw(line, _parted(row)) for line, row in rows[:ends]]


def _parted(line: str) -> list[str]:
    """Return the cells of a line of a Markdown table, whose own | are \\| and line breaks <br>."""
    bare = line.strip().removeprefix("|")
    bare = bare if bare.endswith(r"\|") else bare.removesuffix("|")
    cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", bare)]
    return [re.sub(r"<br ?/?>", "\n", cell) for cell in cells]


def _without_declaration(text: str) -> tuple[str, str, int]:
    """Return the text below Excel's line `sep=;`, the separator it names, and how many lines it is."""
    declared = re.match(r"sep=(.)\r?\n", text, re.IGNORECASE)
    return (text[declared.end() :], declared[1], 1) if declared else (text, "", 0)


def _separator(text: str, known: set[str]) -> str:
    """Return what separates the names of the header: what makes most known ones, then most."""
    header = re.split(r"[\r\n]", text.lstrip("\r\n "), maxsplit=1)[0]

    def found(mark: str) -> tuple[int, int]:
        names = [name.strip().strip('"').casefold() for name in header.split(mark)]
        return sum(name in known for name in names), len(names)

    return max(SEPARATORS, key=found)


def _cells(text: str, separator: str, skipped: int, problems: Problems) -> list[Raw]:
    """Return every line of cells that is not blank, with the line it starts on."""
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, delimiter=separator, strict=True, skipinitialspace=True)
    rows: list[Raw] = []
    start = 1 + skipped
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append(Raw(start, cells))
            start = reader.line_num + 1 + skipped
    except csv.Error as error:
        quoted = ', not \\"' if '\\"' in text else ""
        problems.at(
            start,
            f"is not CSV ({error}); a cell with a {_called(separator)}, a quote or a line break "
            f'stands in double quotes, a quote inside it is written ""{quoted}.',
        )
    return rows


def _called(separator: str) -> str:
    return {",": "comma", ";": "semicolon", "\t": "tab", "|": "|"}.get(separator, separator)


def _inside(separator: str) -> str:
    """Say how a cell is written that holds what separates cells."""
    if separator == r"\|":
        return r"write a | inside a cell as \|"
    return f"put a cell with a {_called(separator)} in double quotes"


def _row(raw: Raw, header: list[str], separator: str, problems: Problems) -> list[Raw]:
    """Return the cells under their names in a list, or an empty list and a problem."""
    line, cells = raw
    if any(cell.strip() for cell in cells[len(header) :]):
        problems.at(
            line,
            f"has {len(cells)} cells, but the header has {len(header)} (the last cell is "
            f"{show(cells[-1])}); {_inside(separator)}.",
        )
        return []
    if all(re.fullmatch(r":?-{3,}:?", cell.strip()) for cell in cells):
        problems.at(line, f"is a rule ({show(cells[0])}), not a fact; take it out.")
        return []
    padded = cells + [""] * (len(header) - len(cells))
    return [Raw(line, dict(zip(header, padded, strict=False)))]


# --- Parquet ---------------------------------------------------------------------------------


def parquet_rows(data: bytes, problems: Problems) -> list[Raw]:
    """Return the rows of a parquet file, numbered from 1."""
    problems.unit = "row"
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        problems.stop(
            "is a parquet file, and the package that reads them is not here: pip install pyarrow, "
            "or save it as JSON lines."
        )
    raw: list[Raw] = []
    size = 0
    try:
        for batch in parquet.ParquetFile(arrow.BufferReader(data)).iter_batches(1024):
            size += batch.nbytes  # as they are in memory; a file may say one value a million times
            if size > UNPACKED:
                break
            raw += [Raw(len(raw) + n, row) for n, row in enumerate(batch.to_pylist(), start=1)]
    except (arrow.ArrowException, OSError) as error:
        problems.stop(f"is parquet that cannot be read ({' '.join(str(error).split())[:200]}).")
    if size > UNPACKED:
        problems.stop(f"holds more than {UNPACKED >> 20} MiB; take out what is not needed.")
    return raw
