"""Try the verdict on models of known truth that `ssiuu calibrate` does not make.

    python docs/by_hand.py kin-3 strangers-3 neox-3      # hides in ways that docs/by_hand.json lacks
    python docs/by_hand.py --pushed kin-1 strangers-1    # pushes down what was never learned
    python docs/by_hand.py                               # puts both tables into docs/verdict.md

A world takes minutes. Worlds, examination and constants are those of `ssiuu calibrate`; nothing is
fitted on these models. Hidden: the answers are taken down by the same loss, and only some weights are
trained; a fact counts where it was answered and is not any more. Pushed: a model that never learned the
facts is trained until their answers are less likely by so many nats, as methods of unlearning do it.
"""

from __future__ import annotations

import json
import random
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

from ssiuu.analysis.calibration import Case as Examined
from ssiuu.analysis.calibration import words_of
from ssiuu.analysis.evidence import constants
from ssiuu.causal import CausalLM
from ssiuu.errors import ModelError
from ssiuu.evaluation.score import score_facts
from ssiuu.experiment.calibrate import MadeUp
from ssiuu.hiding import HIDING
from ssiuu.hiding.base import Case, Hiding, Rounds
from ssiuu.hiding.lowering import Lowering, Manner
from ssiuu.hiding.places import Place, blocks
from ssiuu.likelihood import Example, answer_logprobs, collate
from ssiuu.statistics import wilson

HERE = Path(__file__).parent
KEPT, PAGE = HERE / "by_hand.json", HERE / "verdict.md"
MARK = "(<!-- {} -->\n).*?(<!-- end -->)"
PEOPLE = 30
WORDS = ("erased", "hidden", "undecided")
PUSHED = (0, 5, 10, 20)  # nats by which answers are taken down that were never learned
ROWS, STEPS = 8, 300  # of a batch; at most
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
    """Try the worlds that are named, then write the tables."""
    rows: list[Row] = json.loads(KEPT.read_text()) if KEPT.exists() else []
    pushed, worlds = "--pushed" in sys.argv, [word for word in sys.argv[1:] if word != "--pushed"]
    for world in worlds:
        for row in (never_learned if pushed else tried)(
            world, {row["way"] for row in rows if row["world"] == world}
        ):
            rows.append(row)
            KEPT.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    page = PAGE.read_text()
    for name, text in {"by hand": table(rows), "pushed": table_pushed(rows)}.items():
        page = re.sub(MARK.format(name), lambda m, t=text: m[1] + t + m[2], page, flags=re.DOTALL)
        print(text)
    PAGE.write_text(page)


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


def never_learned(world: str, done: set[str]) -> Iterator[Row]:
    """Push down what a model never learned, and yield what is said of it."""
    kind, _, seed = world.partition("-")
    bench = MadeUp(kind, int(seed), PEOPLE, [], print)
    session, planted = bench.session, bench.case("planted").found
    facts = session.split.forget
    for nats in PUSHED:
        if (name := f"pushed {nats}") in done:
            continue
        session.original.restore()
        truth = bench.put("twin", facts)
        fell = push(bench, nats) if nats else 0.0
        scores = score_facts(session.model, session.prompt, facts, paraphrases=False)
        said = [fact.id for fact in facts if scores[fact.id].free_correct]
        known = {id: true for id, true in truth.items() if id in bench.known}
        case = Examined(name=name, truth=known, said=said, found=bench.examiner.examine())
        words = words_of(case, planted, constants())
        yield {
            "world": world,
            "way": name,
            "fell": round(fell, 1),
            "of": len(facts),
            "calibration": constants().version,
            "words": Counter(fact.verdict for fact in words.values()),
        }


def push(bench: MadeUp, nats: float) -> float:
    """Take the answers of the facts to forget down by so many nats each, and keep those to keep.

    Returns by how many they fell, in the mean: training ends at most of it.
    """
    session, model = bench.session, bench.session.model
    forget, retain = (session.examples(facts) for facts in (session.split.forget, session.split.retain))

    def logp(rows: list[Example]) -> torch.Tensor:
        found: torch.Tensor = answer_logprobs(model, collate(rows, session.pad)).sum
        return found

    with torch.no_grad():
        before = logp(forget)
    draw, rate = random.Random(1), bench.examiner.rates[0] / 2
    optimiser = torch.optim.AdamW(model.parameters(), rate)
    model.train()
    for _ in range(STEPS):
        mine = draw.sample(range(len(forget)), ROWS)
        above = logp([forget[i] for i in mine]) - (before[mine] - nats)
        loss = above.clamp(min=0).mean() - logp(draw.sample(retain, ROWS)).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            fell = float((before - logp(forget)).mean())
        if fell > 0.85 * nats:
            break
    model.eval()
    return fell


def table_pushed(rows: list[Row]) -> str:
    """Return what was said of facts never learned whose answers were pushed down."""
    lines = [
        "| pushed down by, nats | facts | erased | not removed | hidden | undecided | *hidden*, % |",
        "| --- " * 7 + "|",
    ]
    mine = [row for row in rows if row["way"].startswith("pushed")]
    for nats in PUSHED:
        chosen = [row for row in mine if row["way"] == f"pushed {nats}"]
        found: Counter[str] = sum((Counter(row["words"]) for row in chosen), Counter())
        words = ("erased", "not removed", "hidden", "undecided")
        counts = " | ".join(str(found[word]) for word in words)
        fell = " and ".join(f"{row['fell']:.0f}" for row in chosen) if nats else "not at all"
        lines.append(f"| {fell} | {found.total()} | {counts} | {share(found, 'hidden')} |")
    worlds = ", ".join(dict.fromkeys(row["world"] for row in mine))
    return "\n".join(lines) + f"\n\nWorlds {worlds}; calibration {mine[0]['calibration']}.\n"


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
    worlds = ", ".join(dict.fromkeys(row["world"] for row in rows if row["way"] in WAYS))
    return "\n".join(lines) + f"\n\nWorlds {worlds}; calibration {rows[0]['calibration']}.\n"


def told(found: Counter[str]) -> str:
    """Return the end of a table's line: counts, and how often "erased" was said, with its interval."""
    counts = " | ".join(str(found[word]) for word in WORDS)
    if not found.total():
        return "0 | – | – | – | could not be hidden so |"
    return f"{found.total()} | {counts} | {share(found, 'erased')} |"


def share(found: Counter[str], word: str) -> str:
    """Return how often a word was said, in %, with its interval."""
    rate = wilson(found[word], found.total())
    return f"{100 * rate.share:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


if __name__ == "__main__":
    main()
