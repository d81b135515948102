"""The built-in instruction set for the benign attack: everyday tasks that touch none of the facts."""

from __future__ import annotations

import json
import random
from importlib.resources import files

from ssiuu.data.fact import Instruction

MEASURED = 50  # rows, at most, read to see how far a model has moved
BRIEF = 10  # words of an instruction, at most, and
TOLD = 6  # of its output, at least, where answers are only read


def load() -> list[Instruction]:
    """Return all rows in file order."""
    text = files("ssiuu.benchmarks").joinpath("data/instructions.jsonl").read_text("utf-8")
    return [Instruction(**json.loads(line)) for line in text.splitlines() if line]


def sample(rows: list[Instruction], count: int, seed: int) -> list[Instruction]:
    """Return `count` rows (or all there are) in an order drawn from the seed."""
    order = list(rows)
    random.Random(f"instructions:{seed}").shuffle(order)
    return order[:count]


def measured() -> list[Instruction]:
    """Return the rows that the divergence is measured on; no retain term may be trained on them."""
    return brief(MEASURED)


def brief(count: int) -> list[Instruction]:
    """Return at most `count` short instructions with answers of a sentence, spread over the file."""
    rows = load()
    short = [r for r in rows if len(r.instruction.split()) <= BRIEF and len(r.output.split()) >= TOLD]
    return short[:: -(-len(short) // count)]
