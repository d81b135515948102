"""Made-up MUSE files in the words of the tests' tokenizer: texts, excerpts, questions, a hold-out."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any


def write_muse(folder: Path) -> Path:
    """Write a folder of one corpus; lists of strings and of objects, as they are published."""
    rng = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{rng.randrange(64)}" for _ in range(count))

    def questions(texts: list[str]) -> list[dict[str, str]]:
        return [{"question": f"{t.split()[0]} {t.split()[1]}?", "answer": t.split()[2]} for t in texts]

    forget, retain, outside = ([words(12) for _ in range(6)] for _ in range(3))
    files: dict[str, list[Any]] = {
        "raw/forget": [{"text": text} for text in forget],
        "raw/retain1": [*retain],
        "verbmem/forget": [{"prompt": t[:15], "gt": t[15:]} for t in forget],
        "knowmem/forget_qa": questions(forget),
        "knowmem/retain_qa": questions(retain),
        "knowmem/forget_qa_icl": [{"question": "w1?", "answer": "w2"}],
        "knowmem/retain_qa_icl": [{"question": "w3?", "answer": "w4"}],
        "privleak/forget": [*forget],
        "privleak/holdout": [*outside],
    }
    for name, rows in files.items():
        file = folder / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = name == "raw/forget"
        file.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    return folder
