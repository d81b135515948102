"""An attack as a package of somebody else adds it: noise on the weights, which shakes off what is thin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from pydantic import Field

from ssiuu.attacks.base import Attack, Axis, Curve, Victim
from ssiuu.config import Section
from ssiuu.models.load import restore, snapshot
from ssiuu.records.schema import AttackRead, Reading


class NoiseConfig(Section):
    """Gaussian noise on every weight."""

    sigmas: list[float] = Field(default=[], description="noise, as a share of each tensor's spread")


class WeightNoise(Attack[NoiseConfig]):
    """Every strength begins with the weights as they were."""

    name = "noise"
    summary = "add Gaussian noise to every weight"
    Config = NoiseConfig
    axis = Axis("sigma", "noise, share of the weights' spread")
    strong = {"sigmas": [0.01, 0.03]}  # noqa: RUF012

    def problems(self) -> list[str]:
        """Refuse what is no strength."""
        wrong = [sigma for sigma in self.config.sigmas if not 0 < sigma <= 1]
        return [f"attacks.noise.sigmas: must lie in (0, 1], got {sigma}." for sigma in wrong]

    def curves(self) -> list[Curve]:
        """Return one curve over the strengths."""
        return self.once(self.config.sigmas)

    @torch.no_grad()
    def reads(self, victim: Victim, curve: Curve, start: Mapping[str, Reading]) -> Iterator[AttackRead]:
        """Read the pool under every strength."""
        weights = snapshot(victim.model)
        for place, sigma in enumerate(self.config.sigmas, 1):
            restore(victim.model, weights)
            generator = torch.Generator().manual_seed(curve.seed)
            for weight in victim.model.parameters():
                drawn = torch.randn(weight.shape, generator=generator).to(weight)
                weight.add_(sigma * weight.std(correction=0) * drawn)
            yield AttackRead(step=place, label=f"{sigma:g}", facts=victim.read())
