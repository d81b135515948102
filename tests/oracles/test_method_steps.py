"""Whole steps of every method beside its formula, written out example by example.

Each example runs alone and unpadded in float64; an objective is a sum in explicit loops; its gradient
is autograd's. The model under test has moved away from the reference, so that every ratio counts.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.likelihood import Batch, Example, collate
from ssiuu.methods import METHODS, make
from ssiuu.methods.directions import Subspace
from ssiuu.records.schema import MethodInfo, Unlearning
from ssiuu.training.batches import draw_rows
from ssiuu.training.prepare import Prepared, prepare_parts
from ssiuu.training.step import Step
from ssiuu.training.unlearn import Settings, StopRule, unlearn_examples

PAD = 1
RATE = 1e-3
RMU = {"layer": 1, "steering": 3.0, "update": [r"\.(0|1)\.mlp\.down_proj\.weight$"]}
SPECS: dict[str, dict[str, Any]] = {
    "ga": {"name": "ga"},
    "gd": {"name": "gd", "retain_weight": 0.7},
    "gd+kl": {"name": "gd", "retain": "kl", "retain_weight": 0.7},
    "dpo": {"name": "dpo", "beta": 0.5},
    "npo": {"name": "npo", "beta": 0.5},
    "npo+kl": {"name": "npo", "beta": 0.5, "retain": "kl"},
    "simnpo": {"name": "simnpo", "beta": 0.5, "delta": 0.3},
    "wga": {"name": "wga", "beta": 0.4},
    "satimp": {"name": "satimp", "saturation": 2.0, "importance": 0.5, "forget_weight": 3.0},
    "pdu": {"name": "pdu", "forget_weight": 0.2, "retain_weight": 0.7},
    "ceu": {"name": "ceu", "skip": 1, "retain_weight": 0.7},
    "ceu+kl": {"name": "ceu", "skip": 0, "retain": "kl", "retain_weight": 0.7},
    "jensun": {"name": "jensun", "retain": "js", "retain_weight": 0.7},
    "idknll": {"name": "idknll", "retain_weight": 0.7},
    "altpo": {"name": "altpo", "beta": 0.5},
    "undial": {"name": "undial", "beta": 3.0, "retain_weight": 0.5},
    "rmu": {"name": "rmu", "retain_weight": 2.0, **RMU},
    "rmu+nll": {"name": "rmu", "retain_weight": 2.0, "retain": "nll", **RMU},
    "npo-sam": {"name": "npo-sam", "beta": 0.5, "rho": 0.05},
    "masked": {"name": "masked", "decay": 0.5},
    "collapse": {"name": "collapse", "projection": 3, "projection_outputs": 2},
    "klue": {"name": "klue", "share": 0.2, "alpha": 2.0},
}
every = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)

Gradients = dict[str, Tensor]


# --- the definitions ----------------------------------------------------------------------------


def answer_logits(model: Any, e: Example) -> Tensor:
    """Logits that predict the answer's tokens, from one unpadded forward."""
    logits = model(input_ids=torch.tensor([e.prompt + e.answer])).logits[0]
    return logits[len(e.prompt) - 1 : -1]


def token_logps(model: Any, e: Example) -> list[Tensor]:
    return [z.log_softmax(-1)[y] for z, y in zip(answer_logits(model, e), e.answer, strict=True)]


def log_p(model: Any, e: Example) -> Tensor:
    return torch.stack(token_logps(model, e)).sum()


def reference(before: Any, e: Example) -> float:
    """log P under the model before; a step keeps it in fp32."""
    return float(log_p(before, e).detach().float())


def log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log(1 + torch.exp(-x))


def hidden(model: Any, e: Example, layer: int) -> Tensor:
    """What a block puts out for every token that is read: all but the last."""
    kept: list[Tensor] = []
    handle = model.model.layers[layer].register_forward_hook(
        lambda m, i, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    model(input_ids=torch.tensor([(e.prompt + e.answer)[:-1]]))
    handle.remove()
    return kept[0][0]


def divergence(model: Any, before: Any, e: Example) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for z, r in zip(answer_logits(model, e), answer_logits(before, e).detach(), strict=True):
        for p, q in zip(r.softmax(-1), z.softmax(-1), strict=True):
            total = total + p * (p.log() - q.log())
    return total


def tokens(examples: Sequence[Example]) -> int:
    return sum(len(e.answer) for e in examples)


def positions(examples: Sequence[Example]) -> int:
    return sum(len(e.prompt) + len(e.answer) - 1 for e in examples)


def forget_objective(
    spec: dict[str, Any], model: Any, before: Any, forget: list[Example], refusals: dict[str, Example]
) -> Tensor:
    """The forget term of a step, by the formula in the literature."""
    name = spec["name"]
    total = torch.zeros((), dtype=torch.float64)
    for e in forget:
        if name in ("ga", "gd", "masked", "collapse", "klue"):
            total = total + log_p(model, e) / tokens(forget)
        elif name in ("npo", "npo-sam"):
            ratio = log_p(model, e) - reference(before, e)
            total = total - 2 / spec["beta"] * log_sigmoid(-spec["beta"] * ratio) / len(forget)
        elif name in ("dpo", "altpo"):
            chosen = refusals[e.id]
            up = log_p(model, chosen) - reference(before, chosen)
            down = log_p(model, e) - reference(before, e)
            loss = -2 / spec["beta"] * log_sigmoid(spec["beta"] * (up - down))
            total = total + loss / len(forget)
        elif name == "simnpo":
            reward = -spec["beta"] / len(e.answer) * log_p(model, e) - spec["delta"]
            total = total - 0.125 * 2 / spec["beta"] * log_sigmoid(reward) / len(forget)
        elif name == "wga":
            for lp in token_logps(model, e):
                total = total + float(lp.detach().exp()) ** spec["beta"] * lp / tokens(forget)
        elif name == "satimp":
            for lp in token_logps(model, e):
                p = float(lp.detach().exp())
                weight = p ** spec["saturation"] * (1 - p) ** spec["importance"]
                total = total + spec["forget_weight"] * weight * lp / tokens(forget)
        elif name == "pdu":
            for z in answer_logits(model, e):
                margin = z.max() - z.sum() / len(z)
                total = total + spec["forget_weight"] * margin * margin / tokens(forget)
        elif name == "undial":
            for z, r, y in zip(
                answer_logits(model, e), answer_logits(before, e).detach(), e.answer, strict=True
            ):
                lowered = r.clone()
                lowered[y] -= spec["beta"]
                total = total - (lowered.softmax(-1) * z.log_softmax(-1)).sum() / tokens(forget)
        elif name == "ceu":
            for t, (z, y) in enumerate(zip(answer_logits(model, e), e.answer, strict=True)):
                if t >= min(spec["skip"], len(e.answer) - 1):
                    p = z.softmax(-1)
                    q = [float(p[v].detach()) * (v != y) for v in range(len(p))]
                    for v, share in enumerate(q):
                        total = total - share / sum(q) * p[v].log() / tokens(forget)
        elif name == "jensun":
            refused = refusals[e.id].answer
            for t, z in enumerate(answer_logits(model, e)):
                for v, p in enumerate(z.softmax(-1)):
                    one = float(v == refused[t % len(refused)])
                    both = p * (p / ((p + one) / 2)).log()
                    both = both + (one * (one / ((p + one) / 2)).log() if one else 0.0)
                    total = total + both / 2 / tokens(forget)
        elif name == "idknll":
            refused = refusals[e.id]
            total = total - log_p(model, refused) / len(refused.answer) / len(forget)
        elif name == "rmu":
            drawn = torch.rand(16, generator=torch.Generator().manual_seed(0))
            u = (drawn / torch.linalg.vector_norm(drawn)).double()  # drawn and scaled in fp32
            for h in hidden(model, e, spec["layer"]):
                away = h - spec["steering"] * u
                total = total + away.square().sum() / 16 / positions(forget)
        else:
            raise AssertionError(name)
    return total


def retain_objective(spec: dict[str, Any], model: Any, before: Any, retain: list[Example]) -> Tensor:
    """The retain term of a step, weighted."""
    kind = spec.get("retain", {"ga": "none", "rmu": "activations"}.get(spec["name"], "nll"))
    total = torch.zeros((), dtype=torch.float64)
    if kind == "none":
        return total
    for e in retain:
        if kind == "nll":
            total = total - log_p(model, e) / tokens(retain)
        elif kind == "kl":
            total = total + divergence(model, before, e) / tokens(retain)
        elif kind == "js":
            now, then = answer_logits(model, e).softmax(-1), answer_logits(before, e).softmax(-1)
            for p, q in zip(now.flatten(), then.detach().flatten(), strict=True):
                both = p * (2 * p / (p + q)).log() + q * (2 * q / (p + q)).log()
                total = total + both / 2 / tokens(retain)
        else:
            layer = spec["layer"]
            pairs = zip(hidden(model, e, layer), hidden(before, e, layer).detach(), strict=True)
            for h, r in pairs:
                total = total + (h - r).square().sum() / 16 / positions(retain)
    return spec.get("retain_weight", 1.0) * total


def gradients(model: Any, value: Tensor) -> Gradients:
    named = dict(model.named_parameters())
    if not value.requires_grad:
        return {n: torch.zeros_like(p) for n, p in named.items()}
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {
        n: torch.zeros_like(p) if g is None else g
        for (n, p), g in zip(named.items(), found, strict=True)
    }


class Oracle:
    """One method over several steps; `running` is the masked method's mean retain gradient."""

    def __init__(self, spec: dict[str, Any], before: Any, refusals: dict[str, Example]) -> None:
        self.spec, self.before, self.refusals = spec, before, refusals
        self.running: Gradients | None = None
        self.bases: dict[str, tuple[Tensor, Tensor]] = {}
        self.rows: dict[str, Tensor] | None = None

    def step(self, model: Any, forget: list[Example], retain: list[Example]) -> Gradients:
        """Return the gradient that the optimiser is given; the model is left alone."""
        here = copy.deepcopy(model).requires_grad_(True)  # RMU froze what it does not train
        kept = gradients(here, retain_objective(self.spec, here, self.before, retain))
        if self.spec["name"] == "npo-sam":
            self._climb(here, forget)
        found = gradients(here, self._forget(here, forget))
        if self.spec["name"] == "masked":
            self._mask(found, kept)
        if self.spec["name"] == "collapse":
            self._project(found)
        both = {n: found[n] + kept[n] for n in found}
        if self.spec["name"] == "rmu":
            trained = {n for n in both if re.search(self.spec["update"][0], n)}
            return {n: g for n, g in both.items() if n in trained}
        if self.rows is not None:
            return {n: both[n] * rows.unsqueeze(1) for n, rows in self.rows.items()}
        return both

    def _forget(self, model: Any, forget: list[Example]) -> Tensor:
        return forget_objective(self.spec, model, self.before, forget, self.refusals)

    def _climb(self, model: Any, forget: list[Example]) -> None:
        """theta + rho d/|d|"""
        d = gradients(model, self._forget(model, forget))
        length = math.sqrt(sum(float(g.square().sum()) for g in d.values()))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += self.spec["rho"] * d[name] / length

    def _mask(self, found: Gradients, kept: Gradients) -> None:
        decay = self.spec["decay"]
        if self.running is None:
            self.running = kept
        else:
            self.running = {n: decay * self.running[n] + (1 - decay) * kept[n] for n in kept}
        for name, gradient in found.items():
            flat, mean = gradient.view(-1), self.running[name].reshape(-1).tolist()
            for j, (f, m) in enumerate(zip(flat.tolist(), mean, strict=True)):
                same = (f > 0 and m > 0) or (f < 0 and m < 0)
                if not same:
                    flat[j] = 0.0

    def _project(self, found: Gradients) -> None:
        for name in found:
            if name not in self.bases:
                found[name] = torch.zeros_like(found[name])
                continue
            v, u = self.bases[name]
            left = torch.eye(u.shape[0], dtype=torch.float64) - u @ u.T
            right = torch.eye(v.shape[0], dtype=torch.float64) - v @ v.T
            found[name] = left @ found[name] @ right


# --- the set-up ---------------------------------------------------------------------------------


def batches_of(examples: Sequence[Example], micro: int | None = None) -> list[Batch]:
    size = micro or max(1, len(examples))
    return [collate(examples[i : i + size], PAD) for i in range(0, len(examples), size)]


def named(examples: list[Example], prefix: str) -> list[Example]:
    return [replace(e, id=f"{prefix} {e.id}") for e in examples]


def moved(model: Any, by: float = 0.03) -> Any:
    """A copy whose parameters have all changed a little."""
    generator = torch.Generator().manual_seed(11)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    return other


class Setting:
    """Rows, the reference model, one that has moved, and what `prepare` makes of the first."""

    def __init__(self, spec: dict[str, Any], exact_model: Any, make_examples: Any) -> None:
        self.spec, self.method, self.before = spec, make(spec), exact_model
        self.forget = make_examples(4, answer=(1, 3))
        self.retain = named(make_examples(4, seed=1), "kept")
        chosen = make_examples(4, seed=2)
        self.refusals = [replace(e, answer=r.answer) for e, r in zip(self.forget, chosen, strict=True)]
        self.prepared = prepare_parts(
            exact_model, self.method, self.forget, self.retain, PAD, self.refusals
        )
        if bases := self.prepared.parts.get("projection"):
            self.prepared.parts["projection"] = {
                n: Subspace(b.inputs.double(), b.outputs.double()) for n, b in bases.items()
            }

    def oracle(self) -> Oracle:
        made = Oracle(self.spec, self.before, {e.id: e for e in self.refusals})
        if bases := self.prepared.parts.get("projection"):
            made.bases = {n: (b.inputs, b.outputs) for n, b in bases.items()}
        made.rows = self.prepared.parts.get("klue")
        return made

    def step(self, rate: float = RATE, pad: int = PAD, **given: Any) -> tuple[Any, Step]:
        model = moved(self.before)
        return model, Step(model, self.method, rate, prepared=self.prepared, pad=pad, **given)


@pytest.fixture
def setting(spec: dict[str, Any], exact_model: Any, make_examples: Any) -> Setting:
    return Setting(spec, exact_model, make_examples)


def taken(model: Any) -> Gradients:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def agree(found: Gradients, wanted: Gradients, rtol: float = 1e-6, atol: float = 1e-9) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(
            found[name], wanted[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert max(float(g.abs().max()) for g in wanted.values()) > 1e-3


# --- every method -------------------------------------------------------------------------------


def test_every_method_that_trains_has_an_oracle() -> None:
    # nothing, oracles of their own, and the end of this file
    elsewhere = {"none", "ssiuu", "ssiuu-exact", "fdcu", "task-vector"}
    elsewhere |= {"repselect", "repselect-steps", "cir", "mcu", "rmu-mcu"}
    assert {s["name"] for s in SPECS.values()} == set(METHODS) - elsewhere


@every
def test_two_steps_are_the_formula(setting: Setting) -> None:
    model, step = setting.step()
    oracle = setting.oracle()
    for half in (slice(0, 2), slice(1, 4)):
        forget, retain = setting.forget[half], setting.retain[half]
        loss = forget_objective(
            setting.spec, model, setting.before, forget, {e.id: e for e in setting.refusals}
        )
        kept = retain_objective(setting.spec, model, setting.before, retain)
        wanted = oracle.step(model, forget, retain)
        outcome = step(batches_of(forget), batches_of(retain))
        agree(taken(model), wanted)
        length = math.sqrt(sum(float(g.square().sum()) for g in wanted.values()))
        assert outcome.gradient_norm == pytest.approx(length, rel=1e-6)
        assert outcome.forget_loss == pytest.approx(loss.item(), rel=1e-6)
        if outcome.retain_loss is None:
            assert setting.spec["name"] == "ga"
        else:
            weight = setting.method.retain_weight
            assert weight * outcome.retain_loss == pytest.approx(kept.item(), rel=1e-6)
        assert outcome.penalty_share is None


@every
def test_micro_batches_are_one_batch(setting: Setting) -> None:
    found = []
    for size in (None, 3, 1):
        model, step = setting.step()
        step(batches_of(setting.forget, size), batches_of(setting.retain, size))
        found.append(taken(model))
    agree(found[1], found[0])
    agree(found[2], found[0])


@every
def test_the_order_of_rows_does_not_matter(setting: Setting) -> None:
    found = []
    for turn in (slice(None), slice(None, None, -1)):
        model, step = setting.step()
        step(batches_of(setting.forget[turn], 3), batches_of(setting.retain[turn], 3))
        found.append(taken(model))
    agree(found[1], found[0])


def widened(batch: Batch, by: int) -> Batch:
    """The same rows with more padding on the left, of other tokens, in inputs and answers."""
    rows = len(batch.ids)
    tokens = torch.full((rows, by), 17)
    nothing = torch.zeros((rows, by), dtype=torch.long)
    return Batch(
        ids=batch.ids,
        input_ids=torch.cat([tokens, batch.input_ids], 1),
        attention_mask=torch.cat([nothing, batch.attention_mask], 1),
        position_ids=torch.cat([nothing, batch.position_ids], 1),
        targets=torch.cat([tokens, batch.targets], 1),
        answer_mask=torch.cat([nothing.bool(), batch.answer_mask], 1),
    )


@every
def test_padding_does_not_matter(setting: Setting) -> None:
    found = []
    for by in (0, 5):
        model, step = setting.step(pad=PAD + by)
        forget, retain = (
            [widened(b, by) for b in batches_of(rows, 2)] for rows in (setting.forget, setting.retain)
        )
        step(forget, retain)
        found.append(taken(model))
    agree(found[1], found[0])


@every
def test_without_retain_rows_the_forget_term_stands_alone(setting: Setting) -> None:
    model, step = setting.step()
    wanted = (
        setting.oracle().step(model, setting.forget, []) if setting.spec["name"] != "masked" else {}
    )
    outcome = step(batches_of(setting.forget), [])
    assert outcome.retain_loss is None
    if wanted:
        agree(taken(model), wanted)


# --- NPO+SAM ------------------------------------------------------------------------------------


def spec_of(name: str) -> Any:
    return pytest.mark.parametrize("spec", [SPECS[name]], ids=[name])


@spec_of("npo-sam")
def test_sam_returns_to_the_same_bits(setting: Setting) -> None:
    model, step = setting.step(rate=0.0)
    start = copy.deepcopy(model)
    step(batches_of(setting.forget, 2), batches_of(setting.retain, 2))
    for was, now in zip(start.parameters(), model.parameters(), strict=True):
        assert torch.equal(was, now)


@spec_of("npo-sam")
def test_sam_returns_even_from_an_error(setting: Setting) -> None:
    model, step = setting.step()
    start, calls = copy.deepcopy(model), []

    def fail_at_the_second(batches: Any, shape: bool = True) -> Any:
        calls.append(shape)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return type(step)._forget_backward(step, batches, shape)

    step._forget_backward = fail_at_the_second  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        step(batches_of(setting.forget), [])
    for was, now in zip(start.parameters(), model.parameters(), strict=True):
        assert torch.equal(was, now)


@spec_of("npo-sam")
def test_sam_with_a_vanishing_radius_is_npo(setting: Setting) -> None:
    found = []
    for spec in (SPECS["npo"], {**SPECS["npo-sam"], "rho": 1e-9}):
        model = moved(setting.before)
        step = Step(model, make(spec), RATE, prepared=setting.prepared)
        step(batches_of(setting.forget), batches_of(setting.retain))
        found.append(taken(model))
    agree(found[1], found[0], rtol=1e-5, atol=1e-7)


# --- masked -------------------------------------------------------------------------------------


@spec_of("masked")
def test_the_mask_follows_the_running_mean(setting: Setting) -> None:
    """With decay 0.5 after two steps: where it and the last retain gradient differ in sign."""
    model, step = setting.step()
    oracle = setting.oracle()
    for rows in (slice(0, 2), slice(2, 4)):
        kept = gradients(
            model, retain_objective(setting.spec, model, setting.before, setting.retain[rows])
        )
        oracle.step(model, setting.forget[rows], setting.retain[rows])
        step(batches_of(setting.forget[rows]), batches_of(setting.retain[rows]))
    assert oracle.running is not None
    agree(step.bound("mask").mean, oracle.running)
    differ = sum(int((step.bound("mask").mean[n] * kept[n] < 0).sum()) for n in kept)
    assert differ > 100
    for name, gradient in taken(model).items():
        forget = gradient - kept[name]
        assert ((forget * step.bound("mask").mean[name] > 0) | (forget.abs() < 1e-12)).all()


# --- collapse -----------------------------------------------------------------------------------


def moments(model: Any, examples: Sequence[Example]) -> dict[str, tuple[Tensor, Tensor]]:
    """Sums of x x^T and d d^T over all tokens of each example alone, d the gradient of its NLL."""
    maps = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in path
    }
    sums = {
        path: (
            torch.zeros(m.in_features, m.in_features, dtype=torch.float64),
            torch.zeros(m.out_features, m.out_features, dtype=torch.float64),
        )
        for path, m in maps.items()
    }
    for e in examples:
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        handles = [
            m.register_forward_hook(
                lambda _, given, out, path=path, seen=seen: seen.__setitem__(path, (given[0][0], out))
            )
            for path, m in maps.items()
        ]
        logits = model(input_ids=torch.tensor([(e.prompt + e.answer)[:-1]])).logits[0]
        for handle in handles:
            handle.remove()
        rows = range(len(e.prompt) - 1, len(logits))
        nll = -sum(logits[t].log_softmax(-1)[y] for t, y in zip(rows, e.answer, strict=True))
        slopes = torch.autograd.grad(nll, [out for _, out in seen.values()])
        for (path, (x, _)), d in zip(seen.items(), slopes, strict=True):
            for k in range(len(x)):
                sums[path][0].add_(x[k].detach().outer(x[k].detach()))
                sums[path][1].add_(d[0, k].outer(d[0, k]))
    return sums


@spec_of("collapse")
def test_the_collapse_takes_both_sides_from_explicit_second_moments(setting: Setting) -> None:
    bases = {}
    for path, (inputs, outputs) in moments(setting.before, setting.retain).items():
        (a, v), (b, u) = torch.linalg.eigh(inputs), torch.linalg.eigh(outputs)
        assert a[-3] > 1.01 * a[-4] and b[-2] > 1.01 * b[-3]  # else the space is not determined
        bases[f"{path}.weight"] = (v[:, -3:], u[:, -2:])
    assert bases.keys() == setting.prepared.parts["projection"].keys()
    for name, (v, u) in bases.items():  # those of the step are taken in fp32
        found = setting.prepared.parts["projection"][name]
        torch.testing.assert_close(found.inputs @ found.inputs.T, v @ v.T, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.outputs @ found.outputs.T, u @ u.T, rtol=0, atol=1e-4)
    oracle = setting.oracle()
    oracle.bases = bases
    setting.prepared.parts["projection"] = {n: Subspace(v, u) for n, (v, u) in bases.items()}
    model, step = setting.step()
    wanted = oracle.step(model, setting.forget, setting.retain)
    step(batches_of(setting.forget), batches_of(setting.retain))
    agree(taken(model), wanted, rtol=1e-9, atol=1e-12)


# --- KLUE ---------------------------------------------------------------------------------------


def neuron_attribution(model: Any, e: Example) -> dict[str, Tensor]:
    """max over tokens of h dlogP/dh for every output unit of the feed-forward maps."""
    outputs: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, i, out, path=path: outputs.__setitem__(path, out))
        for path, module in model.named_modules()
        if re.search(r"mlp\.(gate|up|down)_proj$", path)
    ]
    logits = model(input_ids=torch.tensor([(e.prompt + e.answer)[:-1]])).logits[0]
    for handle in handles:
        handle.remove()
    rows = range(len(e.prompt) - 1, len(logits))
    value = sum(logits[t].log_softmax(-1)[y] for t, y in zip(rows, e.answer, strict=True))
    slopes = torch.autograd.grad(value, list(outputs.values()))
    return {
        path: (out.detach() * d)[0].max(0).values
        for (path, out), d in zip(outputs.items(), slopes, strict=True)
    }


@spec_of("klue")
def test_klue_marks_the_neurons_of_the_literal_scores(setting: Setting) -> None:
    scores: dict[tuple[str, int], float] = {}
    for e in setting.forget:
        others = [o for o in setting.forget if o.answer != e.answer]
        own = neuron_attribution(setting.before, e)
        elsewhere = [
            neuron_attribution(setting.before, Example(o.id, o.prompt, e.answer)) for o in others
        ]
        for path, values in own.items():
            for i, value in enumerate(values.tolist()):
                superficial = sum(max(float(a[path][i]), 0.0) for a in elsewhere) / len(others)
                score = value - setting.spec["alpha"] * superficial
                scores[path, i] = scores.get((path, i), 0.0) + score
    count = round(setting.spec["share"] * len(scores))
    leaders = set(sorted(scores, key=lambda key: scores[key], reverse=True)[:count])
    found = {
        (name.removesuffix(".weight"), i)
        for name, rows in setting.prepared.parts["klue"].items()
        for i in rows.nonzero().view(-1).tolist()
    }
    assert found == leaders


def test_klue_draws_as_many_contexts_as_it_is_told(tiny_model: Any, make_examples: Any) -> None:
    """One context or all: other neurons, the same ones at every call."""
    forget = make_examples(5)
    marked = [
        prepare_parts(tiny_model, make({"name": "klue", "contexts": n}), forget, [], PAD).parts["klue"]
        for n in (1, 1, 4, 9)
    ]
    flat = [torch.cat(list(m.values())) for m in marked if m is not None]
    assert torch.equal(flat[0], flat[1])
    assert torch.equal(flat[2], flat[3])  # there are only four others
    assert not torch.equal(flat[0], flat[2])


@spec_of("klue")
def test_klue_moves_its_neurons_alone(setting: Setting) -> None:
    model, step = setting.step()
    start = dict(copy.deepcopy(model).named_parameters())
    for _ in range(2):
        step(batches_of(setting.forget), batches_of(setting.retain))
    for name, parameter in model.named_parameters():
        rows = setting.prepared.parts["klue"].get(name)
        if rows is None:
            assert torch.equal(parameter, start[name]), name
            continue
        changed = (parameter != start[name]).any(1)
        assert not changed[~rows].any(), name
        assert changed[rows].all(), name


@spec_of("klue")
def test_klue_with_weight_decay_is_refused(setting: Setting) -> None:
    """Decay would move the neurons that are not marked."""
    with pytest.raises(ConfigError, match="klue: weight_decay must be 0"):
        setting.step(weight_decay=0.1)


# --- RMU ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "pattern"), [(0, r"\.0\.mlp\.down_proj\.weight$"), (1, r"\.1\.self_attn\.[qv]_proj")]
)
def test_rmu_trains_only_what_its_patterns_fit(
    exact_model: Any, make_examples: Any, layer: int, pattern: str
) -> None:
    spec = {"name": "rmu", "layer": layer, "steering": 3.0, "update": [pattern], "retain_weight": 2.0}
    setting = Setting(spec, exact_model, make_examples)
    model, step = setting.step()
    start = dict(copy.deepcopy(model).named_parameters())
    wanted = setting.oracle().step(model, setting.forget, setting.retain)
    step(batches_of(setting.forget, 2), batches_of(setting.retain, 2))
    agree(taken(model), wanted)
    trained = {n for n in start if re.search(pattern, n)}
    assert trained
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, start[name]) == (name not in trained), name
    step.close()
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_rmu_refuses_a_block_that_is_not_there(exact_model: Any, make_examples: Any) -> None:
    spec = {"name": "rmu", **RMU, "layer": 2}
    with pytest.raises(ConfigError, match="layer: must be below 2"):
        Setting(spec, exact_model, make_examples)
    step = Step(exact_model, make({**spec, "retain_weight": 0}), RATE)
    with pytest.raises(ConfigError, match="layer: must be below 2"):
        step(batches_of(make_examples(2)), [])


# --- DPO ----------------------------------------------------------------------------------------


def test_dpo_without_refusals_is_refused(tiny_model: Any, make_examples: Any) -> None:
    with pytest.raises(ConfigError, match="dpo: there are no refusals"):
        prepare_parts(tiny_model, make("dpo"), make_examples(2), [], PAD)


# --- the task vector ----------------------------------------------------------------------------


def subtract(
    model: Any, spec: dict[str, Any], forget: list[Example], scores: list[float]
) -> Unlearning:
    """Unlearn by a task vector; the stop score is read from this list, then stays high."""
    method = make({"name": "task-vector", **spec})
    info = MethodInfo(
        label=method.label,
        name=method.name,
        origin=method.whose,
        description=method.description,
        hyperparameters=method.options,
    )
    settings = Settings(
        learning_rate=RATE,
        batch_size=3,
        micro_batch_size=2,
        max_steps=1,
        check_every=1,
        threshold=0.3,
        weight_decay=0.0,
        seed=5,
        precision="fp32",
    )
    left = iter([1.0, *scores])  # the first is read before step 1
    stop = StopRule("ranking", lambda: next(left, 1.0))
    return unlearn_examples(model, method, info, forget, [], settings, stop, PAD)


def tuned_on(model: Any, forget: list[Example], steps: int) -> Any:
    """Descend the token-mean NLL of the same rows; Step's own AdamW has an oracle of its own."""
    other = copy.deepcopy(model)
    step = Step(other, None, RATE)
    for number in range(1, steps + 1):
        rows = [forget[i] for i in draw_rows(len(forget), 3, number, 5)]
        if number == 1:
            wanted = gradients(other, -sum(log_p(other, e) for e in rows) / tokens(rows))
        step([], batches_of(rows, 2))
        if number == 1:
            agree(taken(other), wanted, rtol=1e-4, atol=1e-5)
    return other


@pytest.mark.parametrize(
    ("scores", "alpha", "stopped"),
    [([0.2], 0.75, "threshold"), ([0.9, 0.3], 1.5, "threshold"), ([0.9], 3.0, "max_steps")],
)
def test_the_task_vector_is_subtracted_exactly(
    tiny_model: Any, make_examples: Any, scores: list[float], alpha: float, stopped: str
) -> None:
    """theta_0 - alpha (theta_tuned - theta_0), from theta_0 and not from the measure before."""
    forget = make_examples(5)
    start, tuned = copy.deepcopy(tiny_model), tuned_on(tiny_model, forget, 3)
    spec = {"tune_steps": 3, "scale_step": 0.75, "scale_limit": 3.0}
    told = subtract(tiny_model, spec, forget, scores)
    assert told.stopped == stopped
    assert len(told.steps) == 3 + round(alpha / 0.75)
    assert [log.step for log in told.steps] == list(range(1, len(told.steps) + 1))
    for was, end, now in zip(
        start.parameters(), tuned.parameters(), tiny_model.parameters(), strict=True
    ):
        vector = end.detach() - was.detach()
        assert vector.any()
        assert torch.equal(now.detach(), torch.sub(was.detach(), vector, alpha=alpha))
        assert now.grad is None
    assert not tiny_model.training


@pytest.mark.parametrize(("scale", "limit", "tried"), [(0.5, 1.2, 2), (0.1, 0.3, 3), (0.7, 2.1, 3)])
def test_alpha_grows_up_to_its_limit(
    tiny_model: Any, make_examples: Any, scale: float, limit: float, tried: int
) -> None:
    spec = {"tune_steps": 1, "scale_step": scale, "scale_limit": limit}
    told = subtract(tiny_model, spec, make_examples(3), [])
    assert len([log for log in told.steps if log.forget_score is not None]) == tried


def test_a_step_of_alpha_beyond_its_limit_is_refused(tiny_model: Any, make_examples: Any) -> None:
    with pytest.raises(ConfigError, match="scale"):
        spec = {"tune_steps": 1, "scale_step": 2.0, "scale_limit": 1.0}
        subtract(tiny_model, spec, make_examples(3), [])


def test_prepared_is_empty_for_methods_that_need_nothing(tiny_model: Any, make_examples: Any) -> None:
    rows = make_examples(2)
    for name in ("ga", "gd", "simnpo", "wga", "masked", "ssiuu"):
        assert prepare_parts(tiny_model, make(name), rows, rows, PAD) == Prepared()
