"""What adapters beside weights in 4 bits hold: before the first step, in training, and while saved.

    python perf/qlora.py [--form coded] [--width 1024] [--layers 10]   # a random Llama, measured
    python perf/qlora.py --plan                   # Llama 3's shape at 8B, computed

Forms: `coded` (`dtype: nf4`, never in full), `nf4` (`dtype: bf16` with `unlearn.lora.base: nf4`, in 4
bits while it is trained) and `bf16` (`dtype: bf16`). Each is one process, which loads the model from
its files, asks it facts, trains adapters for some steps with activations computed again, asks again and
saves the merged weights. Of each part the peak of two counts, in bytes and bytes a parameter: of the
storages that torch makes (as in `perf/memory.py`), and of what the process holds of its own beyond the
program (RssAnon of /proc, looked at every two milliseconds; files that are mapped are in neither). Last
the kernel's own peak (VmHWM), with program and files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from large import facts, prompt_of
from memory import PAD, Storages, model_of, rows

from ssiuu.evaluation.scores.ranking import Ranking
from ssiuu.evaluation.tree import NODES, READ
from ssiuu.experiment.memory import NF4, PROGRAM, need
from ssiuu.methods import make
from ssiuu.models import nf4
from ssiuu.models.load import load, save
from ssiuu.models.lora import Lora
from ssiuu.models.place import Placement
from ssiuu.models.precision import keep_memory, release_memory
from ssiuu.models.size import Size
from ssiuu.records.schema import MethodInfo, Split
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

FORMS = ("coded", "nf4", "bf16")
RANK, ROWS, TOKENS = 16, 2, 32  # of each kind
# Of Llama 3 8B, by its config.json: width, keys, inner, words, blocks.
SHAPE = (4096, 1024, 14336, 128_256, 32)


def made(folder: Path, width: int, layers: int, words: int) -> None:
    """Write a random Llama in bf16, most of whose parameters are in maps, as they are of 8B."""
    other = {
        "intermediate_size": width * 7 // 2,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
    }
    model = model_of(width, layers, torch.bfloat16, words, **other)
    save(model, prompt_of().tokenizer, folder, dtype="bfloat16")


def held(key: str) -> int:
    """Return the bytes that the kernel counts under a key of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


class Peak:
    """The most that the process holds of its own, from `begin` to `end`."""

    def __init__(self) -> None:
        self.program, self.most, self.ends = held("RssAnon"), 0, False

    def of(self, work: Callable[[], Any]) -> tuple[Any, int]:
        """Return what work comes to, and the most beyond the program meanwhile."""
        self.most, self.ends = 0, False
        watcher = threading.Thread(target=self._watch)
        watcher.start()
        try:
            found = work()
        finally:
            self.ends = True
            watcher.join()
        return found, self.most - self.program

    def _watch(self) -> None:
        while not self.ends:
            self.most = max(self.most, held("RssAnon"))
            time.sleep(0.002)


def measured(form: str, source: Path, out: Path, steps: int) -> dict[str, Any]:
    """Take all parts of one form in this process."""
    if form == "coded" or form == "nf4":
        nf4.package()  # its import is the program's
    import peft  # noqa: F401

    peak, storages = Peak(), Storages()
    told: dict[str, Any] = {}

    def part(name: str, work: Callable[[], Any]) -> Any:
        start, storages.peak = time.process_time(), storages.now
        with storages:
            found, most = peak.of(work)
        seconds = round(time.process_time() - start, 1)
        told[name] = {"storages": storages.peak, "process": most, "processor_seconds": seconds}
        return found

    dtype: Any = "nf4" if form == "coded" else "bf16"
    placement = Placement.of("cpu", dtype, checkpointing=True, offload="disk")
    loaded = part("loading", lambda: load(str(source), placement=placement))
    model, prompt = loaded.model, prompt_of()
    sets = {name: facts(name, 2) for name in ("forget", "retain", "heldout")}
    split = Split(seed=0, asked=0, known=0, **sets)
    part("asking", lambda: Ranking().evaluate(model, prompt, split))
    method = make("gd")
    settings = Settings(
        *(1e-5, ROWS, None, steps, steps, 0.0, 0.0, 0, "fp32"),
        lora=Lora(RANK, 16.0, base=None if form == "bf16" else "nf4"),
    )
    info = MethodInfo(label=method.label, name=method.name, origin="ours", description="")
    words = model.config.vocab_size
    forget, retain = (rows(kind, ROWS, TOKENS, words) for kind in ("forget", "retain"))
    part(
        "training and merging",
        lambda: unlearn_examples(
            model, method, info, forget, retain, settings, StopRule("none", lambda: 1.0), PAD
        ),
    )
    part("asking again", lambda: Ranking().evaluate(model, prompt, split))
    part(
        "saving",
        lambda: save(model, loaded.tokenizer, out, dtype="bfloat16", source=loaded.source),
    )
    count = loaded.info.parameters
    for each in told.values():
        each["a_parameter"] = [round(each[key] / count, 2) for key in ("storages", "process")]
    return {"form": form, "parameters": count, **told, "VmHWM": held("VmHWM")}


def planned() -> str:
    """Return what 8B takes by the same arithmetic as `ssiuu check`."""
    width, keys, inner, words, blocks = SHAPE
    maps = [(width, width), (width, keys), (width, keys), (width, width), *[(width, inner)] * 3]
    in_maps, sides = (
        blocks * sum(f(a, b) for a, b in maps) for f in (lambda a, b: a * b, lambda a, b: a + b)
    )
    total = in_maps + 2 * words * width + (2 * blocks + 1) * width
    size = Size(total, sides, blocks, width, inner, words, in_maps)
    base = 2.0 * (total - in_maps) + NF4 * in_maps
    told = {
        "parameters": total,
        "the base": base,
        "reading, with the logits of a tree": base + READ * NODES * words,
    }
    for recomputed in (False, True):
        rows, how = (32, ", activations computed again") if recomputed else (4, "")
        told[f"training, {rows} rows of 64 tokens{how}"] = need(
            *(make("gd"), size, "bf16", rows * 64, rows * 16),
            rank=RANK,
            recomputed=recomputed,
            nf4=True,
            coded=True,
        )
    told["the program"] = PROGRAM
    return "".join(f"{name}: {value / 1e9:.2f} billion\n" for name, value in told.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--form", nargs="+", default=[*FORMS], choices=FORMS)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--words", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--plan", action="store_true", help="compute what 8B takes; run nothing")
    parser.add_argument(
        "--of", type=Path, help=argparse.SUPPRESS
    )  # the model, of the process of a form
    given = parser.parse_args()
    if given.plan:
        print(planned(), end="")
        return
    if given.of is not None:
        keep_memory()
        with tempfile.TemporaryDirectory() as place:
            made(Path(place) / "tiny", 64, 2, 300)  # what is imported on the way is the program's
            measured(given.form[0], Path(place) / "tiny", Path(place) / "first", given.steps)
            release_memory()
            told = measured(given.form[0], given.of, Path(place) / "out", given.steps)
        print(json.dumps(told))
        return
    folder = Path(tempfile.mkdtemp())
    try:
        made(folder / "model", given.width, given.layers, given.words)
        for form in given.form:
            command = [sys.executable, __file__, "--form", form, "--of", str(folder / "model")]
            done = subprocess.run(
                [*command, "--steps", str(given.steps)], stdout=subprocess.PIPE, check=True, text=True
            )
            print(json.dumps(json.loads(done.stdout), indent=1), flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
