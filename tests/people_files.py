"""Made-up files of FaithUn's and RWKU's shape, in the words of the tests' tokenizer."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

KINDS = ("hop1_unlearn", "hop1_test", "hop2_test", "same_object")


def faithun_data(entities: int = 12, clusters: int = 2) -> dict[str, Any]:
    """Return questions by entity: of the first kind one a cluster, of the others a list each."""
    rng = random.Random(0)

    def question(entity: int, kind: int, n: int) -> dict[str, Any]:
        words = rng.sample(range(64), 4)
        return {
            "question": f"w{entity} w{kind} w{n} w{words[0]} word?",
            "answers": [f"w{words[1]}", f"w{words[1]} word"],
            "false_options": [f"w{words[2]}", f"w{words[3]}"],
        }

    return {
        f"Q{entity}": {
            kind: [
                question(entity, k, n) if k == 0 else [question(entity, k, 9 * n + m) for m in range(2)]
                for n in range(clusters)
            ]
            for k, kind in enumerate(KINDS)
        }
        for entity in range(entities)
    }


def write_faithun(folder: Path, data: Any = None, splits: dict[str, list[int]] | None = None) -> Path:
    """Write the question file and its splits; returns the file."""
    (folder / "splits").mkdir(parents=True, exist_ok=True)
    sets = {"forget_set": [3, 0, 8, 12, 15], "retaining_set": [5, 6, 10], "test_set": [1, 4, 9, 20]}
    for name, indices in (splits or sets).items():
        (folder / "splits" / f"{name}_split.txt").write_text("\n".join(map(str, indices)))
    file = folder / "FaithUn_Dataset.json"
    file.write_text(json.dumps(data or faithun_data()))
    return file


def write_rwku(folder: Path, people: int = 6, questions: int = 6) -> Path:
    """Write the five files; person 0's first question stands twice."""
    files: dict[str, list[dict[str, str]]] = {}

    def row(name: str, person: int, query: str, answer: str, type: str, **more: str) -> None:
        values = {"subject": f"Person {person}", "query": query, "answer": answer, "type": type}
        files.setdefault(name, []).append({**values, "target_id": f"{person}", **more})

    for p in range(people):
        for n in range(questions):
            answer = f"w{10 * p + n}"
            row("forget_level1", p, f"w{p} w{n} ___ word", answer, "cloze")
            row("forget_level2", p, f"w{n % 3} word w{p} w{n}?", answer, "simple question")
            row("forget_level3", p, f"w{p} w{n} a?", answer, "cross lingual (Spanish)")
            stated = f"w{p} w{n}: w62, {answer}, or w63?"
            row("forget_level3", p, stated, answer, "multiple choice")
            near = f"Person {p + 1}" if n == 0 else f"Near {p} {n % 3}"
            query = f"w{n % 3} word w{p} w{n} w61?"
            row("neighbor_level1", p, f"{query} ___", answer, "cloze", neighbor=near)
            row("neighbor_level2", p, query, answer, "simple question", neighbor=near)
    files["forget_level2"].append(files["forget_level2"][0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder
