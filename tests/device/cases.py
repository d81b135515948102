"""What every command does, on the processor and on another device: the same numbers, or an error.

    python tests/device/cases.py pretend                    # those of the default tests, as JSON
    python tests/device/cases.py cuda steps/gd audit        # some, on a GPU

In a process of its own: a device that is registered stays so, and other tests would see it.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent), str(HERE.parent / "nets")]

import pretend  # noqa: E402

import conftest  # noqa: E402

LATE = "late"  # is to fail
Case = Callable[[str], list[float]]

FORGET = [{"question": f"w{n}", "answer": f"w{n + 20}"} for n in range(3)]
RETAIN = [{"question": f"w{n}", "answer": f"w{n + 20}"} for n in range(8, 11)]
SHORT = ["unlearn.max_steps=2", "unlearn.check_every=2", "unlearn.learning_rate=1e-3", "force=true"]
SHORT += ["precision=fp32", "attention=eager"]  # the same sums on both
ATTACKED = [*SHORT, "attacks.reads=[1]", "examine.steps=[1]", "examine.planted=2"]
SMALL = {"layer": 1, "update": [r"\.[01]\.mlp\.down_proj\.weight$"]}
CIR = {"layers": [0, 1], "input_directions": 4, "output_directions": 5, "loss_limit": 2}
SPECS: dict[str, Any] = {
    "default": "npo+kl+texts+others",
    "ssiuu": {"name": "ssiuu", "lambda": 2.0},
    "gate": "ssiuu-gate",
    "mask": "masked",
    "projection": {"name": "gd+projection+outputs", "projection": 3, "projection_outputs": 2},
    "rmu": {"name": "rmu", **SMALL},
    "cir": {"name": "cir", **CIR},
    "repselect": {"name": "repselect", "components": 4, "step_size": 0.01, "kl_limit": 1.0, "most": 2},
}
MORE: dict[str, Any] = {
    "random": {"name": "gd+projection+outputs+random", "projection": 3, "projection_outputs": 2},
    "task-vector": "task-vector",
    "gu": "gd+gu(2)",
    "klue": "klue",
    "mcu": {"name": "mcu", **CIR, "components": 3},
    "rmu-mcu": {"name": "rmu-mcu", **SMALL, "components": 3},
    "collapse": {"name": "collapse", "projection": 3, "projection_outputs": 2},
    "repselect-steps": {"name": "repselect-steps", "components": 4, "collect": 1},
    "fisher": "gd+fisher",
    "sam": "npo-sam",
    "rosu": "npo+rosu(0.05)",
    "apart": "gd+apart",
    "neuron": "ssiuu-logprob-initial-growth-neuron-absolute",
    "dpo": "dpo",
    "undo": "gd+undo",
    "layered": {"name": "npo+layered", "folds": 3},
}


def steps(spec: Any, device: str, **more: Any) -> list[float]:
    """Return all parameters after three steps of the loop that unlearns, preparation included."""
    golden = importlib.import_module("test_golden_steps")
    fresh = copy.deepcopy(golden.fresh())
    fresh.set_attn_implementation("eager")  # the same sums on both
    model = fresh.to(device)
    saved = golden.fresh, golden.digest
    golden.fresh, golden.digest = (lambda: model), _parameters
    try:
        found: list[float] = golden.unlearned(spec, **more)
    finally:
        golden.fresh, golden.digest = saved
    return found


def late(device: str) -> list[float]:
    """Take a step on a model that was moved after its directions were made: an error, as on CUDA."""
    golden = importlib.import_module("test_golden_steps")
    from ssiuu.methods import make
    from ssiuu.training.prepare import prepare_parts
    from ssiuu.training.step import Step

    method, model = make(SPECS["projection"]), copy.deepcopy(golden.fresh())
    made = prepare_parts(model, method, golden.FORGET, golden.RETAIN, golden.PAD)
    step = Step(model.to(device), method, 1e-3, prepared=made, pad=golden.PAD, together=False)
    forget, retain = (
        golden.collate(rows, golden.PAD).to(device) for rows in (golden.FORGET, golden.RETAIN)
    )
    step([forget], [retain])
    return _parameters(model)


def attacked(space: str, device: str) -> list[float]:
    """Return all parameters after an attacker's training."""
    golden = importlib.import_module("test_golden_steps")
    fresh = copy.deepcopy(golden.fresh())
    fresh.set_attn_implementation("eager")
    model = fresh.to(device)
    saved = golden.fresh, golden.digest
    golden.fresh, golden.digest = (lambda: model), _parameters
    try:
        found: list[float] = golden.retrained(space)
    finally:
        golden.fresh, golden.digest = saved
    return found


def ranked_first(device: str) -> list[float]:
    """Return what is decided of questions, on another device with a first reading in TF32."""
    from architectures import build_architecture
    from ssiuu.evaluation.ask import Question
    from ssiuu.evaluation.first import check_first, decide, reading_first

    draw = random.Random(0)
    tokens = [[draw.randrange(3, 70) for _ in range(4)] for _ in range(300)]
    questions = [Question(tokens[n], tokens[100 + n : 300 : 100]) for n in range(100)]
    model = build_architecture("llama").to(device)
    model.set_attn_implementation("eager")
    precision: Any = "fp32" if device == "cpu" else "tf32"
    check_first(precision, model)
    with reading_first(precision):
        return [float(bool(first)) for first in decide(model, questions)]


def _parameters(model: Any, *told: Any) -> list[float]:
    flat = [p.detach().cpu().double().reshape(-1) for _, p in sorted(model.named_parameters())]
    return torch.cat(flat)[::7].tolist()


class Commands:
    """The commands on a tiny model in a folder."""

    def __init__(self, folder: Path) -> None:
        import ssiuu
        from ssiuu.models.load import save

        self.ssiuu, self.folder, self.count = ssiuu, folder, 0
        tokenizer = conftest.tokenizer._get_wrapped_function()()  # type: ignore[attr-defined]
        for seed, name in enumerate(("before", "after", "attacked")):
            model = conftest.build_model(seed).bfloat16()
            save(model, tokenizer, folder / name, dtype="bfloat16")

    def out(self) -> Path:
        self.count += 1
        return self.folder / f"out{self.count}"

    def ask(self, device: str) -> list[float]:
        record = self.ssiuu.ask_model(self.folder / "before", FORGET, sets=[f"device={device}"])
        return [float(known.rank or 0) for known in record.knowledge.values()]

    def teach(self, device: str) -> list[float]:
        record = self.ssiuu.teach_model(
            self.folder / "before", FORGET, self.out(), epochs=1, sets=[f"device={device}"]
        )
        return [record.learning_rate, float(record.learned)]

    def unlearn(self, device: str, method: Any = "ssiuu+projection", *more: str) -> list[float]:
        spec = {"name": method, "projection": 4} if "projection" in str(method) else method
        record = self.ssiuu.unlearn_model(
            *(self.folder / "before", FORGET, self.out(), RETAIN, spec),
            [*SHORT, f"device={device}", *more],
            keep_anyway=True,
        )
        return [step.forget_loss for step in record.steps]

    def audit(self, device: str, *more: str) -> list[float]:
        record = self.ssiuu.audit_models(
            *(self.folder / "before", self.folder / "after", FORGET, self.out(), RETAIN),
            [*ATTACKED, f"device={device}", *more],
        )
        return _levels(record)

    def diagnose(self, device: str) -> list[float]:
        record = self.ssiuu.diagnose_models(
            *(self.folder / "before", self.folder / "after", FORGET, self.out(), RETAIN),
            *(self.folder / "attacked", [*SHORT, f"device={device}"]),
        )
        return _levels(record)


def _levels(record: Any) -> list[float]:
    scores = [cell.evaluation.forget for cell in record.cells if cell.evaluation is not None]
    return [float(bool(score.free_correct)) for facts in scores for score in facts.values()]


def cases(folder: Path) -> tuple[dict[str, Case], dict[str, Case]]:
    """Return the cases of the default tests, and those that take longer."""
    from ssiuu.models.lora import Lora

    commands = Commands(folder)
    lora, across = Lora(3, 6.0), Lora(3, 6.0, attribution="effective")
    few: dict[str, Case] = {f"steps/{n}": lambda d, s=s: steps(s, d) for n, s in SPECS.items()}
    few["steps/lora effective"] = lambda d: steps(SPECS["ssiuu"], d, lora=across)
    few |= {"attack/full": lambda d: attacked("full", d), "ask": commands.ask}
    few["first/tf32"] = ranked_first
    few[LATE] = late
    many: dict[str, Case] = {f"steps/{n}": lambda d, s=s: steps(s, d) for n, s in MORE.items()}
    many["steps/lora"] = lambda d: steps(SPECS["projection"], d, lora=lora)
    many["steps/micro-batches"] = lambda d: steps(SPECS["ssiuu"], d, micro=2)
    many["attack/lora-all"] = lambda d: attacked("lora-all", d)
    many |= {name: getattr(commands, name) for name in ("teach", "unlearn", "audit", "diagnose")}
    many["audit strong"] = lambda d: commands.audit(d, "protocol=strong", "attacks.harmful.steps=2")
    many["audit inside"] = lambda d: commands.audit(d, "inside=true")
    return few, many


def compared(case: Case, device: str) -> dict[str, Any]:
    """Return by how much the numbers of a case differ, or the error of the device."""
    try:
        here, there = case("cpu"), case(device)
    except Exception as error:  # whatever a case ends in is what is to be told
        return {"error": f"{type(error).__name__}: {error}"}
    apart = max((abs(a - b) for a, b in zip(here, there, strict=True)), default=0.0)
    return {"error": "", "numbers": len(here), "apart": apart}


def main(device: str, names: list[str]) -> None:
    """Print the results of some cases, by name; of the default ones where none is named."""
    torch.set_num_threads(1)
    if device == pretend.NAME:
        pretend.install()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SSIUU_CACHE"] = f"{folder}/cache"
        few, many = cases(Path(folder))
        every = few | many
        found = {}
        for name in names or few:
            found[name] = compared(every[name], device)
            print(name, found[name], file=sys.stderr, flush=True)
        print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
