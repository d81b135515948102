"""Retraining attacks: train the unlearned model further and watch the facts it was not trained on.

harmful: on a fraction p of the forget set, scored on the rest. benign: on unrelated instructions.
filler: on unrelated plain text, without a prompt. The first two as in the paper's Sec. 4; departures:
the scored facts are one common pool, the same for every method and attack, disjoint by entity from
the facts of the largest p; the paper's wrong-only pool is its part that the unlearned model got
wrong (ssiuu.analysis.rows).

What is trained: all weights (full), or adapters (lora-qv: rank 8 on the maps that compute q and v;
lora-all: rank 16 on every linear map inside the blocks; alpha twice the rank), merged into the weights
at the end. Which maps these are is told by the model's structure (ssiuu.models.maps).
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ssiuu.errors import ConfigError, DivergedError
from ssiuu.evaluation.scores.ranking import read_facts
from ssiuu.likelihood import Example, Prompt
from ssiuu.models.lora import Lora, adapted
from ssiuu.models.maps import Chosen, adaptable, query_value
from ssiuu.records.schema import Attack, AttackRead, FactText, Reading, Space
from ssiuu.training import interrupt
from ssiuu.training.batches import draw, micro_batches
from ssiuu.training.state import SAVE_EVERY, load_state, save_state
from ssiuu.training.step import Step

# rank, alpha and maps of the attacker's adapters
ADAPTERS: dict[Space, tuple[int, float, Callable[[Any], Chosen]]] = {
    "lora-qv": (8, 16.0, query_value),
    "lora-all": (16, 32.0, adaptable),
}


def attacked_facts(facts: Sequence[FactText], fractions: Sequence[float], seed: int) -> list[str]:
    """Return the facts an attacker holds, in order: fraction p takes the first p of the forget set.

    They are drawn one by one; where that would take most of the others out of the common pool, as
    with few entities of many facts, entity by entity.

    Raises:
        ConfigError: A fraction is outside (0, 1), or leaves no fact to score.
    """
    order = [fact.id for fact in facts]
    random.Random(f"attack:{seed}").shuffle(order)
    count = share(len(order), max(fractions)) if fractions else 0
    if 2 * len(common_pool(facts, order[:count])) < len(order) - count:
        entity = {fact.id: fact.entity or fact.id for fact in facts}
        seen = list(dict.fromkeys(entity[i] for i in order))
        order.sort(key=lambda i: seen.index(entity[i]))
    return order[:count]


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
    kind: str,
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
    space: Space = "full",
    progress: Callable[[str], None] = lambda _: None,
    state: Path | None = None,
) -> Attack:
    """Train in place on `examples` and read the pool along the way.

    A curve whose training diverges ends at its last good reading, and its note says so.

    Args:
        model: The unlearned model; trained in place.
        prompt: How questions become tokens.
        name: For the record, "harmful_0.1" say.
        kind: What the examples are: harmful, benign or filler.
        examples: What is trained on.
        pool: Facts to read.
        start: Their readings before the attack (step 0).
        learning_rate: AdamW's, constant.
        reads: Steps at which the pool is read, ascending; the last one ends the attack.
        batch_size: Rows a step.
        seed: Order of the rows, and the adapters' start.
        precision: Of the forward pass.
        pad: Padding token id.
        fraction: p, for the harmful attack.
        space: What is trained.
        progress: Told at every reading.
        state: Where to keep the state of an unfinished attack; it continues from there. The file is
            the caller's to remove, once the result is safe.

    Raises:
        Interrupted: Ctrl-C; the state has been saved.
    """
    begin = time.perf_counter()
    device = next(model.parameters()).device
    settings = [name, learning_rate, list(reads), batch_size, seed, space, precision]
    key = _key(model, settings, examples, pool)
    found = [AttackRead(step=0, facts=start)]
    done, tokens, spent, note = 0, 0, 0.0, ""
    with adapted(model, _adapter(model, space, seed)):
        step = Step(model, None, learning_rate, precision)
        stored = load_state(state, step, key) if state is not None else None
        if stored is not None:
            found = [AttackRead.model_validate(read) for read in stored["reads"]]
            done, tokens, spent = stored["step"], stored["tokens"], stored["seconds"]
        saved = time.perf_counter()
        for number in range(done + 1, reads[-1] + 1):
            now = time.perf_counter()
            if state is not None and (interrupt.pending() or now - saved > SAVE_EVERY):
                kept = {
                    "key": key,
                    "step": number - 1,
                    "tokens": tokens,
                    "seconds": spent + now - begin,
                }
                save_state(state, step, kept | {"reads": [read.model_dump() for read in found]})
                saved = time.perf_counter()
            interrupt.check()
            rows = [examples[i] for i in draw(len(examples), batch_size, number, seed)]
            try:
                step([], micro_batches(rows, None, pad, device))
            except DivergedError:
                note = f"diverged in step {number}"
                break
            tokens += sum(len(row.prompt) + len(row.answer) for row in rows)
            if number in reads:
                model.eval()
                facts = read_facts(model, prompt, pool)
                if not _finite(facts.values()):
                    note = f"diverged in step {number}"
                    break
                found.append(AttackRead(step=number, facts=facts))
                what = f"{name} {space} lr {learning_rate:g} seed {seed}"
                progress(f"{what} step {number}/{reads[-1]}")
        step.close()
    model.eval()
    return Attack(
        name=name,
        kind=kind,
        fraction=fraction,
        learning_rate=learning_rate,
        seed=seed,
        space=space,
        tokens=tokens,
        trained=[e.id for e in examples] if kind == "harmful" else [],
        pool=[fact.id for fact in pool],
        reads=found,
        seconds=round(spent + time.perf_counter() - begin, 2),
        note=note,
    )


def trained_maps(model: Any, space: Space) -> Chosen | None:
    """Return the maps that an attacker's adapters are put on; None where all weights are trained.

    Raises:
        ConfigError: The model has no such maps.
    """
    if space == "full":
        return None
    chosen = ADAPTERS[space][2](model)
    if not chosen.paths:
        raise ConfigError(
            f"attacks.spaces: {space} trains adapters, and {type(model).__name__} has no linear map "
            "that they could be put on. Use full."
        )
    return chosen


def _adapter(model: Any, space: Space, seed: int) -> Lora | None:
    chosen = trained_maps(model, space)
    if chosen is None:
        return None
    rank, alpha, _ = ADAPTERS[space]
    return Lora(rank, alpha, chosen.paths, seed=seed, key="attacks.spaces")


def _finite(readings: Iterable[Reading]) -> bool:
    return all(math.isfinite(reading.logprob) for reading in readings)


def _key(model: Any, settings: list[Any], examples: Sequence[Example], pool: Sequence[FactText]) -> str:
    """Return a digest of all that decides the attack, so that only the same one is continued."""
    size = float(torch.nn.utils.get_total_norm([p.detach() for p in model.parameters()]))
    rows = [[e.id, e.prompt, e.answer] for e in examples]
    text = json.dumps([settings, size, rows, [fact.id for fact in pool]])
    return hashlib.sha256(text.encode()).hexdigest()
