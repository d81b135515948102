"""Facts of one's own in the forms of others: a task of lm-eval, and a data set that `datasets` loads.

    lm_eval_task(facts, Path("task"))      # cd task; lm_eval --include_path . --tasks ssiuu_facts ...
    data_set({"forget": facts}, Path("set"))        # datasets.load_dataset("set", split="forget")

Both hold the facts in full, and are written for the user's eyes alone. Of two that are to be written
into one folder at a time the second is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ssiuu.data.fact import Fact
from ssiuu.errors import OutputError
from ssiuu.records.files import write_bytes

TASK: Final = "ssiuu_facts"
CLAIM: Final = ".being-written"  # a folder in the folder: only one process can make it
COLUMNS: Final = ("id", "question", "answer", "entity", "paraphrases", "distractors")

# Asked freely, the answer up to the end of the line; and among its wrong answers, where there are any.
SAID: Final = """task: {task}
dataset_path: json
dataset_kwargs:
  data_files: {{test: facts.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_target: "{{{{answer}}}}"
target_delimiter: " "
generation_kwargs: {{until: ["\\n"], do_sample: false, max_gen_toks: 48}}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
metadata: {{version: 1}}
"""
CHOSEN: Final = """task: {task}_choice
dataset_path: json
dataset_kwargs:
  data_files: {{test: choices.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_choice: "{{{{[answer] + distractors}}}}"
doc_to_target: 0
target_delimiter: " "
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1}}
"""
CARD: Final = """---
configs:
- config_name: default
  data_files:
{files}
---
# Facts

Questions with their answers, written by ssiuu: {counts}. It holds the facts in full: whoever has it has
them.
"""


def lm_eval_task(facts: Sequence[Fact], folder: Path) -> list[str]:
    """Write a task of lm-eval, and one more of facts that have wrong answers; return their names.

    Raises:
        OutputError: The folder holds something, or cannot be written to.
    """
    chosen = [fact for fact in facts if fact.distractors]
    with _alone(folder):
        for name, rows, form in (("facts", facts, SAID), ("choices", chosen, CHOSEN)):
            if rows:
                write_bytes(folder / f"{name}.jsonl", _lines(rows), private=True)
                write_bytes(folder / f"{name}.yaml", form.format(task=TASK).encode(), private=True)
    return [TASK, *([f"{TASK}_choice"] if chosen else [])]


def data_set(splits: Mapping[str, Sequence[Fact]], folder: Path) -> None:
    """Write a data set of these splits, by name, with a card that says where each is.

    Raises:
        OutputError: The folder holds something, or cannot be written to.
    """
    files = "\n".join(f"  - split: {name}\n    path: {name}.jsonl" for name in splits)
    counts = ", ".join(f"{len(facts)} in {name}" for name, facts in splits.items())
    with _alone(folder):
        for name, facts in splits.items():
            write_bytes(folder / f"{name}.jsonl", _lines(facts), private=True)
        card = CARD.format(files=files, counts=counts)
        write_bytes(folder / "README.md", card.encode(), private=True)


def check_empty(folder: Path) -> None:
    """Refuse a folder that holds something, before anything is written.

    Raises:
        OutputError: It does, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is not an empty folder: choose another one.")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Have an empty folder to oneself, made where it is not there, while something is written into it.

    Raises:
        OutputError: It holds something, somebody is at it, or it cannot be written to.
    """
    claim = folder / CLAIM
    try:
        folder.mkdir(parents=True, exist_ok=True)
        claim.mkdir()
    except OSError as error:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is not an empty folder: choose another one.") from error
        if claim.exists():
            raise OutputError(
                f"{folder}: another process writes into it, or was killed while it did ({CLAIM} is in "
                "it): choose another folder, or remove that one."
            ) from error
        raise OutputError(f"{folder} cannot be written to: {error.strerror or error}.") from error
    try:
        if any(path != claim for path in folder.iterdir()):
            raise OutputError(f"{folder} is not an empty folder: choose another one.")
        yield
    finally:
        claim.rmdir()


def _lines(facts: Sequence[Fact]) -> bytes:
    """Return a row a fact, every one with the same columns."""
    rows: list[dict[str, Any]] = [fact.model_dump(mode="json", include=set(COLUMNS)) for fact in facts]
    ordered = [{name: row[name] for name in COLUMNS} for row in rows]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered).encode()
