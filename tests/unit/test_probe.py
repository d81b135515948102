"""The linear probe finds what is planted, nothing where nothing is, and no leak across entities."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.diagnosis import probe as module
from ssiuu.diagnosis.probe import entity_folds, linear_probe, probe_right, ridge, shuffled
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import FactText


def facts(count: int, options: int = 3, entities: int | None = None) -> list[FactText]:
    rng = random.Random(0)
    made = []
    for i in range(count):
        words = [f"w{n}" for n in rng.sample(range(64), options)]
        entity = f"e{i % (entities or count)}"
        made.append(
            FactText(
                id=f"f{i}",
                question=f"w{i % 64} w{i // 64} w{rng.randrange(64)}",
                answer=words[0],
                options=words,
                entity=entity,
                relation=f"r{i % 2}",
            )
        )
    return made


def planted(count: int, strength: float) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    options = [torch.randn(3, 12) for _ in range(count)]
    turn = torch.randn(12, 20)
    states = torch.stack([strength * o[0] @ turn for o in options]) + torch.randn(count, 20)
    return states, options


def test_a_planted_linear_signal_is_found() -> None:
    states, options = planted(120, 2.0)
    assert probe_right(states, options, [i % 8 for i in range(120)]).mean() > 0.9


def test_no_signal_is_chance() -> None:
    states, options = planted(240, 0.0)
    found = float(probe_right(states, options, [i % 8 for i in range(240)]).mean())
    assert abs(found - 1 / 3) < 3 * (2 / 9 / 240) ** 0.5


def test_ridge_is_the_primal_solution() -> None:
    torch.manual_seed(1)
    x, y, new = (torch.randn(*size).double() for size in ((9, 4), (9, 3), (5, 4)))
    shifted = x - x.mean(0)
    penalty = module.RIDGE * shifted.square().sum(1).mean()
    weights = torch.linalg.inv(shifted.T @ shifted + penalty * torch.eye(4).double()) @ shifted.T
    wanted = y.mean(0) + (new - x.mean(0)) @ weights @ (y - y.mean(0))
    torch.testing.assert_close(ridge(x, y, new), wanted)


def test_scale_of_the_states_does_not_matter() -> None:
    states, options = planted(60, 0.5)
    folds = [i % 8 for i in range(60)]
    assert torch.equal(probe_right(states, options, folds), probe_right(64 * states, options, folds))


def test_a_fact_is_never_fitted_on_its_own_fold() -> None:
    """States that only name the entity: found if and only if the entity stands on both sides."""
    torch.manual_seed(2)
    names, answers = torch.randn(30, 40), torch.randn(30, 12)
    states = names.repeat(4, 1)
    options = [torch.cat([answers[i % 30][None], torch.randn(2, 12)]) for i in range(120)]
    leaking = probe_right(states, options, [i // 30 for i in range(120)]).mean()
    proper = probe_right(states, options, [i % 30 % 8 for i in range(120)]).mean()
    assert leaking > 0.95 and proper < 0.6


def test_folds_keep_an_entity_together() -> None:
    made = facts(40, entities=10)
    folds = entity_folds(made, 0)
    assert all(
        len({f for f, g in zip(folds, made, strict=True) if g.entity == e}) == 1
        for e in {g.entity for g in made}
    )
    assert len(set(folds)) == 8


def test_labels_are_shuffled_within_a_relation_and_none_is_lost() -> None:
    made = facts(40)
    order = shuffled(made, random.Random(0))
    assert sorted(order) == list(range(40)) and order != list(range(40))
    assert all(made[i].relation == made[j].relation for i, j in enumerate(order))


def test_states_are_those_of_the_prompts_last_token(tiny_model: Any, tokenizer: Any) -> None:
    prompt, made = Prompt(tokenizer), facts(20)
    states = module.prompt_states(tiny_model, prompt, made, 1)
    for i in (0, 7):
        ids = torch.tensor([prompt.question(made[i].question)])
        with torch.no_grad():
            wanted = tiny_model(input_ids=ids, output_hidden_states=True).hidden_states
        torch.testing.assert_close(
            states[i], torch.stack([w[0, -1] for w in wanted]), atol=1e-5, rtol=1e-5
        )


def test_whole_probe_on_a_random_model(tiny_model: Any, tokenizer: Any) -> None:
    """A random model knows nothing of the answers: selectivity holds 0 in every layer."""
    made = facts(60)
    found = linear_probe(tiny_model, Prompt(tokenizer), made[:40], made[40:], 1)
    assert found is not None and found.facts == 40 and len(found.accuracy) == 3
    for value, right, luck in zip(found.selectivity, found.accuracy, found.control, strict=True):
        assert value.value == pytest.approx(right - luck) and value.low <= 0 <= value.high


def test_nothing_to_rank_is_none(tiny_model: Any, tokenizer: Any) -> None:
    made = [fact.model_copy(update={"options": []}) for fact in facts(6)]
    assert linear_probe(tiny_model, Prompt(tokenizer), made, [], 1) is None
