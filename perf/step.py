"""What a step costs: GD, Ssiuu on log P, Ssiuu on P, and a naive Ssiuu, interleaved in one process.

    python perf/step.py --json [--model smollm2-135m] [--rounds 5]

naive: a separate forward and backward for P instead of a second backward through the kept graph.
Prints medians in seconds and their ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from ssiuu.benchmarks import worldfacts
from ssiuu.likelihood import Batch, Prompt, answer_logprobs, collate, encode
from ssiuu.methods import make
from ssiuu.models.load import load
from ssiuu.models.precision import keep_memory, resolve
from ssiuu.training.step import Step


class NaiveStep(Step):
    """Takes the gradient of P by a forward and backward of its own."""

    def _add_probability_gradient(self, logprobs, gradients):  # type: ignore[no-untyped-def]
        again = answer_logprobs(self.model, self.batch)
        return super()._add_probability_gradient(again, gradients)

    def __call__(self, forget, retain):  # type: ignore[no-untyped-def]
        self.batch = forget[0]
        return super().__call__(forget, retain)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    keep_memory()
    loaded = load(args.model)
    forget, retain = _batches(loaded.tokenizer, args.rows)
    precision = resolve("auto", torch.device("cpu"))
    kinds = {
        "gd": (Step, make("gd")),
        "ssiuu_logprob": (Step, make({"name": "ssiuu", "target": "logprob"})),
        "ssiuu_probability": (Step, make("ssiuu")),
        "naive": (NaiveStep, make("ssiuu")),
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(args.rounds):
        for name, (kind, method) in kinds.items():
            step = kind(loaded.model, method, 1e-12, precision)
            for turn in range(3):  # the first allocates, the second stores A_{t-1}
                start = time.perf_counter()
                step([forget], [retain])
                if turn == 2:
                    times[name].append(time.perf_counter() - start)
            del step
    medians = {name: statistics.median(values) for name, values in times.items()}
    result: dict[str, float | str] = {f"{n}_seconds": round(v, 4) for n, v in medians.items()}
    for name in ("ssiuu_logprob", "ssiuu_probability", "naive"):
        result[f"{name}_over_gd"] = round(medians[name] / medians["gd"], 3)
    result |= {"rounds": args.rounds, "rows": args.rows, "precision": precision}
    print(json.dumps(result, indent=None if args.json else 1))


def _batches(tokenizer: object, rows: int) -> tuple[Batch, Batch]:
    prompt = Prompt(tokenizer, "qa")
    facts = worldfacts.load()[0]
    examples = [encode(prompt, f.id, f.question, f.answer, 8192) for f in facts[: 2 * rows]]
    return collate(examples[:rows], 0), collate(examples[rows:], 0)


if __name__ == "__main__":
    main()
