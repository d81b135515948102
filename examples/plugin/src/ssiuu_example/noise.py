"""Does a little noise on the weights bring a forgotten answer back?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from pydantic import Field

from ssiuu.attacks.base import Attack, Axis, Curve, Victim
from ssiuu.config import Section
from ssiuu.records.schema import AttackRead, Reading


class NoiseConfig(Section):
    """How strong the noise is."""

    sigmas: list[float] = Field(default=[], description="strengths, shares of each weight's spread")


class Noise(Attack[NoiseConfig]):
    """W <- W + sigma std(W) e, with e drawn from a normal distribution; the same at every strength."""

    name = "noise"
    summary = "add noise to every weight"
    Config = NoiseConfig
    axis = Axis("sigma", "noise, share of each weight's spread", "ranking")
    strong = {"sigmas": [0.02, 0.05, 0.1, 0.2]}

    def problems(self) -> list[str]:
        if all(0 < sigma <= 1 for sigma in self.config.sigmas):
            return []
        return [f"attacks.noise.sigmas: must lie in (0, 1], got {self.config.sigmas}."]

    def curves(self) -> list[Curve]:
        return self.once(self.config.sigmas)

    @torch.no_grad()
    def reads(self, victim: Victim, curve: Curve, start: Mapping[str, Reading]) -> Iterator[AttackRead]:
        kept = [p.clone() for p in victim.model.parameters()]
        for place, sigma in enumerate(map(float, curve.points), 1):
            drawn = torch.Generator().manual_seed(curve.seed)
            for parameter, weight in zip(victim.model.parameters(), kept, strict=True):
                noise = torch.randn(weight.shape, generator=drawn).to(weight)
                spread = weight.std() if weight.numel() > 1 else 0.0
                parameter.copy_(weight + sigma * spread * noise)
            yield AttackRead(step=place, facts=victim.read(), label=f"{sigma:g}")
