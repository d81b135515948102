"""Membership inference by the gradient: what was trained on pulls less at the weights.

    score = - 1/P sum_i ||g_i||_p,      g_i = d/dW_i ( -1/n sum_t log p_t )

over the P parameters W_i of the model, each norm of one whole tensor, p of 1, 2 or infinity. The
attacker must have the weights. An answer costs a pass forward and one back, some three times what the
other scores cost, and memory for one answer and the gradient of one tensor.

Source: Wang et al. 2024 (arXiv 2402.17012); as a mean over tensors, whatever their sizes, in Duan et
al.'s code (MIMIR, arXiv 2402.07841: p infinity) and OpenUnlearning's (`mia_gradnorm`: p 2, the end
token left out). Departures: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import ConfigDict, Field, RootModel

from ssiuu.attacks.base import Curve, Victim
from ssiuu.attacks.membership import Inference
from ssiuu.attribution.norms import gradient_norms
from ssiuu.errors import ConfigError
from ssiuu.models.shards import is_cut
from ssiuu.records.schema import FactText

NAME = "gradnorm"


class GradientConfig(RootModel[Literal[1, 2, "inf"] | None]):
    """P of the gradient's norm that tells members; null: not tried."""

    model_config = ConfigDict(frozen=True)

    root: Literal[1, 2, "inf"] | None = Field(
        default=None, description="p of the gradient's norm; null: not tried"
    )


class MembershipGradient(Inference[GradientConfig]):
    """Told by one who has the weights."""

    name = "membership-gradient"
    key = "membership_gradient"
    summary = "tell forgotten from held-out facts by the norm of their gradients (AUC)"
    Config = GradientConfig
    told = (NAME,)

    def curves(self) -> list[Curve]:
        """Return one curve; its place is the norm, so that another one is another curve."""
        return self.once([self.config.root] if self.config.root else [])

    def fits(self, victim: Victim) -> list[str]:
        """Refuse a model that lies in shards: every process would have to pass back through it.

        Raises:
            ConfigError: So it does.
        """
        if is_cut(victim.model):
            raise ConfigError(
                f"attacks.{self.key}: {self.config.root!r} takes the gradient of one answer at a time, "
                "for which the model must be whole on a process: it lies in shards. Leave it out, or "
                "set mesh.reading=replicas."
            )
        return super().fits(victim)

    def scores(self, victim: Victim, facts: Sequence[FactText]) -> list[dict[str, float]]:
        """Return the mean norm of every answer's gradient, negated."""
        norms = gradient_norms(
            victim.model, victim.ground.examples(facts), float(self.config.root or 2)
        )
        return [{NAME: -norm} for norm in norms]

    def said(self) -> str:
        """Return which norm."""
        return f"; p = {self.config.root}, mean over the model's parameters"

    def tokens(self, curve: Curve, fact: float, pool: float) -> float:
        """Return three passes over as many non-members as members."""
        return 3.0 * fact * 2 * pool
