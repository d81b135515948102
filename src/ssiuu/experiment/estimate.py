"""Estimate what a recipe costs on this machine, from a short measurement and the size of the model.

Work is counted in tokens read forward; a backward pass counts twice. The constants were fitted to the
stages of the default run on two cores (tests/unit/test_estimate.py holds them).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from ssiuu.attacks import attacks_of
from ssiuu.benchmarks.base import TOKENS as TYPICAL
from ssiuu.benchmarks.base import Cost
from ssiuu.diagnosis.readout import TOKENS
from ssiuu.experiment.attacking import plan
from ssiuu.experiment.examine import FURTHER, PLANTED, lineup_size
from ssiuu.experiment.memory import of_recipe
from ssiuu.experiment.recipe import Recipe
from ssiuu.experiment.session import Session
from ssiuu.experiment.tuning import VALIDATION
from ssiuu.methods import Method
from ssiuu.models.files import is_adapter, tensors_of, weight_files
from ssiuu.models.room import free_bytes
from ssiuu.models.size import Size, size_of
from ssiuu.records.said import Said
from ssiuu.records.schema import FactText

READ = 4400  # of plain texts and instructions, once of the original,
MOVED = 6000  # and of every model, with the head of the original besides
ANSWER = 2  # tokens of an answer of a lineup, beside what it has in common with others
HIDDEN = 12_000.0  # tokens to hide facts on purpose in one way: some 30 steps, however many they are
TRIED = 3  # runs of a search for a learning rate, usually: how far to go, and two rates
SHARED = 0.7  # of the tokens of rows that are trained on: what they begin with in common is run once
REACHED = 0.6  # of the steps allowed, before most methods reach the threshold
SHARE = 0.6  # of the speed of one matrix product that a model reaches
PRODUCTS = 50  # that are timed together: some clocks of a thread have steps of 16 ms
STEP = 0.025  # seconds a step takes whatever the model's size,
MOVE = 3e-9  # and of a processor's thread for every parameter: weights, gradient and moments are moved
LINEUPS = 64  # facts whose rows are counted, at most
SMOLLM2 = 134_515_008
DEFAULT = Size(SMOLLM2, 305_280, 30, 576, 1536, 49_152, 106_168_320)


def estimate(recipe: Recipe, audited: bool = False, **known: Any) -> Said:
    """Return one sentence on time and memory, with the time as what is left; within a factor of two.

    Args:
        recipe: What is to be done.
        audited: A model is given, beside those that it unlearns.
        known: What is known of the cost by now, see `known_of`.
    """
    cost = _cost(recipe, known)
    return _sentence(recipe, cost, lambda parameters: _seconds(recipe, cost, parameters, audited))


def of_unlearning(recipe: Recipe, searches: bool, **known: Any) -> Said:
    """Return the same of `ssiuu unlearn`, once the model has been asked what it knows.

    Args:
        recipe: With the method alone.
        searches: Whether a learning rate is searched.
        known: As of `estimate`.
    """
    cost, method = _cost(recipe, known), recipe.made()[0]
    runs = (TRIED if searches else 1) * method.trains
    each = _unlearning(recipe, method, cost.tokens, cost.forget) + MOVED + cost.score
    steps = runs * REACHED * recipe.unlearn.max_steps
    tokens = READ + cost.score + runs * each
    return _sentence(recipe, cost, lambda size: _time(recipe, size, tokens, steps))


def known_of(session: Session, facts: Sequence[FactText]) -> dict[str, Any]:
    """Return what of the cost is known once a model and its facts are there, as `Cost` has it.

    How long rows are is counted of facts that somebody gave; a benchmark knows it of its own.
    """
    known = {"parameters": session.loaded.info.parameters, "forget": len(facts)}
    if not session.recipe.opens.yours or not facts:
        return known
    rows = session.examples(facts[:LINEUPS])
    return known | {"tokens": fmean(len(row.prompt) + len(row.answer) for row in rows)}


def _cost(recipe: Recipe, known: Mapping[str, Any]) -> Cost:
    """Return the cost of a recipe with what is known of it; scoring takes longer of longer rows."""
    cost = recipe.opens.cost(recipe)
    longer = known.get("tokens", cost.tokens) / cost.tokens
    return replace(cost, score=cost.score * longer, **known)


def of_teaching(recipe: Recipe, parameters: int, trained: float, read: float, steps: int) -> Said:
    """Return one sentence on the time that teaching takes at most: it ends when all is known.

    Args:
        recipe: Says where it is done.
        parameters: Of the model.
        trained: Tokens that are trained on,
        read: and read, in all.
        steps: Of training.
    """
    seconds = _time(recipe, parameters, 3.0 * trained + read, steps)
    minutes = max(1, round(seconds / 60))
    return Said(
        f"estimate: at most about {minutes} min on {recipe.placement.device}, if nothing else runs; it "
        "ends when every fact is known.",
        left=seconds,
    )


def seconds_of(recipe: Recipe) -> float | None:
    """Return the seconds of a recipe, as roughly; None where the model's size is not known yet."""
    cost = recipe.opens.cost(recipe)
    _, parameters = _size(cost)
    return None if parameters is None else _seconds(recipe, cost, parameters)


def memory_of(recipe: Recipe) -> float | None:
    """Return the bytes of a recipe's largest stage; None where the model's size is not known yet."""
    return _memory(recipe, recipe.opens.cost(recipe))


def _memory(recipe: Recipe, cost: Cost) -> float | None:
    size, parameters = _size(cost)
    if parameters is None:
        return None
    # Of a model that is made here, or whose configuration is not known, the default's widths do.
    return of_recipe(recipe, replace(size or DEFAULT, parameters=parameters), cost.tokens)


def _size(cost: Cost) -> tuple[Size | None, int | None]:
    """Return the widths of a model and its number of parameters, where they can be told."""
    size = size_of(str(cost.model)) if cost.model is not None else None
    return size, _parameters(cost) or (size.parameters if size is not None else None)


def _sentence(recipe: Recipe, cost: Cost, seconds_of: Callable[[int], float]) -> Said:
    """Return the sentence, of a model with so many parameters as the cost says."""
    _, parameters = _size(cost)
    wanted = _memory(recipe, cost)
    if parameters is None or wanted is None:
        return Said("estimate: the model is not on this machine yet, so its size is not known.")
    device, seconds = recipe.placement.device, seconds_of(parameters)
    memory, free = wanted / 1e9, free_bytes(device)
    there = "" if free is None else f" ({free / 1e9:.1f} GB are free now)"
    minutes = max(1, round(seconds / 60))
    return Said(
        f"estimate: about {minutes} min and {memory:.1f} GB of memory on {device}{there}, if nothing "
        "else runs.",
        left=seconds,
    )


def _seconds(recipe: Recipe, cost: Cost, parameters: int, audited: bool = False) -> float:
    tokens, steps = _tokens(recipe, cost, audited), _steps(recipe, cost, audited)
    return _time(recipe, parameters, tokens, steps)


def _time(recipe: Recipe, parameters: int, tokens: float, steps: float) -> float:
    """Return the seconds of so many tokens read forward, and of so many steps of an optimiser.

    An accelerator moves the parameters of a step in next to no time, and so do two small matrices of an
    adapter.
    """
    device, whole = recipe.placement.device, recipe.unlearn.lora.rank is None
    moved = MOVE * parameters / torch.get_num_threads() if device.type == "cpu" and whole else 0.0
    return 2 * parameters * tokens / (SHARE * _throughput(device)) + (STEP + moved) * steps


def _tokens(recipe: Recipe, cost: Cost, audited: bool = False) -> float:
    """Return the tokens of the whole recipe."""
    methods, seeds = [m for m in recipe.made() if m.trains], len(recipe.seeds)
    unlearned = sum(_unlearning(recipe, method, cost.tokens, cost.forget) for method in methods)
    validated = len(methods) * cost.tokens * VALIDATION * recipe.split.retain
    tuning = (recipe.tune.trials or 0) * (unlearned + validated)
    judged, attacked = _models(recipe, cost, audited)
    looked = 3.0 * cost.tokens * cost.forget * (judged + 1) if recipe.diagnose else 0.0
    looked += judged * _examination(recipe, cost.tokens, cost.forget) + _planted(recipe, cost.tokens)
    per_model = _attack_tokens(recipe, cost.tokens, cost.forget)
    scored = READ + (cost.score + MOVED) * (judged + 1)
    return cost.start + tuning + scored + seeds * unlearned + looked + attacked * per_model


def _examination(recipe: Recipe, tokens: float, facts: int) -> float:
    """Return the tokens of examining a model: readings, the read-out, attackers' training.

    The related attacker is two, each of which is read on what the other one holds; a single fact has
    none.
    """
    config = recipe.examine
    if not config.steps:
        return 0.0
    answers, controls, phrasings = lineup_size(facts)
    reading = facts * (controls + phrasings) * (tokens + ANSWER * answers)
    related = facts > 1
    trained = (2 * related + config.unrelated) * 3.0 * SHARED * tokens * config.batch_size
    trained *= config.steps[-1]
    along = (related + config.unrelated) * len(config.steps) * reading
    return reading + TOKENS + _curves(recipe) * (along + trained)  # the read-out reads along


def _curves(recipe: Recipe) -> int:
    """Return how often each attacker of an examination trains."""
    return len(recipe.examine.rates(SMOLLM2)) * len(recipe.examine.seeds)


def _planted(recipe: Recipe, tokens: float) -> float:
    """Return the tokens of hiding facts on purpose and examining them."""
    ways = len(PLANTED) + len(FURTHER) * recipe.examine.thorough
    examined = _examination(recipe, tokens, recipe.examine.planted)
    return HIDDEN * tokens / TYPICAL * ways + examined if recipe.examine.plants else 0.0


def _models(recipe: Recipe, cost: Cost, audited: bool = False) -> tuple[int, int]:
    """Return how many models are scored beside the original, and how many are attacked."""
    each = sum(m.trains for m in recipe.made()) + cost.twin + audited
    return each * len(recipe.seeds), (each + recipe.attacks.control) * len(recipe.seeds)


def _unlearning(recipe: Recipe, method: Method, tokens: float, forget: int) -> float:
    """Return the tokens of one unlearning run with its readings of the score."""
    config = recipe.unlearn
    steps = REACHED * config.max_steps
    cost = prod(part.cost for part in method.all)
    # Forward and backward are three passes, over as many retain rows as forget rows.
    step = 3.0 * tokens * 2 * config.batch_size * config.accumulate * cost
    return steps * step + tokens * forget * steps / config.check_every


def _steps(recipe: Recipe, cost: Cost, audited: bool = False) -> float:
    """Return the number of optimiser steps of all unlearning and attacks."""
    trained = sum(m.trains for m in recipe.made())
    runs = trained * (len(recipe.seeds) + (recipe.tune.trials or 0))
    curves = [curve.steps for curve in plan(recipe)]
    judged, attacked = _models(recipe, cost, audited)
    attackers = (2 + recipe.examine.unrelated) * _curves(recipe)
    examined = attackers * max(recipe.examine.steps, default=0) * (judged + recipe.examine.plants)
    return runs * REACHED * recipe.unlearn.max_steps + attacked * sum(curves) + examined


def _attack_tokens(recipe: Recipe, tokens: float, forget: int) -> float:
    """Return the tokens of all attack curves on one model."""
    attacks = attacks_of(recipe.attacks)
    pool = (1 - max((p for attack in attacks for p in attack.holds()), default=0.0)) * forget
    return sum(a.tokens(curve, tokens, pool) for a in attacks for curve in a.curves())


def _parameters(cost: Cost) -> int | None:
    if cost.parameters is not None:
        return cost.parameters
    if cost.model == "smollm2-135m":
        return SMOLLM2
    folder = Path(str(cost.model))
    if not folder.is_dir() or is_adapter(folder) or not [*folder.glob("*.safetensors")]:
        return None
    return sum(prod(tensor.shape) for tensor in tensors_of(weight_files(folder)).values())


@cache
def _throughput(device: torch.device) -> float:
    """Return floating point operations a second of a matrix product like the model's, all threads.

    One thread is timed and counted for each there is, by the time that it computes: what else the
    machine does is left out, and threads that wait for each other as well.
    """
    threads = torch.get_num_threads()
    # Nothing is drawn: what comes after draws what it would have drawn.
    activations, weights = (torch.ones(n, 1024, device=device) for n in (256, 1024))
    if device.type != "cpu":
        return _on_accelerator(activations, weights)
    torch.set_num_threads(1)
    try:
        activations @ weights  # the first one takes longer
        start = time.thread_time()
        for _ in range(PRODUCTS):
            activations @ weights
        spent = time.thread_time() - start
    finally:
        torch.set_num_threads(threads)
    return threads * PRODUCTS * 2 * 256 * 1024 * 1024 / spent


def _on_accelerator(activations: torch.Tensor, weights: torch.Tensor) -> float:
    """Return the same of a device that computes beside the processor."""
    done = torch.get_device_module(activations.device).synchronize
    activations @ weights
    done()
    start = time.perf_counter()
    for _ in range(PRODUCTS):
        activations @ weights
    done()
    return PRODUCTS * 2 * activations.numel() * len(weights) / (time.perf_counter() - start)
