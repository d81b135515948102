"""The table of a run as plain text, and how every report writes a number.

    print(summary(load_run(Path("runs/first"))))

Imports neither torch nor matplotlib. A value that was not measured is a dash, never 0.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

from ssiuu.analysis.divergence import DAMAGED, WORDS, damaged_labels
from ssiuu.analysis.rows import ORIGINAL, asked_otherwise, attack_names, rows
from ssiuu.analysis.tofu import is_tofu, rouge_sets
from ssiuu.analysis.utility import task_names
from ssiuu.records.schema import Cell, MethodInfo, RunRecord
from ssiuu.report.knowledge import sentences

DASH = "–"
WIDTH = 110
Z = 1.96  # standard errors on either side of an estimate, in 95 %
# Longer method labels are cut, so that one label cannot push the numbers off the screen.
LABEL = 18


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share in [0, 1] as a number of per cent, without the sign."""
    return _number(share, lambda value: f"{100 * value:.{digits}f}")


def span(low: float, high: float) -> str:
    """Return the ends of an interval of a share as whole per cents: 72–90."""
    return f"{percent(low, 0)}–{percent(high, 0)}"


def points(value: float) -> str:
    """Return a difference of two shares in percentage points, with its sign."""
    text = f"{100 * value:+.1f}"
    return text.replace("-", "−") if float(text) else text[1:]


def nats(value: float | None) -> str:
    """Return a log-probability with one decimal and a true minus sign."""
    return _number(value, lambda number: f"{number:.1f}".replace("-0.0", "0.0").replace("-", "−"))


def kl(value: float | None, error: float | None = None) -> str:
    """Return a divergence in nats a token, ± half its 95 % interval where the error is given."""
    if value is None:
        return DASH
    if abs(value) < 1e-6:
        return "0"
    if abs(value) < 0.001:
        return "<0.001"
    digits = 3 if value < 0.0995 else 2
    half = f" ± {Z * error:.{digits}f}" if error is not None else ""
    return f"{value:.{digits}f}{half}"


def short(value: float | None) -> str:
    """Return a number of any size in at most about five characters: 0.042, 12.3, 4.5k, 1.2M."""
    return _number(value, _short)


def rate(value: float) -> str:
    """Return a small number as people write a learning rate: 1e-4 and 5.7e-5."""
    if not 0 < abs(value) < 0.01:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def plain(text: str) -> str:
    """Return the text with control characters replaced, so that no label can steer a terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def _number(value: float | None, form: Callable[[float], str]) -> str:
    if value is None:
        return DASH
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return form(value)


def _short(value: float) -> str:
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 0.9995 is where rounding to three digits would print 1000.
        if size >= limit * 0.9995:
            return f"{value / limit:.3g}{unit}".replace("-", "−")
    if size and size < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.3g}".replace("-", "−")


def before_row(record: RunRecord) -> dict[str, Any] | None:
    """Return the table row of the model before unlearning; None if it was not evaluated."""
    if record.original is None:
        return None
    method = MethodInfo(label=ORIGINAL, name="none", origin="control", description="")
    cell = Cell(method=method, seed=record.header.split.seed, evaluation=record.original)
    row: dict[str, Any] = rows(record.model_copy(update={"cells": [cell]}))["rows"][0]
    return row


class Column(NamedTuple):
    """One column of the text table: a heading of two lines and how to fill it from a row."""

    top: str
    below: str
    fill: Callable[[dict[str, Any]], str]


def summary(record: RunRecord) -> str:
    """Return the table of a run for a terminal, at most 110 columns wide.

    Columns that do not fit stand in a second table below the first; each starts with the method.
    """
    table = rows(record)["rows"]
    before = before_row(record)
    lines = [_headline(record), ""]
    for block in _blocks(_columns(record), table):
        lines += _table(block, [before, *table] if before else table)
        lines.append("")
    return "\n".join([*lines, *_footnotes(record)]) + "\n"


def _headline(record: RunRecord) -> str:
    header = record.header
    chance = percent(header.chance, 0) + " %" if header.chance is not None else "not scored"
    parts = [
        f"protocol {header.protocol}",
        header.model.name,
        f"{header.benchmark.name} {header.benchmark.version}",
        f"{len(header.split.forget)} facts to forget",
        f"chance {chance}",
    ]
    return plain("Erased or hidden?  " + " · ".join(parts))[:WIDTH]


def _columns(record: RunRecord) -> list[Column]:
    several = len({cell.seed for cell in record.cells}) > 1
    first = [
        Column("method", "", lambda row: _label(row, several)),
        Column("verdict", "", lambda row: "" if row["method"] == ORIGINAL else row["verdict"]),
    ]
    shares = {
        "forget": ("forget", "base"),
        "forget_paraphrase": ("forget", "para"),
        "forget_free": ("forget", "free"),
        "retain": ("retain", ""),
        "heldout": ("held-", "out"),
    }
    middle = [_share(key, *heading) for key, heading in shares.items()]
    if asked_otherwise(record):
        middle[3:3] = [
            _share("forget_other", "other", "form"),
            _share("forget_other_free", "other", "free"),
        ]
    if any(fact.multi_hop or fact.same_answer for fact in record.header.split.forget):
        middle += [_share("forget_multi_hop", "multi-", "hop")]
        middle += [_share("forget_same_answer", "same", "answer")]
    for name in rouge_sets(record):
        heading = (name, "ROUGE") if name in shares else _two_lines(plain(name.replace("_", "-")))
        middle.append(_share(f"{name}_rouge", *heading))
    if is_tofu(record):
        middle += [
            Column("forget", "quality", lambda row: short(row.get("forget_quality"))),
            _share("model_utility", "model", "utility"),
            _share("forget_rouge", "forget", "ROUGE"),
            _share("forget_truth_ratio", "forget", "truth"),
            _share("extraction_strength", "extr.", "strength"),
        ]
    if task_names(record):
        middle.append(_share("utility", "utility", "tasks"))
    moved = [
        Column("KL", "text", lambda row: kl(row.get("kl"))),
        Column("KL", "instr.", lambda row: kl(row.get("kl_instructions"))),
    ]
    attacks = [_share(name, *_two_lines(plain(name))) for name in attack_names(record)]
    last = [
        Column("log p", "forget", lambda row: nats(row.get("forget_logprob"))),
        Column("log p", "held", lambda row: nats(row.get("heldout_logprob"))),
        Column("D+", "top100", lambda row: short(row["d_plus_100"])),
        Column("D−", "top100", lambda row: short(row["d_minus_100"])),
        Column("hide", "ratio", lambda row: _number(row["hide_ratio"], "{:.2f}".format)),
        Column("steps", "", lambda row: DASH if row["steps"] is None else str(row["steps"])),
        Column("secs", "", lambda row: f"{row['seconds']:.0f}"),
        Column("peak", "GB", lambda row: _number(row["peak_memory_mb"], _gigabytes)),
    ]
    return [*first, *middle, *moved, *attacks, *last]


def _gigabytes(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f}"


def _share(key: str, top: str, below: str) -> Column:
    return Column(top, below, lambda row: percent(row.get(key)))


def _two_lines(name: str) -> tuple[str, str]:
    top, _, below = name.partition("-")
    return top[:12], below[:12]


def _label(row: dict[str, Any], several: bool) -> str:
    seed = f" s{row['seed']}" if several and row["method"] != ORIGINAL else ""
    name, room = plain(row["method"]), LABEL - len(seed)
    return (name if len(name) <= room else name[: room - 1] + "…") + seed


def _width(column: Column, table: list[dict[str, Any]]) -> int:
    if column.top == "method":
        return LABEL
    if column.top == "verdict":
        return len("not removed")
    return max(6, len(column.top), len(column.below))


def _blocks(columns: list[Column], table: list[dict[str, Any]]) -> list[list[Column]]:
    """Split the columns so that each block, with the method in front, fits the width."""
    method, rest = columns[0], columns[1:]
    blocks, used = [[method]], LABEL
    for column in rest:
        width = 1 + _width(column, table)
        if used + width > WIDTH:
            blocks.append([method])
            used = LABEL
        blocks[-1].append(column)
        used += width
    return blocks


def _table(columns: list[Column], table: list[dict[str, Any]]) -> list[str]:
    widths = [_width(column, table) for column in columns]
    lines = [
        _line([column.top for column in columns], widths),
        _line([column.below for column in columns], widths),
        "-" * (sum(widths) + len(widths) - 1),
    ]
    return lines + [_line([column.fill(row) for column in columns], widths) for row in table]


def _line(values: list[str], widths: list[int]) -> str:
    # Words (method, verdict) stand left, numbers right.
    cells = [
        value.ljust(width) if width >= len("not removed") and index < 2 else value.rjust(width)
        for index, (value, width) in enumerate(zip(values, widths, strict=True))
    ]
    return " ".join(cells).rstrip()


def _footnotes(record: RunRecord) -> list[str]:
    header = record.header
    forms = [f"Asked in {header.prompt}"] if header.prompt else []
    forms += [f"Other form: {header.other_prompt}"] if asked_otherwise(record) else []
    notes = [
        *(plain(form)[:WIDTH] for form in forms),
        "Accuracies in %; a dash is 'not scored'. Attack columns: the highest accuracy along the",
        "curves of all learning rates, over the facts no attack trained on. 'Erased' means that",
        "these attacks did not bring it back: evidence, not proof. D+, D−: target log-probability.",
        "log p: mean log-probability of an answer, nats. Peak: memory while unlearning.",
        "KL: from the original's predictions, nats a token, on plain text and on instructions.",
    ]
    for sentence in sentences(record.header.knowledge):
        notes += textwrap.wrap(plain(sentence), WIDTH)
    if labels := damaged_labels(record.cells):
        said = f"{WORDS[0].upper()}{WORDS[1:]} (KL on plain text above {DAMAGED:g})"
        notes += textwrap.wrap(plain(f"{said}: {', '.join(labels)}."), WIDTH)
    if is_tofu(record):
        notes.append(
            "TOFU: attack columns hold the mean ROUGE-L recall of the written answers, those of"
        )
        notes.append("prompts, few-shot and sampled the accuracy.")
    if rouge_sets(record):
        notes.append("ROUGE and the sets after it: mean ROUGE-L recall of the written answers.")
    if any(row["seconds"] == 0 for row in rows(record)["rows"]):
        notes.append("Some cells have not run yet.")
    return notes
