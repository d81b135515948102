"""Made-up files of the shape of WMDP and MMLU in the words of the tests' tokenizer, and texts beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_wmdp(folder: Path, items: int = 8) -> Path:
    """Write two subjects, MMLU's questions, and texts to forget and to keep that tell the answers."""
    folder.mkdir(parents=True, exist_ok=True)
    firsts = {"wmdp-bio": 0, "wmdp-cyber": 20, "mmlu": 40}
    for name, first in firsts.items():
        rows = [_item(first + n, n % 4) for n in range(items)]
        if name == "mmlu":
            rows = [row | {"subject": "high_school_words"} for row in rows]
        text = json.dumps(rows) if name == "wmdp-bio" else "\n".join(map(json.dumps, rows))
        (folder / f"{name}.json").write_text(text)
    for name, first in (("forget", 0), ("retain", 40)):
        told = [{"text": _told(first + n), "title": "left out"} for n in range(items)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    return folder


def _item(n: int, place: int) -> dict[str, Any]:
    choices = [f"w{(n + 3 * k + 1) % 64}" for k in range(1, 4)]
    choices.insert(place, f"w{(n + 1) % 64}")
    return {"question": f" w{n} w{n} ?", "choices": choices, "answer": place}


def _told(n: int) -> str:
    return f"Question: w{n} w{n} ?\nAnswer: w{(n + 1) % 64}"
