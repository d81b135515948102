"""Files as rows: JSON lines, a JSON list, CSV. What cannot be read is noted with its line."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ssiuu.data.problems import Problems, kind, show
from ssiuu.data.rows import FACT, NO_ROWS, Raw
from ssiuu.errors import unknown


def read_text(path: Path, problems: Problems) -> str:
    """Return the text of a file in UTF-8 that is not empty, or raise what is wrong with it."""
    if os.path.isdir(path):  # unlike Path.is_dir, never raises
        problems.stop("is a folder; give a file.")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        problems.stop(f"does not exist.{_nearest_file(path)}")
    except (OSError, ValueError) as error:
        problems.stop(f"cannot be read: {getattr(error, 'strerror', None) or error}.")
    text = _decode_utf8(data, problems)
    if not text.strip():
        problems.stop("is empty; give a file with at least one row.")
    return text


def _nearest_file(path: Path) -> str:
    try:
        names = [near.name for near in path.parent.iterdir()]
    except (OSError, ValueError):
        return f" There is no folder {str(path.parent)!r} to read from."
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {near[0]!r}?" if near else " Check the name and the folder."


def _decode_utf8(data: bytes, problems: Problems) -> str:
    body = data.removeprefix(codecs.BOM_UTF8)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        position = error.start + len(data) - len(body)
        problems.stop(
            f"is not UTF-8: byte 0x{data[position]:02x} at position {position} of the file "
            "(counted from 0); save it as UTF-8.",
            data.count(b"\n", 0, position) + 1,
        )


def line_rows(text: str, problems: Problems) -> list[Raw]:
    """Return the rows of JSON lines."""
    # Not splitlines(): it also splits at U+2028 and others, which may stand inside a JSON text.
    lines = enumerate(text.split("\n"), start=1)
    return [
        Raw(number, value)
        for number, line in lines
        if line.strip()
        for value in _parse(line.rstrip(), number, "each line must be one JSON object", problems)
    ]


def list_rows(text: str, problems: Problems) -> list[Raw]:
    """Return the rows of a file that is one JSON list."""
    raw: list[Raw] = []
    for value in _parse(text, 1, "the file must be one JSON list", problems):
        if not isinstance(value, list):
            problems.stop(f"holds {kind(value)}; it must hold a list [...] of objects.")
        raw = [Raw(line, item) for line, item in zip(_item_lines(text), value, strict=True)]
    return raw


def _item_lines(text: str) -> Iterator[int]:
    """Yield the line on which each item of a valid JSON list starts."""
    decoder = json.JSONDecoder()
    gap = re.compile(r"[^\s,]")
    line, counted, end = 1, 0, text.index("[") + 1
    while (found := gap.search(text, end)) and found.group() != "]":
        line += text.count("\n", counted, found.start())
        counted = found.start()
        yield line
        _, end = decoder.raw_decode(text, counted)


def _parse(text: str, line: int, rule: str, problems: Problems) -> list[Any]:
    """Return the JSON value in a list, or an empty list and a problem."""
    try:
        return [json.loads(text, object_pairs_hook=_object)]
    except json.JSONDecodeError as error:
        found = line + error.lineno - 1
        problems.at(found, f"is not JSON at column {error.colno} ({error.msg}); {rule}.")
    except RecursionError:
        problems.at(line, f"is nested too deeply; {rule}.")
    except ValueError as error:  # a key twice, or a number of thousands of digits
        problems.at(line, f"cannot be read as JSON: {str(error).rstrip('.')}.")
    return []


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {show(key)} stands twice in one object; keep one of them")
        made[key] = value
    return made


def csv_rows(text: str, problems: Problems) -> list[Raw]:
    """Return the rows of facts of a CSV file with a header; lists are separated by |."""
    rows = _csv_cells(text, problems)
    if not rows:
        problems.settle()
        problems.stop(NO_ROWS)
    header = [name.strip() for name in rows[0].row]
    found = _header_problems(header)
    for problem in found:
        problems.at(rows[0].line, problem)
    if found:
        problems.settle()
    return [row for found in rows[1:] for row in _csv_row(found, header, problems)]


def _csv_cells(text: str, problems: Problems) -> list[Raw]:
    """Return every line of cells that is not blank, with the line it starts on."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    rows: list[Raw] = []
    start = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append(Raw(start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        problems.at(
            start,
            f"is not CSV ({error}); a cell with a comma, a quote or a line break stands in "
            'double quotes, a quote inside it is written "".',
        )
    return rows


def _header_problems(header: list[str]) -> Iterable[str]:
    joined = next((mark for mark in ";\t" if len(header) == 1 and mark in header[0]), None)
    if joined:
        return [f"the columns are separated by {joined!r}; separate them by commas."]
    missing = [name for name in FACT.required if name not in header]
    twice = {name for name in header if header.count(name) > 1}
    return [
        *(unknown("column", name, FACT.keys) for name in header if name not in FACT.keys),
        *(f"the column {name!r} stands twice; keep one of them." for name in sorted(twice)),
        *(f"the header has no column {name!r}; it has {', '.join(header)}." for name in missing),
    ]


def _csv_row(found: Raw, header: list[str], problems: Problems) -> list[Raw]:
    """Return the cells under their names in a list, or an empty list and a problem."""
    line, cells = found
    if len(cells) > len(header):
        problems.at(
            line,
            f"has {len(cells)} cells, but the header has {len(header)} (the last cell is "
            f"{show(cells[-1])}); put a cell with a comma in double quotes.",
        )
        return []
    padded = cells + [""] * (len(header) - len(cells))
    row: dict[str, Any] = dict(zip(header, padded, strict=True))
    for key in set(header) & set(FACT.lists):
        row[key] = [item.strip() for item in row[key].split("|") if item.strip()]
    return [Raw(line, row)]
