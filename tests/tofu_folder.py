"""A made-up TOFU folder in the words of the tests' tokenizer: authors to keep, and 2 to forget."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any


def write_tofu(folder: Path, retain: int = 60) -> Path:
    """Write the files that forget01 needs; every question is another one."""
    rng = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{rng.randrange(64)}" for _ in range(count))

    def row(n: int, name: str, wrong: int, length: int) -> dict[str, Any]:
        answer = words(length)
        return {
            "question": f"w{n % 64} w{n // 64} {words(2)} {name}?",
            "answer": answer,
            "paraphrased_answer": f"{answer} {words(1)}",
            "perturbed_answer": [words(length) for _ in range(wrong)],
            "paraphrased_question": f"w{n % 64} w{n // 64} {words(1)}?",
        }

    def rows(count: int, name: str, wrong: int, length: int) -> list[dict[str, Any]]:
        return [row(n, name, wrong, length) for n in range(count)]

    kept = rows(retain, "a", 5, 4)
    files = {
        "forget01_perturbed": rows(40, "word", 5, 4),
        "retain99": [{k: r[k] for k in ("question", "answer")} for r in kept],
        "retain_perturbed": kept,
    }
    for name, count in (("real_authors", 6), ("world_facts", 5)):
        plain = rows(count, name, 3, 2)
        keys = ("question", "answer", "perturbed_answer")
        files[f"{name}_perturbed"] = [{k: r[k] for k in keys} for r in plain]
    outside = [{k: r[k] for k in ("question", "answer")} for r in rows(40, "assistant", 5, 4)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        (folder / f"{name}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "holdout01.json").write_text(json.dumps(outside))  # one list, as it is published
    return folder
