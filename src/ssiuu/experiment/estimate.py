"""Estimate what a recipe costs on this machine, from a short measurement and the size of the model.

Work is counted in tokens read forward; a backward pass counts twice. The constants were fitted to the
stages of the default run on two cores (tests/unit/test_estimate.py holds them).
"""

from __future__ import annotations

import time
from math import prod
from pathlib import Path

import torch

from ssiuu.benchmarks.base import Cost
from ssiuu.experiment.attacking import Curve, plan
from ssiuu.experiment.recipe import AttackConfig, Recipe
from ssiuu.experiment.tuning import VALIDATION
from ssiuu.methods import Method
from ssiuu.models.files import is_adapter, tensors_of, weight_files

INSTRUCTION = 15  # of an instruction, without its output
READ = 4400  # of plain texts and instructions, once of the original,
MOVED = 6000  # and of every model, with the head of the original besides
SAMPLE = 6  # tokens of a sampled answer
REACHED = 0.6  # of the steps allowed, before most methods reach the threshold
SHARE = 0.6  # of the speed of one matrix product that a model reaches
STEP = 0.025  # seconds a step takes whatever the model's size
PROMPTS = 8  # ways to ask, or readings of about that cost
SMOLLM2 = 134_515_008
OVERHEAD = 1.2  # GB: the libraries, activations, logits


def estimate(recipe: Recipe) -> str:
    """Return one sentence on time and memory; rough, within a factor of two."""
    cost = recipe.opens.cost(recipe)
    parameters = _parameters(cost)
    if parameters is None:
        return "estimate: the model is not on this machine yet, so its size is not known."
    seconds = 2 * parameters * _tokens(recipe, cost) / (SHARE * _throughput())
    seconds += STEP * _steps(recipe, cost)
    # Weights, AdamW's two moments, gradient; Ssiuu adds A_{t-1} in bf16.
    copies = 4.5 if any(m.name == "ssiuu" for m in recipe.made()) else 4
    memory = copies * 4 * parameters / 1e9 + OVERHEAD
    minutes = max(1, round(seconds / 60))
    return f"estimate: about {minutes} min and {memory:.1f} GB of memory here, if nothing else runs."


def _tokens(recipe: Recipe, cost: Cost) -> float:
    """Return the tokens of the whole recipe."""
    methods, seeds = [m for m in recipe.made() if m.trains], len(recipe.seeds)
    unlearned = sum(_unlearning(recipe, method, cost.tokens, cost.forget) for method in methods)
    validated = len(methods) * cost.tokens * VALIDATION * recipe.split.retain
    tuning = (recipe.tune.trials or 0) * (unlearned + validated)
    judged, attacked = _models(recipe, cost)
    looked = 3.0 * cost.tokens * cost.forget * (judged + 1) if recipe.diagnose else 0.0
    asked = sum(_attack_tokens(recipe, curve, cost.tokens, cost.forget) for curve in plan(recipe))
    scored = READ + (cost.score + MOVED) * (judged + 1)
    return cost.start + tuning + scored + seeds * unlearned + looked + attacked * asked


def _models(recipe: Recipe, cost: Cost) -> tuple[int, int]:
    """Return how many models are scored beside the original, and how many are attacked."""
    each = sum(m.trains for m in recipe.made()) + cost.twin
    return each * len(recipe.seeds), (each + recipe.attacks.control) * len(recipe.seeds)


def _unlearning(recipe: Recipe, method: Method, tokens: float, forget: int) -> float:
    """Return the tokens of one unlearning run with its readings of the score."""
    config = recipe.unlearn
    steps = REACHED * config.max_steps
    cost = prod(part.cost for part in method.all)
    step = 3.0 * tokens * 2 * config.batch_size * config.accumulate * cost
    return steps * step + tokens * forget * steps / config.check_every


def _steps(recipe: Recipe, cost: Cost) -> float:
    """Return the number of optimiser steps of all unlearning and attacks."""
    trained = sum(m.trains for m in recipe.made())
    runs = trained * (len(recipe.seeds) + (recipe.tune.trials or 0))
    curves = [int(c.points[-1]) for c in plan(recipe) if c.learning_rate is not None]
    return runs * REACHED * recipe.unlearn.max_steps + _models(recipe, cost)[1] * sum(curves)


def _attack_tokens(recipe: Recipe, curve: Curve, tokens: float, forget: int) -> float:
    """Return the tokens of one attack curve."""
    config = recipe.attacks
    pool = (1 - max(config.harmful.fractions, default=0.0)) * forget
    reading = tokens * pool
    if curve.learning_rate is not None:
        row, steps = _row(config, curve, tokens), int(curve.points[-1])
        return 3 * row * config.batch_size * steps + reading * len(curve.points)
    if curve.kind == "few-shot":
        return reading * sum(1 + int(k) for k in curve.points)
    if curve.kind == "sampled":
        return SAMPLE * pool * int(curve.points[-1])
    return reading * (len(curve.points) or PROMPTS)


def _row(config: AttackConfig, curve: Curve, tokens: float) -> float:
    """Return the tokens of a row that an attack trains on."""
    rows = {"benign": INSTRUCTION + config.benign.tokens, "filler": config.filler.tokens}
    return rows.get(curve.kind, tokens)


def _parameters(cost: Cost) -> int | None:
    if cost.parameters is not None:
        return cost.parameters
    if cost.model == "smollm2-135m":
        return SMOLLM2
    folder = Path(str(cost.model))
    if not folder.is_dir() or is_adapter(folder):
        return None
    return sum(prod(tensor.shape) for tensor in tensors_of(weight_files(folder)).values())


def _throughput() -> float:
    """Return floating point operations a second of a matrix product like the model's, all threads.

    One thread is timed and counted for each there is: on a busy machine the best of many short
    products still says what it does when it is free, and threads that wait for each other do not.
    """
    threads = torch.get_num_threads()
    left, right = torch.randn(256, 1024), torch.randn(1024, 1024)
    best = float("inf")
    torch.set_num_threads(1)
    try:
        for _ in range(50):
            start = time.perf_counter()
            left @ right
            best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return threads * 2 * 256 * 1024 * 1024 / best
