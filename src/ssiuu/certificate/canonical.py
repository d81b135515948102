"""Canonical JSON: equal values are equal bytes, whoever writes them.

Source: RFC 8785 (JSON Canonicalization Scheme): no spaces, keys by their UTF-16 code units, strings and
numbers as ECMAScript writes them.
Departures: none; what I-JSON cannot hold (a lone surrogate, an integer beyond 2^53) is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_LARGEST = 2**53 - 1


def canonical(value: Any) -> bytes:
    """Return a value as canonical JSON.

    Raises:
        ValueError: JSON cannot hold it, or not so that everybody reads the same.
    """
    return _written(value).encode("utf-8")


def parsed(content: bytes) -> Any:
    """Return the value that canonical JSON holds, a line end behind it allowed.

    Raises:
        ValueError: It is no JSON, or not in its canonical form.
    """
    text = content.decode("utf-8").removesuffix("\n")
    value = json.loads(text, parse_int=_whole)
    if canonical(value) != text.encode():
        raise ValueError("not in canonical form")
    return value


def _whole(text: str) -> int | float:
    """Return a whole number; a large one is a float that is written without a point."""
    value = int(text)
    return value if abs(value) <= _LARGEST else float(value)


def _written(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key is no string")
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{_written(key)}:{_written(value[key])}" for key in keys) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_written, value)) + "]"
    raise ValueError(f"a {type(value).__name__} is not of JSON")


def _number(value: int | float) -> str:
    """Return a number as ECMAScript's Number::toString has it (ECMA-262, 6.1.6.1.20)."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError(f"{value} is no integer that everybody reads the same")
    if not math.isfinite(value):
        raise ValueError(f"{value} is not of JSON")
    if value == 0:
        return "0"
    sign, digits, power = Decimal(repr(float(value))).as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    return ("-" if sign else "") + _placed(text.rstrip("0"), len(text) + int(power))


def _placed(digits: str, point: int) -> str:
    """Return digits with the decimal point behind so many of them."""
    count = len(digits)
    if count <= point <= 21:
        return digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    exponent = f"e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return f"{digits[0]}{'.' + digits[1:] if count > 1 else ''}{exponent}"
