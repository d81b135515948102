"""What a model larger than any that was run here would take: computed, from what was measured small.

    python perf/plan.py             # the plan of docs/scale.md, of Llama 3's shape at 70B
    python perf/plan.py --write     # into docs/scale.md

Nothing is run. Bytes a parameter are those of `src/ssiuu/experiment/memory.json` (`perf/memory.py`),
messages those of `perf/messages.py`, both of which are counted on small models; how fast links and
disks are is assumed, and stands below.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

from pages import put

from ssiuu.evaluation.tree import PIECE
from ssiuu.experiment.memory import GRADIENT, PROGRAM, activations, measured
from ssiuu.models.size import Size

# Of Llama 3 70B, by its config.json.
WIDTH, INNER, KEYS, WORDS, BLOCKS = 8192, 28672, 1024, 128_256, 80
MAPS = ((WIDTH, WIDTH), (WIDTH, KEYS), (WIDTH, KEYS), (WIDTH, WIDTH), *[(WIDTH, INNER)] * 3)
BLOCK = sum(a * b for a, b in MAPS) + 2 * WIDTH
ROOT = 2 * WORDS * WIDTH + WIDTH  # embedding, output layer and the last norm, which are one group
SIZE = Size(
    *(BLOCKS * BLOCK + ROOT, BLOCKS * sum(a + b for a, b in MAPS), BLOCKS, WIDTH, INNER, WORDS),
    BLOCKS * sum(a * b for a, b in MAPS),
)
RANK, ROWS, TOKENS, ANSWERS = 16, 32, 64, 16  # of adapters; rows of each kind, their tokens, of answers
PROCESSES = (8, 16, 32, 64)
NVLINK, NETWORK, DISK, STORE = 450e9, 50e9, 1e9, 10e9  # bytes a second of a process; of all: the store
FLOPS = 200e12  # a second that an accelerator reaches
AHEAD = 2  # blocks that are whole at once: the one in use, and the next
MADE = {"gd": "gd, npo", "dpo": "dpo", "ssiuu": "ssiuu", "ssiuu, 8 bits": "ssiuu, memory: int8"}
MADE |= {"ssiuu-gate": "ssiuu-gate", "gd+kl": "gd+kl", "npo-sam": "npo-sam", "masked": "masked"}


class Form(NamedTuple):
    """One way of training: bytes a parameter cut over the processes, and of a whole weight."""

    name: str
    cut: float  # bytes in all
    whole: float  # a number


def forms() -> list[Form]:
    """Return the forms, whole weights by what each method holds, then adapters."""
    found = []
    for method, name in MADE.items():
        held = measured(method, "fp32")
        assert held is not None
        found.append(Form(f"{name}; fp32, AdamW", SIZE.parameters * held.peak, GRADIENT["fp32"]))
    plain, penalty = measured("gd", "fp32"), measured("ssiuu", "fp32")
    assert plain is not None and penalty is not None
    for name, held in (("gd", plain), ("ssiuu", penalty)):
        adapters = RANK * SIZE.a_rank * held.peak
        base = GRADIENT["bf16"] * SIZE.parameters
        found.append(Form(f"{name}; adapters, base in bf16", base + adapters, GRADIENT["bf16"]))
    return found


def memory(form: Form, processes: int) -> float:
    """Return the bytes of one process: its part, what is whole meanwhile, activations, the program.

    Whole: the root's group, two blocks, and the gradient of one of these where weights are trained.
    """
    whole = form.whole * (ROOT + AHEAD * BLOCK)
    if form.whole == GRADIENT["fp32"]:
        whole += form.whole * max(ROOT, BLOCK)
    rows = -(-ROWS // processes)
    kind = "fp32" if form.whole == GRADIENT["fp32"] else "bf16"
    kept = activations(SIZE, kind, rows * TOKENS, rows * ANSWERS, recomputed=True)
    return form.cut / processes + whole + kept + PROGRAM


def table() -> str:
    """Return the memory of every form in Markdown."""
    lines = ["| GB a process | " + " | ".join(f"of {n}" for n in PROCESSES) + " |"]
    lines.append("|---" * (len(PROCESSES) + 1) + "|")
    for form in forms():
        cells = [f"{memory(form, n) / 1e9:.0f}" for n in PROCESSES]
        lines.append(f"| {form.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def steps() -> str:
    """Return what a step sends and computes, in Markdown.

    Forget and retain rows are two passes, and each gathers forward and backward; whole weights have
    their gradients summed after each, and once more those of a penalty. Activations are computed again.
    """
    lines = [
        "| a step of 64 rows of 64 tokens | sent by a process | at the link | products |",
        "|---|---|---|---|",
    ]
    for name, processes, link, gathered, cut in (
        ("gd, fp32, 32 processes on four machines", 32, NETWORK, 16.0, 8.0),
        ("ssiuu, the same", 32, NETWORK, 16.0, 12.0),
        ("gd, adapters over bf16, 8 processes on one machine", 8, NVLINK, 8.0, 0.0),
    ):
        sent = (processes - 1) / processes * SIZE.parameters * (gathered + cut)
        products = 8 * SIZE.parameters * 2 * ROWS * TOKENS / processes / FLOPS
        lines.append(f"| {name} | {sent / 1e9:,.0f} GB | {sent / link:.1f} s | {products:.2f} s |")
    return "\n".join(lines) + "\n"


def others() -> str:
    """Return what states, results, loading and reading take, as a list in Markdown."""
    held = {name: measured(name, "fp32") for name in ("gd", "ssiuu")}
    state = {name: SIZE.parameters * (h.between - 4) for name, h in held.items() if h is not None}
    adapters, store = 12 * RANK * SIZE.a_rank, state["gd"] / STORE
    far, near = 31 / 32 * 4 * SIZE.parameters / NETWORK, 7 / 8 * 2 * SIZE.parameters / NVLINK
    half, whole, passes = 2 * SIZE.parameters, 4 * SIZE.parameters, 1e6 / PIECE
    lines = [
        f"A state: gd {state['gd'] / 1e9:,.0f} GB, ssiuu {state['ssiuu'] / 1e9:,.0f} GB, adapters of "
        f"rank {RANK} {adapters / 1e9:.1f} GB. gd's in 32 pieces: {state['gd'] / 32 / DISK:.0f} s at "
        f"1 GB/s each, {store:.0f} s where a store takes 10 GB/s of all together, which every five "
        f"minutes is {100 * store / (300 + store):.0f} % of the time.",
        f"A result, written by the first process: {half / 1e9:.0f} GB in bf16, {half / DISK:.0f} s at "
        f"1 GB/s; {whole / 1e9:.0f} GB in fp32, {whole / DISK:.0f} s.",
        f"Main memory of a machine of 8 processes while they load: {8 * half / 1e12:.2f} TB in bf16, "
        f"{8 * whole / 1e12:.2f} TB in fp32.",
        f"A pass in shards gathers the model once: {far:.1f} s (fp32, 32 processes, network) or "
        f"{near:.2f} s (bf16, 8 processes, NVLink). A million tokens in pieces of {PIECE} are "
        f"{passes:,.0f} passes, {passes * far / 3600:.1f} h or {passes * near / 60:.0f} min; 512 free "
        f"answers of 16 tokens, 64 at once, are 128: {128 * far / 60:.0f} min or {128 * near:.0f} s.",
    ]
    return "".join(f"- {line}\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the plan into docs/scale.md")
    given = parser.parse_args()
    told = f"{table()}\n{steps()}\n{others()}"
    print(
        f"{SIZE.parameters / 1e9:.2f} billion parameters, a block {BLOCK / 1e6:.0f} million\n\n{told}"
    )
    if given.write:
        put(__file__, "scale.md", told)


if __name__ == "__main__":
    main()
