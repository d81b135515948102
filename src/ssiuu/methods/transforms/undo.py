"""UNDO: after a method, noise in the weights, then distillation from the unlearned model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.methods.base import Bound, Origin, Rows, Stage, Training, Transform
from ssiuu.methods.objectives.gd import GradientDifference
from ssiuu.methods.retain import DivergenceTerm
from ssiuu.models.lora import adapters
from ssiuu.models.shards import local, own


class Undo(Transform):
    """Unlearn, noise, distil on outputs.

        theta <- (1 - alpha) theta + alpha beta xi,    xi Xavier-uniform
        then descend KL(p_teacher || p_theta) on the retain rows and plain texts

    The teacher is the model that the method has led to. It ends once the mean NLL on these rows is
    within `within` of the teacher's, or after `distil_steps`. What the weights held and the outputs do
    not show is lost with the noise.

    Source: Lee et al. 2025, "Distillation robustifies unlearning" (NeurIPS, arXiv 2506.06278).
    Departures: the source distils on about 1e8 tokens of the pretraining's kind, which takes a corpus
    and a GPU; here it is the retain rows and 48 plain texts, and alpha, for which the source has 0.1
    to 0.8, is small. Vectors (norms, biases) have no Xavier noise and stay; of the source that is not
    known here. The optimiser and batch size are the run's.
    """

    name: ClassVar[str] = "undo"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Lee et al. 2025 (NeurIPS)."
    summary: ClassVar[str] = "then noise in all weights and some distillation from the unlearned model"
    order: ClassVar[int] = 95
    number: ClassVar[str] = "noise"
    brought_by: ClassVar[frozenset[str]] = frozenset({"noise"})
    reads: ClassVar[frozenset[Rows]] = frozenset({"texts"})
    published_on: ClassVar[frozenset[str]] = frozenset({"gd", "rmu"})

    noise: float = Field(
        default=0.2, ge=0, le=1, description="share of every weight that is lost (alpha)"
    )
    noise_scale: float = Field(default=0.1, ge=0, description="size of what takes its place (beta)")
    distil_steps: int = Field(default=200, ge=1, description="steps of distillation at most")
    distil_rate: float | None = Field(
        default=None, gt=0, le=1, description="their learning rate; null: the run's"
    )
    within: float = Field(
        default=0.05, ge=0, description="it ends this close to the teacher's loss, as a share of it"
    )

    @property
    def off(self) -> bool:
        """Whether no weight is touched."""
        return self.noise == 0

    @property
    def cost(self) -> float:
        """As steps of half the rows behind the 40 that a run takes at most by default."""
        return 1 + self.distil_steps / 2 / 40

    def stages(self, planned: Sequence[Stage], seed: int) -> list[Stage]:
        """Return the method's stages, and distillation behind them.

        Raises:
            ConfigError: There is nothing to distil on.
        """
        last = planned[-1]
        rows = [*planned[0].retain, *last.texts]
        if not rows:
            raise ConfigError("undo: there are no retain rows and no texts to distil on.")
        method = replace(
            last.method,
            objective=GradientDifference(),
            retain=DivergenceTerm(),
            retain_weight=1.0,
            others=(),
            transforms=(),
        )

        def begin(model: CausalLM) -> None:
            corrupt(model, self.noise, self.noise_scale, seed)

        distilled = Stage(
            method,
            forget=[],
            retain=rows,
            texts=[],
            steps=self.distil_steps,
            word="distilling",
            stops=False,
            begin=begin,
            within=self.within,
            rate=self.distil_rate,
        )
        return [*planned, distilled]

    def bind(self, prepared: object) -> Bound:
        """Return what refuses adapters."""
        return _Whole()


class _Whole(Bound):
    """Acts on no step; it wants the weights themselves."""

    def attach(self, training: Training) -> None:
        """Refuse adapters."""
        if adapters(training.model):
            raise ConfigError(
                "undo: the noise goes into all weights, which adapters cannot mend: leave "
                "unlearn.lora.rank out."
            )


@torch.no_grad()
def corrupt(model: CausalLM, alpha: float, beta: float, seed: int) -> None:
    """Put noise into every matrix, in place; the same for the same seed, on any device."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            here = local(parameter)
            noise = own(parameter, xavier(parameter, generator))
            here.mul_(1 - alpha).add_(noise.to(here), alpha=alpha * beta)


def xavier(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return uniform noise of a matrix's shape, up to sqrt(6 / (inputs + outputs)) either way."""
    return torch.nn.init.xavier_uniform_(torch.empty(like.shape), generator=generator)
