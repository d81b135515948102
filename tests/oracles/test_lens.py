"""The logit lens against its definition: one fact, one layer and one product with the head at a time.

pytest tests/oracles/test_lens.py
"""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from architectures import LAYOUTS, build_architecture
from ssiuu.attribution.neuron import extremes
from ssiuu.diagnosis.lens import LensReader
from ssiuu.likelihood import Prompt, encode
from ssiuu.models.sites import final_norm, find_sites
from ssiuu.records.schema import FactText, Lens


def some_facts(count: int) -> list[FactText]:
    """Return facts with answers of one to three words and two wrong options each."""
    rng = random.Random("lens")

    def words(low: int, high: int) -> str:
        return " ".join(f"w{rng.randrange(64)}" for _ in range(rng.randint(low, high)))

    facts = []
    for i in range(count):
        options = [words(1, 3) for _ in range(3)]
        fact = FactText(
            id=f"fact {i}", question=words(1, 7), answer=options[0], paraphrases=[], options=options
        )
        facts.append(fact)
    return facts


def read(model: Any, prompt: Prompt, facts: list[FactText], pad: int = 1) -> Lens | None:
    """Read the lens off the passes that attribution takes."""
    reader = LensReader(model, prompt, facts)
    examples = [encode(prompt, f.id, f.question, f.answer, 64) for f in facts]
    for _ in extremes(model, find_sites(model), examples, pad, reader):
        pass
    return reader.lens()


@torch.no_grad()
def slow(model: Any, prompt: Prompt, fact: FactText) -> list[bool]:
    """Run the prompt alone; the first wrong option that begins otherwise is the rival."""
    right, *wrong = [prompt.answer(option)[0] for option in fact.options]
    rival = next(token for token in wrong if token != right)
    ids = torch.tensor([prompt.question(fact.question)])
    states = model(input_ids=ids, output_hidden_states=True).hidden_states
    norm, head = final_norm(model), model.get_output_embeddings()
    wins = []
    for layer, state in enumerate(states):
        last = state[0, -1]
        logits = head(last if layer == len(states) - 1 else norm(last))
        wins.append(bool(logits[right] > logits[rival]))
    return wins


@pytest.mark.parametrize("layout", ["llama", *LAYOUTS])
def test_equals_the_definition(layout: str, make_model: Any, tokenizer: Any) -> None:
    model = make_model(3) if layout == "llama" else build_architecture(layout)
    prompt, facts = Prompt(tokenizer), some_facts(40)
    found = read(model, prompt, facts)
    if final_norm(model) is None:
        assert found is None
        return
    wanted = torch.tensor([slow(model, prompt, fact) for fact in facts]).double()
    assert found is not None and found.facts == 40
    assert found.accuracy == pytest.approx(wanted.mean(0).tolist(), abs=1e-9)
    assert len(set(found.accuracy)) > 1  # layers differ, so a shift by one would be seen


def test_the_last_layer_is_the_models_own_choice(make_model: Any, tokenizer: Any) -> None:
    model, prompt, facts = make_model(0), Prompt(tokenizer), some_facts(30)
    chosen = []
    for fact in facts:
        right, *wrong = [prompt.answer(option)[0] for option in fact.options]
        rival = next(token for token in wrong if token != right)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt.question(fact.question)])).logits[0, -1]
        chosen.append(bool(logits[right] > logits[rival]))
    found = read(model, prompt, facts)
    assert found is not None
    assert found.accuracy[-1] == pytest.approx(sum(chosen) / len(chosen))


def test_the_passes_give_the_same_attributions(make_model: Any, make_examples: Any) -> None:
    model, examples = make_model(0), make_examples(20)
    seen: list[int] = []
    plain = extremes(model, find_sites(model), examples, 1)
    watch = SimpleNamespace(look=lambda batch, states: len(states), take=seen.append)
    watched = extremes(model, find_sites(model), examples, 1, watch)
    for one, other in zip(plain, watched, strict=True):
        assert torch.equal(one.highest, other.highest) and torch.equal(one.lowest, other.lowest)
    assert seen == [3, 3]  # embeddings and two blocks, for each of two batches
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_facts_that_cannot_be_compared_are_left_out(make_model: Any, tokenizer: Any) -> None:
    prompt, facts = Prompt(tokenizer), some_facts(3)
    alike = facts[0].model_copy(update={"options": ["w1 w2", "w1 w3"], "answer": "w1 w2"})
    unranked = facts[1].model_copy(update={"options": []})
    found = read(make_model(0), prompt, [alike, unranked, facts[2]])
    assert found is not None and found.facts == 1
    assert read(make_model(0), prompt, [alike, unranked]) is None
