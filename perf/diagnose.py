"""What attribution costs: the passes of `extremes` against plain ones over the same rows.

    python perf/diagnose.py --json [--model smollm2-135m] [--facts 32] [--rounds 3]

plain: forward and backward of the same batches with the gradients of all parameters, as in training;
frozen: without them. All kinds are interleaved in one process; prints medians in seconds, ratios, and
the memory that a diagnosis of so many facts takes at its peak, in MB (compare two runs).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable

import torch

from ssiuu.attribution.integrated import integrated_extremes
from ssiuu.attribution.neuron import batches, extremes, frozen
from ssiuu.benchmarks import worldfacts
from ssiuu.diagnosis.influence import Baseline, influence
from ssiuu.likelihood import Prompt, answer_logprobs, encode
from ssiuu.models.load import load
from ssiuu.models.precision import keep_memory
from ssiuu.models.sites import find_sites


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--facts", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--integrated", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    keep_memory()
    loaded = load(args.model)
    model, pad = loaded.model, 0
    prompt = Prompt(loaded.tokenizer, "qa")
    facts = worldfacts.load()[0][: args.facts]
    rows = [encode(prompt, f.id, f.question, f.answer, 2048) for f in facts]
    sites = find_sites(model)

    def passes() -> None:
        for batch in batches(model, rows, pad):
            answer_logprobs(model, batch).sum.sum().backward()
        model.zero_grad()

    def activations() -> None:
        start = model.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: output.requires_grad_(True)
        )
        with frozen(model):
            passes()
        start.remove()

    def attribution() -> None:
        for _ in extremes(model, sites, rows, pad):
            pass

    result: dict[str, object] = {}
    begin = time.perf_counter()
    before = Baseline.of(extremes(model, sites, rows, pad))
    middle = time.perf_counter()
    influence(before, extremes(model, sites, rows, pad), sites)
    end = time.perf_counter()
    result["attribution_of_one_model_seconds"] = round(middle - begin, 2)
    result["influence_seconds"] = round(end - middle, 2)
    result["diagnosis_peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    kinds: dict[str, Callable[[], None]] = {
        "plain": passes,
        "frozen": activations,
        "attribution": attribution,
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(args.rounds + 1):  # the first warms up
        for name, kind in kinds.items():
            start = time.perf_counter()
            kind()
            if turn:
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    result |= {f"{name}_seconds": round(value, 3) for name, value in medians.items()}
    result["attribution_over_plain"] = round(medians["attribution"] / medians["plain"], 3)
    result["attribution_over_frozen"] = round(medians["attribution"] / medians["frozen"], 3)
    if args.integrated:
        start = time.perf_counter()
        gaps = torch.cat([batch.gap for batch in integrated_extremes(model, sites, rows, pad)])
        result["integrated_seconds"] = round(time.perf_counter() - start, 1)
        result["integrated_gap"] = round(float(gaps.mean()), 4)
    result |= {"model": args.model, "facts": args.facts, "neurons": sum(s.width for s in sites)}
    result["threads"] = torch.get_num_threads()
    print(json.dumps(result, indent=None if args.json else 1))


if __name__ == "__main__":
    main()
