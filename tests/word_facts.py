"""Facts in the words that the tests' tokenizer knows, in files as a user has them."""

from __future__ import annotations

import json
from pathlib import Path


def write_facts(folder: Path, **numbers: range) -> None:
    """Write a file of facts for each name, a row for each of its numbers."""
    for name, chosen in numbers.items():
        rows = [
            {
                "question": f"w{i} w{i + 20} w{i + 40} ?",
                "answer": f"w{i + 5} w{i + 33}",
                "distractors": [f"w{i + 9} w{i + 1}", f"w{i + 2} w{i + 30}"],
            }
            for i in chosen
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
