"""What goes together: any transform on any objective, names, keys, states, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.likelihood import Example, answer_logprobs, collate
from ssiuu.methods import OBJECTIVES, TRANSFORMS, Edit, Objective, RetainTerm, Transform, make
from ssiuu.methods.base import Bound, Losses, Origin, Slope, View, Work
from ssiuu.methods.names import ALIASES, RETAIN_TERMS
from ssiuu.models.lora import Lora
from ssiuu.records.schema import MethodInfo, Unlearning
from ssiuu.training import interrupt
from ssiuu.training.optimiser import RATES, build, rate_share
from ssiuu.training.prepare import prepare_parts
from ssiuu.training.step import Step
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

PAD = 1
STEERING = {"layer": 1, "update": [r"\.[01]\.mlp\.down_proj\.weight$"]}
BREAKING = {"layers": [0, 1], "input_directions": 2, "output_directions": 2, "loss_limit": None}
SMALL: dict[str, dict[str, Any]] = {
    "rmu": STEERING,
    "rmu-mcu": {**STEERING, "components": 2},
    "cir": BREAKING,
    "mcu": {**BREAKING, "components": 2},
    "repselect-steps": {"components": 2, "collect": 1, "retain": "nll"},
    "projection": {"projection": 2},
    "layered": {"folds": 2},
    "undo": {"distil_steps": 2},
}
FROM_TOKENS = ("cir", "mcu", "repselect-steps")  # their first epoch, of two steps, only collects
GRADIENT = [name for name in OBJECTIVES.built_in if OBJECTIVES.get(name).has_gradient]
SETTINGS = Settings(1e-2, 3, 2, 4, 4, -1.0, 0.0, 0, "fp32")


def spec(objective: str, *transforms: str) -> dict[str, Any]:
    found: dict[str, Any] = {"name": "+".join([objective, *transforms])}
    for part in (objective, *transforms):
        found |= SMALL.get(part, {})
    return found


class Rows:
    """Rows of every kind."""

    def __init__(self, make_examples: Any) -> None:
        self.forget = make_examples(5, answer=(1, 3))
        self.retain = [replace(e, id=f"kept {e.id}") for e in make_examples(6, seed=1)]
        self.texts = [replace(e, id=f"text {e.id}") for e in make_examples(7, seed=2)]
        self.refusals = [Example(e.id, e.prompt, [5, 6]) for e in self.forget]


@pytest.fixture
def rows(make_examples: Any) -> Rows:
    return Rows(make_examples)


def weights(model: Any) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def run(model: Any, given: Any, rows: Rows, stop_after: int = 0, **change: Any) -> Unlearning:
    method, lines = make(given), []
    state = change.pop("state", None)

    def progress(line: str) -> None:
        lines.append(line)
        if len(lines) == stop_after:
            interrupt._asked.set()

    info = MethodInfo(label=method.label, name=method.name, origin="ours", description="")
    settings = replace(SETTINGS, **change)
    try:
        return unlearn_examples(
            *(model, method, info, rows.forget, rows.retain, settings),
            *(StopRule("ranking", lambda: 1.0), PAD, state, progress),
            refusals=rows.refusals,
            texts=rows.texts,
        )
    finally:
        interrupt._asked.clear()


# --- any transform on any objective -------------------------------------------------------------

NEEDS_RETAIN = ("mask", "apart", "gu", "rosu", "layered")
REFUSED = [(o, t) for o in ("cir", "mcu") for t in ("projection", "apart", "ssiuu", "gate")]
REFUSED += [("repselect-steps", t) for t in ("ssiuu", "gate")]
ALL = [
    (o, t)
    for o in GRADIENT
    for t in TRANSFORMS.built_in
    if o != "ga" or t not in NEEDS_RETAIN  # it has no retain term
    if (o, t) not in REFUSED and (o, t) not in (("cir", "rosu"), ("mcu", "rosu"))
]
# Every third by default, so that each objective and each transform is among them; the rest is slow.
PAIRS = [
    pytest.param(o, t, id=f"{o}+{t}", marks=[pytest.mark.slow] if n % 3 else [])
    for n, (o, t) in enumerate(ALL)
]
STRONG = {"ssiuu": {"lambda": 1e4}, "pull": {"pull": 30.0}} | {
    name: {"retain_weight": 1.0} for name in NEEDS_RETAIN
}
ALONE: dict[str, Tensor] = {}  # where an objective alone ends


def two_steps(
    model: Any, given: dict[str, Any], rows: Rows, lora: Lora | None = None
) -> tuple[Tensor, Unlearning]:
    steps = 4 if given["name"].split("+")[0] in FROM_TOKENS else 2
    record = run(model, given, rows, max_steps=steps, check_every=steps, lora=lora)
    return weights(model), record


@pytest.mark.parametrize(("objective", "transform"), PAIRS)
def test_any_transform_goes_on_any_objective(
    objective: str, transform: str, tiny_model: Any, rows: Rows
) -> None:
    """Two steps move the model otherwise than the objective alone does."""
    lora = Lora(2, 4.0) if transform == "nullspace" else None  # it confines adapters
    alone = f"{objective} {lora}"
    if alone not in ALONE:
        ALONE[alone], _ = two_steps(copy.deepcopy(tiny_model), spec(objective), rows, lora)
    start, given = weights(tiny_model), spec(objective, transform) | STRONG.get(transform, {})
    end, record = two_steps(tiny_model, given, rows, lora)
    assert torch.isfinite(end).all()
    assert not torch.equal(end, ALONE[alone]) and not torch.equal(end, start)
    if transform in ("ssiuu", "gate"):
        assert record.steps[1].penalty_share is not None and record.steps[1].penalty_share > 0


@pytest.mark.parametrize(("objective", "transform"), REFUSED)
def test_what_makes_its_gradient_anew_refuses_what_does_not_fit(objective: str, transform: str) -> None:
    with pytest.raises(ConfigError, match=r"leave it out|called collapse now|set retain_rate"):
        make(spec(objective, transform))


def test_rosu_is_refused_where_the_retain_step_is_apart(tiny_model: Any, rows: Rows) -> None:
    with pytest.raises(ConfigError, match="the rows to keep take a step of their own"):
        two_steps(tiny_model, spec("cir", "rosu"), rows)


@pytest.mark.parametrize("objective", [name for name in GRADIENT if name not in FROM_TOKENS])
@pytest.mark.parametrize("transform", ["ssiuu", "gate"])
def test_the_second_gradient_is_that_of_the_answers(
    objective: str, transform: str, exact_model: Any, rows: Rows
) -> None:
    """Whatever the loss looks at: A_t is phi dP/dphi, or what is gated has phi dlogP/dphi < 0."""
    method = make(spec(objective, transform))
    prepared = prepare_parts(exact_model, method, rows.forget, rows.retain, PAD, rows.refusals)
    step = Step(exact_model, method, 0.0, prepared=prepared, pad=PAD, together=False)
    seen: dict[str, Tensor] = {}
    bound = step.bound(transform)
    inner = bound.shape

    def shape(slope: Slope) -> None:
        assert slope.second is not None
        seen[slope.name] = slope.second * slope.scale
        inner(slope)

    bound.shape = shape
    batch = collate(rows.forget, PAD)
    step([batch], [])
    logprobs = answer_logprobs(exact_model, batch).sum
    value = logprobs.exp().sum() if transform == "ssiuu" else logprobs.sum()
    wanted = torch.autograd.grad(value, list(step.named.values()), allow_unused=True)
    assert seen
    for (name, parameter), gradient in zip(step.named.items(), wanted, strict=True):
        expected = torch.zeros_like(parameter) if gradient is None else gradient
        torch.testing.assert_close(seen[name], expected, rtol=1e-5, atol=1e-9)


def test_two_transforms_are_one_after_the_other(exact_model: Any, rows: Rows) -> None:
    """projection, then mask: the masked gradient is the projected one, where it agrees."""
    ends = {}
    for name in ("gd+projection", "gd+projection+mask", "gd+mask"):
        model = copy.deepcopy(exact_model)
        method = make({"name": name} | (SMALL["projection"] if "proj" in name else {}))
        prepared = prepare_parts(model, method, rows.forget, rows.retain, PAD)
        step = Step(model, method, 0.0, prepared=prepared, together=False)
        step([collate(rows.forget, PAD)], [collate(rows.retain, PAD)])
        ends[name] = {n: p.grad for n, p in model.named_parameters()}
        mean = step.bound("mask").mean if "mask" in name else {}
    for name, gradient in ends["gd+projection+mask"].items():
        kept = ends["gd+projection"][name] - mean[name]
        wanted = kept.masked_fill(kept * mean[name] <= 0, 0.0) + mean[name]
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)


# --- micro-batches, accumulation, clipping, schedules, optimisers ---------------------------------


@pytest.mark.parametrize(
    "given",
    ["npo+sam", "wga+gate", "gd+mask", "pdu", "npo+kl+texts+others", "ssiuu-logprob"],
    ids=str,
)
def test_accumulation_is_one_larger_batch(given: str, tiny_model: Any, rows: Rows) -> None:
    ends = []
    for change in (
        {"batch_size": 4, "micro_batch_size": 2, "accumulate": 1},
        {"batch_size": 2, "micro_batch_size": None, "accumulate": 2},
        {"batch_size": 4, "micro_batch_size": None, "accumulate": 1},
    ):
        model = copy.deepcopy(tiny_model)
        run(model, given, rows, optimiser="sgd", **change)
        ends.append(weights(model))
    assert torch.equal(ends[0], ends[1])
    torch.testing.assert_close(ends[0], ends[2], rtol=1e-4, atol=1e-6)


def test_a_clipped_gradient_is_as_long_as_the_limit(exact_model: Any, rows: Rows) -> None:
    batches = [[collate(part, PAD)] for part in (rows.forget, rows.retain)]
    ends, start = [], weights(exact_model)
    for limit in (None, 0.5, 1e9):
        model = copy.deepcopy(exact_model)
        step = Step(model, make("gd"), 0.1, optimiser="sgd", max_grad_norm=limit)
        outcome = step(*batches)
        ends.append(start - weights(model))
    assert outcome.gradient_norm > 0.5
    assert float(ends[1].norm()) == pytest.approx(0.1 * 0.5, rel=1e-4)
    torch.testing.assert_close(ends[0] * float(ends[1].norm() / ends[0].norm()), ends[1])
    assert torch.equal(ends[0], ends[2])


def test_sgd_is_the_gradient_and_each_optimiser_another_step(exact_model: Any, rows: Rows) -> None:
    batches = [[collate(part, PAD)] for part in (rows.forget, rows.retain)]
    ends: dict[str, Tensor] = {}
    for name in RATES:
        model = copy.deepcopy(exact_model)
        Step(model, make("gd"), 1e-3, optimiser=name)(*batches)
        ends[name] = weights(model) - weights(exact_model)
        if name == "sgd":
            grads = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
            torch.testing.assert_close(ends[name], -1e-3 * grads)
    torch.testing.assert_close(ends["sign"], -1e-3 * grads.sign(), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(ends["normsgd"], -1e-3 * grads / grads.norm(), rtol=1e-9, atol=1e-15)
    assert torch.equal(ends["momentum"], ends["sgd"])  # a first step has no past
    torch.testing.assert_close(
        ends["adamw8bit"], ends["adamw"], rtol=1e-4, atol=1e-9
    )  # nor any moments
    assert len({round(float(end.norm()), 9) for end in ends.values()}) == len(RATES) - 1


@pytest.mark.parametrize("name", ["sign", "normsgd"])
def test_a_step_is_as_long_whatever_the_loss_is_multiplied_by(
    name: Any, exact_model: Any, rows: Rows
) -> None:
    """Also where nothing has a gradient, and weight decay is outside of what is scaled."""
    ends = []
    for scale in (1.0, 1e-3, 0.0):
        model = copy.deepcopy(exact_model)
        optimiser = build(name, [*model.parameters()], 0.1, 0.01)
        for number, parameter in enumerate(model.parameters()):
            drawn = torch.Generator().manual_seed(number)
            parameter.grad = scale * torch.randn(parameter.shape, generator=drawn, dtype=torch.float64)
        optimiser.step()
        ends.append(weights(model))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ends[2], weights(exact_model) * (1 - 0.1 * 0.01))


def test_momentum_remembers_nine_tenths(exact_model: Any) -> None:
    parameter = torch.zeros(3, dtype=torch.float64)
    optimiser = build("momentum", [parameter], 0.1, 0.0)
    for _ in range(2):
        parameter.grad = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
        optimiser.step()
    wanted = -0.1 * (1 + 1.9) * torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(parameter, wanted)


def test_schedules_begin_at_the_rate_and_fall_towards_nothing() -> None:
    for schedule in ("constant", "linear", "cosine"):
        shares = [rate_share(schedule, n, 10, 0) for n in range(1, 11)]
        assert shares[0] == 1.0 and all(0 < s <= 1 for s in shares)
        assert rate_share(schedule, 11, 10, 0) == pytest.approx(float(schedule == "constant"))
        warm = [rate_share(schedule, n, 10, 4) for n in range(1, 5)]
        assert warm == [0.25, 0.5, 0.75, 1.0]
    assert rate_share("linear", 6, 10, 0) == pytest.approx(0.5)
    assert rate_share("cosine", 6, 10, 0) == pytest.approx(0.5)
    assert rate_share("constant", 7, 10, 4) == 1.0


def test_the_loop_takes_the_scheduled_rate(tiny_model: Any, rows: Rows) -> None:
    """Under SGD with one batch for all rows, a step is as long as its rate times its gradient."""
    lengths = {}
    for schedule in ("constant", "linear"):
        model, norms, ends = copy.deepcopy(tiny_model), [], [weights(tiny_model)]
        method = make("gd")
        info = MethodInfo(label="gd", name="gd", origin="ours", description="")
        settings = replace(
            SETTINGS, batch_size=9, optimiser="sgd", schedule=schedule, check_every=1, max_steps=4
        )

        def read(model: Any = model, ends: list[Tensor] = ends) -> float:
            ends.append(weights(model))
            return 1.0

        stop = StopRule("ranking", read)
        record = unlearn_examples(model, method, info, rows.forget, rows.retain, settings, stop, PAD)
        norms = [log.gradient_norm for log in record.steps]
        moved = [float((b - a).norm()) for a, b in pairwise(ends[1:])]
        lengths[schedule] = [m / n / 1e-2 for m, n in zip(moved, norms, strict=True)]
    assert lengths["constant"] == pytest.approx([1.0] * 4, rel=1e-4)
    assert lengths["linear"] == pytest.approx([1.0, 0.75, 0.5, 0.25], rel=1e-4)


# --- states -------------------------------------------------------------------------------------

STATES = [
    {"name": "ssiuu", "lambda": 10.0},
    {"name": "ssiuu-exact", "lambda": 10.0},
    {"name": "npo+gu", "gu_history": 2},
    "gd+fisher+gate(20)+rosu",
    {"name": "npo+ssiuu(initial,growth,logprob)", "lambda": 1.0},
    "simnpo+mask",
    {"name": "npo+gate", "pull": 3.0},
    {"name": "pdu", "dual_warmup": 1},
    "dpo+klue+sam",
    {"name": "wga+projection+mask+texts", "projection": 2},
    "jensun+mask",
    {"name": "altpo+layered", "folds": 2},
]


@pytest.mark.parametrize(
    ("given", "optimiser"),
    [
        *((s, "adamw") for s in STATES),
        *((s, "adafactor") for s in STATES[:1]),
        *((STATES[0], name) for name in ("sgd", "momentum", "sign", "normsgd", "adamw8bit")),
    ],
    ids=str,
)
def test_a_run_goes_on_where_it_was_interrupted(
    given: Any, optimiser: str, tiny_model: Any, rows: Rows, tmp_path: Path
) -> None:
    state, whole, resumed = tmp_path / "state.safetensors", copy.deepcopy(tiny_model), None
    wanted = run(whole, given, rows, optimiser=optimiser)
    with pytest.raises(interrupt.Interrupted):
        run(copy.deepcopy(tiny_model), given, rows, 2, optimiser=optimiser, state=state)
    resumed = copy.deepcopy(tiny_model)
    found = run(resumed, given, rows, optimiser=optimiser, state=state)
    assert torch.equal(weights(resumed), weights(whole))
    assert found.steps == wanted.steps and len(found.steps) == 4
    told = [note for note in found.notes if note.startswith(f"Steps by {optimiser} at a rate of 0.01")]
    assert len(told) == (optimiser != "adamw")


# --- names and keys -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "label"),
    [
        ("npo+sam", "npo+sam"),
        ("gd+mask", "gd+mask"),
        ("masked", "masked"),
        ("npo+klue", "npo+klue"),
        ("gd+ssiuu(logprob,growth)", "ssiuu-logprob-growth"),
        ("wga+gate", "ssiuu-gate-wga"),
        ("npo+mask+projection", "npo+projection+mask"),
        ("masked+ssiuu", "ssiuu+mask"),
        ("npo-sam+kl", "npo-sam+kl"),
        ("ssiuu-pdu-logprob", "ssiuu-pdu-logprob"),
        ("rmu+ssiuu", "ssiuu-rmu"),
        ("npo+sam(0.05)", "npo+sam"),
        ("gd+projection(8)+outputs(4)+random", "gd+projection+outputs+random"),
        ("simnpo+ssiuu(rho0.5)", "ssiuu-simnpo-rho0.5"),
    ],
)
def test_a_name_is_put_together_and_comes_back(typed: str, label: str) -> None:
    assert make(typed).label == label
    assert make(label).label == label


@pytest.mark.parametrize("alias", ALIASES.values(), ids=lambda alias: alias.name)
def test_an_alias_is_what_it_is_spelled(alias: Any) -> None:
    named, spelled = make(alias.name), make(alias.spelled)
    assert (named.all, named.retain_weight) == (spelled.all, spelled.retain_weight)
    assert named.label == named.name == alias.name
    assert named.whose == alias.origin and alias.source in named.description


def test_numbers_in_parentheses_are_those_of_the_mapping() -> None:
    for typed, mapping in (
        ("npo+sam(0.05)", {"name": "npo+sam", "rho": 0.05}),
        ("npo(beta=0.5)", {"name": "npo", "beta": 0.5}),
        ("gd+ssiuu(0.1)", {"name": "ssiuu", "lambda": 0.1}),
        ("gd+ssiuu(index=random)", {"name": "ssiuu-random"}),
        ("gd+projection(8)+outputs(4)", {"name": "gd", "projection": 8, "projection_outputs": 4}),
        (
            "cir(layers=[0, 1],input_directions=4)",
            {"name": "cir", "layers": [0, 1], "input_directions": 4},
        ),
        ("rmu-mcu(layer=0,update=[mlp])", {"name": "rmu-mcu", "layer": 0, "update": ["mlp"]}),
        (
            "fdcu(fisher=10,fisher_blocks=[0,1])",
            {"name": "fdcu", "fisher": 10, "fisher_blocks": [0, 1]},
        ),
        ("ssiuu-exact(lambda=1e-2)", {"name": "ssiuu-exact", "lambda": 1e-2}),
        ("npo-sam(beta=0.5,rho=0.1)", {"name": "npo-sam", "beta": 0.5, "rho": 0.1}),
    ):
        assert make(typed) == make(mapping)


def test_a_key_of_two_parts_is_written_with_its_part() -> None:
    with pytest.raises(
        ConfigError, match=r"rho: ssiuu and sam both have it; write ssiuu\.rho or sam\.rho"
    ):
        make({"name": "npo+ssiuu+sam", "rho": 0.5})
    method = make({"name": "npo+ssiuu+sam", "sam.rho": 0.05, "ssiuu.rho": 0.5})
    assert (method.options["sam.rho"], method.options["ssiuu.rho"]) == (0.05, 0.5)
    assert make({"name": method.label, "sam.rho": 0.05}) == method


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("task-vector+gate", "gate: this method has no forget gradient"),
        ("none+projection", "projection: this method has no forget gradient"),
        ("gd+ssiuu(logprob", "parentheses come in pairs"),
        ("gd+ssiuu(logprop)", r"unknown knob of ssiuu 'logprop'.*Did you mean 'logprob'"),
        ("gd+ssiuu+gate", "gate takes the place of the penalty"),
        ("NPO", r"unknown method 'NPO'. Did you mean 'npo'"),
        ("npo+kl+kl", "'kl' stands twice"),
        ("npo+smm", r"unknown suffix of a method 'smm'.*Did you mean 'sam'"),
        ("npo+", r"'npo\+': a plus joins a method .*Did you mean 'npo'"),
        ("+sam", r"'\+sam': a plus joins .*Did you mean 'gd\+sam'"),
        ("gd++sam(0.1)", r"a plus joins .*Did you mean 'gd\+sam\(0.1\)'"),
        ({"beta": 0.1}, r"a method has a name, as in gd .*got \{'beta': 0.1\}"),
        ("npo+texts(two)", r"unknown knob of texts 'two'. .*texts=VALUE"),
        ("fdcu(strong=1)", r"unknown knob of fdcu 'strong=1'.*strength=VALUE"),
        ("fdcu(fisher=-1)", r"fdcu\.fisher: .*got -1"),
        ("gd(x=1)", r"gd has no knobs, got 'x=1'"),
        ("cir(layers=[1,0])", r"cir: layers: the first and the last block.*got \[1, 0\]"),
        ("gd+kl(strong)", "unknown knob of kl 'strong'. .*retain_weight=VALUE"),
        ("gd+kl(-1)", r"gd\.retain_weight: .*got -1"),
        ("ga+mask", "a retain term is needed"),
        ("ga+kl", "ga has no retain term"),
        ({"name": "gd", "retain": "klr"}, r"gd\.retain: unknown retain term 'klr'.*got 'klr'"),
        ({"name": "gd", "sam.rho": 0.1}, "'sam.rho'"),
        ({"name": "npo-sam", "share": 0.1}, "unknown hyper-parameter of npo-sam 'share'"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused_in_one_sentence(given: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=f"recipe: .*{told}") as caught:
        make(given, "recipe")
    assert len(caught.value.problems) == 1


def test_a_number_behind_a_term_is_its_weight() -> None:
    weighed = make("npo+kl(5)+texts(2)+others(0.5)")
    assert weighed == make(
        {"name": "npo+kl+texts+others", "retain_weight": 5, "texts": 2, "others": 0.5}
    )
    assert weighed.label == "npo+kl+texts+others"
    assert make("npo+texts(0)").label == "npo"
    with pytest.raises(ConfigError, match="sets retain_weight, which is"):
        make({"name": "npo+kl(5)", "retain_weight": 3})


def test_whose_a_combination_is() -> None:
    for name, whose in {
        "npo+sam": "literature",
        "gd+mask": "literature",
        "npo+mask": "ours",
        "npo-sam+mask": "ours",
        "ssiuu+mask": "ours",
        "npo+projection+random": "control",
    }.items():
        assert make(name).whose == whose, name


# --- parts of another package --------------------------------------------------------------------


class Halved(Transform):
    """Half the forget gradient, and a count of the parameters that were halved."""

    name: ClassVar[str] = "halved"
    origin: ClassVar[Origin] = "ours"
    source: ClassVar[str] = "This test."
    summary: ClassVar[str] = "with half the forget gradient"
    number: ClassVar[str] = "factor"

    factor: float = Field(default=0.5, gt=0, description="of the forget gradient")

    def bind(self, prepared: Any) -> Halving:
        return Halving(self.factor)


class Halving(Bound):
    shapes = True

    def __init__(self, factor: float) -> None:
        self.factor, self.count = factor, 0

    def shape(self, slope: Slope) -> None:
        slope.forget.mul_(self.factor)
        self.count += 1

    def told(self) -> dict[str, float]:
        return {"halved": float(self.count)}

    def state(self) -> dict[str, Tensor]:
        return {"count": torch.tensor(self.count)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.count = int(state["count"])


class Squared(Objective):
    """(log P)^2 / 2 of every answer: its slope is log P."""

    name: ClassVar[str] = "squared"
    origin: ClassVar[Origin] = "ours"
    source: ClassVar[str] = "This test."
    summary: ClassVar[str] = "half the square of log P"
    through: ClassVar[Any] = "answer"

    def forget_loss(self, view: View) -> Tensor:
        return -view.logprobs.sum.square() / 2


class Confident(RetainTerm):
    """The entropy of the retain answers' words, a term that nothing built in has."""

    name: ClassVar[str] = "confident"
    origin: ClassVar[Origin] = "ours"
    source: ClassVar[str] = "This test."
    summary: ClassVar[str] = "the entropy at the retain answers"
    joins: ClassVar[bool] = True

    def loss(self, view: View) -> Tensor:
        assert view.logits is not None
        logs = view.logits.log_softmax(-1)
        return -(logs.exp() * logs).sum(-1).masked_fill(~view.logprobs.mask, 0.0).sum(1)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry, kind in ((TRANSFORMS, Halved), (OBJECTIVES, Squared), (RETAIN_TERMS, Confident)):
        monkeypatch.setattr(registry, "_registered", {kind.name: kind})


@pytest.mark.usefixtures("registered")
def test_parts_of_another_package_are_parts_like_any(
    tiny_model: Any, rows: Rows, tmp_path: Path
) -> None:
    method = make({"name": "squared+confident+halved+projection+texts", "projection": 2})
    assert method.label == "squared+confident+texts+projection+halved"
    assert make(method.label).label == method.label
    assert method.options["factor"] == 0.5
    assert set(method.plugins()) == {"objective squared", "transform halved", "retain term confident"}
    assert make("ssiuu-squared-logprob").label == make("squared+ssiuu(logprob)").label
    given = {"name": "squared+confident+halved+ssiuu(logprob)"}
    whole, resumed = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    wanted = run(whole, given, rows)
    count = len(list(tiny_model.parameters()))
    assert [log.told["halved"] for log in wanted.steps] == [count * n for n in range(1, 5)]
    assert all(log.penalty_share is not None for log in wanted.steps[1:])
    with pytest.raises(interrupt.Interrupted):
        run(copy.deepcopy(tiny_model), given, rows, 2, state=tmp_path / "state")
    assert run(resumed, given, rows, state=tmp_path / "state").steps == wanted.steps
    assert torch.equal(weights(whole), weights(resumed))


def test_a_name_of_the_literature_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OBJECTIVES, "_registered", {"masked": Squared})
    with pytest.raises(ConfigError, match="recipe: 'masked' is a method of ssiuu and an objective of"):
        make("masked", "recipe")


@pytest.mark.usefixtures("registered")
def test_half_a_forget_gradient_is_half(exact_model: Any, rows: Rows) -> None:
    """Beside the retain gradient, which is left whole: joined and apart."""
    batches = [[collate(part, PAD)] for part in (rows.forget, rows.retain)]
    for together in (True, False):
        grads = []
        for name in ("gd", "gd+halved"):
            model = copy.deepcopy(exact_model)
            step = Step(model, make(name), 0.0, together=together)
            step(*batches)
            grads.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
        kept = copy.deepcopy(exact_model)
        Step(kept, None, 0.0)([], batches[1])
        retain = torch.cat([p.grad.reshape(-1) for p in kept.parameters()])
        torch.testing.assert_close(grads[1] - retain, (grads[0] - retain) / 2, rtol=1e-6, atol=1e-9)


def test_losses_are_told_to_every_part(exact_model: Any, rows: Rows) -> None:
    """After the step, with the learning rate that it took."""
    step, seen = Step(exact_model, make("gd+mask"), 1e-3), []
    step.bound("mask").after = lambda losses, rate: seen.append((losses, rate))
    outcome = step([collate(rows.forget, PAD)], [collate(rows.retain, PAD)])
    assert seen == [(Losses(outcome.forget_loss, outcome.retain_loss, None), 1e-3)]


class Shrunk(Edit):
    """Every weight a tenth smaller, again and again: a change that is no descent."""

    name: ClassVar[str] = "shrunk"
    origin: ClassVar[Origin] = "ours"
    source: ClassVar[str] = "This test."
    summary: ClassVar[str] = "smaller weights"

    times: int = Field(default=3, ge=1, description="how often at most")

    def edit(self, model: Any, work: Work) -> Iterator[str]:
        for n in range(1, self.times + 1):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(0.9)
            yield f"The weights are {0.9**n:.2f} of what they were."


def test_an_edit_of_another_package_stops_where_the_score_is_met(
    tiny_model: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OBJECTIVES, "_registered", {Shrunk.name: Shrunk})
    method, start = make({"name": "shrunk", "times": 5}), weights(tiny_model)
    assert not method.has_gradient and method.trains
    scores = iter([1.0, 0.8, 0.1])
    info = MethodInfo(label=method.label, name=method.name, origin="ours", description="")
    record = unlearn_examples(
        *(tiny_model, method, info, rows.forget, rows.retain, replace(SETTINGS, threshold=0.3)),
        *(StopRule("ranking", lambda: next(scores)), PAD),
    )
    assert record.stopped == "threshold" and record.notes == ["The weights are 0.81 of what they were."]
    assert [log.forget_score for log in record.steps] == [0.8, 0.1]
    torch.testing.assert_close(weights(tiny_model), start * 0.81)
    with pytest.raises(ConfigError, match="shrunk: gate: this method has no forget gradient"):
        make("shrunk+gate")
