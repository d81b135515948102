"""Ssiuu: suppress spurious unlearning neurons, in the paper's form and in others.

Objective (Eq. 3, 6): L(theta_t) + lambda * sum over i in I- of (A_{t-1}[i] - A_t[i])^2, with
A_{t-1} held constant, I- = {i : A_t[i] < 0} and L a backbone, gradient difference in the paper. Its
Algorithm 1 takes the parameters for features:

    A_t[j] = phi_j * g_j,    g_j = sum over the batch of dP(y|x)/dphi_j

With the Hessian dropped the added gradient is 2 lambda (A_t[j] - A_{t-1}[j]) g_j on I-, 0 elsewhere.
There is no penalty at t = 1; afterwards A_{t-1} <- A_t. The arithmetic is in
ssiuu.methods.regulariser.

With `derivative: exact` (ssiuu-exact) nothing is dropped: the gradient is that of the penalty as it is
printed, the derivative of g included, with A_{t-1} and I- held constant as the paper has them:

    2 lambda (A_t - A_{t-1}) g + H v,    v = 2 lambda (A_t - A_{t-1}) phi on I-, 0 elsewhere

H is the second derivative of the batch's P(y|x). H v is exact: one more forward pass over the forget
rows, a backward pass through it and one through both, in fp32. On the default model a step takes 4.4
times the processor time of gd's and 3.1 times that of Algorithm 1's, and holds the graph of a gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.methods.base import Bound, Origin, Slope, Training, Transform
from ssiuu.methods.regulariser import Moved, Regulariser
from ssiuu.models.lora import Adapter, weight_of
from ssiuu.models.shards import places
from ssiuu.models.sites import find_sites
from ssiuu.records.schema import Target

# The knobs in the order in which they stand in a name, where they are not the paper's.
SHOWN = ("target", "anchor", "side", "level", "penalty", "index", "derivative")


class Ssiuu(Transform):
    """Ssiuu's penalty. With the defaults, on gd, it is Algorithm 1 as printed."""

    name: ClassVar[str] = "ssiuu"
    origin: ClassVar[Origin] = "paper"
    source: ClassVar[str] = "Yang et al. 2026 (ICLR)."
    summary: ClassVar[str] = "with the attribution regulariser of Ssiuu"
    order: ClassVar[int] = 10
    published_on: ClassVar[frozenset[str]] = frozenset({"gd"})
    number: ClassVar[str] = "lambda"
    knobs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "logprob": {"target": "logprob"},
        "initial": {"anchor": "initial"},
        "growth": {"side": "growth"},
        "neuron": {"level": "neuron"},
        "absolute": {"penalty": "absolute"},
        "positive": {"index": "positive"},
        "random": {"index": "random"},
        "exact": {"derivative": "exact"},
    }

    lambda_: float = Field(
        default=1e-3, ge=0, alias="lambda", description="strength of the regulariser"
    )
    rho: float | None = Field(
        default=None,
        gt=0,
        description="ours: in place of lambda, the penalty's norm over the forget gradient's",
    )
    target: Literal["probability", "logprob"] = Field(
        default="probability",
        description="what attribution differentiates: P(y|x) (the paper) or log P(y|x) (ours)",
    )
    anchor: Literal["previous", "initial"] = Field(
        default="previous",
        description="what A_t is held to: the step before (the paper) or the start, over the whole "
        "forget set (ours)",
    )
    side: Literal["both", "growth"] = Field(
        default="both",
        description="whether a negative influence that shrinks is penalised too (the paper) or only "
        "one that grows (ours)",
    )
    level: Literal["parameter", "neuron"] = Field(
        default="parameter",
        description="features: parameters (Algorithm 1) or output units of linear maps (ours)",
    )
    penalty: Literal["square", "absolute"] = Field(
        default="square", description="of the difference: its square (the paper) or |.| (ours)"
    )
    index: Literal["negative", "positive", "random"] = Field(
        default="negative",
        description="where the penalty acts: I- (the paper); I+ and a random half are controls",
    )

    memory: Literal["bf16", "int8"] = Field(
        default="bf16",
        description="what A_t is held in until the next step: 2 bytes a parameter, or 1, with its sign "
        "exact and at most 4.4 % off, which is more of the difference that is penalised",
    )
    derivative: Literal["constant", "exact"] = Field(
        default="constant",
        description="of the penalty: with g held constant (Algorithm 1), or through g as well, which "
        "is the gradient of Eq. 3 and 6 as printed, at a Hessian-vector product a step",
    )

    @model_validator(mode="after")
    def _one_strength(self) -> Ssiuu:
        if self.rho is not None and "lambda_" in self.model_fields_set:
            raise ValueError("give lambda or rho, not both")
        if self.rho is not None and self.derivative == "exact":
            raise ValueError("rho is for derivative: constant; give lambda")
        return self

    @property
    def heads(self) -> bool:
        """A method with it is of Ssiuu's family."""
        return True

    @property
    def options(self) -> dict[str, Any]:
        """Every hyper-parameter; of memory only what is not as ever, for keys of older results."""
        options = super().options
        return {k: v for k, v in options.items() if k != "memory" or v != "bf16"}

    @property
    def regularises(self) -> bool:
        """Whether there is a penalty; with lambda 0 the objective is left as it is, bitwise."""
        return self.rho is not None or self.lambda_ > 0

    @property
    def form(self) -> list[str]:
        """The words for every knob that is not the paper's."""
        fields = type(self).model_fields
        words = [getattr(self, key) for key in SHOWN if getattr(self, key) != fields[key].default]
        if self.rho is not None:
            words.append(f"rho{self.rho:.12f}".rstrip("0").rstrip("."))
        return words

    @property
    def whose(self) -> Origin:
        """A penalty elsewhere is a control; any form but the paper's is ours.

        The paper's are Algorithm 1 and the objective that it is an approximation to.
        """
        if self.index != "negative":
            return "control"
        return "ours" if self.form not in ([], ["exact"]) or not self.regularises else "paper"

    @property
    def title(self) -> str:
        """What it is called on gd, where it is as the paper has it."""
        if self.derivative == "exact":
            return (
                "Ssiuu, the objective as printed (Eq. 3, 6), differentiated through attribution itself"
            )
        return "Ssiuu, Algorithm 1 as printed: GD with the attribution regulariser"

    @property
    def cost(self) -> float:
        """Measured beside gd: the gradient of P comes beside that of the loss, or is bent too."""
        if self.derivative == "exact":
            return 4.4
        return 1.6 if self.target == "probability" else 1.0

    @property
    def alone(self) -> str:
        """The exact derivative takes a second one, which has to pass through whole weights."""
        return "derivative: exact differentiates twice" if self.derivative == "exact" else ""

    def bind(self, prepared: Any) -> Penalty:
        """Begin without a memory."""
        return Penalty(self)


class Penalty(Bound):
    """The regulariser of one run, in the space of the parameters or of what adapters add up to."""

    def __init__(self, form: Ssiuu) -> None:
        self.form, self.strength, self.moved, self.fresh = form, form.lambda_, Moved(), True
        self.regulariser: Regulariser | None = Regulariser(form) if form.regularises else None
        self.adapters: dict[str, Adapter] = {}
        self.along: dict[str, Tensor] = {}
        self.products: Mapping[str, Tensor] = {}
        if self.regulariser is not None:
            self.wants: Target | None = form.target
            self.curves = form.derivative == "exact"
            self.shapes, self.surveys = True, form.rho is not None or self.curves
            self.starts = form.target if form.anchor == "initial" else None

    @property
    def alone(self) -> bool:
        """Also where the features are those of adapters."""
        return super().alone or bool(self.adapters)

    def attach(self, training: Training) -> None:
        """Find the neurons, and what the adapters make of the weights."""
        self.adapters = training.effective
        if self.adapters and (self.form.rho or self.form.anchor == "initial" or self.curves):
            raise ConfigError(
                "ssiuu: rho, anchor: initial and derivative: exact have no effective space; "
                "set unlearn.lora.attribution: adapter."
            )
        if self.regulariser is not None:
            self.regulariser.neurons = _neuron_weights(training.model, self.form)
            self.regulariser.places = places(training.named)
            self.maps = {name: adapter.layer for name, adapter in self.adapters.items()}
            # Of adapters it is the weight they make that is penalised, in `reshape`, once all
            # gradients are there.
            self.shapes = not self.adapters

    def start(self, name: str, parameter: Tensor, gradient: Tensor, share: float) -> None:
        """Hold A to what it is now, over the whole forget set."""
        if self.regulariser is not None:
            self.regulariser.anchor(name, parameter, gradient, share)

    def begin(self) -> None:
        """Count anew; before there is a memory nothing is told."""
        self.moved, self.strength = Moved(), self.form.lambda_
        self.fresh = self.regulariser is None or not self.regulariser.reference

    def survey(self, slopes: Iterable[Slope]) -> None:
        """Find the strength that makes the penalty rho times the forget gradient, or where g bends."""
        if self.curves and self.regulariser is not None:
            self.along, self.products = {}, {}
            for name, parameter, gradient, _, scale in map(_measured, slopes):
                found = self.regulariser.bending(
                    name, parameter.detach(), gradient, scale, self.strength
                )
                if found is not None and found.any():
                    self.along[name] = found
        if self.form.rho is None or self.regulariser is None:
            return
        unit = Moved()
        for slope in slopes:
            self.regulariser.measure(*_measured(slope), unit)
        # The penalty's gradient goes with its strength, so one measurement at 1 is enough.
        unit = unit.everywhere()
        self.strength = self.form.rho / unit.share if unit.penalty_squared > 0 else 0.0

    def direction(self) -> Mapping[str, Tensor]:
        """Return v; see the module."""
        return self.along

    def curved(self, products: Mapping[str, Tensor]) -> None:
        """Keep H v until the gradients are changed."""
        self.along, self.products = {}, products

    def shape(self, slope: Slope) -> None:
        """Add the penalty's gradient."""
        if self.regulariser is None:
            return
        if not self.curves:
            self.regulariser.apply(*_measured(slope), self.strength, self.moved)
            return
        name, parameter, gradient, forget, scale = _measured(slope)
        penalty = torch.zeros_like(forget)
        self.regulariser.apply(name, parameter, gradient, penalty, scale, self.strength, Moved())
        if name in self.products:
            penalty += self.products[name]
        self.moved.add(penalty, forget)

    def reshape(self, second: dict[str, Tensor]) -> None:
        """Penalise W + s B A and hand the penalty's gradient down to B and A."""
        assert self.regulariser is not None
        for name, adapter in self.adapters.items():
            gradient = second.pop(name)
            penalty, whole = torch.zeros_like(gradient), adapter.effective()
            self.regulariser.apply(name, whole, gradient, penalty, 1.0, self.strength, Moved())
            pairs = zip((adapter.down, adapter.up), adapter.chained(penalty), strict=True)
            for parameter, added in pairs:
                if parameter.grad is not None:
                    self.moved.add(added, parameter.grad)

    def told(self) -> dict[str, float]:
        """Return what the penalty moved, of the norm and of the parameters."""
        return {} if self.fresh else self.moved.everywhere().told()

    def state(self) -> dict[str, Tensor]:
        """Return A_ref, of what is here of each parameter."""
        return self.regulariser.reference if self.regulariser is not None else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up A_ref."""
        if self.regulariser is not None:
            self.regulariser.reference = dict(state)

    def owner(self, key: str) -> str:
        """Return the parameter's name."""
        return key


def _measured(slope: Slope) -> tuple[str, Tensor, Tensor, Tensor, float]:
    assert slope.second is not None
    return slope.name, slope.parameter, slope.second, slope.forget, slope.scale


def _neuron_weights(model: CausalLM, form: Ssiuu) -> frozenset[str]:
    """Return the weights whose rows are neurons, where the penalty is on neurons."""
    if form.level == "parameter":
        return frozenset()
    sites = find_sites(model)
    if any(site.transposed for site in sites):
        raise ConfigError(
            f"ssiuu-neuron: {type(model).__name__} stores its weights as [in, out], and the penalty on "
            "neurons needs a row a neuron. Use level: parameter."
        )
    weights = {f"{site.path}.weight" for site in sites}
    adapted = {n for n, _ in model.named_parameters() if weight_of(n)[1] == "outputs"}
    return frozenset(weights | adapted)
