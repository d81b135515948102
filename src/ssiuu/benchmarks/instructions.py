"""The built-in instruction set for the benign attack: everyday tasks that touch none of the facts."""

from __future__ import annotations

import json
import random
from importlib.resources import files

from ssiuu.data.fact import Instruction


def load() -> list[Instruction]:
    """Return all rows in file order."""
    text = files("ssiuu.benchmarks").joinpath("data/instructions.jsonl").read_text("utf-8")
    return [Instruction(**json.loads(line)) for line in text.splitlines() if line]


def sample(rows: list[Instruction], count: int, seed: int) -> list[Instruction]:
    """Return `count` rows (or all there are) in an order drawn from the seed."""
    order = list(rows)
    random.Random(f"instructions:{seed}").shuffle(order)
    return order[:count]
