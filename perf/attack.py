"""What a sweep of attacks costs: weights put back in memory beside a model loaded for every curve.

    python perf/attack.py --json [--model smollm2-135m] [--curves 3] [--steps 6]

Both train the same curves on the same facts, interleaved, and read the same pool. Prints median seconds
of a curve each way, of the weights alone, and their ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

from ssiuu.attacks.retrain import retrain
from ssiuu.benchmarks import worldfacts
from ssiuu.benchmarks.screening import as_text
from ssiuu.evaluation.score import read_facts
from ssiuu.likelihood import Prompt, encode
from ssiuu.models.load import Loaded, load, restore, snapshot
from ssiuu.models.precision import keep_memory


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--curves", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    keep_memory()
    kept = load(args.model)
    weights = snapshot(kept.model)
    prompt = Prompt(kept.tokenizer, "qa")
    facts = [as_text(fact, 3, 0) for fact in worldfacts.load()[0][:48]]
    examples = [encode(prompt, f.id, f.question, f.answer, 512) for f in facts[:14]]
    start = read_facts(kept.model, prompt, facts[14:])

    def memory() -> Loaded:
        restore(kept.model, weights)
        return kept

    def fresh() -> Loaded:
        return load(args.model)

    times: dict[str, list[float]] = {}

    def curve(name: str, get: Callable[[], Loaded], seed: int) -> None:
        begin = time.perf_counter()
        model = get().model
        ready = time.perf_counter()
        reads = [max(1, args.steps // 2), args.steps]
        settings = (1e-4, reads, 4, seed, "fp32", 0)
        retrain(model, prompt, "harmful_0.3", "harmful", examples, facts[14:], start, *settings)
        times.setdefault(f"{name}_weights", []).append(ready - begin)
        times.setdefault(f"{name}_curve", []).append(time.perf_counter() - begin)

    for seed in range(args.curves):
        curve("memory", memory, seed)
        curve("reload", fresh, seed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    result: dict[str, object] = {f"{n}_seconds": round(v, 3) for n, v in medians.items()}
    for what in ("weights", "curve"):
        ratio = medians[f"reload_{what}"] / medians[f"memory_{what}"]
        result[f"reload_over_memory_{what}"] = round(ratio, 2)
    result |= {name: value for name, value in vars(args).items() if name != "json"}
    print(json.dumps(result, indent=None if args.json else 1))


if __name__ == "__main__":
    main()
