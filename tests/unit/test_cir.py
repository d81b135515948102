"""CIR, MCU and RMU-MCU: losses by hand and by differences, what is collapsed, the budget, refusals."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures import LAYOUTS, PARTLY, build_architecture
from ssiuu.errors import ConfigError
from ssiuu.likelihood import AnswerLogprobs, Batch, Example, collate
from ssiuu.methods import make
from ssiuu.methods.base import View
from ssiuu.methods.components import Moments, as_one, later, mean_and_components, outside
from ssiuu.methods.objectives.cir import Broken, breaking_loss
from ssiuu.methods.objectives.rmu import direction, rmu_loss
from ssiuu.methods.retain import shift_loss
from ssiuu.models.maps import feed_forward
from ssiuu.records.schema import MethodInfo, Unlearning
from ssiuu.training import interrupt
from ssiuu.training.prepare import prepare_parts
from ssiuu.training.state import load_state, save_state
from ssiuu.training.step import Step
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

PAD = 1
CIR: dict[str, Any] = {"name": "cir", "layers": [0, 1], "input_directions": 3, "output_directions": 4}
MCU = {**CIR, "name": "mcu", "components": 3}
RMU = {"name": "rmu-mcu", "layer": 1, "update": [r"\.[01]\.mlp\.down_proj\.weight$"], "components": 3}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope_is_difference(loss: Any, x: Tensor) -> None:
    x = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(x).sum(), x)
    for i in range(0, x.numel(), 5):
        ends = [x.detach().clone() for _ in range(2)]
        ends[0].view(-1)[i] += 1e-6
        ends[1].view(-1)[i] -= 1e-6
        up, down = (float(loss(end).sum()) for end in ends)
        assert float(slope.view(-1)[i]) == pytest.approx((up - down) / 2e-6, rel=1e-6, abs=1e-8)


# --- the losses ----------------------------------------------------------------------------------


def test_breaking_by_hand() -> None:
    """One token, two layers: (2·1 + 0·1) / 4 is 0.5; -3·1 / 9 is clipped to 0; their mean is 0.25."""
    before = torch.tensor([[[[2.0, 0.0], [3.0, 0.0]]]])
    now = torch.tensor([[[[1.0, 1.0], [-1.0, 5.0]]]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    assert breaking_loss(now, before, torch.tensor([4.0, 9.0]), mask).tolist() == [0.25]


def test_what_is_as_it_was_loses_1_a_token_and_what_is_orthogonal_nothing() -> None:
    o, mask = numbers(2, 4, 3, 6), torch.ones(2, 4, dtype=torch.bool)
    size = o.square().sum(-1).mean((0, 1))
    assert float(breaking_loss(o, o, size, mask).sum()) == pytest.approx(8.0)
    turned = numbers(2, 4, 3, 6, seed=1)
    turned -= (turned * o).sum(-1, keepdim=True) / o.square().sum(-1, keepdim=True) * o
    assert breaking_loss(turned, o, size, mask).abs().max() < 1e-12
    assert not breaking_loss(-o, o, size, mask).any()


def test_slopes_are_finite_differences_in_float64() -> None:
    before, mask = numbers(2, 3, 2, 4), torch.tensor([[True] * 3, [False, True, True]])
    slope_is_difference(
        lambda x: breaking_loss(x, before, torch.tensor([1.5, 2.0]).double(), mask),
        before + 0.3 * numbers(2, 3, 2, 4, seed=1),
    )
    states = numbers(2, 3, 4)
    slope_is_difference(lambda x: shift_loss(x, states, mask, 2.0), numbers(2, 3, 4, seed=2))


def test_a_shift_by_hand_and_where_nothing_moved() -> None:
    before = torch.zeros(1, 2, 2)
    now = torch.tensor([[[3.0, 4.0], [9.0, 9.0]]])
    assert shift_loss(now, before, torch.tensor([[True, False]]), 2.0).tolist() == [2.5]
    still = now.clone().requires_grad_(True)
    shift_loss(still, now, torch.ones(1, 2, dtype=torch.bool), 2.0).sum().backward()
    assert still.grad is not None and not still.grad.any()  # a length has no slope at 0, and gives 0


# --- mean and components -------------------------------------------------------------------------


def test_components_are_the_leading_eigenvectors_of_the_spread() -> None:
    rows = numbers(200, 8) * torch.tensor([9, 5, 3, 1, 0.5, 0.3, 0.2, 0.1]).double() + 2.0
    found = mean_and_components(Moments.of(rows[:120]).add(Moments.of(rows[120:])), 4)
    mean = rows.mean(0)
    torch.testing.assert_close(found[:, 0], mean / mean.norm())
    wanted = torch.linalg.eigh(torch.cov(rows.T, correction=0)).eigenvectors[:, -3:]
    torch.testing.assert_close(found[:, 1:] @ found[:, 1:].T, wanted @ wanted.T, rtol=0, atol=1e-6)
    assert mean_and_components(Moments.of(rows), 1).shape == (8, 1)


def test_there_are_no_more_components_than_rows_vary_along() -> None:
    rows = numbers(5, 2) @ numbers(2, 8, seed=1) + numbers(8, seed=2)
    assert mean_and_components(Moments.of(rows), 6).shape == (8, 3)
    assert mean_and_components(Moments.of(rows[:1].repeat(3, 1)), 6).shape == (8, 1)


def test_outside_is_one_by_one_in_order_and_exact_as_one_subspace() -> None:
    directions = torch.cat([numbers(7, 1), torch.linalg.qr(numbers(7, 2, seed=1)).Q], 1)
    directions[:, 0] /= directions[:, 0].norm()
    x, wanted = numbers(3, 7, seed=2), numbers(3, 7, seed=2)
    for each in directions.T:
        wanted = wanted - (wanted @ each)[:, None] * each
    torch.testing.assert_close(outside(x, directions), wanted)
    whole = outside(x, as_one(directions))
    assert (whole @ directions).abs().max() < 1e-12
    torch.testing.assert_close(outside(whole, as_one(directions)), whole)


def test_only_later_tokens_count() -> None:
    assert later(torch.tensor([[0, 1, 1], [1, 1, 1]]).bool()).tolist() == [
        [False, False, True],
        [False, True, True],
    ]


def test_mcu_is_blind_to_what_changes_inside_its_directions(
    make_examples: Any, exact_model: Any
) -> None:
    method = make({**MCU, "loss_limit": None})
    known: Broken = prepare_parts(exact_model, method, make_examples(5), [], PAD).parts["mcu"]
    now = numbers(2, 4, 2, 16)
    inside = torch.stack([numbers(2, 4, 3, seed=n) @ d.T for n, d in enumerate(known.directions)], -2)
    torch.testing.assert_close(known.outside(now + inside), known.outside(now))
    assert (known.outside(now) - now).abs().max() > 0.01
    assert all(
        (row @ d).abs().max() < 1e-9
        for rows in known.outputs.values()
        for n, d in enumerate(known.directions)
        for row in rows[:, n]
    )


def test_rmu_mcu_is_the_distance_of_what_is_left_and_blind_as_well() -> None:
    objective, mask = make(RMU).objective, torch.ones(2, 3, dtype=torch.bool)
    directions = as_one(numbers(6, 3))
    unread = AnswerLogprobs(torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool))

    def loss(hidden: Tensor) -> Tensor:
        return objective.forget_loss(View(unread, hidden=hidden, hidden_mask=mask, prepared=directions))

    hidden, target = numbers(2, 3, 6, seed=1), 20 * direction(6, 0).double()
    torch.testing.assert_close(loss(hidden), rmu_loss(outside(hidden, directions), mask, target))
    torch.testing.assert_close(loss(hidden + numbers(2, 3, 3, seed=2) @ directions.T), loss(hidden))
    slope_is_difference(loss, hidden)


# --- a step --------------------------------------------------------------------------------------


def settled(spec: Any, model: Any, forget: Any, retain: Any, texts: Any = ()) -> Step:
    method = make(spec)
    made = prepare_parts(model, method, forget, retain, PAD, texts=texts)
    return Step(model, method, 0.05, prepared=made, pad=PAD, optimiser="normsgd")


def batches(examples: list[Example], size: int = 9) -> list[Batch]:
    return [collate(examples[n : n + size], PAD) for n in range(0, len(examples), size)]


@pytest.mark.parametrize("spec", [CIR, MCU], ids=str)
def test_the_forget_loss_is_1_at_the_start(spec: Any, exact_model: Any, make_examples: Any) -> None:
    forget = make_examples(5)
    step = settled({**spec, "loss_limit": None}, exact_model, forget, [])
    assert step(batches(forget, 2), []).forget_loss == pytest.approx(1.0)


def tokens_of(model: Any, examples: list[Example], loss: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs and output gradients of every feed-forward map at all tokens but the first, a row alone."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in feed_forward(model)}
    for e in examples:
        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        handles = [
            m.register_forward_hook(
                lambda _, i, o, path=path, pairs=pairs: pairs.update({path: (i[0], o)})
            )
            for path, m in feed_forward(model).items()
        ]
        model(input_ids=torch.tensor([(e.prompt + e.answer)[:-1]]), use_cache=False)
        for handle in handles:
            handle.remove()
        value = loss(e, {path: o[0] for path, (_, o) in pairs.items()})
        slopes = torch.autograd.grad(value, [o for _, o in pairs.values()], allow_unused=True)
        for (path, (x, o)), d in zip(pairs.items(), slopes, strict=True):
            d = torch.zeros_like(o) if d is None else d
            seen[path].append((x[0, 1:].detach(), d[0, 1:]))
    return {p: (torch.cat([x for x, _ in s]), torch.cat([d for _, d in s])) for p, s in seen.items()}


def test_two_epochs_are_the_formula(exact_model: Any, make_examples: Any) -> None:
    """The first collects and moves nothing; the second collapses each token by the first's directions."""
    forget, model = make_examples(6, answer=(2, 4)), exact_model
    downs = ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    before: dict[str, dict[str, Tensor]] = {}
    tokens_of(
        model,
        forget,
        lambda e, o: (
            before.setdefault(e.id, {p: x.detach() for p, x in o.items()})[downs[0]].sum() * 0
            + o[downs[1]].sum() * 0
        ),
    )
    size = {p: torch.cat([o[p][1:] for o in before.values()]).square().sum(-1).mean() for p in downs}
    count = sum(len(e.prompt) + len(e.answer) - 2 for e in forget)

    def loss(e: Example, o: dict[str, Tensor]) -> Tensor:
        parts = [(o[p] * before[e.id][p]).sum(-1)[1:].clamp(min=0).sum() / size[p] for p in downs]
        return sum(parts[1:], parts[0]) / 2 / count

    shared = tokens_of(model, forget, loss)
    step = settled({**CIR, "loss_limit": None}, model, forget, [])
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    step(batches(forget), [])
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    step(batches(forget, 4), [])
    for path, (x, d) in shared.items():
        for k, rows in ((3, x), (4, d)):
            top = torch.linalg.eigh(torch.cov(rows.T, correction=0)).eigenvectors
            mean = rows.mean(0) / rows.mean(0).norm()
            for each in (mean, *top[:, -(k - 1) :].T):
                rows -= (rows @ each)[:, None] * each
        torch.testing.assert_close(step.bound("cir").tokens[path], d.T @ x, rtol=1e-5, atol=1e-9)
    gradient = {path: d.T @ x for path, (x, d) in shared.items()}
    length = torch.cat([g.flatten() for g in gradient.values()]).norm()
    for name, parameter in model.named_parameters():
        path = name.removesuffix(".weight")
        wanted = weights[name] - 0.05 * gradient[path] / length if path in gradient else weights[name]
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-5, atol=1e-8)


def test_the_retain_step_is_of_its_own(exact_model: Any, make_examples: Any) -> None:
    """By plain SGD at its rate, from where the forget step led."""
    forget, retain = make_examples(4), make_examples(4, seed=1)
    spec = {**CIR, "loss_limit": None, "retain_rate": 0.01}
    both, alone = exact_model, copy.deepcopy(exact_model)
    steps = [
        settled(spec, both, forget, retain),
        settled({**spec, "retain": "none"}, alone, forget, []),
    ]
    for _ in range(2):
        outcome = steps[0](batches(forget), batches(retain))
        steps[1](batches(forget), [])
    assert outcome.retain_loss is not None and outcome.retain_loss > 0
    again = settled({**spec, "retain": "states"}, alone, forget, retain)
    again.views.prepared.hidden = steps[0].views.prepared.hidden
    again.views.prepared.hidden_length = steps[0].views.prepared.hidden_length
    again.bound("cir").epoch = 2
    again.terms.retain_backward(batches(retain))
    for (name, found), parameter in zip(both.named_parameters(), alone.parameters(), strict=True):
        wanted = parameter - 0.01 * parameter.grad if parameter.grad is not None else parameter
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12, msg=name)


def test_micro_batches_are_one_batch(exact_model: Any, make_examples: Any) -> None:
    forget, retain = make_examples(6), make_examples(5, seed=1)
    models = [copy.deepcopy(exact_model) for _ in range(2)]
    for model, size in zip(models, (9, 2), strict=True):
        step = settled({**MCU, "loss_limit": None}, model, forget, retain)
        for _ in range(3):
            step(batches(forget, size), batches(retain, size))
    for one, two in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-9)


def test_a_state_is_taken_up_in_the_middle_of_an_epoch(
    exact_model: Any, make_examples: Any, tmp_path: Path
) -> None:
    forget, retain = make_examples(6), make_examples(5, seed=1)
    spec, other = {**CIR, "loss_limit": None}, copy.deepcopy(exact_model)
    step, again = (settled(spec, model, forget, retain) for model in (exact_model, other))
    for turn in range(3):
        step(batches(forget[2 * turn : 2 * turn + 2] * 2), batches(retain))
    save_state(tmp_path / "state", step, {"key": "k"})
    assert load_state(tmp_path / "state", again, "k") is not None
    for _ in range(2):
        one, two = (s(batches(forget), batches(retain)) for s in (step, again))
        assert one == two
    assert step.bound("cir").epoch == again.bound("cir").epoch > 1
    for p, q in zip(exact_model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


# --- whole runs ----------------------------------------------------------------------------------


def unlearned(
    model: Any, spec: Any, rows: Any, texts: Any, rate: float = 0.05, **change: Any
) -> Unlearning:
    method = make(spec)
    info = MethodInfo(label=method.label, name=method.name, origin="literature", description="")
    given = {"max_steps": 6, "check_every": 3, "optimiser": "normsgd", **change}
    settings = replace(Settings(rate, 4, None, 6, 3, -1.0, 0.0, 0, "fp32"), **given)
    return unlearn_examples(
        *(model, method, info, *rows, settings, StopRule("ranking", lambda: 1.0), PAD), texts=texts
    )


@pytest.fixture
def rows(make_examples: Any) -> tuple[list[Example], list[Example]]:
    return make_examples(6, answer=(1, 3)), make_examples(5, seed=1)


@pytest.fixture
def texts(make_examples: Any) -> list[Example]:
    return make_examples(4, seed=2, prompt=(1, 1), answer=(5, 8))


@pytest.mark.parametrize("spec", [CIR, MCU], ids=str)
def test_outputs_are_broken(spec: Any, tiny_model: Any, rows: Any, texts: Any) -> None:
    given = {"batch_size": 6, "max_steps": 8}
    record = unlearned(tiny_model, {**spec, "loss_limit": None}, rows, texts, 0.3, **given)
    assert record.steps[-1].forget_loss < 0.7 * record.steps[0].forget_loss
    assert record.steps[0].retain_loss == 0 and 0 < (record.steps[-1].retain_loss or 0) < 0.5


def test_rmu_mcu_is_rmu_of_what_is_left(tiny_model: Any, rows: Any) -> None:
    """With directions that span all but one it cannot steer; with one it goes where RMU goes, nearly."""
    found = {}
    for components in (1, 15):
        model, spec = copy.deepcopy(tiny_model), {**RMU, "steering": 3.0, "components": components}
        given = {"batch_size": 6, "max_steps": 16, "optimiser": "adamw"}
        record = unlearned(model, spec, rows, [], 1e-2, **given)
        found[components] = record.steps[-1].forget_loss / record.steps[0].forget_loss
    assert found[1] < 0.9 < found[15]


def test_the_loss_on_plain_text_ends_it(tiny_model: Any, rows: Any, texts: Any) -> None:
    record = unlearned(tiny_model, {**CIR, "loss_limit": 1.0}, rows, texts, 0.5, max_steps=40)
    assert record.stopped == "budget" and len(record.steps) < 40
    assert any("above loss_limit 1." in note for note in record.notes)
    assert record.steps[-1].forget_score is not None
    free = unlearned(tiny_model, {**CIR, "loss_limit": None}, rows, texts, 0.5, max_steps=4)
    assert free.stopped == "max_steps"


@pytest.mark.parametrize("layout", [*LAYOUTS, *PARTLY])
def test_every_architecture_or_one_sentence(layout: str, texts: Any, rows: Any) -> None:
    if layout == "rwkv":
        pytest.skip("it reads padding as text")
    model = build_architecture(layout)
    spec = {**CIR, "loss_limit": 1e6}
    try:
        make(spec).objective.check(model)
    except ConfigError as error:
        assert "feed-forward map" in str(error) and str(error).count(".\n") == 0
        return
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    record = unlearned(model, spec, rows, texts)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and moved <= {f"{path}.weight" for path in feed_forward(model)}
    assert record.steps[0].forget_loss == pytest.approx(1.0, rel=0.5)


def test_adapters_take_its_gradient_by_the_chain_rule(exact_model: Any, make_examples: Any) -> None:
    from ssiuu.models.lora import Lora, adapted, adapters

    forget = make_examples(5)
    with adapted(exact_model, Lora(2, 8.0)):
        for adapter in adapters(exact_model):
            adapter.up.data, adapter.down.data = adapter.up.double(), adapter.down.double()
            adapter.up.data.normal_(std=0.1)
        step = settled({**CIR, "loss_limit": None}, exact_model, forget, [])
        bound, found = step.bound("cir"), dict[str, Tensor]()
        kept = bound.shape

        def shape(slope: Any) -> None:
            kept(slope)
            found[slope.name] = slope.forget.clone()

        bound.shape = shape
        for _ in range(2):
            step(batches(forget), [])
        checked = 0
        for adapter in adapters(exact_model):
            path = adapter.name.removesuffix(".weight")
            if path not in bound.tokens:
                continue
            # The step has moved them by little: what is held against it is of before.
            g, checked = bound.tokens[path], checked + 1
            assert found[f"{path}.lora_A.default.weight"].shape == adapter.down.shape
            up = found[f"{path}.lora_B.default.weight"]
            torch.testing.assert_close(up, adapter.scale * g @ adapter.down.T, rtol=0.3, atol=1e-2)
        assert checked == 6


# --- names and refusals --------------------------------------------------------------------------


def test_they_come_with_their_own_steps() -> None:
    for name in ("cir", "mcu", "repselect-steps"):
        method = make(name)
        assert method.optimiser == "normsgd" and method.objective.rate == 0.2
        assert make({"name": name, "optimiser": "sgd"}).optimiser == "sgd"
    assert make("cir").retain_term == "states" and make("rmu-mcu").retain_weight == 100
    assert make("gd").optimiser is None


def test_what_does_not_fit_is_refused(tiny_model: Any, rows: Any) -> None:
    for spec in ({**CIR, "projection": 3}, {"name": "cir", "projection": 3, "projection_outputs": 2}):
        with pytest.raises(ConfigError, match=r"what was called cir .* is called collapse now"):
            make(spec)
    with pytest.raises(ConfigError, match="a retain step of its own: set retain_rate"):
        make("cir+apart")
    with pytest.raises(ConfigError, match=r"^rmu-mcu\.layer: must be below"):
        make({"name": "rmu-mcu", "layer": 99}).objective.check(tiny_model)
    with pytest.raises(ConfigError, match="retain: states is for objectives of hidden states"):
        make({"name": "gd", "retain": "states"})
    for key, value in (("layers", [3]), ("layers", [5, 2]), ("loss_limit", 0.9), ("retain_rate", 0)):
        with pytest.raises(ConfigError, match=rf"methods: cir.*{key}"):
            make({"name": "cir", key: value})
    for spec, said in (
        ({"name": "cir"}, r"cir\.layers: must be below 2"),
        ({**CIR, "input_directions": 16}, r"cir\.input_directions: must be below 16"),
        ({**CIR, "output_directions": 16}, r"cir\.output_directions: must be below 16"),
        ({**MCU, "components": 16}, r"mcu\.components: must be below 16"),
        ({**RMU, "components": 16}, r"rmu-mcu\.components: must be below 16"),
    ):
        with pytest.raises(ConfigError, match=said):
            make(spec).objective.check(tiny_model)
    with pytest.raises(ConfigError, match="no plain text for its budget"):
        unlearned(tiny_model, CIR, rows, [])
    assert not interrupt.pending()
