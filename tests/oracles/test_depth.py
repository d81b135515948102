"""UDS against a literal reading of its definition, one fact, one block and one token at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.diagnosis.depth import THRESHOLD, answer_states, depth_score, drops, fact_depth
from ssiuu.likelihood import Example

ENTITIES = {f"fact {i}": f"e{i}" for i in range(20)}


def logprob(model: Any, example: Example) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([example.prompt + example.answer])).logits[0]
    rows = logits[len(example.prompt) - 1 : -1].log_softmax(-1)
    return float(sum(rows[t, token] for t, token in enumerate(example.answer)))


def slow_drop(original: Any, other: Any, example: Example, layer: int) -> float:
    """Run both models on one row; overwrite one block's output by hand."""
    ids = torch.tensor([example.prompt + example.answer])
    with torch.no_grad():
        theirs = {}
        handle = other.model.layers[layer].register_forward_hook(lambda m, i, o: theirs.update(h=o))
        other(input_ids=ids)
        handle.remove()
        start, end = len(example.prompt) - 1, ids.shape[1] - 1

        def put(module: Any, inputs: Any, output: Tensor) -> Tensor:
            output = output.clone()
            output[:, start:end] = theirs["h"][:, start:end]
            return output

        handle = original.model.layers[layer].register_forward_hook(put)
        patched = logprob(original, example)
        handle.remove()
    return (logprob(original, example) - patched) / len(example.answer)


@pytest.fixture
def three(make_model: Callable[..., Any]) -> tuple[Any, Any, Any]:
    """Original, unlearned, never learned."""
    original, other = make_model(0), make_model(1)
    between = copy.deepcopy(original)
    for p, q in zip(between.parameters(), other.parameters(), strict=True):
        p.data.lerp_(q.data, 0.3)
    return original, between, other


def test_drops_follow_the_definition(three: Any, make_examples: Callable[..., Any]) -> None:
    original, unlearned, _ = three
    examples = make_examples(20)
    found = drops(original, examples, answer_states(unlearned, examples, 1), 1)
    for example in examples:
        wanted = [slow_drop(original, unlearned, example, layer) for layer in range(2)]
        assert found[example.id].tolist() == pytest.approx(wanted, abs=1e-4)


def test_own_states_change_nothing(tiny_model: Any, make_examples: Callable[..., Any]) -> None:
    examples = make_examples(20)
    found = drops(tiny_model, examples, answer_states(tiny_model, examples, 1), 1)
    assert all(torch.equal(d, torch.zeros(2)) for d in found.values())


def test_limits_never_learned_is_1_and_original_is_0(
    three: Any, make_examples: Callable[..., Any]
) -> None:
    original, between, never = three
    examples = make_examples(20)

    def of(model: Any) -> Any:
        return drops(original, examples, answer_states(model, examples, 1), 1)

    reference = of(never)
    one, zero = (
        depth_score(of(never), reference, ENTITIES),
        depth_score(of(original), reference, ENTITIES),
    )
    middle = depth_score(of(between), reference, ENTITIES)
    assert one.score and zero.score and middle.score
    assert one.score.value == 1.0 and zero.score.value == 0.0
    assert (
        0.05 < middle.score.value < 0.95 and middle.score.low <= middle.score.value <= middle.score.high
    )


def test_closed_form() -> None:
    t = torch.tensor
    assert fact_depth(t([0.5, 2.0]), t([1.0, 1.0])) == pytest.approx(
        0.75
    )  # more than all counts as all
    assert fact_depth(t([-3.0, 1.0]), t([1.0, 3.0])) == pytest.approx(
        0.25
    )  # a gain counts as nothing lost
    assert fact_depth(t([9.0, 0.2]), t([THRESHOLD / 2, 0.4])) == pytest.approx(
        0.5
    )  # an empty layer is out
    assert fact_depth(t([9.0, 9.0]), t([0.0, -1.0])) is None


def test_facts_that_no_layer_holds_do_not_count() -> None:
    held, empty = torch.tensor([1.0, 1.0]), torch.zeros(2)
    found = depth_score(
        {"a": held / 2, "b": held, "c": held},
        {"a": held, "b": held, "c": empty},
        {"a": "x", "b": "y", "c": "z"},
    )
    assert found.facts == {"a": 0.5, "b": 1.0, "c": None}
    assert found.score and found.score.value == 0.75
    assert depth_score({"c": held}, {"c": empty}, {"c": "z"}).score is None


def test_no_hook_is_left(three: Any, make_examples: Callable[..., Any]) -> None:
    original, _, _ = three
    examples = make_examples(3)
    broken = {e.id: torch.zeros(2, 1, 5) for e in examples}
    with pytest.raises(RuntimeError):
        drops(original, examples, broken, 1)
    assert not any(m._forward_hooks for m in original.modules())
