"""Every knob of Ssiuu beside a loop over single numbers, in float64.

    g[j]  = sum over the batch of dP/dphi_j or dlogP/dphi_j       (one autograd an example, no padding)
    A[j]  = phi_j g_j, or its sum over the row of a linear map
    d[j]  = dL/dphi_j + lambda k[j] g_j,   k[j] = 2 (A_t - A_ref) or its sign, on the index set

The gradient given to the optimiser is compared, at parameters that have moved from the reference.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.likelihood import Batch, Example, collate
from ssiuu.methods import make
from ssiuu.methods.regulariser import CHUNK, Moved, Regulariser
from ssiuu.methods.regulariser import gate as gate_gradient
from ssiuu.training.prepare import Prepared, prepare_parts
from ssiuu.training.step import Step

PAD = 1
RATE = 1e-3
STEPS = 3
OPTIONS: dict[str, dict[str, float]] = {
    "ga": {},
    "gd": {},
    "npo": {"beta": 0.5},
    "simnpo": {"beta": 0.5, "delta": 0.3},
    "dpo": {"beta": 0.5},
    "wga": {"beta": 0.4},
}
BACKBONES = list(OPTIONS)
TARGETS = ("probability", "logprob")

Numbers = dict[str, list[float]]


# --- the definitions ----------------------------------------------------------------------------


def token_logps(model: Any, e: Example) -> list[Tensor]:
    """log p of every answer token, from one unpadded forward."""
    logits = model(input_ids=torch.tensor([e.prompt + e.answer])).logits[0][len(e.prompt) - 1 : -1]
    return [z.log_softmax(-1)[y] for z, y in zip(logits, e.answer, strict=True)]


def log_p(model: Any, e: Example) -> Tensor:
    return torch.stack(token_logps(model, e)).sum()


def log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log(1 + torch.exp(-x))


def forget_loss(name: str, model: Any, forget: Sequence[Example], made: Prepared) -> Tensor:
    """The forget term of a backbone; the reference is what the step was given, in fp32."""
    options, total = OPTIONS[name], torch.zeros((), dtype=torch.float64)
    words = sum(len(e.answer) for e in forget)
    for e in forget:
        if name in ("ga", "gd"):
            total = total + log_p(model, e) / words
        elif name == "wga":
            for lp in token_logps(model, e):
                total = total + float(lp.detach().exp()) ** options["beta"] * lp / words
        elif name == "simnpo":
            reward = -options["beta"] / len(e.answer) * log_p(model, e) - options["delta"]
            total = total - 0.125 * 2 / options["beta"] * log_sigmoid(reward) / len(forget)
        else:
            margin = -(log_p(model, e) - fp32(made.logprob[e.id]))
            if name == "dpo":
                chosen = log_p(model, made.refusals[e.id])
                margin = margin + chosen - fp32(made.refusal_logprob[e.id])
            loss = -2 / options["beta"] * log_sigmoid(options["beta"] * margin)
            total = total + loss / len(forget)
    return total


def fp32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))


def retain_loss(model: Any, retain: Sequence[Example]) -> Tensor:
    return -sum(log_p(model, e) for e in retain) / sum(len(e.answer) for e in retain)


def numbers(model: Any, value: Tensor) -> Numbers:
    """The gradient of a value, as lists of numbers by parameter."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(value, list(named.values()))
    return {n: g.reshape(-1).tolist() for n, g in zip(named, found, strict=True)}


def target_gradient(model: Any, forget: Sequence[Example], target: str) -> Numbers:
    total: Numbers = {}
    for e in forget:
        value = log_p(model, e)
        for name, g in numbers(model, value.exp() if target == "probability" else value).items():
            total[name] = [a + b for a, b in zip(total.get(name, [0.0] * len(g)), g, strict=True)]
    return total


class Literal:
    """The regulariser, one number at a time; the model is only looked at."""

    def __init__(self, spec: dict[str, Any], made: Prepared) -> None:
        self.spec = {
            "backbone": "gd",
            "target": "probability",
            "anchor": "previous",
            "side": "both",
            "level": "parameter",
            "penalty": "square",
            "index": "negative",
        } | spec
        self.made = made
        self.before: Numbers | None = None
        self.forget_norm = 0.0
        self.penalty_norm = 0.0

    def attribution(self, model: Any, g: Numbers) -> Numbers:
        """A: one number a parameter, or one a row of a linear map."""
        found = {}
        for name, parameter in model.named_parameters():
            products = [p * x for p, x in zip(parameter.view(-1).tolist(), g[name], strict=True)]
            if self.spec["level"] == "neuron":
                if not name.endswith("_proj.weight"):
                    continue
                rows, width = parameter.shape
                products = [math.fsum(products[i * width : (i + 1) * width]) for i in range(rows)]
            found[name] = products
        return found

    def hold(self, model: Any, whole: Sequence[Example], size: int) -> None:
        """A_0 over the whole forget set, scaled to a batch."""
        a = self.attribution(model, target_gradient(model, whole, self.spec["target"]))
        self.before = {n: [x * size / len(whole) for x in v] for n, v in a.items()}

    def step(self, model: Any, forget: Sequence[Example], retain: Sequence[Example]) -> Numbers:
        g = target_gradient(model, forget, self.spec["target"])
        attribution = self.attribution(model, g)
        f = numbers(model, forget_loss(self.spec["backbone"], model, forget, self.made))
        penalty = {n: [0.0] * len(v) for n, v in f.items()}
        for name, a in attribution.items():
            if self.before is None:
                break
            width = len(f[name]) // len(a)
            for i, (now, was) in enumerate(zip(a, self.before[name], strict=True)):
                factor = self.factor(now, was)
                for j in range(i * width, (i + 1) * width):
                    penalty[name][j] = factor * g[name][j]
        self.forget_norm, self.penalty_norm = norm(f), norm(penalty)
        if self.spec.get("rho") is not None:
            strength = self.spec["rho"] * self.forget_norm / (self.penalty_norm or math.inf)
        else:
            strength = self.spec.get("lambda", 1e-3)
        self.penalty_norm *= strength
        kept = {n: [0.0] * len(v) for n, v in f.items()}
        if retain:
            kept = numbers(model, retain_loss(model, retain))
        if self.spec["anchor"] == "previous":
            self.before = attribution
        return {
            n: [x + strength * y + z for x, y, z in zip(f[n], penalty[n], kept[n], strict=True)]
            for n in f
        }

    def factor(self, now: float, was: float) -> float:
        inside = now < 0 if self.spec["index"] == "negative" else now > 0
        if not inside or (self.spec["side"] == "growth" and now >= was):
            return 0.0
        if self.spec["penalty"] == "absolute":
            return float((now > was) - (now < was))
        return 2 * (now - was)


def norm(values: Numbers) -> float:
    return math.sqrt(math.fsum(x * x for v in values.values() for x in v))


# --- the set-up ---------------------------------------------------------------------------------


def batches_of(examples: Sequence[Example], micro: int | None = None) -> list[Batch]:
    size = micro or max(1, len(examples))
    return [collate(examples[i : i + size], PAD) for i in range(0, len(examples), size)]


def moved(model: Any) -> Any:
    """A copy whose parameters have all changed a little."""
    generator = torch.Generator().manual_seed(11)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator)
    return other


class Setting:
    def __init__(self, exact_model: Any, make_examples: Any) -> None:
        self.model = exact_model
        self.forget = make_examples(5, answer=(1, 2))
        self.retain = [replace(e, id=f"kept {e.id}") for e in make_examples(4, seed=1)]
        chosen = make_examples(5, seed=2)
        refusals = [replace(e, answer=r.answer) for e, r in zip(self.forget, chosen, strict=True)]
        dpo = make("dpo")
        self.prepared = prepare_parts(exact_model, dpo, self.forget, [], PAD, refusals)

    def step(self, spec: dict[str, Any]) -> tuple[Any, Step]:
        model = moved(self.model)
        return model, Step(model, make(spec), RATE, prepared=self.prepared)

    def rows(self, t: int) -> tuple[list[Example], list[Example]]:
        return [self.forget[(t + i) % 5] for i in range(3)], self.retain[t % 2 :: 2]


@pytest.fixture
def setting(exact_model: Any, make_examples: Any) -> Setting:
    return Setting(exact_model, make_examples)


def ssiuu(**knobs: Any) -> dict[str, Any]:
    """A form by its knobs, with the options of its backbone."""
    backbone = knobs.get("backbone", "gd")
    return {"name": "ssiuu", **knobs, "backbone_options": OPTIONS[backbone]}


def form_of(**knobs: Any) -> Any:
    """The penalty alone, by its knobs."""
    return make({"name": "ssiuu", **knobs}).part("ssiuu")


def taken(model: Any) -> Numbers:
    return {n: p.grad.reshape(-1).tolist() for n, p in model.named_parameters()}


def agree(found: Numbers, wanted: Numbers, rtol: float = 1e-9, but: Sequence[str] = ()) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        if name not in but:
            pair = (torch.tensor(v[name], dtype=torch.float64) for v in (found, wanted))
            largest = max(map(abs, wanted[name]))
            torch.testing.assert_close(
                *pair, rtol=rtol, atol=rtol * largest, msg=lambda m, n=name: f"{n}: {m}"
            )


# --- forms --------------------------------------------------------------------------------------

LOUD = {"probability": 5000.0, "logprob": 0.5}  # strong enough to matter beside the forget gradient
FORMS: list[dict[str, Any]] = [
    {},
    {"anchor": "initial"},
    {"side": "growth"},
    {"penalty": "absolute"},
    {"index": "positive"},
    {"anchor": "initial", "side": "growth", "penalty": "absolute"},
    {"anchor": "initial", "index": "positive"},
]


def follow(setting: Setting, spec: dict[str, Any], but: Sequence[str] = (), steps: int = STEPS) -> None:
    """Take steps and compare each gradient with the literal one."""
    model, step = setting.step(spec)
    literal = Literal(spec, setting.prepared)
    if spec.get("anchor") == "initial":
        literal.hold(model, setting.forget, 3)
    step.start(batches_of(setting.forget, 2), 3)
    for t in range(steps):
        forget, retain = setting.rows(t)
        if step.method is not None and step.method.retain is None:
            retain = []
        fresh = literal.before is None
        wanted = literal.step(model, forget, retain)
        outcome = step(batches_of(forget, 2), batches_of(retain, 1))
        agree(taken(model), wanted, 1e-7 if spec.get("backbone") in ("npo", "dpo") else 1e-9, but)
        if fresh:
            assert outcome.penalty_share is None
        elif not but:
            share = literal.penalty_norm / literal.forget_norm
            assert outcome.penalty_share == pytest.approx(share, rel=1e-6)
            assert share > 1e-3


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", FORMS, ids=lambda f: "-".join(f.values()) or "paper")
def test_every_form_of_the_penalty(setting: Setting, form: dict[str, Any], target: str) -> None:
    strength = LOUD[target] / (50 if form.get("penalty") == "absolute" else 1)
    follow(setting, ssiuu(**form, target=target) | {"lambda": strength})


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("backbone", ["ga", "npo", "simnpo", "dpo", "wga"])
def test_every_backbone_under_the_penalty(setting: Setting, backbone: str, target: str) -> None:
    follow(setting, ssiuu(backbone=backbone, target=target) | {"lambda": LOUD[target]}, steps=2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", [{}, {"anchor": "initial", "side": "growth"}])
def test_neurons_are_sums_over_their_rows(setting: Setting, form: dict[str, Any], target: str) -> None:
    """Sum over j of W[i,j] g[i,j]; the penalty reaches the neuron's own weights and nothing else."""
    spec = ssiuu(level="neuron", target=target, **form) | {"lambda": LOUD[target]}
    follow(setting, spec, steps=2)


def test_a_neuron_is_a_unit_of_a_block(setting: Setting) -> None:
    """q, k, v, o, gate, up and down of every block; a row of the output embedding is a word."""
    spec = ssiuu(level="neuron", target="logprob") | {"lambda": 0.5}
    _, step = setting.step(spec)
    assert step.bound("ssiuu").regulariser is not None
    maps = {n for n, _ in setting.model.named_parameters() if n.endswith("_proj.weight")}
    assert len(maps) == 14
    assert {
        n for n, _ in setting.model.named_parameters() if step.bound("ssiuu").regulariser.covers(n)
    } == maps


def test_a_neuron_holds_the_attribution_of_its_output(setting: Setting) -> None:
    """Sum over j of W[i,j] g[i,j] is sum over tokens of h[i,k] dlogP/dh[i,k]: Eq. 1, summed."""
    model, step = setting.step(ssiuu(level="neuron", target="logprob"))
    path = "model.layers.1.mlp.up_proj"
    wanted = torch.zeros(24, dtype=torch.float64)
    for e in setting.forget:
        kept: list[Tensor] = []
        handle = model.get_submodule(path).register_forward_hook(
            lambda m, i, out, kept=kept: kept.append(out)
        )
        value = log_p(model, e)
        handle.remove()
        (d,) = torch.autograd.grad(value, kept)
        wanted += (kept[0].detach() * d)[0].sum(0)
    step(batches_of(setting.forget, 2), [])
    assert step.bound("ssiuu").regulariser is not None
    found = step.bound("ssiuu").regulariser.reference[f"{path}.weight"]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


# --- the second gradient of each backbone -------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_influence_under_every_backbone(setting: Setting, backbone: str, target: str) -> None:
    """A_1 = phi g with g the sum of dP or dlogP over the batch, whatever the loss is."""
    model, step = setting.step(ssiuu(backbone=backbone, target=target))
    g = target_gradient(model, setting.forget, target)
    wanted = {
        n: [p * x for p, x in zip(parameter.view(-1).tolist(), g[n], strict=True)]
        for n, parameter in model.named_parameters()
    }
    step(batches_of(setting.forget, 2), batches_of(setting.retain))
    assert step.bound("ssiuu").regulariser is not None
    agree({n: a.tolist() for n, a in step.bound("ssiuu").regulariser.reference.items()}, wanted)


@pytest.mark.parametrize("nats", [5, 12, 16, 19, 20, 22, 60])
@pytest.mark.parametrize("backbone", ["npo", "simnpo"])
def test_an_answer_long_forgotten_still_has_its_log_p(
    tiny_model: Any, make_examples: Any, backbone: str, nats: float
) -> None:
    """With beta 4.5 the loss's slope passes through fp32's smallest numbers; dlogP has all of its own."""
    (example,) = make_examples(1, answer=(1, 1))
    weight = tiny_model.lm_head.weight.data
    start, low, high = weight.clone(), 0.0, 200.0
    for _ in range(40):  # the scale of the logits at which the answer is that unlikely
        weight.copy_(start * (low + high) / 2)
        far = float(log_p(tiny_model, example).detach()) < -nats
        low, high = (low, (low + high) / 2) if far else ((low + high) / 2, high)
    exact = copy.deepcopy(tiny_model).double()
    wanted = numbers(exact, log_p(exact, example))
    assert float(log_p(exact, example).detach()) == pytest.approx(-nats, rel=1e-2)
    phis = {n: p.detach().clone() for n, p in tiny_model.named_parameters()}
    spec = {"name": "ssiuu", "backbone": backbone, "target": "logprob"}
    spec |= {"backbone_options": {"beta": 4.5}}
    step = Step(tiny_model, make(spec), RATE, prepared=Prepared({example.id: 0.0}))
    step([collate([example], PAD)], [])
    assert step.bound("ssiuu").regulariser is not None
    for name, found in step.bound("ssiuu").regulariser.reference.items():
        a = phis[name].view(-1) * torch.tensor(wanted[name])
        off = float((found.float() - a).norm() / a.norm())
        assert off < 0.01, name  # bf16 and fp32


# --- the random half ----------------------------------------------------------------------------


def test_the_random_half_is_the_same_at_every_step(setting: Setting) -> None:
    spec = ssiuu(index="random", target="logprob") | {"lambda": 0.5}
    model, step = setting.step(spec)
    plain = Literal(spec | {"index": "negative", "lambda": 0.0}, setting.prepared)
    before: Numbers = {}
    halves: list[dict[str, list[bool]]] = []
    for t in range(STEPS):
        forget, retain = setting.rows(t)
        g = target_gradient(model, forget, "logprob")
        a = plain.attribution(model, g)
        without = plain.step(model, forget, retain)
        step(batches_of(forget), batches_of(retain))
        if before:
            half = {}
            for name, found in taken(model).items():
                inside = []
                for j, value in enumerate(found):
                    penalty = (a[name][j] - before[name][j]) * g[name][j]  # 2 lambda is 1
                    added = value - without[name][j]
                    assert min(abs(added), abs(added - penalty)) < 1e-9
                    inside.append(abs(penalty) > 1e-6 and abs(added) > 1e-7)
                half[name] = inside
            halves.append(half)
            loud = sum(abs(x) > 0 for name in a for x in a[name])
            assert 0.3 < sum(sum(v) for v in half.values()) / loud < 0.6
        before = a
    both = [(x, y) for n in halves[0] for x, y in zip(halves[0][n], halves[1][n], strict=True)]
    assert sum(x and y for x, y in both) > 0.8 * sum(x for x, _ in both)


def test_the_random_half_holds_both_signs_and_half_of_all() -> None:
    """With A_ref 0 the penalty is 2 A g, so that it shows where it acts."""
    a = torch.randn(20_000, generator=torch.Generator().manual_seed(0))

    def acts(name: str, phi: Tensor) -> Tensor:
        form = form_of(index="random", anchor="initial")
        regulariser = Regulariser(form, reference={name: torch.zeros(20_000)})
        found = torch.zeros(20_000)
        regulariser.apply(name, phi, torch.ones(20_000), found, 1.0, 1.0, Moved())
        assert torch.equal(found, torch.where(found != 0, 2 * phi, 0.0))
        return found != 0

    half = acts("w", a)
    assert torch.equal(half, acts("w", a))
    assert torch.equal(half, acts("w", -3 * a))
    assert not torch.equal(half, acts("v", a))
    for sign in (a < 0, a > 0):
        assert float(half[sign].float().mean()) == pytest.approx(0.5, abs=0.02)


# --- rho ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [{"target": t, "backbone": b} for t in TARGETS for b in ("gd", "npo")])
@pytest.mark.parametrize("rho", [0.2, 3.0])
def test_rho_is_the_ratio_of_norms(setting: Setting, form: dict[str, Any], rho: float) -> None:
    spec = ssiuu(**form, rho=rho)
    model, step = setting.step(spec)
    literal = Literal(spec, setting.prepared)
    for t in range(STEPS):
        forget, retain = setting.rows(t)
        wanted = literal.step(model, forget, retain)
        outcome = step(batches_of(forget, 2), batches_of(retain))
        agree(taken(model), wanted, rtol=1e-6)
        if t:
            assert outcome.penalty_share == pytest.approx(rho, rel=1e-6)
        else:
            assert outcome.penalty_share is None


@pytest.mark.parametrize(
    "knobs",
    [
        {"penalty": "absolute"},
        {"anchor": "initial"},
        {"side": "growth", "index": "positive"},
        {"level": "neuron"},
        {"level": "neuron", "target": "probability"},
    ],
    ids=lambda k: "-".join(k.values()),
)
def test_rho_holds_in_other_forms(setting: Setting, knobs: dict[str, Any]) -> None:
    spec = ssiuu(**{"target": "logprob", **knobs}, rho=0.4)
    model, step = setting.step(spec)
    step.start(batches_of(setting.forget), 3)
    for t in range(2):
        forget, _ = setting.rows(t)
        plain = Literal(ssiuu(target="logprob") | {"lambda": 0.0}, setting.prepared)
        without = plain.step(model, forget, [])
        outcome = step(batches_of(forget), [])
    added = {n: [x - y for x, y in zip(v, without[n], strict=True)] for n, v in taken(model).items()}
    assert norm(added) / plain.forget_norm == pytest.approx(0.4, rel=1e-6)
    assert outcome.penalty_share == pytest.approx(0.4, rel=1e-6)


# --- the gate -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_gate_zeroes_what_opposes_the_answer(setting: Setting, backbone: str) -> None:
    """Exactly where phi dlogP/dphi < 0, and nowhere else."""
    model, step = setting.step(ssiuu(gate=True, backbone=backbone, retain_weight=0))
    for t in range(2):
        forget, _ = setting.rows(t)
        g = target_gradient(model, forget, "logprob")
        f = numbers(model, forget_loss(backbone, model, forget, setting.prepared))
        phis = {n: p.view(-1).tolist() for n, p in model.named_parameters()}
        outcome = step(batches_of(forget, 2), [])
        wanted = {
            n: [0.0 if phi * x < 0 else y for phi, x, y in zip(phis[n], g[n], f[n], strict=True)]
            for n in f
        }
        found = taken(model)
        agree(found, wanted, 1e-7)
        against = [
            (value, y)
            for n in f
            for phi, x, y, value in zip(phis[n], g[n], f[n], found[n], strict=True)
            if phi * x < -1e-12
        ]
        assert len(against) > 1000
        assert all(value == 0.0 for value, _ in against)
        share = math.sqrt(sum(y * y for _, y in against)) / norm(f)
        assert outcome.penalty_share == pytest.approx(share, rel=1e-6)


def test_the_gate_by_hand() -> None:
    """phi g of 1, -1, 0 and 2; with the factor's sign turned the others go."""
    phi, g = torch.tensor([1.0, -1.0, 0.0, 2.0]), torch.tensor([1.0, 1.0, 5.0, 1.0])
    for sign, left in ((1.0, [3.0, 0.0, 3.0, 3.0]), (-1.0, [0.0, 3.0, 3.0, 0.0])):
        forget, told = torch.full((4,), 3.0), Moved()
        gate_gradient(phi, g, forget, sign, told)
        assert forget.tolist() == left
        assert (int(told.parameters), told.total) == (left.count(0.0), 4)
        assert told.share == pytest.approx(math.sqrt(left.count(0.0) / 4))


def test_what_moved_is_estimated_in_whole_chunks_and_all_norms_are_exact() -> None:
    """Two chunks and a rest: the norms are those of the definition, the count within 5 % of it."""
    generator = torch.Generator().manual_seed(4)
    phi, g, last = torch.randn((3, 2 * CHUNK + 1000), generator=generator)
    forget, told = torch.randn(phi.shape, generator=generator), Moved()
    gate_gradient(phi, g, forget.clone(), 1.0, told)
    shut = phi * g < 0
    assert told.share == pytest.approx(float(forget[shut].norm() / forget.norm()), rel=1e-5)
    assert float(told.parameters) == pytest.approx(int(shut.sum()), rel=0.05)
    assert float(told.parameters) != int(shut.sum())

    regulariser, told = Regulariser(form_of(target="logprob")), Moved()
    regulariser.apply("w", phi, last, torch.zeros_like(phi), 1.0, 1.0, Moved())
    found = forget.clone()
    regulariser.apply("w", phi, g, found, 1.0, 0.01, told)
    penalty = torch.where(shut, 0.02 * (phi * g - (phi * last).bfloat16().float()) * g, 0.0)
    torch.testing.assert_close(found, forget + penalty)
    assert told.share == pytest.approx(float(penalty.norm() / forget.norm()), rel=1e-5)
    count = int((penalty.abs() > 0.01 * forget.abs()).sum())
    assert float(told.parameters) == pytest.approx(count, rel=0.05)


# --- the penalty's own derivative ---------------------------------------------------------------


@pytest.mark.parametrize("level", ["parameter", "neuron"])
@pytest.mark.parametrize("penalty", ["square", "absolute"])
def test_the_penalty_is_a_finite_difference_with_g_held(level: str, penalty: str) -> None:
    """Of lambda sum over I- of (A - A_ref)^2 or |A - A_ref|, A = phi g, one parameter at a time."""
    generator = torch.Generator().manual_seed(5)
    phi, g, ref = torch.randn((3, 6, 5), generator=generator, dtype=torch.float64)
    before = ref.sum(1) if level == "neuron" else ref.view(-1)

    def value(at: Tensor) -> float:
        total = 0.0
        for i in range(6):
            a = [float(at[i, j] * g[i, j]) for j in range(5)]
            now = [float(phi[i, j] * g[i, j]) for j in range(5)]
            if level == "neuron":
                pairs = [(sum(a), sum(now), float(before[i]))]
            else:
                pairs = [(a[j], now[j], float(before[5 * i + j])) for j in range(5)]
            for x, inside, was in pairs:
                if inside < 0:
                    total += 0.3 * ((x - was) ** 2 if penalty == "square" else abs(x - was))
        return total

    form = form_of(**{"lambda": 0.3}, level=level, penalty=penalty)
    regulariser = Regulariser(form, frozenset({"w"}), {"w": before.clone()})
    found = torch.zeros_like(phi)
    regulariser.apply("w", phi, g, found, 1.0, 0.3, Moved())
    h = 1e-6
    for i in range(6):
        for j in range(5):
            step = torch.zeros_like(phi)
            step[i, j] = h
            slope = (value(phi + step) - value(phi - step)) / (2 * h)
            assert float(found[i, j]) == pytest.approx(slope, rel=1e-6, abs=1e-8)
    assert found.any() and not found.all()


def test_an_influence_at_its_anchor_is_left_alone() -> None:
    phi, g = torch.tensor([-1.0, -2.0]), torch.tensor([3.0, 1.0])
    for knobs in ({}, {"penalty": "absolute"}, {"side": "growth"}, {"level": "neuron"}):
        form = form_of(**{"lambda": 9.0}, **knobs)
        shape = (2, 1) if form.level == "neuron" else (2,)
        regulariser = Regulariser(form, frozenset({"w"}), {"w": phi * g})
        found = torch.zeros(shape)
        regulariser.apply("w", phi.view(shape), g.view(shape), found, 1.0, 9.0, Moved())
        assert not found.any()


def test_growth_leaves_a_shrinking_negative_influence_alone() -> None:
    """A of -1 from -3, -2 and 1: only the last has grown more negative."""
    phi, g = torch.full((3,), -1.0), torch.ones(3)
    for side, left in (("both", [4.0, 2.0, -4.0]), ("growth", [0.0, 0.0, -4.0])):
        regulariser = Regulariser(form_of(side=side), reference={"w": torch.tensor([-3.0, -2.0, 1.0])})
        found = torch.zeros(3)
        regulariser.apply("w", phi, g, found, 1.0, 1.0, Moved())
        assert found.tolist() == left


# --- what must be the backbone, bitwise ---------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
def test_lambda_0_is_the_backbone_bitwise(setting: Setting, backbone: str) -> None:
    one, a = setting.step(ssiuu(backbone=backbone) | {"lambda": 0})
    two, b = setting.step({"name": backbone, **OPTIONS[backbone]})
    for t in range(2):
        forget, retain = setting.rows(t)
        first, second = (s(batches_of(forget, 2), batches_of(retain)) for s in (a, b))
        assert first == second
    assert taken(one) == taken(two)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(
    "knobs", [{}, {"penalty": "absolute"}, {"side": "growth"}, {"level": "neuron"}]
)
def test_an_empty_index_set_leaves_the_bits(knobs: dict[str, Any]) -> None:
    """No A_t below 0 (one is 0): nothing is added, and the share is 0 rather than unknown."""
    generator = torch.Generator().manual_seed(1)
    phi, forget = torch.randn((2, 4, 3), generator=generator)
    g = phi.sign() * torch.rand(4, 3, generator=generator)
    g[0] = 0.0
    regulariser = Regulariser(form_of(**knobs), frozenset({"w"}))
    kept = forget.clone()
    for scale in (1.0, 2.0):
        told = Moved()
        regulariser.apply("w", phi, g, forget, scale, 1e6, told)
    assert torch.equal(forget, kept)
    assert (told.share, int(told.parameters)) == (0.0, 0)


def test_without_an_anchor_taken_there_is_no_penalty(setting: Setting) -> None:
    """anchor: initial before `set_anchor`: the gradient is GD's."""
    one, a = setting.step(ssiuu(anchor="initial", target="logprob") | {"lambda": 10.0})
    two, b = setting.step({"name": "gd"})
    for t in range(2):
        forget, retain = setting.rows(t)
        assert a(batches_of(forget), batches_of(retain)).penalty_share is None
        b(batches_of(forget), batches_of(retain))
    found, wanted = taken(one), taken(two)
    assert found.keys() == wanted.keys()
    for name, numbers_there in wanted.items():
        assert found[name] == pytest.approx(numbers_there, rel=1e-9, abs=1e-12), name


def test_the_initial_anchor_stays_and_leaves_no_gradient(setting: Setting) -> None:
    model, step = setting.step(ssiuu(anchor="initial", target="logprob"))
    step.start(batches_of(setting.forget, 2), 3)
    assert all(p.grad is None for p in model.parameters())
    assert step.bound("ssiuu").regulariser is not None
    start = {n: a.clone() for n, a in step.bound("ssiuu").regulariser.reference.items()}
    step(*(batches_of(rows) for rows in setting.rows(0)))
    assert all(torch.equal(a, start[n]) for n, a in step.bound("ssiuu").regulariser.reference.items())


# --- storage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [-32, -20, -6, 0, 6, 30])
def test_bf16_storage_keeps_sign_zero_and_1_part_in_256(exponent: int) -> None:
    generator = torch.Generator().manual_seed(2)
    g = torch.randn(5000, generator=generator) * 10.0**exponent
    g[::7] = 0.0
    phi = torch.rand(5000, generator=generator) + 0.5
    for knobs in ({}, {"anchor": "initial"}):
        regulariser = Regulariser(form_of(**knobs))
        if knobs:
            regulariser.anchor("w", phi, g, 1.0)
        else:
            regulariser.apply("w", phi, g, torch.zeros(5000), 1.0, 1.0, Moved())
        stored = regulariser.reference["w"]
        assert stored.dtype == torch.bfloat16
        wide, exact = stored.double(), (phi * g).double()
        assert torch.equal(wide.sign(), exact.sign())
        assert (wide[exact == 0] == 0).all()
        assert ((wide - exact).abs() <= exact.abs() / 256).all()
        assert ((wide - exact).abs() > 0).any()


def test_bf16_storage_in_a_whole_step(tiny_model: Any, make_examples: Any) -> None:
    forget = make_examples(4)
    exact = copy.deepcopy(tiny_model)
    g = target_gradient(exact, forget, "logprob")
    step = Step(tiny_model, make({"name": "ssiuu", "target": "logprob"}), RATE)
    step(batches_of(forget), [])
    assert step.bound("ssiuu").regulariser is not None
    for name, parameter in exact.named_parameters():
        found = step.bound("ssiuu").regulariser.reference[name].float()
        a = parameter.detach().view(-1) * torch.tensor(g[name])
        loud = a.abs() > 1e-3 * a.abs().max()  # beyond fp32's own rounding of the sums
        assert torch.equal(found.sign()[loud], a.sign()[loud])
        torch.testing.assert_close(found[loud], a[loud], rtol=1 / 250, atol=0)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"gate": True, "lambda": 1.0}, "gate takes the place of the penalty"),
        ({"gate": True, "rho": 0.5}, "gate takes the place of the penalty"),
        ({"gate": True, "side": "growth"}, "gate takes the place of the penalty"),
        ({"gate": True, "anchor": "initial"}, "gate takes the place of the penalty"),
        ({"gate": True, "level": "neuron"}, "gate takes the place of the penalty"),
        ({"gate": True, "index": "random"}, "gate takes the place of the penalty"),
        ({"gate": True, "penalty": "absolute"}, "gate takes the place of the penalty"),
        ({"gate": True, "target": "probability"}, "gate looks at log P"),
        ({"rho": 0.5, "lambda": 1.0}, "lambda or rho, not both"),
        ({"rho": 0}, r"ssiuu\.rho"),
        ({"rho": math.nan}, r"ssiuu\.rho"),
        ({"lambda": -1}, r"ssiuu\.lambda"),
        ({"backbone": "task-vector"}, r"ssiuu\.backbone"),
        ({"backbone": "mru"}, r"ssiuu\.backbone: .*Did you mean 'rmu'"),
        ({"backbone": "npo", "backbone_options": {"beta": 0}}, "beta"),
        ({"backbone": "npo", "backbone_options": {"betta": 1}}, "betta"),
        ({"anchor": "last"}, r"ssiuu\.anchor"),
        ({"side": "one"}, r"ssiuu\.side"),
        ({"target": "logit"}, r"ssiuu\.target"),
        ({"level": "head"}, r"ssiuu\.level"),
    ],
)
def test_knobs_that_do_not_fit_are_refused(spec: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=f"methods: .*{told}"):
        make({"name": "ssiuu", **spec})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ssiuu-gates", r"unknown form of ssiuu 'gates'.*Did you mean 'gate'"),
        ("ssiuu-logprop", r"'logprop'.*Did you mean 'logprob'"),
        ("ssiuu-rhox", "'rhox'"),
        ("ssiuu-", "form of ssiuu"),
        ("ssiuu-rho0", "rho"),
        ("ssiuu-gate-growth", "gate takes the place"),
        ("gd+projektion", r"unknown suffix of a method 'projektion'.*Did you mean 'projection'"),
        ("ssiuu+projection+kll", r"'kll'.*Did you mean 'kl'"),
        ("gd-gate", "'gd-gate'"),
        ("", "method"),
    ],
)
def test_unknown_forms_and_suffixes_name_the_nearest(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"recipe: .*{told}"):
        make(name, "recipe")


# --- labels -------------------------------------------------------------------------------------

LABELS = [
    "ssiuu",
    "ssiuu-logprob",
    "ssiuu-npo",
    "ssiuu-dpo-logprob",
    "ssiuu-simnpo-logprob-initial-growth",
    "ssiuu-neuron",
    "ssiuu-absolute",
    "ssiuu-positive",
    "ssiuu-random-rho0.25",
    "ssiuu-growth-rho0.5",
    "ssiuu-rho0.00001",
    "ssiuu-rho2",
    "ssiuu-gate",
    "ssiuu-gate-wga",
    "ssiuu-gate-logprob",
    "ssiuu-gate-npo+projection",
    "ssiuu+projection",
    "ssiuu+outputs",
    "ssiuu-logprob+kl+projection+outputs",
    "gd+kl",
    "npo+projection",
    "rmu",
    "rmu+kl",
    "collapse",
    "collapse+kl",
    "klue+kl",
    "masked+projection",
    "npo-sam",
    "npo-sam+kl",
    "task-vector",
    "repselect",
    "repselect-steps",
    "cir",
    "mcu+texts",
    "rmu-mcu+kl",
    "none",
]


@pytest.mark.parametrize("name", LABELS)
def test_a_label_makes_what_it_names(name: str) -> None:
    method = make(name)
    again = make(method.label)
    assert again.label == method.label
    assert again == method


@pytest.mark.parametrize("rho", [1e-5, 0.003, 0.5, 40.0, 1e6])
def test_a_label_keeps_its_rho(rho: float) -> None:
    method = make({"name": "ssiuu", "rho": rho})
    assert make(method.label).label == method.label
    assert make(method.label) == method


def test_labels_do_not_depend_on_the_order_of_forms() -> None:
    one, two = (
        make("ssiuu-growth-logprob-npo+kl+projection"),
        make("ssiuu-npo-logprob-growth+projection+kl"),
    )
    assert one == two
    assert one.label == two.label == "ssiuu-npo-logprob-growth+kl+projection"


def test_a_form_says_whose_it_is() -> None:
    assert make("ssiuu").whose == "paper"
    assert make("ssiuu+projection").whose == "ours"
    assert make("ssiuu-gate").whose == "ours"
    assert make("ssiuu-random").whose == make("ssiuu-positive").whose == "control"
    assert "Algorithm 1 as printed" in make("ssiuu").description
    assert "this project's form" in make("ssiuu-gate-npo").description
