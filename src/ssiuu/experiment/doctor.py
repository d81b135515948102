"""What is there to work with: device, memory, libraries, cache and hub, and what will run where.

    for finding in examine(recipe, hub=False):
        print(finding.what, finding.says)

Nothing is downloaded or written, and no network is touched unless the hub is asked for.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]
import torch

from ssiuu.errors import InputError
from ssiuu.experiment.estimate import memory_of
from ssiuu.experiment.provenance import PACKAGES
from ssiuu.experiment.recipe import Recipe
from ssiuu.models import nf4
from ssiuu.models.place import Placement, device_name
from ssiuu.models.precision import resolve_precision
from ssiuu.models.room import free_bytes
from ssiuu.models.sources import GGUF_INSTALLED_BY, MODELS, cache_folder, gguf_copy

EXTRAS: Final = ("datasets", "lm-eval", "bitsandbytes", "torchao")  # wanted by some settings alone
ROOM: Final = 2.0  # gigabytes that the default run writes into the cache


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what is there, and whether something needed is not."""

    what: str
    says: str
    missing: bool = False


def examine(recipe: Recipe, hub: bool = False) -> Iterator[Finding]:
    """Yield what this machine has for a recipe.

    Args:
        recipe: Says device, types and model.
        hub: Whether the hub is asked if it answers, the only call into a network.
    """
    yield _libraries()
    yield Finding("extras", ", ".join(f"{name} {_version(name) or 'not there'}" for name in EXTRAS))
    yield _memory()
    try:
        placement = recipe.placement
        precision = resolve_precision(recipe.precision, placement.device)
    except InputError as error:
        yield Finding("device", str(error), missing=True)
    else:
        yield from _devices(placement)
        yield from _runs(placement, precision)
        yield from _wanted(recipe, placement, hub)
    if "nf4" in (recipe.unlearn.lora.base, recipe.dtype):
        yield _base("unlearn.lora.base" if recipe.unlearn.lora.base == "nf4" else "dtype")
    yield _cache()
    yield _model(recipe)
    yield _hub(hub)


def _libraries() -> Finding:
    found = {name: _version(name) for name in (*PACKAGES, "peft", "safetensors") if name not in EXTRAS}
    lacking = [name for name, there in found.items() if there is None]
    names = ", ".join(f"{name} {there or 'NOT THERE'}" for name, there in found.items())
    return Finding("libraries", f"Python {platform.python_version()}, {names}", bool(lacking))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    cores, threads = os.cpu_count(), torch.get_num_threads()
    says = f"{_size(memory.total)}, {_size(memory.available)} free; {cores} cores, {threads} threads"
    return Finding("memory", says)


def _devices(placement: Placement) -> Iterator[Finding]:
    """Yield every device that torch sees; the one that will be used is marked."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is not None:
        module = torch.get_device_module(kind)
        for number in range(module.device_count()):
            device = torch.device(kind.type, number)
            used = ", used" if device == placement.device else ""
            yield Finding("device", f"{device}: {device_name(device)}{_free(device)}{used}")
    if placement.device.type == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        none = "" if kind else "; no accelerator is seen"
        yield Finding("device", f"cpu ({platform.machine()}, {capability}), used{none}")


def _free(device: torch.device) -> str:
    """Return the memory of a device, as text; empty where its module does not tell."""
    told = getattr(torch.get_device_module(device), "mem_get_info", None)
    if told is None:
        return ""
    free, total = told(device)
    return f", {_size(total)}, {_size(free)} free"


def _runs(placement: Placement, precision: str) -> Iterator[Finding]:
    bf16 = precision == "bf16"
    yield Finding("weights", placement.described)
    yield Finding(
        "steps",
        "forward passes of training in bf16 over these weights"
        if bf16
        else "in the type of the weights (the device has no bf16 of its own, or fp32 is set)",
    )
    yield Finding("scores", "readings, scores and looks inside in the type of the weights")
    yield Finding(
        "runs there",
        "screening, preparation, training, scores, looks inside, attacks, planted controls; on the "
        "processor: made-up worlds, reading and writing of files",
    )


def _wanted(recipe: Recipe, placement: Placement, hub: bool) -> Iterator[Finding]:
    """Tell the memory that the recipe wants, where its model's size is to be had."""
    name = recipe.model or ""
    here = not name or name in MODELS or Path(name).expanduser().is_dir()
    wanted = memory_of(recipe) if here or hub else None
    if wanted is None:
        return
    free = free_bytes(placement.device)
    there = "" if free is None else f", {_size(free)} are free"
    short = "; it will not do" if free is not None and free < wanted else ""
    yield Finding("wanted", f"{_size(wanted)} on {placement.device} at the most{there}{short}")


def _base(key: str) -> Finding:
    """Tell by what weights are held in nf4."""
    if not nf4.there():
        return Finding("base", f"{key}: nf4 needs {nf4.REMEDY}", missing=True)
    by = f"{nf4.PACKAGE} {_version(nf4.PACKAGE)}"
    when = "from the first" if key == "dtype" else "while adapters are trained"
    return Finding("base", f"maps of the blocks in nf4 by {by}, {when}")


def _cache() -> Finding:
    folder = cache_folder()
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    writable, free = os.access(there, os.W_OK), shutil.disk_usage(there).free
    says = f"{folder}, {_size(free)} free on its disk"
    if not writable:
        says += "; it cannot be written to: set SSIUU_CACHE to a folder that can"
    elif free < ROOM * 1e9:
        says += f"; {ROOM:.0f} GB are wanted: free some, or set SSIUU_CACHE to another disk"
    return Finding("cache", says, not writable or free < ROOM * 1e9)


def _model(recipe: Recipe) -> Finding:
    name = recipe.model or "made here"
    if Path(name).expanduser().is_dir():
        return Finding("model", f"{name}, a folder on this machine")
    if name not in MODELS:
        return Finding("model", name)
    if (cache_folder() / "models" / name / "config.json").exists():
        return Finding("model", f"{name} is in the cache")
    copy = "is installed" if gguf_copy() else f"is not installed: {GGUF_INSTALLED_BY} brings it"
    return Finding("model", f"{name} comes from the hub; its 4-bit copy, if that is silent, {copy}")


def _hub(ask: bool) -> Finding:
    from huggingface_hub import constants

    from ssiuu.hub import silence

    if constants.HF_HUB_OFFLINE:
        return Finding("hub", "not used: HF_HUB_OFFLINE is set, what is in its cache is read")
    if not ask:
        return Finding("hub", "not asked (--hub asks)")
    silent = silence()
    return Finding("hub", silent or f"{constants.ENDPOINT} answers", bool(silent))


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB"
