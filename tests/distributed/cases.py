"""One process of several: unlearns a tiny model in every way, alone and together, and compares.

Every case runs in a single process first, the cases shared out; then by all processes together. The
first one writes how far the two have led apart, by case.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import build_model
from nets.test_golden_steps import REFUSALS, RMU, info_of, rows
from ssiuu.attribution.hidden import blocks
from ssiuu.errors import ConfigError
from ssiuu.methods import make
from ssiuu.models import shards
from ssiuu.models.lora import Lora
from ssiuu.models.place import Placement
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

FORGET, RETAIN, TEXTS = (rows(kind, n) for kind, n in zip("frt", (5, 7, 12), strict=True))
TOLD = "forget_loss retain_loss gradient_norm penalty_share penalty_parameters text_loss".split()
RATE, STEPS = 1e-2, 3
__all__ = ["RMU"]


def model_of(case: dict[str, Any]) -> Any:
    model = build_model(double=case.get("dtype", "float64") == "float64")
    if case.get("tied"):
        model.config.tie_word_embeddings = True
        model.lm_head.weight = model.model.embed_tokens.weight
    if case.get("checkpointing"):
        Placement.of("cpu", checkpointing=True).finished(model)
    return model


def unlearned(case: dict[str, Any], **given: Any) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """Return the parameters that a case leads to, and what its steps told."""
    method, model = make(case["spec"]), model_of(case)
    shards.divide(model, blocks(model))
    lora = Lora(3, 6.0, attribution=case.get("attribution", "adapter")) if case.get("lora") else None
    settings = Settings(RATE, 4, case.get("micro"), STEPS, STEPS, -1.0, 0.0, 0, "fp32", lora)
    settings = Settings(**vars(settings) | case.get("settings", {}))
    record = unlearn_examples(
        *(model, method, info_of(method), FORGET, RETAIN, settings),
        *(StopRule("ranking", lambda: 1.0), 1),
        refusals=REFUSALS[: len(FORGET)],
        texts=TEXTS,
        **given,
    )
    told = [[getattr(log, key) for key in TOLD] + sorted(log.told.items()) for log in record.steps]
    return {name: shards.full(p).clone() for name, p in model.named_parameters()}, told


def apart(found: Any, wanted: Any, start: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of a parameter, as a share of the largest that it has moved."""
    moved = max(float((wanted[0][name] - start[name]).abs().max()) for name in start)
    worst = max(float((found[0][name] - wanted[0][name]).abs().max()) for name in start)
    return worst / moved if moved else worst


def numbers(told: Any) -> list[float]:
    if isinstance(told, list | tuple):
        return [n for each in told for n in numbers(each)]
    return [float(told)] if isinstance(told, int | float) else []


def farthest(found: Any, wanted: Any) -> float:
    """Return the largest difference of what steps told, as a share of what was told."""
    pairs = list(zip(numbers(found[1]), numbers(wanted[1]), strict=True))
    return max((abs(a - b) / max(abs(b), 1e-6) for a, b in pairs), default=0.0)


def compare(out: Path, cases: dict[str, dict[str, Any]], replicate: int = 1) -> int:
    """Be one of the processes, cut over `replicate` copies; the first one writes to `out`."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    alone: dict[str, Any] = {}
    for number, (name, case) in enumerate(cases.items()):
        if number % size == rank:
            try:
                torch.save(unlearned(case), out.with_suffix(f".{number}.pt"))
            except Exception:
                print("ALONE: FAILED IN", name, flush=True)
                raise
    dist.barrier()
    shards.join()
    for number, (name, case) in enumerate(cases.items()):
        start = time.perf_counter()
        shards.arrange("cpu", replicate, divided=case.get("divided", False))
        shards._pieces.clear()  # a divided model of the case before
        try:
            found = unlearned(case)
        except ConfigError as error:
            alone[name] = {"refused": str(error)}
            continue
        except Exception:
            traceback.print_exc()
            print("FAILED IN", name, flush=True)
            raise
        wanted = torch.load(out.with_suffix(f".{number}.pt"), weights_only=False)
        begun = {path: p.detach() for path, p in model_of(case).named_parameters()}
        alone[name] = {"apart": apart(found, wanted, begun), "told": farthest(found, wanted)}
        alone[name]["seconds"] = time.perf_counter() - start
    if rank == 0:
        out.write_text(json.dumps(alone, indent=1))
    shards.end()
    return 0
