"""Ssiuu: suppress spurious unlearning neurons (the paper's Algorithm 1, literally).

Objective (Eq. 3, 6): L(theta_t) + lambda * sum over i in I- of (A_{t-1}[i] - A_t[i])^2, with
A_{t-1} held constant, I- = {i : A_t[i] < 0} and L gradient difference. Parameters are the features:

    A_t[j] = phi_j * g_j,    g_j = sum over the batch of dP(y|x)/dphi_j

With the Hessian dropped the added gradient is 2 lambda (A_t[j] - A_{t-1}[j]) g_j on I-, 0 elsewhere.
There is no penalty at t = 1; afterwards A_{t-1} <- A_t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ssiuu.methods.base import Origin
from ssiuu.methods.gd import GradientDifference

# A parameter counts as moved when the penalty changes its forget gradient by more than this share.
MOVED = 0.01


class Ssiuu(GradientDifference):
    """Ssiuu on GD. With the defaults it is Algorithm 1 as printed."""

    name: ClassVar[str] = "ssiuu"
    origin: ClassVar[Origin] = "paper"
    source: ClassVar[str] = "Yang et al. 2026 (ICLR), Algorithm 1."
    summary: ClassVar[str] = "Ssiuu, Algorithm 1 as printed: GD with the attribution regulariser"

    lambda_: float = Field(
        default=1e-3, ge=0, alias="lambda", description="strength of the regulariser"
    )
    target: Literal["probability", "logprob"] = Field(
        default="probability",
        description="what attribution differentiates: P(y|x) (the paper) or log P(y|x) (ours)",
    )

    @property
    def label(self) -> str:
        """Mark the form that is not the paper's."""
        name = "ssiuu" if self.target == "probability" else "ssiuu-logprob"
        return f"{name}+projection" if self.projection else name

    @property
    def whose(self) -> Origin:
        """Algorithm 1 is the paper's; any other form is ours."""
        return "ours" if self.projection or self.target != "probability" else "paper"


@dataclass
class Regulariser:
    """The state of the regulariser over a run: A_{t-1} of every parameter.

    `apply` is element-wise on whatever shard of a parameter it is given.
    """

    strength: float
    previous: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def apply(
        self,
        name: str,
        parameter: Float[Tensor, "*shape"],
        gradient: Float[Tensor, "*shape"],
        forget: Float[Tensor, "*shape"],
    ) -> Moved:
        """Add the penalty's gradient to the forget gradient of one parameter, in place.

        Args:
            name: Key of the parameter in the state.
            parameter: phi_j.
            gradient: g_j, summed over the whole batch.
            forget: The backbone's forget gradient; changed in place.

        Returns:
            What it changed.
        """
        influence = parameter * gradient
        before = self.previous.get(name)
        self.previous[name] = influence
        if before is None:
            return Moved(0.0, 0, forget.numel())
        return add_penalty(forget, penalty_gradient(influence, before, gradient, self.strength))


@dataclass(frozen=True)
class Moved:
    """What a penalty did: its squared norm, and how many of all parameters it moved."""

    squared_norm: float
    parameters: int
    total: int


def penalty_gradient(
    influence: Float[Tensor, "*shape"],
    before: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    strength: float,
) -> Float[Tensor, "*shape"]:
    """Return 2 lambda (A_t - A_{t-1}) g where A_t < 0, and 0 elsewhere (Algorithm 1).

    `before` is used up as scratch space.
    """
    change = torch.sub(influence, before, out=before)
    return change.mul_(gradient).mul_(2 * strength).masked_fill_(influence >= 0, 0.0)


def add_penalty(forget: Tensor, penalty: Tensor) -> Moved:
    """Add a penalty's gradient to a forget gradient in place and count what it moved."""
    moved = int((penalty.abs() > forget.abs() * MOVED).sum())
    # P is small and a penalty goes with its square: its own square underflows in fp32.
    squared = float(torch.linalg.vector_norm(penalty, dtype=torch.float64)) ** 2
    forget.add_(penalty)
    return Moved(squared, moved, forget.numel())


def log_sentence(shares: Mapping[str, float]) -> str:
    """Return what the regulariser did, for the log: shares of norm and parameters."""
    return (
        f"the regulariser moved {shares['norm']:.2e} of the gradient's norm and "
        f"{shares['parameters']:.2e} of the parameters by over {MOVED:.0%} of their forget gradient"
    )
