"""Try the verdict on ways of hiding that `ssiuu.hiding` does not have.

    python docs/by_hand.py kin-3 strangers-3 neox-3   # tries what docs/by_hand.json lacks
    python docs/by_hand.py                            # puts its table into docs/verdict.md

A world takes minutes. Worlds, examination and constants are those of `ssiuu calibrate`; nothing is
fitted on these worlds or ways. In each the answers are taken down by the same loss, and only some
weights are trained. A fact counts where it was answered and is not any more.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssiuu.analysis.calibration import words_of
from ssiuu.analysis.evidence import constants
from ssiuu.causal import CausalLM
from ssiuu.errors import ModelError
from ssiuu.experiment.calibrate import MadeUp
from ssiuu.hiding import HIDING
from ssiuu.hiding.base import Case, Hiding, Rounds
from ssiuu.hiding.lowering import Lowering, Manner
from ssiuu.hiding.places import Place, blocks
from ssiuu.statistics import wilson

HERE = Path(__file__).parent
KEPT, PAGE = HERE / "by_hand.json", HERE / "verdict.md"
MARK = re.compile(r"(<!-- by hand -->\n).*?(<!-- end -->)", re.DOTALL)
PEOPLE = 30
WORDS = ("erased", "hidden", "undecided")
Row = dict[str, Any]


@dataclass(frozen=True)
class Scaled(Place):
    """What each of these maps reads is scaled, input by input, and nothing else is trained."""

    @contextmanager
    def opened(self, model: CausalLM, rank: int, seed: int) -> Iterator[float]:
        """Let only the scales be trained; they become part of the maps on leaving."""
        model.requires_grad_(False)
        maps = [model.get_submodule(path) for path in self.maps]
        for module in maps:
            module.register_parameter("scale", nn.Parameter(torch.ones(module.in_features)))
        hooks = [m.register_forward_pre_hook(lambda m, given: (given[0] * m.scale,)) for m in maps]
        try:
            yield 1.0
        finally:
            for hook, module in zip(hooks, maps, strict=True):
                hook.remove()
                with torch.no_grad():
                    module.weight.mul_(module.scale)
                del module.scale
            model.requires_grad_(True)


def named(pattern: str) -> Callable[[CausalLM], Place]:
    """Return what trains the parameters whose names match, whole."""

    def place(model: CausalLM) -> Place:
        found = tuple(name for name, _ in model.named_parameters() if re.search(pattern, name))
        if not found:
            raise ModelError(f"{type(model).__name__} has no such weights.")
        return Place((), found, ())

    return place


def scaled(pattern: str) -> Callable[[CausalLM], Place]:
    """Return what scales the inputs of the maps whose paths match."""

    def place(model: CausalLM) -> Place:
        return Scaled(
            tuple(path for path, _ in model.named_modules() if re.search(pattern, path)), (), ()
        )

    return place


def bias(model: CausalLM) -> Place:
    """Return the bias with which the middle block's feed-forward layer ends: a constant, steering."""
    listed = blocks(model)
    return named(re.escape(listed[(len(listed) - 1) // 2]) + r".*(down_proj|4h_to_h)\.bias")(model)


# By name: what is trained, in words, and by code; and how many times as fast as a map is.
WAYS: dict[str, tuple[str, Callable[[CausalLM], Place], float]] = {
    "norms": ("the norms alone", named(r"norm"), 100.0),
    "final norm": (
        "the norm before the output layer",
        named(r"^(model\.norm|.*final_layer_norm)"),
        100.0,
    ),
    "queries": (
        "maps that compute q and k (q, k and v at once)",
        named(r"(q_proj|k_proj|query_key)"),
        10.0,
    ),
    "first map": (
        "the maps that begin the first feed-forward layer",
        named(r"layers\.0\..*(gate|up_proj|dense_h)"),
        10.0,
    ),
    "output": (
        "the output layer, where it is not the input embedding",
        named(r"(lm_head|embed_out)"),
        10.0,
    ),
    "embedding": (
        "the input embedding, with the output layer where that is the same",
        named(r"embed_(tokens|in)\b"),
        10.0,
    ),
    "neurons": (
        "a scale for every neuron of the feed-forward layers",
        scaled(r"(down_proj|dense_4h_to_h)$"),
        5.0,
    ),
    "heads": (
        "a scale for every column of attention's output maps",
        scaled(r"(o_proj|attention\.dense)$"),
        5.0,
    ),
    "bias": ("a bias in the middle feed-forward layer (of models with one)", bias, 50.0),
}


def main() -> None:
    """Try the worlds that are named, then write the table."""
    rows: list[Row] = json.loads(KEPT.read_text()) if KEPT.exists() else []
    for world in sys.argv[1:]:
        for row in tried(world, {row["way"] for row in rows if row["world"] == world}):
            rows.append(row)
            KEPT.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    text = table(rows)
    PAGE.write_text(MARK.sub(lambda m: m[1] + text + m[2], PAGE.read_text()))
    print(text)


def tried(world: str, done: set[str]) -> Iterator[Row]:
    """Hide the facts of a world in every way that is not done, and yield what is said of them."""
    kind, _, seed = world.partition("-")
    bench = MadeUp(kind, int(seed), PEOPLE, [], print)
    planted = bench.case("planted").found
    for name in WAYS:
        if name in done:
            continue
        HIDING[name] = way(name)
        case = bench.case(name)
        words = words_of(case, planted, constants())
        yield {
            "world": world,
            "way": name,
            "of": len(bench.session.split.forget),
            "calibration": constants().version,
            "words": Counter(fact.verdict for fact in words.values()),
        }


def way(name: str) -> type[Hiding]:
    """Return a way of hiding as `ssiuu.hiding` has them."""
    words, place, speed = WAYS[name]

    class ByHand(Hiding):
        summary = words

        def change(self, case: Case) -> Rounds:
            manner = Manner(rate=5e-3 * speed, highest=2e-2 * speed)
            return Lowering(case, place(case.subject.model), manner).rounds()

    ByHand.name = name
    return ByHand


def table(rows: list[Row]) -> str:
    """Return what was said of the facts hidden in each way, over worlds, and of all."""
    lines = [
        "| what was trained | facts | " + " | ".join(WORDS) + " | *erased*, % |",
        "| --- " * 6 + "|",
    ]
    total: Counter[str] = Counter()
    for name, (words, _, _) in WAYS.items():
        found: Counter[str] = sum(
            (Counter(row["words"]) for row in rows if row["way"] == name), Counter()
        )
        total += found
        lines.append(f"| {words} | {told(found)}")
    lines.append(f"| all of them | {told(total)}")
    worlds = ", ".join(dict.fromkeys(row["world"] for row in rows))
    return "\n".join(lines) + f"\n\nWorlds {worlds}; calibration {rows[0]['calibration']}.\n"


def told(found: Counter[str]) -> str:
    """Return the end of a table's line: counts, and how often "erased" was said, with its interval."""
    counts = " | ".join(str(found[word]) for word in WORDS)
    if not found.total():
        return "0 | – | – | – | could not be hidden so |"
    rate = wilson(found["erased"], found.total())
    share = f"{100 * rate.share:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
    return f"{found.total()} | {counts} | {share} |"


if __name__ == "__main__":
    main()
