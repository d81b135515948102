"""What methods hold: bytes a parameter, at the peak of a run and between two of its steps.

    python perf/memory.py [--methods gd ssiuu] [--forms fp32 bf16 lora nf4] [--width 768] [--layers 4]
    python perf/memory.py --write      # into src/ssiuu/experiment/memory.json and docs/memory.md

A run of two steps is taken on a random Llama of so many parameters, with few tokens, so that
activations are little beside it. Every storage that torch makes is counted from when it is made to
when it is freed, to the byte; what an operation takes inside of it, and Python, are not. Forms: `fp32`,
all weights by AdamW; `bf16`, all weights in bf16 by adamw8bit; `lora`, adapters of rank 16 beside
weights in bf16, bytes for each of these; `nf4`, the same while maps are held in 4 bits.
"""

from __future__ import annotations

import argparse
import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import LlamaConfig, LlamaForCausalLM

from ssiuu.likelihood import Example
from ssiuu.methods import make, regulariser
from ssiuu.models.lora import Lora
from ssiuu.records.schema import MethodInfo
from ssiuu.training import blockwise
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

ROOT = Path(__file__).parents[1]
TABLE, PAGE = ROOT / "src/ssiuu/experiment/memory.json", ROOT / "docs/memory.md"
FORMS = ("fp32", "bf16")  # of the table
BESIDE = ("lora", "nf4")  # adapters beside the weights
WIDTH, LAYERS = 768, 4  # 25 million parameters
WORDS, PAD, STEPS, ROWS, TOKENS = 512, 1, 2, 2, 4
RMU = {"layer": 1, "update": [r"\.[01]\.mlp\.down_proj\.weight$"]}
CIR = {"layers": [0, 1], "input_directions": 4, "output_directions": 5, "loss_limit": None}
KEYS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("rmu", "rmu-mcu"), RMU),
    **dict.fromkeys(("cir", "mcu"), CIR),
    "repselect": {"most": 2, "kl_limit": 10.0},
    "repselect-steps": {"collect": 1},
    "pdu": {"dual_warmup": 0},
    "ssiuu, 8 bits": {"memory": "int8"},
    "gd+layered": {"folds": 2},
}
# Every method that stands by itself, and gd with what may be added to it.
METHODS = (
    *("gd", "ga", "dpo", "npo", "simnpo", "undial", "wga", "satimp", "pdu", "klue", "rmu"),
    *("ceu", "jensun", "idknll", "altpo", "masked", "npo-sam", "fdcu", "task-vector", "collapse"),
    *("repselect", "repselect-steps", "cir", "mcu", "rmu-mcu"),
    *("ssiuu", "ssiuu, 8 bits", "ssiuu-logprob", "ssiuu-neuron", "ssiuu-gate", "ssiuu-exact"),
    *("gd+projection", "gd+outputs", "gd+kl", "gd+texts", "gd+mask", "gd+apart", "gd+gu", "gd+rosu"),
    *("gd+fisher", "gd+pull", "gd+layered", "gd+undo"),
)


class Storages(TorchDispatchMode):
    """Counts the bytes of every storage that an operation makes, until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.count(made)
        return made

    def count(self, tree: Any) -> None:
        """Count what these tensors stand on, once each."""
        for each in tree_iter(tree):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                if storage.filename is not None or storage.device.type == "meta":
                    continue  # pages of a file, which the system writes out at need; no memory
                key = storage._cdata
                if key not in self.live:
                    self.live[key] = storage.nbytes()
                    self.now += self.live[key]
                    weakref.finalize(storage, self._freed, key)
        self.peak = max(self.peak, self.now)

    def _freed(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)


def model_of(
    width: int, layers: int, kind: torch.dtype = torch.float32, words: int = WORDS, **other: Any
) -> Any:
    """Return a random Llama with tied embeddings, whose maps are as wide as those of real ones.

    `other`: what its configuration has in place of that.
    """
    torch.manual_seed(0)
    shape = {
        "intermediate_size": width * 8 // 3,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        pad_token_id=PAD,
        **(shape | other),
    )
    return LlamaForCausalLM(config).to(kind).eval()


def rows(kind: str, count: int, tokens: int, words: int = WORDS) -> list[Example]:
    """Return rows of so many tokens, half of them an answer."""
    drawn = torch.Generator().manual_seed(len(kind))
    ids = torch.randint(3, words, (count, tokens), generator=drawn).tolist()
    half = tokens // 2
    return [Example(f"{kind} {n}", row[:half], row[half:]) for n, row in enumerate(ids)]


def measured(
    name: str, form: str, width: int, layers: int, count: int = ROWS, tokens: int = TOKENS, **sizes: Any
) -> dict[str, float]:
    """Return the bytes a parameter of one method in one form: at the peak, and between two steps.

    Raises:
        SsiuuError: The method does not go in this form.
    """
    kind = torch.float32 if form == "fp32" else torch.bfloat16
    model = model_of(width, layers, kind, **sizes)
    words = model.config.vocab_size
    method = make({"name": name.partition(",")[0], **KEYS.get(name, {})})
    forget, retain, texts = (rows(k, count, tokens, words) for k in ("f", "retain", "texts"))
    refusals = [Example(e.id, e.prompt, e.answer[::-1]) for e in forget]
    parameters = sum(p.numel() for p in model.parameters())
    settings = Settings(
        *(1e-3, count, None, STEPS, 1, 0.0, 0.0, 0, "fp32"),
        lora=Lora(16, 16.0, base="nf4" if form == "nf4" else None) if form in BESIDE else None,
        optimiser=method.optimiser or ("adamw8bit" if form == "bf16" else "adamw"),
    )
    kept: list[int] = []
    with counted(model) as storages, small_chunks():

        def between() -> float:
            kept.append(storages.now)
            return 1.0

        unlearn_examples(
            *(model, method, MethodInfo(label=name, name=method.name, origin="ours", description="")),
            *(forget, retain, settings, StopRule("ranking", between), PAD),
            **{"refusals": refusals, "texts": texts},
        )
    return {"peak": storages.peak / parameters, "between": kept[-1] / parameters}


@contextmanager
def counted(model: Any) -> Iterator[Storages]:
    """Count from here on, the model's own weights and buffers among it."""
    storages = Storages()
    storages.count([*model.parameters(), *model.buffers()])
    with storages:
        yield storages


@contextmanager
def small_chunks() -> Iterator[None]:
    """Let temporaries of a chunk be as small beside the model as they are beside a real one."""
    before = regulariser.CHUNK, blockwise.CHUNK
    regulariser.CHUNK = blockwise.CHUNK = 1 << 14
    try:
        yield
    finally:
        regulariser.CHUNK, blockwise.CHUNK = before


def shown(table: dict[str, Any]) -> None:
    """Put the table into its page, between the heads of its columns and the next blank line."""
    before, head, rest = PAGE.read_text().partition("|---|---|---|---|---|\n")
    lines = []
    for name, forms in table.items():
        cells = [name]
        for form in ("fp32", "bf16"):
            entry = forms[form]
            cells += [f"{entry[k]:.1f}" for k in ("peak", "between")] if entry else ["", ""]
        lines.append(f"| {' | '.join(cells)} |\n")
    PAGE.write_text(before + head + "".join(lines) + "\n" + rest.partition("\n\n")[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=[*METHODS])
    parser.add_argument("--forms", nargs="+", default=[*FORMS], choices=(*FORMS, *BESIDE))
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--write", action="store_true", help=f"into {TABLE.name}")
    given = parser.parse_args()
    table: dict[str, dict[str, Any]] = {}
    for name in given.methods:
        table[name] = {}
        for form in given.forms:
            try:
                found = measured(name, form, given.width, given.layers)
            except Exception as error:  # which forms a method goes in is part of the table
                table[name][form] = None
                print(f"{name:24s} {form:5s} {type(error).__name__}: {str(error)[:150]}", flush=True)
                continue
            table[name][form] = {key: round(value, 2) for key, value in found.items()}
            said = f"{found['peak']:6.2f} at the peak, {found['between']:6.2f} between"
            print(f"{name:24s} {form:5s} {said}", flush=True)
    if given.write:
        whole = json.loads(TABLE.read_text()) if TABLE.exists() else {}
        TABLE.write_text(json.dumps({**whole, **table}, indent=1) + "\n")
        shown(json.loads(TABLE.read_text()))


if __name__ == "__main__":
    main()
