"""Ssiuu: suppress spurious unlearning neurons, in the paper's form and in others.

Objective (Eq. 3, 6): L(theta_t) + lambda * sum over i in I- of (A_{t-1}[i] - A_t[i])^2, with
A_{t-1} held constant, I- = {i : A_t[i] < 0} and L a backbone, gradient difference in the paper. Its
Algorithm 1 takes the parameters for features:

    A_t[j] = phi_j * g_j,    g_j = sum over the batch of dP(y|x)/dphi_j

With the Hessian dropped the added gradient is 2 lambda (A_t[j] - A_{t-1}[j]) g_j on I-, 0 elsewhere.
There is no penalty at t = 1; afterwards A_{t-1} <- A_t. The arithmetic is in
ssiuu.methods.regulariser.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from ssiuu.methods.base import Method, Origin, Retain, View
from ssiuu.methods.dpo import DirectPreference
from ssiuu.methods.ga import GradientAscent
from ssiuu.methods.gd import GradientDifference
from ssiuu.methods.npo import NegativePreference
from ssiuu.methods.simnpo import SimpleNegativePreference
from ssiuu.methods.wga import WeightedGradientAscent

BACKBONES: dict[str, type[Method]] = {
    method.name: method
    for method in (
        GradientAscent,
        GradientDifference,
        NegativePreference,
        SimpleNegativePreference,
        DirectPreference,
        WeightedGradientAscent,
    )
}
Backbone = Literal["gd", "ga", "npo", "simnpo", "dpo", "wga"]


class Ssiuu(Method):
    """Ssiuu. With the defaults it is Algorithm 1 as printed."""

    name: ClassVar[str] = "ssiuu"
    origin: ClassVar[Origin] = "paper"
    source: ClassVar[str] = "Yang et al. 2026 (ICLR), Algorithm 1."
    summary: ClassVar[str] = "Ssiuu"

    backbone: Backbone = Field(default="gd", description="the method that is regularised")
    backbone_options: dict[str, Any] = Field(
        default={}, description="hyper-parameters of the backbone, such as beta"
    )
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
    gate: bool = Field(
        default=False,
        description="ours: in place of a penalty, zero the forget gradient wherever "
        "phi_j dlogP/dphi_j < 0 (the limit of a strong one-sided penalty)",
    )

    @model_validator(mode="before")
    @classmethod
    def _gate_alone(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Record what is in effect with a gate: no penalty, and log P."""
        if not given.get("gate"):
            return given
        knobs = {"lambda", "lambda_", "rho", "side", "anchor", "penalty", "index", "level"}
        found = sorted(k for k in knobs & given.keys() if given[k] not in (0, cls._default(k)))
        if found:
            raise ValueError(f"gate takes the place of the penalty: leave {found[0]} out")
        if given.get("target", "logprob") != "logprob":
            raise ValueError("gate looks at log P: leave target out")
        return {**given, "target": "logprob", "lambda": 0.0}

    @classmethod
    def _default(cls, key: str) -> Any:
        return cls.model_fields[key].default if key in cls.model_fields else None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.rho is not None and "lambda_" in self.model_fields_set:
            raise ValueError("give lambda or rho, not both")
        if own := sorted(self.backbone_options.keys() & Method.model_fields.keys()):
            raise ValueError(f"backbone_options: {own[0]} is set beside the backbone, not in it")
        self.base()
        if self.retain == "kl" and self.keeps == "none":
            raise ValueError(f"retain: backbone {self.backbone} has no retain term")
        return self

    def base(self) -> Method:
        """Return the backbone.

        Raises:
            ValidationError: Its options do not fit it.
        """
        return BACKBONES[self.backbone](**self.backbone_options)

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See the backbone's."""
        return self.base().forget_loss(view)

    @property
    def keeps(self) -> Retain:
        """The retain term in effect: none with a backbone that has none."""
        return "none" if self.base().keeps == "none" else super().keeps

    @property
    def regularises(self) -> bool:
        """Whether there is a penalty; with lambda 0 this is the backbone, bitwise."""
        return not self.gate and (self.rho is not None or self.lambda_ > 0)

    @property
    def stem(self) -> str:
        """Name every knob that is not the paper's."""
        parts = ["ssiuu"]
        if self.gate:
            parts.append("gate")
        for key in ("backbone", "target", "anchor", "side", "level", "penalty", "index"):
            value = getattr(self, key)
            if value != self._default(key) and not (self.gate and key == "target"):
                parts.append(str(value))
        if self.rho is not None:
            parts.append(f"rho{self.rho:.12f}".rstrip("0").rstrip("."))
        return "-".join(parts)

    @property
    def literal(self) -> bool:
        """Whether this is Algorithm 1 as printed; lambda is free."""
        plain = not self.backbone_options and self.retain == "nll" and self.retain_weight == 1
        return self.stem == "ssiuu" and plain and self.regularises

    @property
    def whose(self) -> Origin:
        """Algorithm 1 is the paper's, a penalty elsewhere is a control; any other form is ours."""
        if self.index != "negative":
            return "control"
        return "paper" if self.literal and not self.extended else "ours"

    @property
    def description(self) -> str:
        """Say which form it is."""
        return super().description.replace("Ssiuu", self._form(), 1)

    def _form(self) -> str:
        base = self.base().name.upper()
        if self.gate:
            return f"{base} gated by attribution, this project's form of Ssiuu"
        if self.literal:
            return "Ssiuu, Algorithm 1 as printed: GD with the attribution regulariser"
        return f"Ssiuu on {base} in this project's form {self.stem}"
