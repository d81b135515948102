"""Messages of a step of several processes: which, how many, and how many bytes for each parameter.

    python perf/messages.py                  # two processes on gloo, seconds each
    python perf/messages.py --write          # into docs/scale.md

Every operation of torch that goes to other processes is counted, on a random Llama in fp32: what runs
of six steps send beyond those of three, by the step. The same for two and for four blocks, so that it
is seen what goes with their number. Bytes are those of the whole that is gathered, or is summed; a
process of N sends and receives (N - 1) / N of them by rings.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from pages import put  # noqa: E402

from distributed import cases  # noqa: E402
from distributed.forked import Forked  # noqa: E402
from ssiuu.models import shards  # noqa: E402

GATHERED, CUT, SMALL, OTHER = "gathered", "summed and cut", "small sums", "other"
# Of torch's operations, by a part of their name.
KINDS = {"allgather": GATHERED, "all_gather": GATHERED, "reduce_scatter": CUT, "allreduce": SMALL}
KINDS |= {"all_reduce": SMALL, "broadcast": OTHER, "barrier": OTHER, "gather": OTHER, "scatter": OTHER}
FORMS: Mapping[str, Any] = {
    "gd": {"spec": "gd"},
    "npo": {"spec": "npo"},
    "gd, micro-batches of 1": {"spec": "gd", "micro": 1},
    "gd, activations recomputed": {"spec": "gd", "checkpointing": True},
    "gd, adapters": {"spec": "gd", "lora": True},
    "ssiuu": {"spec": "ssiuu"},
    "ssiuu-gate": {"spec": "ssiuu-gate"},
    "npo+kl": {"spec": "npo+kl"},
    "dpo": {"spec": "dpo"},
    "gd+projection": {"spec": "gd+projection"},
    "gd+projection+outputs": {"spec": "gd+projection+outputs"},
    "npo-sam": {"spec": "npo-sam"},
}


class Messages(TorchDispatchMode):
    """Counts what goes to other processes, and the bytes of the whole of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.bytes = Counter[str](), Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            name = func._schema.name.partition("::")[2]
            kind = next((kind for part, kind in KINDS.items() if part in name), None)
            if kind is not None:
                self.calls[kind] += 1
                made = func(*args, **(kwargs or {}))
                tensors = [t for t in tree_iter((args, made)) if isinstance(t, Tensor)]
                self.bytes[kind] += max((t.numel() * t.element_size() for t in tensors), default=0)
                return made
        return func(*args, **(kwargs or {}))


def llama(blocks: int) -> LlamaForCausalLM:
    """Return a random Llama in fp32 of so many blocks."""
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config).eval()


def run(out: Path) -> int:
    """Be one of the processes: every form, with two and four blocks, three and six steps."""
    found: dict[str, Any] = {}
    shards.join()
    shards.arrange("cpu")
    for name, case in FORMS.items():
        for blocks in (2, 4):
            parameters = sum(p.numel() for p in llama(blocks).parameters())
            totals, start = list[Messages](), partial(_built, blocks, case)
            for steps in (3, 6):
                built = patch.multiple(cases, STEPS=steps, model_of=start)
                with built, Messages() as messages:
                    cases.unlearned(case)
                totals.append(messages)
            few, many = totals
            found[f"{name}|{blocks}"] = {
                "calls": {k: (many.calls[k] - few.calls[k]) / 3 for k in many.calls},
                "bytes": {k: (many.bytes[k] - few.bytes[k]) / 3 / parameters for k in many.bytes},
            }
    if shards.rank() == 0:
        out.write_text(json.dumps(found))
    shards.end()
    return 0


def _built(blocks: int, case: Mapping[str, Any], _: Any) -> LlamaForCausalLM:
    model = llama(blocks)
    if case.get("checkpointing"):
        cases.Placement.of("cpu", checkpointing=True).finished(model)
    return model


def table(found: Mapping[str, Any]) -> str:
    """Return the counts in Markdown."""
    lines = [
        "| a step | gathered, 2 / 4 blocks | bytes a parameter | summed and cut | bytes a parameter | "
        "small sums | other |",
        "|---" * 7 + "|",
    ]
    for name in FORMS:
        two, four = (found[f"{name}|{blocks}"] for blocks in (2, 4))
        cells = [name]
        for kind in (GATHERED, CUT, SMALL, OTHER):
            cells.append(" / ".join(f"{each['calls'].get(kind, 0):g}" for each in (two, four)))
            if kind in (GATHERED, CUT):
                cells.append(f"{four['bytes'].get(kind, 0):.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the table into docs/scale.md")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        begun = Forked(Path(folder), given.processes, partial(run, out))
        if begun.done(1200):
            sys.exit(begun.told()[-3000:])
        told = table(json.loads(out.read_text()))
    print(told)
    if given.write:
        put(__file__, "scale.md", told)


if __name__ == "__main__":
    main()
