"""What a run holds in memory: bytes a parameter, by method, from a table that was measured, and what
the tokens of a step add.

The table (`perf/memory.py`, shown in docs/memory.md) has each method alone; what is put together of
several parts is the sum of what each holds beyond gd.
"""

from __future__ import annotations

import json
import os
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple

import torch

from ssiuu.evaluation.tree import READ, sizes
from ssiuu.experiment.recipe import Recipe
from ssiuu.methods import Method
from ssiuu.models.room import free_bytes
from ssiuu.models.shards import any_of, world
from ssiuu.models.size import Size, size_of

Form = Literal["fp32", "bf16"]
GRADIENT: dict[Form, float] = {"fp32": 4.0, "bf16": 2.0}
OWN: dict[str, str] = {
    "gate": "ssiuu-gate",
    "sam": "npo-sam",
    "mask": "masked",
    "fisher": "fdcu",
    "klue": "klue",
}
# Numbers that a layer keeps for its backward pass, for each token: of the stream's width and of the
# widest map's; and of the head, for each answer token and word. Measured: tests/unit/test_memory.py.
OF_WIDTH, OF_INNER, OF_HEAD = 13.0, 4.0, 3.0
PROGRAM = 0.7e9  # Python and its libraries
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes of a weight, its share of a group's scale and of that one's
FITS = 0.9  # of what is free, that may be counted on


class Held(NamedTuple):
    """Bytes a trained parameter: at the peak of a run, and between two steps, its gradient included."""

    peak: float
    between: float


@cache
def table() -> dict[str, dict[str, dict[str, float] | None]]:
    """Return what was measured, by method and form."""
    found: dict[str, dict[str, dict[str, float] | None]] = json.loads(
        files("ssiuu.experiment").joinpath("memory.json").read_text(encoding="utf-8")
    )
    return found


def measured(name: str, form: Form) -> Held | None:
    """Return what one method was measured to hold; None where it was not, or does not go so."""
    entry = table().get(name, {}).get(form)
    return None if entry is None else Held(entry["peak"], entry["between"])


def held(method: Method, form: Form) -> Held:
    """Return what a method holds, with all of its parts."""
    plain = measured("gd", form)
    assert plain is not None
    names = [method.objective.name, *(_named(part) for part in method.transforms)]
    names += [f"gd+{term.name}" for term in (method.retain, *method.others) if term is not None]
    parts = [measured(name, form) or plain for name in names]
    peak, between = (sum(p[n] - plain[n] for p in parts) + plain[n] for n in (0, 1))
    return Held(peak, between)


def _named(part: object) -> str:
    """Return the entry of a transform: of Ssiuu's penalty that of its form."""
    name = str(getattr(part, "name", ""))
    if name != "ssiuu":
        return OWN.get(name, f"gd+{name}")
    if getattr(part, "derivative", "") == "exact":
        return "ssiuu-exact"
    if getattr(part, "level", "") == "neuron":
        return "ssiuu-neuron"
    return "ssiuu, 8 bits" if getattr(part, "memory", "") == "int8" else "ssiuu"


def need(
    method: Method,
    size: Size,
    form: Form,
    tokens: float,
    answers: float,
    rank: int | None = None,
    recomputed: bool = False,
    nf4: bool = False,
    coded: bool = False,
) -> float:
    """Return the bytes of one run of unlearning, at its peak, beside those of the program.

    Args:
        method: What is run.
        size: Of the model.
        form: What its weights are held in; all of them are trained, or adapters in fp32.
        tokens: In memory at once, of forget and retain rows.
        answers: Of these, those of answers.
        rank: Of adapters on all maps; None: all weights are trained.
        recomputed: Whether activations are computed again.
        nf4: Whether the maps beside adapters are held in 4 bits meanwhile.
        coded: Whether they are from the first: the model is never there in full.
    """
    found = held(method, form if rank is None else "fp32")
    trained = size.parameters if rank is None else rank * size.a_rank
    whole = GRADIENT[form] * size.parameters
    fixed = 0.0 if rank is None else whole
    if nf4:  # and one map at a time in full
        fixed += (NF4 - GRADIENT[form]) * size.in_maps + GRADIENT[form] * size.width * size.inner
    # While a backward pass runs activations go and gradients come.
    gradient = GRADIENT[form if rank is None else "fp32"]
    steady = fixed + trained * (found.between - gradient)
    rising = trained * (found.peak - found.between + gradient)
    kept = activations(size, form, tokens, answers, recomputed)
    if rank is not None and form == "bf16" and not recomputed:  # adapters take their inputs in fp32
        kept += 4.0 * tokens * size.layers * (4 * size.width + size.inner)
    # Else it is read in full before, and is as large while its first map is brought to 4 bits.
    return max(steady + max(rising, kept), whole if nf4 and not coded else 0.0)


def activations(size: Size, form: Form, tokens: float, answers: float, recomputed: bool) -> float:
    """Return the bytes that a forward pass keeps for its backward pass."""
    number = GRADIENT[form]
    layer = OF_WIDTH * size.width + OF_INNER * size.inner
    layers = layer + size.layers * size.width if recomputed else size.layers * layer
    return tokens * layers * number + answers * size.words * OF_HEAD * 4.0


def of_recipe(recipe: Recipe, size: Size, tokens: float) -> float:
    """Return the bytes of a recipe's largest stage, those of the program among them.

    An attack that retrains holds a copy of the weights that it begins with beside what training takes.
    """
    form: Form = "bf16" if recipe.placement.dtype == torch.bfloat16 else "fp32"
    config, rows = recipe.unlearn, 2 * (recipe.unlearn.micro_batch_size or recipe.unlearn.batch_size)
    runs = [
        need(
            *(method, size, form, rows * tokens, rows * tokens / 4),
            rank=config.lora.rank,
            recomputed=recipe.gradient_checkpointing,
            nf4="nf4" in (config.lora.base, recipe.dtype),
            coded=recipe.dtype == "nf4",
        )
        for method in recipe.made()
        if method.trains
    ]
    if recipe.dtype == "nf4":  # which nothing retrains
        asked = GRADIENT[form] * (size.parameters - size.in_maps) + NF4 * size.in_maps
        return PROGRAM + max([*runs, asked + _reading(recipe, size)])
    retrained = measured("gd", form)
    assert retrained is not None
    beside = 0.0 if recipe.offload == "disk" else GRADIENT[form]
    attacked = size.parameters * (retrained.peak + beside)
    return PROGRAM + max([*runs, attacked])


def of_replicas(recipe: Recipe, size: Size, processes: int) -> float:
    """Return the bytes of one of several processes that has a replica while it reads between two steps.

    The replica, its part of what is trained with what its optimiser and method hold, and the logits of
    the tokens that are read at once.
    """
    form: Form = "bf16" if recipe.placement.dtype == torch.bfloat16 else "fp32"
    trained = [method for method in recipe.made() if method.trains]
    between = [GRADIENT[form] if recipe.unlearn.lora.rank else held(m, form).between for m in trained]
    plain = measured("gd", form)
    assert plain is not None
    part = size.parameters / processes * max([*between, plain.between])
    return PROGRAM + GRADIENT[form] * size.parameters + part + _reading(recipe, size)


def _reading(recipe: Recipe, size: Size) -> float:
    """Return the bytes of what is said of every word after the tokens of a tree."""
    return READ * sizes(recipe.placement.device, size.words).nodes * size.words


def divides(recipe: Recipe) -> bool:
    """Whether the model stays in shards while it is read, as the recipe says or as there is room."""
    if recipe.mesh.reading != "auto" or world() == 1:
        return recipe.mesh.reading == "shards" and world() > 1
    size = None if recipe.model is None else size_of(str(recipe.model))
    device = recipe.placement.device
    free = free_bytes(device)
    if size is None or free is None:
        return any_of(False)
    # Processes share main memory, and each accelerator is one's own.
    room = free / (int(os.environ.get("LOCAL_WORLD_SIZE", world())) if device.type == "cpu" else 1)
    return any_of(of_replicas(recipe, size, world()) > FITS * room)
