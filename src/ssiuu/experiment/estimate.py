"""Estimate what a recipe costs on this machine, from a short measurement and the size of the model."""

from __future__ import annotations

import time
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open

from ssiuu.experiment.recipe import Recipe
from ssiuu.experiment.tuning import VALIDATION

TOKENS = 18  # of a question with its answer, typical of short facts
SMOLLM2 = 134_515_008
FICTIONAL = 1_000_000
OVERHEAD = 1.2  # GB: the libraries, activations, logits


def estimate(recipe: Recipe) -> str:
    """Return one sentence on time and memory; rough, within a factor of two."""
    parameters = _parameters(recipe)
    if parameters is None:
        return "estimate: the model is not on this machine yet, so its size is not known."
    seconds = 2 * parameters * _tokens(recipe) / _throughput()
    # Weights, AdamW's two moments, gradient; Ssiuu adds A_{t-1} in bf16.
    copies = 4.5 if any(m.name == "ssiuu" for m in recipe.made()) else 4
    memory = copies * 4 * parameters / 1e9 + OVERHEAD
    return f"estimate: about {max(1, round(seconds / 60))} min and {memory:.1f} GB of memory here."


def _tokens(recipe: Recipe) -> float:
    """Return forward-equivalent tokens of the whole recipe; a backward counts twice."""
    split, attacks, steps = recipe.split, recipe.attacks, recipe.unlearn.max_steps
    methods = [m for m in recipe.made() if m.trains]
    cells = len(methods) * len(recipe.seeds)
    trials = len(methods) * (recipe.tune.trials or 0)
    score = TOKENS * (4 * split.forget + 1.5 * (split.retain + split.heldout))
    train = 3 * TOKENS * 2 * recipe.unlearn.batch_size * steps
    checks = TOKENS * split.forget * steps / recipe.unlearn.check_every
    curves = len(attacks.harmful.fractions) * len(attacks.harmful.learning_rates)
    curves += len(attacks.benign.learning_rates)
    curve = 3 * TOKENS * attacks.batch_size * attacks.reads[-1]
    curve += TOKENS * split.forget * len(attacks.reads)
    screening = 4 * TOKENS * (split.forget + split.retain + split.heldout)
    tuning = trials * (train + checks + TOKENS * VALIDATION * split.retain)
    return screening + tuning + score + cells * (score + train + checks + curves * curve)


def _parameters(recipe: Recipe) -> int | None:
    if recipe.model == "smollm2-135m":
        return SMOLLM2
    if recipe.benchmark == "fictional":
        return FICTIONAL
    folder = Path(str(recipe.model))
    total = 0
    for path in folder.glob("*.safetensors") if folder.is_dir() else ():
        with safe_open(path, framework="pt") as tensors:
            names = list(tensors.keys())
            total += sum(prod(tensors.get_slice(name).get_shape()) for name in names)
    return total or None


def _throughput() -> float:
    """Return floating point operations a second of a matrix product like the model's."""
    left, right = torch.randn(256, 1024), torch.randn(1024, 1024)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(10):
            left @ right
        best = min(best, time.perf_counter() - start)
    return 0.6 * 10 * 2 * 256 * 1024 * 1024 / best  # small batches reach part of it
