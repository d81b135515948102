"""RepSelect step by step: every step's gradient without what the forget tokens have in common."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.likelihood import Batch
from ssiuu.methods.base import (
    Ask,
    Bound,
    Losses,
    Need,
    Normaliser,
    Objective,
    Optimiser,
    Origin,
    Parts,
    Slope,
    Through,
    Training,
    View,
    behind_epochs,
)
from ssiuu.methods.directions import Subspace, project_out
from ssiuu.methods.elicit import Elicitation, nll_gradients
from ssiuu.methods.objectives.npo import npo_loss
from ssiuu.methods.tokens import (
    bare,
    by_kind,
    experts_left,
    feed_forward_maps,
    listening,
    refuse_second_gradients,
)
from ssiuu.models.lora import weight_of
from ssiuu.models.maps import stream_width, widths

REGULAR = 1e-6  # of the largest eigenvalue: what lies below is no direction of the tokens


@dataclass
class Tracked:
    """A subspace that follows the tokens X: P [d, k], X^T X P of this epoch, and what is left of it.

    `directions`, `left`: of the epoch before: eigenvectors of P^T X^T X P in P, and the share of each
    that stays, its least eigenvalue over its own.
    """

    basis: Float[Tensor, "d k"]
    moment: Float[Tensor, "d k"]
    directions: Float[Tensor, "d m"] | None = None
    left: Float[Tensor, " m"] | None = None

    @classmethod
    def begun(cls, width: int, k: int, like: Tensor, name: str) -> Tracked:
        """Return one that begins at random; the same for the same name."""
        seeded = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        drawn = torch.randn(width, k, generator=seeded, dtype=torch.float64).to(like)
        basis = torch.linalg.qr(drawn).Q.contiguous()
        return cls(basis, torch.zeros_like(basis))

    def add(self, rows: Float[Tensor, "n d"]) -> None:
        """Take tokens in."""
        self.moment += rows.T @ (rows @ self.basis)

    def follow(self) -> None:
        """Take one power step, P <- QR(X^T X P), and make out what is to be left.

        The small moment is that of the old P, turned into the new one.
        """
        if not bool(self.moment.any()):
            return
        small = self.basis.T @ self.moment
        # Laid out as a saved state is: products of it are then the same to the bit.
        basis = torch.linalg.qr(self.moment).Q.contiguous()
        turned = self.basis.T @ basis
        values, vectors = torch.linalg.eigh((turned.T @ small @ turned).double())
        there = values > REGULAR * values.max()
        self.directions = (basis @ vectors[:, there].to(basis)).contiguous()
        self.left = (values[there].min() / values[there]).to(basis)
        self.basis, self.moment = basis, torch.zeros_like(basis)


class RepSelectSteps(Objective):
    """The form before the one-shot one: NPO's loss, and in every step

        G <- C_d G C_x,    C_x = I - P (I - l_min (P^T X^T X P)^-1) P^T,    C_d likewise

    with X the inputs of a map at the forget tokens, and the gradients at its outputs for C_d. P follows
    its tokens by a power step an epoch; two epochs only collect. Low-rank maps beside the feed-forward
    ones take a descent step on each batch's NLL before, and stand in its forward passes. The gradient
    is scaled to length 1: a step is `learning_rate` long.

        L(x, y) = -log sigmoid(beta (NLL - NLL_0)) / beta

    Source: RepSelect 2026 (arXiv 2606.17168), the form before the released one: 512 of 4096 directions,
    beta 0.1, SGD at 0.2, low-rank maps of rank 32, alpha 16 and a rate of 0.2 times the step's.
    Departures: NLL_0 is that of the model alone, not with the low-rank maps; least eigenvalues are
    those above 1e-6 of the largest, where the source adds as much; tokens of chat templates count.
    """

    name: ClassVar[str] = "repselect-steps"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "RepSelect 2026 (arXiv 2606.17168), step by step."
    summary: ClassVar[str] = (
        "RepSelect step by step: NPO's gradient without what forget tokens have in common"
    )
    normaliser: ClassVar[Normaliser] = "examples"
    needs: ClassVar[frozenset[Need]] = frozenset({"logprob"})
    through: ClassVar[Through] = "answer"
    optimiser: ClassVar[Optimiser | None] = "normsgd"
    rate: ClassVar[float | None] = 0.2

    components: int | None = Field(
        default=None,
        ge=1,
        description="directions of each side that are collapsed; null: an eighth of the width",
    )
    beta: float = Field(default=0.1, gt=0, le=10, description="strength of the reference")
    collect: int = Field(default=2, ge=1, description="epochs that only collect, before the first step")
    elicit_rank: int = Field(default=32, ge=1, description="rank of the eliciting low-rank maps")
    elicit_alpha: float = Field(default=16.0, gt=0, description="alpha of them")
    elicit_rate: float = Field(
        default=0.04, ge=0, le=10, description="length of their step on each batch; 0 leaves them out"
    )

    @classmethod
    def retain_default(cls, asked: str | None) -> tuple[str, float]:
        """It needs no retain term."""
        return (asked, 1.0) if asked not in (None, "none") else ("none", 0.0)

    @property
    def cost(self) -> float:
        """The low-rank maps take a pass of their own, and tokens are collected."""
        return 2.5

    @property
    def alone(self) -> str:
        """Its tokens are collected where they pass, and those of all rows are needed at once."""
        return "it collects the tokens of all rows"

    def fits(self, among: Parts) -> None:
        """Refuse second gradients."""
        refuse_second_gradients(among, self.name)

    def check(self, model: CausalLM) -> None:
        """Refuse a model without feed-forward maps, or with fewer directions."""
        most = max(max(widths(m)) for m in feed_forward_maps(model, self.name).values()) - 1
        if self.components is not None and self.components > most:
            raise ConfigError(
                f"{self.name}.components: must be at most {most}, one less than the widest side of the "
                f"maps here, got {self.components}."
            )

    def trained(self, names: Sequence[str], model: CausalLM) -> set[str]:
        """Return the feed-forward maps."""
        return {f"{path}.weight" for path in feed_forward_maps(model, self.name)} & set(names)

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `npo_loss`, of which this is a half."""
        if view.reference is None:
            raise ValueError(f"{self.name} needs the reference log-probabilities")
        return npo_loss(view.logprobs, view.reference, self.beta) / 2

    def first_step(self, rows: int, size: int) -> int:
        """Return the step behind the epochs that only collect."""
        return behind_epochs(self.collect, rows, size)

    def prepare(self, ask: Ask) -> int:
        """Count the rows of an epoch."""
        return len(ask.rows["forget"])

    def bind(self, prepared: Any) -> Following:
        """Begin with epochs that collect."""
        return Following(self, prepared or 0)

    def untouched(self, model: CausalLM, prepared: Any) -> str:
        """Say which experts are not trained."""
        return experts_left(model, self.name)


class Following(Bound):
    """The subspaces and the low-rank maps of one run."""

    shapes = True
    surrounds = True

    def __init__(self, settings: RepSelectSteps, rows: int) -> None:
        self.settings, self.rows = settings, rows
        self.tracked: dict[str, Tracked] = {}
        self.seen, self.epoch = 0, 0

    def attach(self, training: Training) -> None:
        """Find the maps that are trained, or whose adapters are."""
        self.model: CausalLM = training.model
        weights = dict.fromkeys(weight_of(name)[0] for name in training.named)
        self.paths = [name.removesuffix(".weight") for name in weights]
        maps = {path: bare(training.model.get_submodule(path)) for path in self.paths}
        self.across = {path for path, module in maps.items() if isinstance(module, Conv1D)}
        self.elicited = Elicitation(maps, self.settings.elicit_rank, self.settings.elicit_alpha)
        self.wanted = self.settings.components or max(1, stream_width(training.model) // 8)

    @contextmanager
    def surround(self, batches: Sequence[Batch]) -> Iterator[None]:
        """Let the low-rank maps take their step, and listen to the tokens of the passes with them."""
        with self.elicited.active(self.model):
            if self.settings.elicit_rate:
                parameters = self.elicited.parameters
                for parameter in parameters:
                    parameter.requires_grad_(True)
                gradients = nll_gradients(self.model, batches, parameters)
                self.elicited.descend(gradients, self.settings.elicit_rate, normalised=True)
                for parameter in parameters:
                    parameter.requires_grad_(False)
            with listening(self.model, self.paths, self._see):
                yield
        self.seen += sum(len(batch.ids) for batch in batches)

    def _see(self, path: str, x: Tensor, d: Tensor) -> None:
        for key, rows in ((f"inputs:{path}", x), (f"outputs:{path}", d)):
            if key not in self.tracked:
                k = min(self.wanted, rows.shape[1] - 1)
                self.tracked[key] = Tracked.begun(rows.shape[1], k, rows, key)
            self.tracked[key].add(rows)

    def shape(self, slope: Slope) -> None:
        """Collapse a gradient on both sides; an adapter has one side each. At first there is none."""
        weight, side = weight_of(slope.name)
        path = weight.removesuffix(".weight")
        inputs, outputs = (self.tracked.get(f"{key}:{path}") for key in ("inputs", "outputs"))
        if self.epoch < self.settings.collect or inputs is None or outputs is None:
            slope.forget.zero_()
            return
        basis = Subspace(
            inputs.directions, outputs.directions, path in self.across, inputs.left, outputs.left
        )
        project_out(slope.forget, basis if side == "weight" else basis.of(side))

    def after(self, losses: Losses, learning_rate: float) -> None:
        """Let the subspaces follow after an epoch."""
        if self.seen < self.rows * (self.epoch + 1):
            return
        self.epoch += 1
        for tracked in self.tracked.values():
            tracked.follow()

    def told(self) -> dict[str, float]:
        """Return how many epochs are behind."""
        return {"epochs": float(self.epoch)}

    def state(self) -> dict[str, Tensor]:
        """Return subspaces, low-rank maps and counts."""
        tensors = {"counts": torch.tensor([self.seen, self.epoch])}
        for key, tracked in self.tracked.items():
            parts = {name: value for name, value in vars(tracked).items() if value is not None}
            tensors |= {f"{name}:{key}": value for name, value in parts.items()}
        for path in self.paths:
            tensors[f"down:{path}"] = self.elicited.down[path].detach()
            tensors[f"up:{path}"] = self.elicited.up[path].detach()
        return tensors

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take them up."""
        if "counts" not in state:
            return
        self.seen, self.epoch = (int(n) for n in state["counts"])
        parts = by_kind(state)
        left, directions = parts.get("left", {}), parts.get("directions", {})
        self.tracked = {
            key: Tracked(basis, parts["moment"][key], directions.get(key), left.get(key))
            for key, basis in parts.get("basis", {}).items()
        }
        for path in self.paths:
            self.elicited.down[path].copy_(parts["down"][path])
            self.elicited.up[path].copy_(parts["up"][path])
