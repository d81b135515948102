"""What OpenUnlearning found, read in beside a run: its TOFU_EVAL.json and MUSE_EVAL.json.

    others = read_beside(["npo=saves/eval/npo/TOFU_EVAL.json"])
    metrics = shared(record, others)           # their name -> our column

A value is a number (TOFU_SUMMARY.json) or an object with "agg_value". Nothing is computed anew: whose
conventions a number follows depends on who made it (`docs/open-unlearning.md`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ssiuu.analysis.column import Column
from ssiuu.analysis.columns import columns
from ssiuu.errors import DataError
from ssiuu.records.schema import RunRecord

FILES: Final = ("TOFU_EVAL.json", "MUSE_EVAL.json", "TOFU_SUMMARY.json", "MUSE_SUMMARY.json")
# Their name -> the key of our column, by the score of a run; where a score has their own names, those.
OURS: Final[Mapping[str, Mapping[str, str]]] = {
    "sentences": {
        "forget_quality": "forget_quality",
        "model_utility": "model_utility_geometric",
        "forget_Q_A_Prob": "forget_probability",
        "forget_Q_A_gibberish": "fluency",
        "forget_Q_A_PARA_Prob": "reworded_probability",
        "forget_Q_A_ROUGE": "forget_rouge",
        "forget_truth_ratio": "forget_truth_ratio_geometric",
        "privleak": "privleak",
        "extraction_strength": "extraction_strength",
        "exact_memorization": "exact_memorisation",
        "mia_loss": "auc_loss",
        "mia_zlib": "auc_zlib",
        "mia_min_k": "auc_min-k 40%",
        "mia_min_k_plus_plus": "auc_min-k++ 40%",
        "mia_reference": "auc_reference",
        "mia_gradnorm": "auc_gradnorm",
    },
    "texts": {
        "forget_verbmem_ROUGE": "verbmem",
        "forget_knowmem_ROUGE": "knowmem",
        "retain_knowmem_ROUGE": "utility_knowmem",
        "privleak": "privleak",
        "extraction_strength": "extraction_strength",
        "exact_memorization": "exact_memorisation",
    },
}


@dataclass(frozen=True)
class Beside:
    """What somebody else's evaluation says of one model.

    `values`: by metric, as it is called there; None where it was not scored.
    """

    name: str
    source: str
    values: Mapping[str, float | None]


def read_beside(given: Sequence[str]) -> list[Beside]:
    """Read evaluations, each given as a file, as the folder it is in, or as NAME=PATH.

    Raises:
        DataError: A file is missing or holds no metrics.
    """
    return [_read(text) for text in given]


def shared(record: RunRecord, others: Sequence[Beside]) -> dict[str, Column]:
    """Return the columns of a run that the others have as well, by the name that it has there.

    Raises:
        DataError: One of the others has nothing that the run has.
    """
    by_key = {column.key: column for column in columns(record)}
    named = OURS.get(record.header.score, {key: key for key in by_key})
    known = {theirs: by_key[ours] for theirs, ours in named.items() if ours in by_key}
    for other in others:
        if not known.keys() & other.values.keys():
            raise DataError(
                f"--beside {other.source}: of its metrics ({', '.join(sorted(other.values))}) none is "
                f"one of a run with the score {record.header.score!r}; give the evaluation of a model "
                "on the same benchmark."
            )
    return {name: column for name, column in known.items() if any(name in o.values for o in others)}


def _read(text: str) -> Beside:
    name, equals, rest = text.partition("=")
    path = Path(rest if equals and not Path(text).exists() else text)
    file = next((path / n for n in FILES if (path / n).is_file()), path) if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"--beside {_place(text, file)}: cannot be read: {_reason(error)}. Give a TOFU_EVAL.json "
            "of OpenUnlearning, or the folder it is in."
        ) from error
    values = {key: _value(value) for key, value in found.items()} if isinstance(found, dict) else {}
    numbers = {key: value for key, value in values.items() if not isinstance(value, str)}
    if not numbers:
        raise DataError(
            f"--beside {_place(text, file)}: holds no metrics; they are numbers by name, or objects "
            'with "agg_value".'
        )
    named = name if equals and path != Path(text) else file.resolve().parent.name
    return Beside(named, str(file), numbers)


def _place(text: str, file: Path) -> str:
    """Return what was given, with the file that it led to where that does not stand in it."""
    return text if text.endswith(str(file)) else f"{text}, {file}"


def _reason(error: OSError | ValueError) -> str:
    """Return why a file cannot be read, without its name."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _value(value: Any) -> float | str | None:
    """Return the number of a metric, None where it is null, and a text where it is none of both."""
    if isinstance(value, dict):
        value = value.get("agg_value", value.get("auc", ""))
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""
