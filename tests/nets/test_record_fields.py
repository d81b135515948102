"""Every field that a run records is read somewhere: what nobody reads is to be shown, or to go.

pytest tests/nets/test_record_fields.py
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import ssiuu
from ssiuu.records import schema

SOURCE = Path(ssiuu.__file__).parent
# Printed with all else by `ssiuu ask --json`.
DUMPED = {"Knowledge.mean_margin"}


def names_read() -> set[str]:
    """Return attributes that are read, and names in strings and templates, in all code but the schema."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        if path == Path(schema.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"\w+", node.value)) if " " not in node.value else set()
    for path in SOURCE.rglob("*.j2"):
        found |= set(re.findall(r"\.(\w+)", path.read_text(encoding="utf-8")))
    return found


def test_no_field_of_a_record_is_written_in_vain() -> None:
    read = names_read()
    records = [
        c for _, c in inspect.getmembers(schema, inspect.isclass) if issubclass(c, schema.Record)
    ]
    unread = {
        f"{record.__name__}.{name}"
        for record in records
        for name in record.model_fields
        if name not in read
    }
    assert len(records) > 30 and unread == DUMPED
