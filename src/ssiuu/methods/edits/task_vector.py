"""Task-vector subtraction: learn the forget set better, then walk the other way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field, model_validator

from ssiuu.causal import CausalLM
from ssiuu.methods.base import Edit, Origin, Work


class TaskVector(Edit):
    """theta = theta_0 - alpha (theta_tuned - theta_0), with theta_tuned fine-tuned on the forget set.

    alpha grows by `scale_step` until the forget score reaches its threshold or alpha `scale_limit`.

    Source: Ilharco et al. 2023, "Editing models with task arithmetic", Sec. 3.
    Departures: alpha is chosen by the stop rule of every other method, not on a validation set.
    """

    name: ClassVar[str] = "task-vector"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Ilharco et al. 2023 (ICLR)."
    summary: ClassVar[str] = "Task vector: fine-tune on the forget set and subtract the difference"

    tune_steps: int = Field(default=12, ge=1, description="fine-tuning steps on the forget set")
    scale_step: float = Field(default=0.5, gt=0, description="how much alpha grows at a time")
    scale_limit: float = Field(default=6.0, gt=0, description="largest alpha")

    @model_validator(mode="after")
    def _reaches(self) -> TaskVector:
        if self.scale_step > self.scale_limit:
            raise ValueError(f"scale_step {self.scale_step} is above scale_limit {self.scale_limit}")
        return self

    def scales(self) -> list[float]:
        """Return every alpha that may be tried, ascending."""
        count = math.floor(self.scale_limit / self.scale_step + 1e-9)
        return [n * self.scale_step for n in range(1, count + 1)]

    def edit(self, model: CausalLM, work: Work) -> Iterator[str]:
        """Fine-tune on the forget set, then subtract the difference in growing measure."""
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        work.tune(work.forget, self.tune_steps)
        vector = {n: p.detach() - before[n] for n, p in model.named_parameters()}
        for scale in self.scales():
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    torch.add(before[name], vector[name], alpha=-scale, out=parameter)
            yield f"The difference was subtracted {scale:g} times."
