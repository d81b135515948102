"""A file as bytes and as text: what it is packed in, and in which encoding it is written.

Read are plain files and gzip; text in UTF-8, and in UTF-16 where it begins with the mark that
spreadsheets write. Whatever else is recognised by its first bytes is refused with what to do.
"""

from __future__ import annotations

import codecs
import difflib
import gzip
import io
import os
import zlib
from pathlib import Path

from ssiuu.data.problems import Problems

UNPACKED = 256 << 20  # bytes at most of an unpacked gzip file: a million facts, and no bomb

GZIP = b"\x1f\x8b"
PARQUET = b"PAR1"
_SPREADSHEET = "is a spreadsheet; save it as CSV (CSV UTF-8), one question and one answer a row."
_PACKED = "is packed; unpack it, or pack it with gzip (.gz)."
_ARROW = "is an Arrow file; save it as parquet or JSON lines (Dataset.to_json(path))."
SHEETS = (b"xl/workbook", b"opendocument.spreadsheet")  # in the zip file that a spreadsheet is
# First bytes -> what such a file is.
KINDS = {
    b"PK\x03\x04": "is a zip file; unpack it and give the file of facts.",
    b"PK\x05\x06": "is an empty zip file; give a file of facts.",
    b"\xd0\xcf\x11\xe0": _SPREADSHEET,
    b"BZh": _PACKED,
    b"\xfd7zXZ": _PACKED,
    b"\x28\xb5\x2f\xfd": _PACKED,
    b"7z\xbc\xaf": _PACKED,
    b"Rar!": _PACKED,
    b"ARROW1": _ARROW,
    b"\xff\xff\xff\xff": _ARROW,
    b"SQLite format 3": "is a database; save the table as CSV.",
    b"%PDF": "is a PDF; save its rows as CSV or JSON lines.",
}
# The mark that a text begins with -> its encoding; UTF-32's begins with UTF-16's.
MARKS = {
    codecs.BOM_UTF8: "UTF-8",
    codecs.BOM_UTF32_LE: "UTF-32-LE",
    codecs.BOM_UTF32_BE: "UTF-32-BE",
    codecs.BOM_UTF16_LE: "UTF-16-LE",
    codecs.BOM_UTF16_BE: "UTF-16-BE",
}


def kind_of(path: Path) -> str:
    """Return the suffix that says how a file is written, that of its packing left out."""
    inner = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return inner.suffix.lower()


def stem_of(path: Path) -> str:
    """Return the name of a file without its suffixes."""
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def read_bytes(path: Path, problems: Problems) -> bytes:
    """Return what a file holds, unpacked, or raise what is wrong with it."""
    if os.path.isdir(path):  # unlike Path.is_dir, never raises
        problems.stop(f"is a folder; give a file.{_saved_data_set(path)}")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        problems.stop(f"does not exist.{_nearest_file(path)}")
    except (OSError, ValueError) as error:
        problems.stop(f"cannot be read: {getattr(error, 'strerror', None) or error}.")
    if data.startswith(GZIP):
        data = _unpack(data, problems)
    for first, sentence in KINDS.items():
        if data.startswith(first):
            problems.stop(_SPREADSHEET if any(name in data for name in SHEETS) else sentence)
    if not data.strip():
        problems.stop("is empty; give a file with at least one row.")
    return data


def _saved_data_set(path: Path) -> str:
    names = ("dataset_info.json", "dataset_dict.json")
    if not any((path / name).exists() for name in names):
        return ""
    return " A data set is saved here: Dataset.to_json(path) makes a file of it."


def _nearest_file(path: Path) -> str:
    try:
        names = [near.name for near in path.parent.iterdir()]
    except (OSError, ValueError):
        return f" There is no folder {str(path.parent)!r} to read from."
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {near[0]!r}?" if near else " Check the name and the folder."


def _unpack(data: bytes, problems: Problems) -> bytes:
    """Return what a gzip file holds; never more than `UNPACKED` bytes are made of it."""
    try:
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(data)).read(UNPACKED + 1)
    except EOFError:
        problems.stop("is gzip that is cut off; pack or copy it again.")
    except (OSError, zlib.error) as error:
        problems.stop(f"is gzip that cannot be unpacked ({error}); pack it again.")
    if len(unpacked) > UNPACKED:
        problems.stop(
            f"unpacks to more than {UNPACKED >> 20} MiB, which is more than a file of facts may "
            "be; take out what is not needed."
        )
    return unpacked


def decode(data: bytes, problems: Problems) -> str:
    """Return the text of a file that is not empty, or raise what is wrong with it."""
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    encoding, body = MARKS.get(mark, "UTF-8"), data.removeprefix(mark)
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        position = error.start + len(mark)
        problems.stop(
            f"is not {encoding}: byte 0x{data[position]:02x} at position {position} of the file "
            "(counted from 0); save it as UTF-8 (it may be in Latin-1, Windows-1252 or another "
            "code of one language).",
            _line(data[:position].decode("latin-1")) if encoding == "UTF-8" else None,
        )
    if "\0" in text:
        problems.stop(
            "holds a NUL character, as no text does: the file is damaged, is no text, or is UTF-16 "
            "without its mark; save it as UTF-8.",
            _line(text[: text.index("\0")]),
        )
    if not text.strip():
        problems.stop("is empty; give a file with at least one row.")
    return text


def _line(before: str) -> int:
    """Return the number of the line on which a text ends; a line may end in CR alone."""
    return before.count("\n") + before.count("\r") - before.count("\r\n") + 1
