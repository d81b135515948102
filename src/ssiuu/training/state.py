"""The state of unfinished training: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ssiuu.models.load import write_tensors
from ssiuu.training.step import Step

SAVE_EVERY = 300.0  # seconds between two saved states of a long run


def save_state(path: Path, step: Step, progress: dict[str, Any]) -> None:
    """Save parameters, optimiser moments, the regulariser's memory and the log so far.

    Raises:
        OutputError: No disk space, or the folder cannot be written to.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in step.named.items():
        tensors[f"p.{name}"] = parameter.detach()
        moments = step.optimizer.state.get(parameter, {})
        tensors |= {f"{key}.{name}": value for key, value in moments.items()}
    if step.regulariser:
        tensors |= {f"a.{name}": value for name, value in step.regulariser.reference.items()}
    tensors |= {f"r.{name}": value for name, value in step.running.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, path, {"progress": json.dumps(progress)})


@torch.no_grad()
def load_state(path: Path, step: Step, key: str) -> dict[str, Any] | None:
    """Restore a state saved under the same key; None if there is none that fits."""
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as stored:
        progress: dict[str, Any] = json.loads(stored.metadata()["progress"])
        if progress["key"] != key:
            return None
        names = set(stored.keys())
        for name, parameter in step.named.items():
            parameter.copy_(stored.get_tensor(f"p.{name}"))
            for moment in ("step", "exp_avg", "exp_avg_sq"):
                if f"{moment}.{name}" in names:
                    value = stored.get_tensor(f"{moment}.{name}")
                    step.optimizer.state[parameter][moment] = value.to(parameter.device)
            if step.regulariser and f"a.{name}" in names:
                step.regulariser.reference[name] = stored.get_tensor(f"a.{name}").to(parameter.device)
            if f"r.{name}" in names:
                step.running[name] = stored.get_tensor(f"r.{name}").to(parameter.device)
    return progress
