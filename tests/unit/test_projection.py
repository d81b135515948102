"""The projection: which directions, what is left of a gradient, and no hook that stays."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.likelihood import Batch, Example, collate
from ssiuu.methods import make
from ssiuu.methods.directions import Subspace, project_out, random_bases, retain_bases, softened
from ssiuu.methods.spectrum import Tokens, leading_directions
from ssiuu.models.sites import find_sites
from ssiuu.training.prepare import Prepared
from ssiuu.training.step import Step

PAD = 40  # an ordinary token: the embedding of the padding token is 0 and would not show
K = 3


def batches_of(examples: list[Example], size: int = 3) -> list[Batch]:
    return [collate(examples[i : i + size], PAD) for i in range(0, len(examples), size)]


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def second_moments(model: Any, examples: list[Example]) -> dict[str, Tensor]:
    """Sum of x x^T over every token that is read, one example at a time without padding."""
    moments: dict[str, Tensor] = {}
    inputs: dict[str, list[Tensor]] = defaultdict(list)
    handles = [
        model.get_submodule(s.path).register_forward_pre_hook(
            lambda _, given, path=s.path: inputs[path].append(given[0][0].double())
        )
        for s in find_sites(model)
    ]
    with torch.no_grad():
        for e in examples:
            model(input_ids=torch.tensor([(e.prompt + e.answer)[:-1]]))
    for handle in handles:
        handle.remove()
    for path, rows in inputs.items():
        x = torch.cat(rows)
        moments[path] = sum((row.outer(row) for row in x), torch.zeros(x.shape[1], x.shape[1]))
    return moments


def projector(basis: Tensor) -> Tensor:
    return (basis @ basis.T).double()


def test_directions_are_the_top_eigenvectors_of_the_inputs(tiny_model: Any, make_examples: Any) -> None:
    examples = make_examples(8)
    bases = retain_bases(tiny_model, batches_of(examples), K, None)
    wanted = second_moments(tiny_model, examples)
    assert set(bases) == {f"{path}.weight" for path in wanted}
    for path, moment in wanted.items():
        values, vectors = torch.linalg.eigh(moment)
        assert values[-K] > 1.02 * values[-K - 1]  # else the space is not determined
        top = vectors[:, -K:]
        found = bases[f"{path}.weight"].inputs
        assert found.shape == (moment.shape[0], K)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.T @ found, torch.eye(K), rtol=0, atol=1e-5)
        torch.testing.assert_close(projector(found), top @ top.T, rtol=0, atol=1e-3)


def test_maps_with_one_input_share_one_basis(tiny_model: Any, make_examples: Any) -> None:
    bases = retain_bases(tiny_model, batches_of(make_examples(4)), K, None)
    layer = "model.layers.1"
    q, k, v, o = (bases[f"{layer}.self_attn.{m}_proj.weight"].inputs for m in "qkvo")
    gate, up = (bases[f"{layer}.mlp.{m}_proj.weight"].inputs for m in ("gate", "up"))
    assert q is k is v
    assert gate is up
    assert not torch.equal(q, o)
    assert q is not bases["model.layers.0.self_attn.q_proj.weight"].inputs


def test_padding_does_not_count(tiny_model: Any, make_examples: Any) -> None:
    examples = make_examples(6)
    alone = retain_bases(tiny_model, batches_of(examples, 1), K, None)
    padded = retain_bases(tiny_model, batches_of(examples, 6), K, None)
    for name, basis in alone.items():
        torch.testing.assert_close(
            projector(basis.inputs), projector(padded[name].inputs), rtol=0, atol=1e-3
        )


def test_the_same_rows_give_the_same_bits(tiny_model: Any, make_examples: Any) -> None:
    examples = make_examples(4)
    one, two = (retain_bases(tiny_model, batches_of(examples), K, None) for _ in range(2))
    assert all(torch.equal(one[n].inputs, two[n].inputs) for n in one)


@pytest.mark.parametrize("k", [1, 5, 15])
def test_projection_is_orthogonal_idempotent_and_in_place(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    x = torch.randn(40, 16, generator=generator)
    basis = leading_directions(x.T @ x, k)
    g = torch.randn(7, 16, generator=generator)
    once = project_out(g, Subspace(basis))
    assert once is g
    torch.testing.assert_close(once @ basis, torch.zeros(7, k), rtol=0, atol=1e-5)
    again = project_out(once.clone(), Subspace(basis))
    torch.testing.assert_close(again, once, rtol=0, atol=1e-5)
    outside = torch.linalg.qr(torch.cat([basis, torch.randn(16, 16 - k)], 1)).Q[:, k:]
    kept = torch.randn(7, 16 - k, generator=generator) @ outside.T
    torch.testing.assert_close(project_out(kept.clone(), Subspace(basis)), kept, rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [0, 16, 17])
def test_as_many_directions_as_dimensions_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"1 <= k < 16.*got {k}"):
        leading_directions(torch.eye(16), k)


def test_no_hook_outlives_the_collection(tiny_model: Any, make_examples: Any) -> None:
    before = hooks(tiny_model)
    retain_bases(tiny_model, batches_of(make_examples(3)), K, None)
    assert hooks(tiny_model) == before
    bad = collate([Example("bad", [5], [6])], PAD)
    bad.input_ids[0, 0] = 10_000
    with pytest.raises(IndexError):
        retain_bases(tiny_model, [bad], K, None)
    assert hooks(tiny_model) == before


@pytest.mark.parametrize("spec", ["ga", "npo", {"name": "ssiuu", "lambda": 5.0}])
def test_a_step_moves_nothing_along_the_basis(tiny_model: Any, make_examples: Any, spec: Any) -> None:
    given = {"name": spec} if isinstance(spec, str) else spec
    forget, retain = make_examples(4, answer=(1, 2)), make_examples(6, seed=1)
    bases = retain_bases(tiny_model, batches_of(retain), K, None)
    start = {e.id: -3.0 for e in forget}
    method = make({**given, "retain_weight": 0, "projection": K})
    step = Step(tiny_model, method, 1e-3, prepared=Prepared(logprob=start, parts={"projection": bases}))
    for _ in range(2):
        outcome = step(batches_of(forget), batches_of(retain))
        assert outcome.retain_loss is None
    for name, parameter in tiny_model.named_parameters():
        grad = parameter.grad
        assert grad is not None
        if name in bases:
            assert float(grad.norm()) > 0
            assert float((grad @ bases[name].inputs).norm()) < 1e-5 * float(grad.norm())
        else:
            assert not grad.any(), name
    assert not tiny_model.model.embed_tokens.weight.grad.any()


def test_the_retain_gradient_is_left_whole(tiny_model: Any, make_examples: Any) -> None:
    """With a projection the gradient is the projected forget gradient plus the whole retain one."""
    import copy

    forget, retain = make_examples(4), make_examples(6, seed=1)
    bases = retain_bases(tiny_model, batches_of(retain), K, None)
    models = [copy.deepcopy(tiny_model) for _ in range(3)]
    Step(
        models[0],
        make({"name": "gd", "projection": K}),
        1e-3,
        prepared=Prepared(parts={"projection": bases}),
    )(batches_of(forget), batches_of(retain))
    Step(models[1], make("ga"), 1e-3)(batches_of(forget), [])
    Step(models[2], None, 1e-3)([], batches_of(retain))
    for (name, both), ga, kept in zip(
        models[0].named_parameters(), models[1].parameters(), models[2].parameters(), strict=True
    ):
        part = project_out(ga.grad.clone(), bases[name]) if name in bases else 0.0
        torch.testing.assert_close(both.grad, part + kept.grad, rtol=1e-4, atol=1e-5)


def test_the_random_control_has_the_shapes_of_the_shared_directions_and_none_of_them(
    tiny_model: Any, make_examples: Any
) -> None:
    shared = retain_bases(tiny_model, batches_of(make_examples(8)), K, 2)
    drawn, again = random_bases(tiny_model, K, 2), random_bases(tiny_model, K, 2)
    assert drawn.keys() == shared.keys()
    for name, basis in drawn.items():
        for mine, theirs, same in (
            (basis.inputs, shared[name].inputs, again[name].inputs),
            (basis.outputs, shared[name].outputs, again[name].outputs),
        ):
            assert mine is not None and theirs is not None and same is not None
            assert mine.shape == theirs.shape and torch.equal(mine, same)
            torch.testing.assert_close(mine.T @ mine, torch.eye(mine.shape[1]), atol=1e-5, rtol=0)
            overlap = float((mine.T @ theirs).square().sum()) / mine.shape[1]
            assert overlap < 0.6  # by chance about k of d
    read = {path: drawn[f"{path}.weight"].inputs for path in (s.path for s in find_sites(tiny_model))}
    q, k = (next(path for path in read if path.endswith(end)) for end in ("q_proj", "k_proj"))
    assert torch.equal(read[q], read[k])  # type: ignore[arg-type]


def test_more_random_directions_than_there_are_are_refused(tiny_model: Any) -> None:
    with pytest.raises(ConfigError, match="projection_outputs: must be below"):
        random_bases(tiny_model, None, 10_000)


# --- a soft cut ----------------------------------------------------------------------------------


def diagonal(*values: float) -> Tensor:
    return torch.diag(torch.tensor(values, dtype=torch.float64))


def test_a_soft_cut_by_hand() -> None:
    """Inputs with second moments 16, 4, 1: singular values 4, 2, 1, so 1/4, 1/2 and 1 is left."""
    for cut, wanted in (("soft", [1.0, 0.5, 0.25]), ("quadratic", [1.0, 0.25, 0.0625])):
        v, left = softened(Tokens(diagonal(16, 4, 1, 0.01)), 3, cut)
        assert left is not None and left.tolist() == pytest.approx(wanted)
        cut_row = project_out(torch.ones(1, 4, dtype=torch.float64), Subspace(v, inputs_left=left))
        assert cut_row[0].tolist() == pytest.approx([*wanted[::-1], 1.0])


def test_equal_singular_values_are_left_alone_by_a_soft_cut() -> None:
    v, left = softened(Tokens(diagonal(3, 3, 3, 1)), 3, "soft")
    gradient = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = Subspace(v, v, inputs_left=left, outputs_left=left)
    torch.testing.assert_close(project_out(gradient.clone(), basis), gradient)


def test_a_soft_cut_with_nothing_left_is_the_hard_one() -> None:
    generator = torch.Generator().manual_seed(1)
    v, u = (torch.linalg.qr(torch.randn(n, 2, generator=generator)).Q for n in (6, 5))
    gradient, none = torch.randn(5, 6, generator=generator), torch.zeros(2)
    hard = project_out(gradient.clone(), Subspace(v, u))
    soft = project_out(gradient.clone(), Subspace(v, u, inputs_left=none, outputs_left=none))
    assert torch.equal(hard, soft)
    across = Subspace(v, u, True, none, none)
    torch.testing.assert_close(project_out(gradient.T.clone(), across), hard.T)


def test_directions_along_which_there_is_nothing_do_not_count() -> None:
    """A moment of rank 2: the third value, which rounding decides, would leave nothing of the others."""
    v, left = softened(Tokens(diagonal(9, 4, 0, 0)), 3, "soft")
    assert v.shape == (4, 2) and left is not None
    assert left.tolist() == pytest.approx([1.0, 2 / 3])


def test_the_soft_bases_are_the_rows_own(tiny_model: Any, make_examples: Any) -> None:
    examples = make_examples(8)
    found = retain_bases(tiny_model, batches_of(examples), K, K, "soft")
    for path, moment in second_moments(tiny_model, examples).items():
        basis, values = found[f"{path}.weight"], torch.linalg.eigvalsh(moment)[-K:]
        assert basis.inputs_left is not None and basis.outputs_left is not None
        wanted = (values[0] / values).sqrt().float()
        torch.testing.assert_close(basis.inputs_left, wanted, rtol=1e-3, atol=1e-4)
        assert basis.of("outputs").outputs_left is basis.outputs_left


def test_names_say_how_directions_are_cut() -> None:
    soft = make({"name": "gd+projection+soft", "projection": 5})
    assert soft.label == make("gd+projection(5,soft)").label == "gd+projection+soft"
    assert "divided by their singular values in" in soft.description
    assert make("gd+projection+quadratic").part("projection").projection_cut == "quadratic"
    assert make("gd+projection(5,hard)").label == "gd+projection"
    with pytest.raises(ConfigError, match="projection_cut: soft stands beside projection"):
        make("gd+soft")
    with pytest.raises(ConfigError, match="drawn at random have no singular values"):
        make("gd+projection+random+soft")
    with pytest.raises(ConfigError, match="projection_cut"):
        make({"name": "gd+projection", "projection_cut": "half"})
