"""An audit as a log of inspect_ai: a sample a fact, with its verdict and what the model says now.

    write_log(load_run(Path("audit")), Path("logs"))   # inspect view --log-dir logs

Source: inspect_ai's `EvalLog`, version 2, in its JSON form; its package reads the file back and is not
needed to write it. Departures: a score is named by what it says, and none is called accuracy: `said` 1
means that the fact is still there. What was not measured is left out, as the format has it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ssiuu.analysis.verdict import VERDICTS, FactVerdict, judgement
from ssiuu.errors import ConfigError, OutputError
from ssiuu.records.files import digest, write_bytes
from ssiuu.records.schema import Cell, FactScore, FactText, RunRecord
from ssiuu.report.answer import answer, subject

VERSION: Final = 2
SCORES: Final = {
    "verdict": "erased, hidden, not removed or undecided",
    "said": "1: the model still says the answer freely",
    "first": "1: the answer is still ranked first among the options",
}


def write_log(record: RunRecord, path: Path) -> tuple[Path, int]:
    """Write the log, readable by the user alone; return its place and the number of samples.

    Args:
        record: An audit, or a run of a single method.
        path: A file called .json; or a folder, in which it gets a name that inspect's viewer lists.

    Raises:
        ConfigError: The record is of several models, each of which would have a log of its own.
        OutputError: The file cannot be written, or is there already.
    """
    cell = subject(record)
    if cell is None:
        labels = ", ".join(cell.method.label for cell in record.cells)
        raise ConfigError(f"a log is of one model, an audit's, and this run has several: {labels}.")
    log = eval_log(record, cell)
    if path.suffix != ".json":
        begun = record.header.created.replace(":", "-").replace("Z", "+00-00")
        path = path / f"{begun}_ssiuu-{record.header.kind}_{log['eval']['task_id']}.json"
    if path.exists():
        raise OutputError(f"--inspect: {path} is there already.")
    write_bytes(path, json.dumps(log, ensure_ascii=False, indent=1).encode(), private=True)
    return path, len(log["samples"])


def eval_log(record: RunRecord, cell: Cell) -> dict[str, Any]:
    """Return what the file holds."""
    header, words = record.header, judgement(record, cell)
    before = record.original.forget if record.original else {}
    after = cell.evaluation.forget if cell.evaluation else {}
    name = f"{header.model.name}, {cell.method.label}"
    facts = header.split.forget
    samples = [
        _sample(name, fact, before.get(fact.id), after.get(fact.id), words.facts.get(fact.id))
        for fact in facts
    ]
    key = digest(header.model_dump(mode="json"))
    return {
        "version": VERSION,
        "status": "success" if cell.evaluation else "cancelled",
        "eval": {
            **{f"{part}_id": digest(key, part)[:22] for part in ("eval", "run", "task")},
            "created": header.created,
            "task": f"ssiuu/{header.kind}",
            "task_version": header.benchmark.version,
            "dataset": {
                "name": header.benchmark.name,
                "samples": len(facts),
                "sample_ids": [fact.id for fact in facts],
                "shuffled": False,
            },
            "model": f"ssiuu/{name}",
            "config": {"epochs": 1},
            "packages": {"ssiuu": header.versions.get("ssiuu", "")},
            "metadata": {"command": header.command, "asked": header.prompt, "scores": SCORES},
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": {
            "total_samples": len(samples),
            "completed_samples": sum("output" in sample for sample in samples),
            "scores": _results(samples),
            "metadata": {"verdict": words.verdict, "answer": " ".join(answer(words))},
        },
        "stats": {"started_at": header.created, "completed_at": header.created, "model_usage": {}},
        "samples": samples,
    }


def _sample(
    model: str,
    fact: FactText,
    before: FactScore | None,
    after: FactScore | None,
    word: FactVerdict | None,
) -> dict[str, Any]:
    """Return a fact as it was asked before and after."""
    told: dict[str, Any] = {"paraphrases": fact.paraphrases, "entity": fact.entity}
    if before is not None:
        told |= {"before_text": before.free_text, "before_first": before.correct}
    if word is not None and word.judged is not None:
        told |= {"p_erased": word.judged.erased, "p_hidden": word.judged.hidden}
    sample: dict[str, Any] = {
        "id": fact.id,
        "epoch": 1,
        "input": fact.question,
        "target": fact.answer,
        "scores": _scores(after, word),
        "metadata": {key: value for key, value in told.items() if value is not None},
    }
    if fact.options:
        sample["choices"] = fact.options
    if after is not None and after.free_text is not None:
        said = {"role": "assistant", "content": after.free_text}
        sample["messages"] = [{"role": "user", "content": fact.question}, said]
        choice = {"message": said, "stop_reason": "stop"}
        sample["output"] = {"model": model, "choices": [choice], "completion": after.free_text}
    return sample


def _scores(after: FactScore | None, word: FactVerdict | None) -> dict[str, Any]:
    text = after.free_text if after else None
    values = {
        "verdict": word.verdict if word else None,
        "said": int(word.said) if word else None,
        "first": int(after.correct) if after and after.correct is not None else None,
    }
    return {k: {"value": v, "answer": text} for k, v in values.items() if v is not None}


def _results(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each score over the samples: shares of the verdicts, means of the others."""
    found = []
    for name in SCORES:
        values = [s["scores"][name]["value"] for s in samples if name in s["scores"]]
        counts = Counter(values)
        of = {v: counts[v] for v in VERDICTS} if name == "verdict" else {"mean": counts[1]}
        shares = {key: count / len(values) for key, count in of.items() if values}
        metrics = {key: {"name": key, "value": share} for key, share in shares.items()}
        here = {"scored_samples": len(values), "unscored_samples": len(samples) - len(values)}
        found.append({"name": name, "scorer": f"ssiuu/{name}", "metrics": metrics, **here})
    return found
