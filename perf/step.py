"""What a step costs: GD and the forms of Ssiuu, interleaved in one process.

    python perf/step.py --json [--model smollm2-135m] [--rounds 7] [--rows 8] [--tokens 64]
        [--micro-batches 1] [--kinds gd ssiuu_gate] [--device cuda]

naive: forget and retain in two passes, a separate forward and backward for P, its gradient kept
whole; two_passes: GD in two passes, while the others run forget and retain as one batch, unless a
step has several micro-batches of `rows` (the field's default is 32 rows in four parts). Every kind
takes a step in turn. Prints the median seconds (`clock.py`), the median ratio to the GD step of the
same turn, and the bytes a parameter that a form keeps between two steps.
"""

from __future__ import annotations

import argparse
import json
import statistics

import torch
from clock import now, on_device

from ssiuu.benchmarks import worldfacts
from ssiuu.likelihood import Batch, Example, Prompt, answer_logprobs, collate
from ssiuu.methods import Method, make
from ssiuu.methods.directions import random_bases
from ssiuu.models.load import load
from ssiuu.models.precision import keep_memory, resolve_precision
from ssiuu.training.prepare import Prepared
from ssiuu.training.step import Step

KINDS = {
    "gd": "gd",
    "ssiuu_logprob": "ssiuu-logprob",
    "ssiuu_probability": "ssiuu",
    "ssiuu_gate": "ssiuu-gate",
    "projection": "gd+projection",
    "ssiuu_projection": "ssiuu+projection",
    "two_passes": "gd",
    "naive": "ssiuu",
}


class NaiveStep(Step):
    """Takes the gradient of P by a forward and backward of its own, before the step's."""

    def __init__(self, *args, **given):  # type: ignore[no-untyped-def]
        super().__init__(*args, **given)
        self.shaping.weigh = self._weigh

    def _weigh(self, second, batch, view, loss):  # type: ignore[no-untyped-def]
        again = answer_logprobs(self.model, next(self.left))
        second.scale = None
        second.add(torch.autograd.grad(again.sum.exp().sum(), list(self.named.values())))

    def __call__(self, forget, retain):  # type: ignore[no-untyped-def]
        self.left = iter(forget)
        return super().__call__(forget, retain)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--micro-batches", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", action="store_true")
    on_device(parser)
    args = parser.parse_args()
    keep_memory()
    loaded = load(args.model, placement=args.device)
    model, device = loaded.model, args.device.device
    forget, retain = (
        [
            _batch(loaded.tokenizer, args.rows, args.tokens, 2 * part + side).to(device)
            for part in range(args.micro_batches)
        ]
        for side in (0, 1)
    )
    kinds = {name: make(KINDS[name]) for name in dict.fromkeys(["gd", *args.kinds])}
    precision = resolve_precision("auto", device)
    steps = {
        name: (NaiveStep if name == "naive" else Step)(
            model,
            method,
            1e-12,
            precision,
            _prepared(model, method),
            together=name not in ("naive", "two_passes"),
        )
        for name, method in kinds.items()
    }
    for step in steps.values():  # one set of moments: no kind's memory is colder than another's
        step.optimizer = steps["gd"].optimizer
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(args.rounds + 2):  # the first allocates, the second stores A_{t-1}
        for name, step in steps.items():
            start = now(device)
            step(forget, retain)
            if turn > 1:
                times[name].append(now(device) - start)
    kept = {name: _bytes(step) for name, step in steps.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    result: dict[str, object] = {f"{n}_seconds": round(v, 4) for n, v in medians.items()}
    for name in kinds:
        if name != "gd":
            ratios = [a / b for a, b in zip(times[name], times["gd"], strict=True)]
            result[f"{name}_over_gd"] = round(statistics.median(ratios), 3)
    result["extra_bytes_per_parameter"] = {n: round(b, 3) for n, b in kept.items()}
    result |= vars(args) | {"precision": precision, "threads": torch.get_num_threads()}
    del result["json"], result["kinds"]
    result["device"] = args.device.described
    print(json.dumps(result, indent=None if args.json else 1))


def _prepared(model: object, method: Method) -> Prepared | None:
    """Return directions to project out; which ones they are costs nothing."""
    kept = [part for part in method.transforms if part.name == "projection"]
    return Prepared(parts={p.name: random_bases(model, p.projection, None) for p in kept})


def _bytes(step: Step) -> float:
    """Return the bytes a parameter that the parts of a method keep between steps."""
    stored = [value for bound in step.bounds.values() for value in bound.state().values()]
    total = sum(p.numel() for p in step.named.values())
    return sum(t.numel() * t.element_size() for t in stored) / total


def _batch(tokenizer: object, rows: int, tokens: int, turn: int) -> Batch:
    """Return rows of one length: a fact's answer after its question and as many others as fit."""
    prompt = Prompt(tokenizer, "qa")
    facts = worldfacts.load()[0]
    before = [t for f in facts[:20] for t in prompt.question(f.question) + prompt.answer(f.answer)]
    made = []
    for fact in facts[20 + turn * rows : 20 + (turn + 1) * rows]:
        answer = prompt.answer(fact.answer)
        text = before + prompt.question(fact.question)
        made.append(Example(fact.id, text[len(answer) - tokens :], answer))
    return collate(made, 0)


if __name__ == "__main__":
    main()
