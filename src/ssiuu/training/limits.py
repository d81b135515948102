"""What unlearning may cost on plain text, and the last weights that cost no more.

    budget = Budget(read, kl=0.01)      # nats a token
    budget.over(budget.read())          # "", or the limit that is passed: "kl", "retain_ratio"

A run with a budget ends at the first check that finds it passed, with the weights of the last check
that did not. Without a limit nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ssiuu.models.room import Offload, put_away
from ssiuu.models.shards import local

Limit = Literal["kl", "retain_ratio"]


class Spent(NamedTuple):
    """KL(original ‖ now) on plain text, nats a token, and the loss there over that before."""

    kl: float
    retain_ratio: float


@dataclass(frozen=True)
class Budget:
    """Limits on what is read of plain text; None: none.

    Attributes:
        read: What the model as it is now has spent.
        kl: KL, nats a token, that may not be exceeded.
        retain_ratio: Loss over the loss before that may not be exceeded.
    """

    read: Callable[[], Spent]
    kl: float | None = None
    retain_ratio: float | None = None

    def over(self, spent: Spent) -> Limit | None:
        """Return the limit that is passed; what is no number is too much as well."""
        if self.kl is not None and not spent.kl <= self.kl:
            return "kl"
        if self.retain_ratio is not None and not spent.retain_ratio <= self.retain_ratio:
            return "retain_ratio"
        return None

    def told(self, limit: Limit, spent: Spent) -> str:
        """Say in words what was passed."""
        if limit == "kl":
            return f"the KL on plain text was {spent.kl:.3g} nats a token, above {self.kl:g}"
        ratio = f"{spent.retain_ratio:.4g} times that before, above {self.retain_ratio:g}"
        return f"the loss on plain text was {ratio}"

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set."""
        named = {"kl": self.kl, "retain_ratio": self.retain_ratio}
        return {name: limit for name, limit in named.items() if limit is not None}


class Kept:
    """A copy of weights beside the model, in main memory or on the disk; `step`: whose they are, 0 the
    first ones.
    """

    def __init__(self, named: Mapping[str, Tensor], step: int = 0, offload: Offload = "auto") -> None:
        """Copy these tensors as they are."""
        self._named, self.step = dict(named), step
        copies = put_away([local(t) for t in named.values()], "disk" if offload == "disk" else "memory")
        self.copies = dict(zip(named, copies, strict=True))

    @torch.no_grad()
    def take(self, step: int) -> None:
        """Copy them again."""
        self.step = step
        for name, copy in self.copies.items():
            copy.copy_(local(self._named[name]))

    @torch.no_grad()
    def restore(self) -> None:
        """Put the copy in place."""
        for name, copy in self.copies.items():
            local(self._named[name]).copy_(copy)
