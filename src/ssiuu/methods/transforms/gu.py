"""Geometric-disentanglement unlearning: a forget step orthogonal to retain gradients, as Adam measures.

With Delta the forget step as the optimiser has scaled it, M the metric of that scaling and U the retain
gradient of the step and those of some steps before it,

    Delta <- Delta - M^-1 U (U^T M^-1 U)^-1 U^T Delta        M = diag(sqrt(v) + epsilon) under AdamW

is the nearest step, as M measures, along which no retain loss of U changes to first order. For
Delta = M^-1 g that is M^-1 (I - U (U^T H U)^-1 U^T H) g with H = M^-1, as the source prints it.

What the forget step does not move at all stays: a word that only the rows to keep hold has v = 0, so
that moving it costs nothing in M, and would make up for all that the step does to the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float64
from pydantic import Field
from scipy.optimize import nnls
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.methods.base import Ask, Bound, Origin, Parts, RetainStep, Training, Transform
from ssiuu.models.shards import local, norm_of_pieces, shard_sum

# Of the largest eigenvalue of U^T M^-1 U: gradients of two steps may be all but one.
NOTHING = 1e-10
CHUNK = 1 << 20  # entries at a time while gradients of many steps are multiplied

Gradients = Mapping[str, Tensor]


class GeometricDisentanglement(Transform):
    """GU: the forget step loses what would change the retain loss, as the optimiser measures it.

    Source: Zhou et al. 2025, "Geometric-disentanglement unlearning", arXiv 2511.17100; one step's
    gradient and eight before it as in the authors' code, which takes a rise out alone: `gu_side: rise`.
    Departures: of all trained parameters that the forget step moves, where the authors' code chooses
    matrices; the retain gradient is that of the method's own retain term, theirs the NLL's whatever the
    term; forget and retain rows take steps of their own, so that the retain step may lower what the
    forget step must not change; earlier gradients are kept in bf16; no step is tried against a budget
    of the retain loss.
    """

    name: ClassVar[str] = "gu"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Zhou et al. 2025 (GU), arXiv 2511.17100."
    summary: ClassVar[str] = "with the forget step orthogonal to retain gradients in Adam's metric"
    order: ClassVar[int] = 65
    published_on: ClassVar[frozenset[str]] = frozenset({"gd", "npo", "simnpo", "dpo", "wga"})
    number: ClassVar[str] = "gu_history"

    gu_history: int = Field(
        default=8,
        ge=0,
        le=64,
        description="retain gradients of earlier steps beside that of the step itself, 2 bytes a "
        "parameter each",
    )
    gu_side: Literal["both", "rise"] = Field(
        default="both",
        description="whether the retain loss may not change at all, or only may not rise",
    )

    @property
    def cost(self) -> float:
        """One more pass of the retain rows, none of them joined."""
        return 1.7

    def fits(self, among: Parts) -> None:
        """Refuse an objective without a retain term."""
        if among.retain is None:
            raise ValueError(
                "gu: the step is orthogonal to the retain gradient: a retain term is needed"
            )

    def prepare(self, ask: Ask) -> None:
        """Refuse to go without retain rows."""
        if not ask.rows["retain"]:
            raise ConfigError(f"{ask.label}: gu needs retain gradients, and there are no retain rows.")

    def bind(self, prepared: Any) -> Disentangling:
        """Begin without a past."""
        return Disentangling(self.gu_history, self.gu_side)


class Disentangling(Bound):
    """Corrects every forget step; remembers the retain gradients of earlier ones, each of length 1."""

    retain_first = True
    corrects = True
    retain_step = RetainStep()

    def __init__(self, history: int, side: Literal["both", "rise"]) -> None:
        self.history, self.side = history, side
        self.past: list[dict[str, Tensor]] = []
        self.now: dict[str, Tensor] = {}
        self.removed = 0.0

    def attach(self, training: Training) -> None:
        """Know the optimiser, for its metric.

        Raises:
            ConfigError: The metric of this one is not known.
        """
        self.named, self.optimizer = training.named, training.optimizer
        if getattr(self.optimizer, "eight_bit", False):
            raise ConfigError(
                "gu: adamw8bit's metric is known in 8 bits only; set unlearn.optimiser: adamw, or one "
                "of sgd, momentum, sign and normsgd, whose metric is that of the weights."
            )
        if isinstance(self.optimizer, torch.optim.Adafactor):
            raise ConfigError(
                "gu: adafactor's metric is not known here; set unlearn.optimiser: adamw, or one of "
                "sgd, momentum, sign and normsgd, whose metric is that of the weights."
            )

    def begin(self) -> None:
        """Begin a step."""
        self.now, self.removed = {}, 0.0

    def retained(self, name: str, gradient: Tensor) -> None:
        """Keep the retain gradient."""
        self.now[name] = gradient

    def correct(self, moves: Mapping[str, Tensor]) -> Iterable[str]:
        """Take out of the forget step what changes the retain loss."""
        found = self._unit(self.now)
        rows: list[Gradients] = [*([found] if found else []), *self.past]
        changed: Iterable[str] = ()
        if rows and (shares := self._shares(rows, moves)).any():
            whole = self._square(moves)
            for name, move in moves.items():
                out = torch.zeros_like(move)
                for share, row in zip(shares.tolist(), rows, strict=True):
                    if name in row:
                        out.add_(row[name].to(move), alpha=share)
                move.sub_(out.masked_fill_(move == 0, 0.0).mul_(self._inverse(name)))
            self.removed = 1.0 - (self._square(moves) / whole) ** 0.5 if whole else 0.0
            changed = moves.keys()
        if found and self.history:
            kept = {name: _stored(gradient) for name, gradient in found.items()}
            self.past = [kept, *self.past][: self.history]
        self.now = {}
        return changed

    def _shares(self, rows: Sequence[Gradients], moves: Gradients) -> Float64[np.ndarray, " k"]:
        """Return lambda of Delta - M^-1 U lambda."""
        k = len(rows)
        gram, along = np.zeros((k, k)), np.zeros(k)
        for name, move in moves.items():
            inverse, flat = self._inverse(name).expand_as(move).reshape(-1), move.reshape(-1)
            parts = [row[name].reshape(-1) if name in row else flat.new_zeros(()) for row in rows]
            for start in range(0, flat.numel(), CHUNK):
                at = slice(start, start + CHUNK)
                moved = flat[at].double()
                # The part of each gradient where the step moves something.
                seen = torch.stack([(p[at] if p.dim() else p).double() * (moved != 0) for p in parts])
                gram += (seen @ (seen * inverse[at].double()).T).cpu().numpy()
                along += (seen @ moved).cpu().numpy()
        sums = np.array(shard_sum(*gram.ravel().tolist(), *along.tolist()))
        gram, along = sums[: k * k].reshape(k, k), sums[k * k :]
        values, vectors = np.linalg.eigh((gram + gram.T) / 2)
        there = values > NOTHING * max(float(values[-1]), 0.0)
        if not there.any():
            return np.zeros(k)
        values, vectors = values[there], vectors[:, there]
        if self.side == "both":
            equal: Float64[np.ndarray, " k"] = vectors @ ((vectors.T @ along) / values)
            return equal
        # The nearest step in M with U^T Delta <= 0 has the multipliers of a non-negative least squares.
        root = np.sqrt(values)
        most: Float64[np.ndarray, " k"] = nnls(root[:, None] * vectors.T, (vectors.T @ along) / root)[0]
        return most

    def _inverse(self, name: str) -> Tensor:
        """Return the diagonal of M^-1 for one parameter; 1 where there is no second moment."""
        parameter = self.named[name]
        state = self.optimizer.state.get(parameter, {}) if self.optimizer is not None else {}
        if (square := state.get("exp_avg_sq")) is None:
            return torch.ones((), dtype=parameter.dtype, device=parameter.device)
        assert self.optimizer is not None
        group = self.optimizer.param_groups[0]
        correction = 1.0 - group["betas"][1] ** float(state["step"])
        inverse: Tensor = 1.0 / ((local(square) / correction).sqrt() + group["eps"])
        return inverse

    def _square(self, moves: Gradients) -> float:
        """Return the square of a step's length in M."""
        total = 0.0
        for name, move in moves.items():
            # |x|^2 in M is the sum of x^2 over M^-1's entries.
            total += float((move.square() / self._inverse(name)).sum(dtype=torch.float64))
        return shard_sum(total)[0]

    def _unit(self, gradients: Gradients) -> dict[str, Tensor]:
        """Return gradients divided by their length over all parameters; none where there is nothing."""
        norm = norm_of_pieces(gradients.values())
        return {name: g / norm for name, g in gradients.items()} if norm > 0 else {}

    def told(self) -> dict[str, float]:
        """Return by how much the forget step was shortened, as a share of its length in M."""
        return {"gu_removed": self.removed}

    def state(self) -> dict[str, Tensor]:
        """Return the earlier gradients."""
        return {f"{n} {name}": g for n, row in enumerate(self.past) for name, g in row.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up the earlier gradients."""
        rows: dict[int, dict[str, Tensor]] = {}
        for key, gradient in state.items():
            number, _, name = key.partition(" ")
            rows.setdefault(int(number), {})[name] = gradient
        self.past = [rows[number] for number in sorted(rows)]

    def owner(self, key: str) -> str:
        """Return the parameter's name, which stands behind the step's."""
        return key.partition(" ")[2]


def _stored(gradient: Tensor) -> Tensor:
    """Return a gradient as it is remembered: fp32 in 2 bytes, with its range."""
    return gradient.bfloat16() if gradient.dtype == torch.float32 else gradient.clone()
