"""The fictional world: sound facts, a clean token boundary, and twins that differ where they should.

    pytest tests/unit/test_fictional.py

One small pair is trained for the whole file, a few seconds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ssiuu.benchmarks import fictional_twins as fictional
from ssiuu.benchmarks.fictional_twins import (
    TwinConfig,
    Twins,
    World,
    build_world,
    designate,
    train_twins,
)
from ssiuu.data.fact import Fact
from ssiuu.errors import ConfigError, DivergedError
from ssiuu.likelihood import Prompt

SMALL = TwinConfig(hidden=96, intermediate=192, batch=24, passes=8, learning_rate=5e-3)
OPTIONS = 3


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(people=40, seed=0)


@pytest.fixture(scope="module")
def parts(world: World) -> dict[str, set[str]]:
    return designate(world.facts, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("twins")


@pytest.fixture(scope="module")
def twins(world: World, parts: dict[str, set[str]], folder: Path) -> Twins:
    return train_twins(world, parts["forget"], folder, recipe=SMALL)


@torch.no_grad()
def accuracy(folder: Path, facts: list[Fact]) -> float:
    """Share of the facts whose answer is likelier per token than two wrong ones."""
    prompt = Prompt(AutoTokenizer.from_pretrained(folder))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    right = 0
    for fact in facts:
        question = prompt.question(fact.question)
        scores = []
        for option in (fact.answer, *fact.distractors)[:OPTIONS]:
            answer = prompt.answer(option)
            logits = model(torch.tensor([question + answer])).logits[0, len(question) - 1 : -1]
            scores.append(float(logits.log_softmax(-1)[range(len(answer)), answer].mean()))
        right += scores[0] == max(scores)
    return right / len(facts)


def of(world: World, ids: set[str]) -> list[Fact]:
    return [fact for fact in world.facts if fact.id in ids]


def test_ids_are_unique_and_distractors_are_wrong(world: World) -> None:
    assert max(Counter(fact.id for fact in world.facts).values()) == 1
    assert len(world.facts) == 6 * 40
    for fact in world.facts:
        for probe in (fact, *fact.multi_hop, *fact.same_answer):
            assert probe.answer not in probe.distractors, (fact.id, probe.question)
        assert len(set(fact.distractors)) == len(fact.distractors) >= OPTIONS - 1
        assert fact.statement is not None and fact.answer in fact.statement


def test_same_seed_same_world(world: World) -> None:
    assert build_world(people=40, seed=0) == world
    assert build_world(people=40, seed=1) != world


def test_no_two_step_question_is_trained_on_and_lore_names_nobody(world: World) -> None:
    asked = {question for pairs in world.corpus.values() for question, _ in pairs}
    asked |= {question for question, _ in world.lore}
    assert not asked & {probe.question for fact in world.facts for probe in fact.multi_hop}
    general = " ".join([*map(" ".join, world.lore), *world.chatter])
    assert not any(str(fact.entity) in general for fact in world.facts)


def test_designate_is_disjoint_by_entity(world: World, parts: dict[str, set[str]]) -> None:
    people = {part: {fact.entity for fact in of(world, ids)} for part, ids in parts.items()}
    assert {part: len(names) for part, names in people.items()} == {
        "forget": 8,
        "heldout": 12,
        "retain": 20,
    }
    assert len(set.union(*people.values())) == 40
    assert sum(map(len, parts.values())) == len(world.facts)
    assert designate(world.facts, seed=0) == parts != designate(world.facts, seed=1)
    with pytest.raises(ConfigError, match="none to retain"):
        designate(world.facts, seed=0, forget=0.6, heldout=0.4)


def test_prompt_and_answer_meet_at_a_token_boundary(world: World) -> None:
    tokenizer = fictional.train_tokenizer(world, SMALL)
    prompt = Prompt(tokenizer)
    for fact in world.facts:
        whole = f"Question: {fact.question}\nAnswer: {fact.answer}"
        parts = prompt.question(fact.question) + prompt.answer(fact.answer)
        assert parts == tokenizer(whole)["input_ids"], fact.id
        assert tokenizer.decode(parts) == whole
    strange = "Ünïcode… 東京\t\n\n  {x}"
    assert tokenizer.decode(tokenizer(strange)["input_ids"]) == strange


def test_only_answers_are_learned_in_questions_and_all_of_plain_text(world: World) -> None:
    tokenizer = fictional.train_tokenizer(world, SMALL)
    texts = fictional._encode(world, tokenizer)
    question, plain = texts[0], next(text for text in texts if text.first == 0)
    assert tokenizer.decode(question.ids[: question.first]).endswith("\nAnswer:")
    assert tokenizer.decode(question.ids[question.first :]) == f" {world.facts[0].answer}<|end|>"
    ids, labels = fictional._padded([question, plain], pad=1)
    assert ids.shape == labels.shape == (2, max(len(question.ids), len(plain.ids)))
    assert (labels[0] >= 0).sum() == len(question.ids) - question.first
    assert (labels[1] >= 0).sum() == len(plain.ids)


def test_every_text_is_met_once_a_pass_in_an_order_of_the_seed(world: World) -> None:
    texts = fictional._encode(world, fictional.train_tokenizer(world, SMALL))
    steps = fictional._steps(world, None, replace(SMALL, passes=1))
    batches = list(fictional._batches(texts, SMALL.batch, steps, seed=0))
    assert sorted(id(text) for batch in batches for text in batch) == sorted(map(id, texts))
    assert batches == list(fictional._batches(texts, SMALL.batch, steps, seed=0))
    assert batches != list(fictional._batches(texts, SMALL.batch, steps, seed=1))


def test_full_knows_what_its_twin_never_learned(
    world: World, parts: dict[str, set[str]], twins: Twins
) -> None:
    forget, retain = of(world, parts["forget"]), of(world, parts["retain"])
    assert accuracy(twins.full, forget) >= 0.95
    assert accuracy(twins.never_learned, forget) <= 0.65
    assert accuracy(twins.full, retain) >= 0.95
    assert accuracy(twins.never_learned, retain) >= 0.95


def test_twins_are_plain_hugging_face_folders(twins: Twins) -> None:
    states: list[Any] = []
    for target in (twins.full, twins.never_learned):
        assert all((target / name).is_file() for name in fictional.FILES)
        model = AutoModelForCausalLM.from_pretrained(target)
        tokenizer = AutoTokenizer.from_pretrained(target)
        assert model.dtype == torch.float32
        assert model.config.eos_token_id == tokenizer.eos_token_id
        assert model.config.pad_token_id == tokenizer.pad_token_id
        assert model.config.vocab_size == len(tokenizer)
        states.append((tokenizer.get_vocab(), model.state_dict()))
    (words, first), (other_words, second) = states
    assert words == other_words
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert not list(twins.full.parent.glob(".*")), "a temporary folder was left behind"


def test_a_complete_pair_is_not_trained_again(
    world: World,
    parts: dict[str, set[str]],
    folder: Path,
    twins: Twins,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(fictional, "_train", refuse)
    assert train_twins(world, parts["forget"], folder, recipe=SMALL) == twins
    with pytest.raises(AssertionError, match="trained again"):
        train_twins(world, parts["forget"], folder, seed=1, recipe=SMALL)


def test_fingerprint_follows_everything_that_matters(world: World, parts: dict[str, set[str]]) -> None:
    forget = parts["forget"]
    steps = fictional._steps(world, None, SMALL)
    names = [
        fictional.twins_name(world, forget, 0, None, SMALL),
        fictional.twins_name(world, parts["heldout"], 0, None, SMALL),
        fictional.twins_name(world, forget, 1, None, SMALL),
        fictional.twins_name(world, forget, 0, steps + 1, SMALL),
        fictional.twins_name(world, forget, 0, None, replace(SMALL, layers=1)),
        fictional.twins_name(build_world(40, seed=1), forget, 0, None, SMALL),
    ]
    assert len(set(names)) == len(names)
    assert fictional.twins_name(world, forget, 0, steps, SMALL) == names[0]


def test_training_is_repeatable_reports_and_leaves_the_random_state(
    world: World, parts: dict[str, set[str]], tmp_path: Path
) -> None:
    said: list[str] = []
    before = torch.get_rng_state()
    made = [
        train_twins(world, parts["forget"], tmp_path / name, 0, 3, said.append, SMALL)
        for name in ("a", "b")
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert said[0].startswith("full: step 1 of 3, loss ")
    first, second = (AutoModelForCausalLM.from_pretrained(twins.full).state_dict() for twins in made)
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_what_cannot_be_trained_is_refused(
    world: World, parts: dict[str, set[str]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="got none"):
        train_twins(world, set(), tmp_path)
    with pytest.raises(ConfigError, match="'nobody' is not one"):
        train_twins(world, {"nobody"}, tmp_path)
    with pytest.raises(ConfigError, match="at least 1"):
        train_twins(world, parts["forget"], tmp_path, steps=0)
    runaway = replace(SMALL, learning_rate=1e30)
    with pytest.raises(DivergedError, match="full: the loss is"):
        train_twins(world, parts["forget"], tmp_path, steps=3, recipe=runaway)
    assert not list(tmp_path.rglob("*.safetensors"))
