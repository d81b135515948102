"""Facts hidden on purpose: they are no longer answered, others are, and what must stay is untouched.

One small model is taught a few facts for the whole file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from architectures import build_architecture
from conftest import teach
from ssiuu.benchmarks.fictional_twins import TwinConfig, train_tokenizer
from ssiuu.benchmarks.fictional_world import build_world
from ssiuu.errors import DataError
from ssiuu.hiding import HIDING, Subject
from ssiuu.hiding.places import feed_forward_ends
from ssiuu.hiding.replay import Replay
from ssiuu.likelihood import Example, Prompt, answer_logits, collate
from ssiuu.models.load import restore, snapshot
from ssiuu.records.said import Said
from ssiuu.records.schema import FactText

NAMES = 12  # first names of the made-up world, each a token
TOWNS = ["Ulm", "Pau", "Ely", "Ayr", "Lod", "Zug", "Nis", "Bar", "Gap", "Wil", "Tuy", "Rye"]
TRADES = ["baker", "tailor", "plumber", "florist", "jeweller", "shepherd", "translator"]
HIDDEN = 10  # facts
TRAINED = {
    "last-map": {"model.layers.1.mlp.down_proj.weight"},
    "middle-map": {"model.layers.0.mlp.down_proj.weight"},
    "attention": {"model.layers.1.self_attn.o_proj.weight"},
    "refusal": {
        f"model.layers.{layer}.{name}.weight"
        for layer in (0, 1)
        for name in ("self_attn.o_proj", "mlp.down_proj")
    },
    "logits": {"lm_head.weight"},
    "entity": {"model.embed_tokens.weight"},
}
TRAINED["wording"] = TRAINED["refusal"] | {
    f"model.layers.{layer}.{name}_proj.weight"
    for layer in (0, 1)
    for name in ("self_attn.q", "self_attn.k", "self_attn.v", "mlp.gate", "mlp.up")
}


Case = tuple[Subject, list[FactText], list[FactText]]


@pytest.fixture(scope="module")
def case() -> Case:
    """A model taught where people were born and what they do; of the first five all is to be hidden."""
    return taught_case("llama", {"tie_word_embeddings": True})


def taught_case(kind: str, knobs: dict[str, object]) -> Case:
    world = build_world(24)
    tokenizer = train_tokenizer(world, TwinConfig())
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **knobs,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    facts = taught(sorted({str(fact.entity).split()[0] for fact in world.facts})[:NAMES])
    rows = [{"question": q, "answer": f.answer} for f in facts for q in (f.question, *f.paraphrases)]
    teach(model, tokenizer, rows, steps=60, rate=5e-3)
    subject = Subject(model, Prompt(tokenizer, "qa"), pad=0, context=128)
    return subject, facts[:HIDDEN], facts[HIDDEN:]


def taught(names: list[str]) -> list[FactText]:
    """Return two facts of every person, each asked in two ways."""
    made = []
    for n, (name, town) in enumerate(zip(names, TOWNS, strict=True)):
        made.append(fact(name, "born", f"Where was {name} born?", f"What is the town of {name}?", town))
        trade = TRADES[n * 5 % len(TRADES)]
        made.append(fact(name, "work", f"What does {name} do?", f"{name} works as what?", trade))
    return made


def fact(name: str, relation: str, question: str, paraphrase: str, answer: str) -> FactText:
    return FactText(
        id=f"{relation} {name}",
        question=question,
        answer=answer,
        paraphrases=[paraphrase],
        entity=name,
        relation=relation,
    )


@pytest.fixture(autouse=True)
def _as_before(case: Case) -> Iterator[None]:
    weights = snapshot(case[0].model)
    yield
    restore(case[0].model, weights)


@pytest.mark.parametrize("kind", TRAINED)
def test_facts_are_hidden_others_kept_and_the_rest_untouched(kind: str, case: Case) -> None:
    subject, facts, keep = case
    before = snapshot(subject.model)
    hidden = HIDING[kind]().hide(subject, facts, keep)
    assert hidden.share >= 0.8, hidden.left
    assert hidden.kept is not None and hidden.kept >= 0.9
    assert set(hidden.changed) == TRAINED[kind]
    for name, parameter in subject.model.named_parameters():
        assert name in TRAINED[kind] or torch.equal(parameter, before[name]), name
        assert parameter.requires_grad
    assert {*hidden.facts} | {*hidden.left} == {fact.id for fact in facts}
    reworded = [bool(hidden.after[id].paraphrases[0]) for id in hidden.facts]
    assert sum(first == (kind == "wording") for first in reworded) >= 0.6 * len(reworded)
    for id in hidden.facts:
        after = hidden.after[id]
        assert not after.free_correct and not after.correct
        assert after.logprob / after.tokens > -15, "a guess is not told by its value alone"


def test_experts_in_one_tensor_are_trained_whole() -> None:
    subject, facts, keep = taught_case("mixtral", {"num_local_experts": 4})
    hidden = HIDING["last-map"]().hide(subject, facts, keep)
    assert hidden.share >= 0.8, hidden.left
    assert hidden.kept is not None and hidden.kept >= 0.9
    assert hidden.changed == ("model.layers.1.mlp.experts.down_proj",)
    assert "trained whole" in hidden.notes[0]
    assert all(parameter.requires_grad for parameter in subject.model.parameters())


@pytest.mark.parametrize("layout", ["gemma2", "gpt2", "gpt_neox", "opt", "falcon", "qwen2_moe"])
def test_what_is_replayed_is_what_is_computed(
    layout: str, make_examples: Callable[..., list[Example]]
) -> None:
    model = build_architecture(layout)
    batches = [collate(make_examples(4, seed), 0) for seed in (0, 1)]
    plain = [answer_logits(model, batch) for batch in batches]
    place = feed_forward_ends(model, 1)
    assert place.maps and not place.weights
    replay, count = Replay(model, place.below), Counter[str]()
    module = model.get_submodule(place.below[0])
    handle = next(module.children()).register_forward_hook(lambda *_: count.update(["run"]))
    with replay.replaying():
        for _ in range(3):
            found = [answer_logits(model, batch) for batch in batches]
            assert all(map(torch.equal, found, plain))
    assert count["run"] == len(batches), "each batch once"
    answer_logits(model, batches[0])
    assert count["run"] == len(batches) + 1, "and as before afterwards"
    handle.remove()


def test_twice_the_same(case: Case) -> None:
    subject, facts, keep = case
    weights = snapshot(subject.model)
    found = []
    for _ in range(2):
        restore(subject.model, weights)
        hidden = HIDING["last-map"]().hide(subject, facts[:4], keep[:8])
        found.append((hidden.facts, hidden.after, snapshot(subject.model)))
    assert found[0][:2] == found[1][:2]
    assert all(torch.equal(found[0][2][n], p) for n, p in subject.model.named_parameters())


def test_what_is_not_hidden_within_the_steps_is_left_and_said(case: Case) -> None:
    subject, facts, keep = case
    told: list[str] = []
    hidden = HIDING["middle-map"]().hide(subject, facts[:4], keep[:8], told.append, most=2)
    assert hidden.steps == 2 and hidden.left
    assert [text for text in told if not (isinstance(text, Said) and text.minor)] == [hidden.summary]
    for id, why in hidden.left.items():
        assert why.endswith("2 steps were all it had")
        assert facts[[fact.id for fact in facts].index(id)].answer not in why
    assert {*hidden.facts} | {*hidden.left} == {fact.id for fact in facts[:4]}


def test_what_was_not_known_is_said_and_not_counted(
    case: Case,
) -> None:
    subject, facts, keep = case
    wrong = facts[0].model_copy(update={"answer": "Rye"})
    hidden = HIDING["last-map"]().hide(subject, [wrong], keep[:8])
    assert hidden.facts == () and hidden.steps == 0 and hidden.changed == ()
    assert hidden.left == {wrong.id: "it was not answered before"} and hidden.share == 0


def test_bad_input_gets_one_sentence(
    case: Case,
) -> None:
    subject, facts, keep = case
    kind = HIDING["last-map"]()
    with pytest.raises(DataError, match="no facts to hide"):
        kind.hide(subject, [], keep)
    with pytest.raises(DataError, match="comes more than once"):
        kind.hide(subject, facts[:2], facts[1:3])
    with pytest.raises(DataError, match="context holds 8"):
        kind.hide(replace(subject, context=8), facts[:1])
