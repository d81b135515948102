"""Retraining attacks: train the unlearned model further and watch the facts it was not trained on.

harmful: on a fraction p of the forget set, scored on the rest. benign: on unrelated instructions.
Both as in the paper's Sec. 4; departures: the scored facts are one common pool, the same for every
method and attack, disjoint by entity from the facts of the largest p; the paper's wrong-only pool is
its part that the unlearned model got wrong (ssiuu.report.rows).
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ssiuu.errors import ConfigError
from ssiuu.evaluation.score import read_facts
from ssiuu.likelihood import Example, Prompt
from ssiuu.records.schema import Attack, AttackRead, FactText, Reading
from ssiuu.training import interrupt
from ssiuu.training.batches import draw, micro_batches
from ssiuu.training.state import SAVE_EVERY, load_state, save_state
from ssiuu.training.step import Step

ATTACKS = {
    "harmful": "retrain on a fraction p of the forget set (the paper's harmful attack)",
    "benign": "retrain on unrelated instructions (the paper's benign attack)",
}


def attacked_facts(facts: Sequence[FactText], fractions: Sequence[float], seed: int) -> list[str]:
    """Return the facts an attacker holds, in order: fraction p takes the first p of the forget set.

    Raises:
        ConfigError: A fraction is outside (0, 1), or leaves no fact to score.
    """
    order = [fact.id for fact in facts]
    random.Random(f"attack:{seed}").shuffle(order)
    return order[: share(len(order), max(fractions))] if fractions else []


def share(count: int, fraction: float) -> int:
    """Return how many of `count` facts a fraction is; at least 1.

    Raises:
        ConfigError: The fraction is outside (0, 1), or leaves no fact to score.
    """
    taken = max(1, round(fraction * count))
    if not 0 < fraction < 1 or taken >= count:
        raise ConfigError(
            f"attacks.harmful.fractions: {fraction} of {count} forget facts leaves none to score; "
            "a fraction lies above 0 and below 1."
        )
    return taken


def common_pool(facts: Sequence[FactText], attacked: Sequence[str]) -> list[FactText]:
    """Return the facts that share no entity with any attacked one."""
    taken = set(attacked)
    entities = {fact.entity or fact.id for fact in facts if fact.id in taken}
    return [fact for fact in facts if (fact.entity or fact.id) not in entities]


def retrain(
    model: Any,
    prompt: Prompt,
    name: str,
    kind: Literal["harmful", "benign"],
    examples: Sequence[Example],
    pool: Sequence[FactText],
    start: dict[str, Reading],
    learning_rate: float,
    reads: Sequence[int],
    batch_size: int,
    seed: int,
    precision: Literal["bf16", "fp32"],
    pad: int,
    fraction: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
    state: Path | None = None,
) -> Attack:
    """Train in place on `examples` and read the pool along the way.

    Args:
        model: The unlearned model; trained in place.
        prompt: How questions become tokens.
        name: For the record, "harmful_0.1" say.
        kind: What the examples are.
        examples: What is trained on.
        pool: Facts to read.
        start: Their readings before the attack (step 0).
        learning_rate: AdamW's, constant.
        reads: Steps at which the pool is read, ascending; the last one ends the attack.
        batch_size: Rows a step.
        seed: Order of the rows.
        precision: Of the forward pass.
        pad: Padding token id.
        fraction: p, for the harmful attack.
        progress: Told at every reading.
        state: Where to keep the state of an unfinished attack; it continues from there. The file is
            the caller's to remove, once the result is safe.

    Raises:
        Interrupted: Ctrl-C; the state has been saved.
    """
    begin = time.perf_counter()
    device = next(model.parameters()).device
    settings = [name, learning_rate, list(reads), batch_size, seed, precision]
    key = _key(model, settings, examples, pool)
    step = Step(model, None, learning_rate, precision)
    found = [AttackRead(step=0, facts=start)]
    stored = load_state(state, step, key) if state is not None else None
    if stored is not None:
        found = [AttackRead.model_validate(read) for read in stored["reads"]]
    done, spent = (stored["step"], stored["seconds"]) if stored is not None else (0, 0.0)
    saved = time.perf_counter()
    for number in range(done + 1, reads[-1] + 1):
        now = time.perf_counter()
        if state is not None and (interrupt.pending() or now - saved > SAVE_EVERY):
            kept = {"key": key, "step": number - 1, "seconds": spent + now - begin}
            save_state(state, step, kept | {"reads": [read.model_dump() for read in found]})
            saved = time.perf_counter()
        interrupt.check()
        rows = draw(len(examples), batch_size, number, seed)
        step([], micro_batches([examples[i] for i in rows], None, pad, device))
        if number in reads:
            model.eval()
            found.append(AttackRead(step=number, facts=read_facts(model, prompt, pool)))
            progress(f"{name} lr {learning_rate:g} step {number}/{reads[-1]}")
    step.optimizer.zero_grad(set_to_none=True)
    return Attack(
        name=name,
        kind=kind,
        fraction=fraction,
        learning_rate=learning_rate,
        seed=seed,
        trained=[e.id for e in examples] if kind == "harmful" else [],
        pool=[fact.id for fact in pool],
        reads=found,
        seconds=round(spent + time.perf_counter() - begin, 2),
    )


def _key(model: Any, settings: list[Any], examples: Sequence[Example], pool: Sequence[FactText]) -> str:
    """Return a digest of all that decides the attack, so that only the same one is continued."""
    size = float(torch.nn.utils.get_total_norm([p.detach() for p in model.parameters()]))
    rows = [[e.id, e.prompt, e.answer] for e in examples]
    text = json.dumps([settings, size, rows, [fact.id for fact in pool]])
    return hashlib.sha256(text.encode()).hexdigest()
