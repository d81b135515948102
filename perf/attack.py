"""What a sweep of attacks costs: weights put back in memory, or a model loaded for every curve.

    python perf/attack.py --json [--model smollm2-135m] [--curves 3] [--steps 6]

All three ways train the same curves on the same facts, interleaved, and read the same pool: "memory"
puts the weights back, "reload" loads the model again in the same process, "process" starts a process
for every curve, as sweeps by shell script or job queue do. Prints median seconds of a curve each way,
of the weights alone, and ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial

from clock import on_device

from ssiuu.attacks.base import Curve
from ssiuu.attacks.retrain import retrain
from ssiuu.benchmarks import worldfacts
from ssiuu.benchmarks.screening import as_text
from ssiuu.evaluation.scores.ranking import read_by_ranking
from ssiuu.likelihood import Prompt, encode
from ssiuu.models.load import Loaded, load, restore, snapshot
from ssiuu.models.precision import keep_memory, resolve_precision


class Sweep:
    """The facts of one sweep and one of its curves."""

    def __init__(self, loaded: Loaded, steps: int) -> None:
        self.prompt = Prompt(loaded.tokenizer, "qa")
        self.facts = [as_text(fact, 3, 0) for fact in worldfacts.load()[0][:48]]
        self.examples = [encode(self.prompt, f.id, f.question, f.answer, 512) for f in self.facts[:14]]
        self.start = read_by_ranking(loaded.model, self.prompt, self.facts[14:])
        self.reads = (max(1, steps // 2), steps)
        self.precision = resolve_precision("auto", loaded.model.device)

    def curve(self, loaded: Loaded, seed: int) -> None:
        """Attack the model as it is."""
        curve = Curve("harmful_0.3", "harmful", 1e-4, seed=seed, points=self.reads)
        read = partial(read_by_ranking, loaded.model, self.prompt, self.facts[14:])
        retrain(loaded.model, curve, self.examples, self.start, read, 4, self.precision, 0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--curves", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    on_device(parser)
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)  # the seed of one curve
    args = parser.parse_args()
    keep_memory()
    kept = load(args.model, placement=args.device)
    sweep = Sweep(kept, args.steps)
    if args.alone is not None:
        sweep.curve(kept, args.alone)
        return
    weights = snapshot(kept.model)

    def memory() -> Loaded:
        restore(kept.model, weights)
        return kept

    times: defaultdict[str, list[float]] = defaultdict(list)

    def timed(name: str, get: Callable[[], Loaded], seed: int) -> None:
        begin = time.perf_counter()
        loaded = get()
        times[f"{name}_weights"].append(time.perf_counter() - begin)
        sweep.curve(loaded, seed)
        times[f"{name}_curve"].append(time.perf_counter() - begin)

    for seed in range(args.curves):
        timed("memory", memory, seed)
        timed("reload", lambda: load(args.model, placement=args.device), seed)
        alone = ["--model", args.model, "--steps", str(args.steps), "--alone", str(seed)]
        alone += ["--device", str(args.device.device)]
        begin = time.perf_counter()
        subprocess.run([sys.executable, __file__, *alone], check=True)
        times["process_curve"].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in times.items()}
    result: dict[str, object] = {f"{n}_seconds": round(v, 3) for n, v in medians.items()}
    for name in ("reload_weights", "reload_curve", "process_curve"):
        way, what = name.split("_")
        result[f"{way}_over_memory_{what}"] = round(medians[name] / medians[f"memory_{what}"], 2)
    result |= {n: v for n, v in vars(args).items() if n not in ("json", "alone", "device")}
    result["device"] = args.device.described
    print(json.dumps(result | {"precision": sweep.precision}, indent=None if args.json else 1))


if __name__ == "__main__":
    main()
