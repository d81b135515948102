"""A model that stays in shards is asked, looked into, attacked and written as one that is whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from distributed.forked import Forked
from small_llama import small
from ssiuu.attacks.quantise import quantised
from ssiuu.attribution.hidden import blocks, hidden_states
from ssiuu.attribution.integrated import integrated_extremes
from ssiuu.attribution.neuron import batches, extremes
from ssiuu.diagnosis.causal import mean_outputs, restored
from ssiuu.diagnosis.depth import answer_states, drops
from ssiuu.diagnosis.lens import LensReader
from ssiuu.diagnosis.probe import option_directions, prompt_states
from ssiuu.diagnosis.readout import Readout, Target
from ssiuu.errors import DamagedError, ModelError
from ssiuu.evaluation.divergence import Divergences
from ssiuu.evaluation.lineup import lineups
from ssiuu.evaluation.margins import Reader
from ssiuu.evaluation.sample import sample_answers
from ssiuu.evaluation.score import score_facts
from ssiuu.evaluation.sequence import score_sequences
from ssiuu.evaluation.tree import Tree
from ssiuu.experiment.memory import divides, of_replicas
from ssiuu.experiment.recipe import Recipe
from ssiuu.likelihood import Example, Prompt, encode
from ssiuu.models import shards
from ssiuu.models.load import load, load_checkpoint_weights, load_weights, save, save_weights
from ssiuu.models.original import Original
from ssiuu.models.sites import find_sites
from ssiuu.models.size import Size
from ssiuu.models.weights import restore, round_to, snapshot
from ssiuu.records.schema import FactText

NAMES = "Ada Bo Cy Di Ed Flo".split()
CITIES = "Rome Oslo Bonn Lima Cairo Delhi".split()
FACTS = [
    FactText(id=name, question=f"Where does {name} live?", answer=city, options=[city, *rest])
    for n, (name, city) in enumerate(zip(NAMES, CITIES, strict=True))
    for rest in [CITIES[n + 1 :] + CITIES[:n]]
]
TEXTS = [f"{name} lives in {city}, and has for long." for name, city in zip(NAMES, CITIES, strict=True)]


def looked_at(model: Any, prompt: Prompt) -> dict[str, Any]:
    """Return what everything that asks a model or looks into it finds."""
    rows = [encode(prompt, fact.id, fact.question, fact.answer, 1024) for fact in FACTS]
    found: dict[str, Any] = {}
    made = lineups(FACTS, model=model, prompt=prompt)
    found["lineups"] = [lineup.answers for lineup in made]
    found["margins"] = Reader(model, prompt, made[:2]).read().logprobs
    found["facts"] = [s.model_dump() for s in score_facts(model, prompt, FACTS[:3]).values()]
    found["samples"] = sample_answers(model, prompt, rows[:3], 2, 4, 0)
    found["sequences"] = [s.logprob for s in score_sequences(model, rows, moments=True)]
    pairs = [(fact.question, fact.answer) for fact in FACTS]
    moved = Divergences(model, prompt, TEXTS, pairs, "1")
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if n.endswith("0.mlp.up_proj.weight")).mul_(0.5)
    found["divergence"] = moved.measure(model).model_dump()
    sites = find_sites(model)
    lens = LensReader(model, prompt, FACTS)
    found["neurons"] = [e.highest for e in extremes(model, sites, rows, 0, watch=lens)]
    found["lens"] = lens.wins
    found["integrated"] = [e.lowest for e in integrated_extremes(model, sites, rows[:2], 0, 2)]
    with torch.no_grad():  # a pass that stops on its way, and one after it
        found["hidden"] = [hidden_states(model, batch, 0) for batch in batches(model, rows, 0)]
    found["states"] = prompt_states(model, prompt, FACTS, 0)
    found["means"] = [*mean_outputs(model, sites, rows, 0).values()]
    found["drops"] = drops(model, rows, answer_states(model, rows, 0), 0)
    found["directions"] = option_directions(model, prompt, FACTS[0])
    ids = [row.prompt + row.answer for row in rows]
    target = Target.of(model, ids)
    with Readout.fit(model, ids, target).beside(model), torch.no_grad():
        found["read out"] = [read_beside(model, row) for row in rows]
    before = {name: torch.ones_like(shards.full(p)) for name, p in model.named_parameters()}
    with restored(model, {sites[0]: torch.tensor([1, 3])}, before):
        found["restored"] = [s.logprob for s in score_sequences(model, rows)]
    return found


def read_beside(model: Any, row: Example) -> Tensor:
    """Return log p of an answer's tokens by what stands beside a model's own predictions."""
    tree = Tree(model)
    path = tree.add(row.prompt, row.answer)
    tree.read()
    return tree.beside[0][tree.rows(path.predictors), row.answer].clone()


def weights(model: Any) -> dict[str, Tensor]:
    return {name: shards.full(p).clone() for name, p in model.named_parameters()}


def changed(model: Any, original: Original, place: Path) -> dict[str, Any]:
    """Return what becomes of weights on every way; they are the original's at the end."""
    found: dict[str, Any] = {"now": weights(model), "distance": original.distance()}
    kept = snapshot(model)
    for name in quantised(model, ["int8", "int4", "nf4"]):
        found[name] = weights(model)
    restore(model, kept)
    found["restored"] = weights(model)
    save_weights(model, place / "x.safetensors")
    round_to(model, "bfloat16")
    found["rounded"] = weights(model)
    with original.in_place():
        found["original"] = original.distance()
    load_weights(model, place / "x.safetensors")
    found["loaded"] = weights(model)
    original.restore()
    assert original.distance() == 0
    load_checkpoint_weights(model, place / "other", tokenizer=None)
    found["checkpoint"] = weights(model)
    original.restore()
    return found


def close(one: Any, other: Any, where: str = "", exact: bool = False) -> Iterator[str]:
    """Yield where two findings are further apart than the sums of one process and of several."""
    if isinstance(one, Tensor):
        bound = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-4, "atol": 1e-5}
        if not torch.allclose(one, other, **bound, equal_nan=True):
            yield f"{where} {float((one - other).abs().max())}"
    elif isinstance(one, dict):
        for key in one:
            yield from close(one[key], other[key], f"{where} {key}", exact)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for n, pair in enumerate(zip(one, other, strict=True)):
            yield from close(*pair, f"{where} {n}", exact)
    elif isinstance(one, float):
        yield from close(torch.tensor(one), torch.tensor(other), where, exact)
    elif one != other:
        yield f"{where} {one} {other}"


@contextmanager
def a_block_at_a_time(model: Any) -> Iterator[list[int]]:
    """Count passes of blocks, and see that no other one is whole meanwhile."""
    passed: list[int] = []
    listed = list(blocks(model))

    def see(module: Any, inputs: Any, output: Any) -> None:
        passed.append(1)
        others = [p for block in listed if block is not module for p in block.parameters()]
        assert others and all(isinstance(p, DTensor) for p in others)

    handles = [block.register_forward_hook(see) for block in listed]
    yield passed
    for handle in handles:
        handle.remove()


def together(place: Path) -> int:
    """Look at a model as one of several processes, whole and then in shards."""
    shards.join()
    shards.arrange("cpu", divided=True)
    loaded = load(str(place / "model"))
    model, original = loaded.model, Original(loaded)
    prompt = Prompt(loaded.tokenizer, "qa")
    dealt = looked_at(model, prompt)
    with shards._by_itself():
        loaded = load(str(place / "model"))
        model, original = loaded.model, Original(loaded)
        whole = looked_at(model, prompt), changed(model, original, place)
    assert not [*close(dealt, whole[0], exact=True)]
    loaded = load(str(place / "model"))
    model, original = loaded.model, Original(loaded)
    shards.divide(model, blocks(model))
    original.divided()
    assert shards.is_cut(model)
    assert sum(shards.local(p).numel() for p in model.parameters()) < 0.7 * loaded.info.parameters
    with a_block_at_a_time(model) as passed:
        cut = looked_at(model, prompt), changed(model, original, place)
    assert len(passed) > 100
    found = [*close(whole, cut)]
    assert not found, found
    save(model, loaded.tokenizer, place / "saved")
    again = load(str(place / "saved")).model
    assert all(map(torch.equal, weights(model).values(), weights(again).values()))
    assert type(again).__name__ == "LlamaForCausalLM"
    if shards.rank() == 0:
        content = (place / "x.safetensors").read_bytes()
        (place / "x.safetensors").write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    shards.all_sum(0.0)
    with pytest.raises(DamagedError):
        load_weights(model, place / "x.safetensors")
    model.config.tie_word_embeddings = False
    with pytest.raises(ModelError, match=r"mesh\.reading"):
        load_checkpoint_weights(model, place / "untied", tokenizer=None)
    shards.end()
    return 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, another one, and one whose embedding is not tied."""
    folder = tmp_path_factory.mktemp("divided")
    model, tokenizer = small([f"{fact.question} {fact.answer}" for fact in FACTS] + TEXTS)
    save(model, tokenizer, folder / "model")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    save(model, tokenizer, folder / "other")
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1)
    save(model, tokenizer, folder / "untied")
    return folder


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_model_in_shards_is_read_as_one_that_is_whole(place: Path, processes: int) -> None:
    begun = Forked(place, processes, partial(together, place))
    assert begun.done() == 0, begun.told()[-3000:] + begun.told(1)[-3000:]


def test_what_a_replica_takes() -> None:
    """By hand: weights, an eighth of what is trained, and the logits of what is read at once."""
    recipe = Recipe.model_validate({"benchmark": "own", "methods": ["gd"], "device": "cpu"})
    size = Size(8_000_000_000, 1, 32, 4096, 14336, 128_256, 7_000_000_000)
    need = of_replicas(recipe, size, 8)
    assert 32e9 + 8e9 * 16 / 8 < need < 32e9 + 8e9 * 18 / 8 + 2e9
    assert of_replicas(recipe, size, 1) > 8e9 * 20
    assert not divides(recipe)  # a single process has it whole whatever is said
