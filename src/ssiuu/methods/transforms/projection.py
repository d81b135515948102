"""Projection (ours): take the directions that all answers share out of the forget gradient.

The arithmetic is in ssiuu.methods.directions.

What is orthogonal depends on the metric. AdamW rescales a projected gradient entry by entry, and what
it takes a step along has a component along the directions again. In the optimiser's metric
(`projection_metric: optimiser`) it is the step that is projected, after the optimiser's scaling:

    Delta = M(G),    theta <- theta + (I - U U^T) Delta (I - V V^T)

Such a step may hold nothing but the forget gradient, so forget and retain rows take steps of their own,
each with its own moments (`ssiuu.methods.transforms.apart`).

Source of the metric: Zhou et al. 2025, "Geometric-disentanglement unlearning", arXiv 2511.17100; its
own directions are the retain gradients (`ssiuu.methods.transforms.gu`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.methods.base import Ask, Bound, Origin, RetainStep, Slope, Training, Transform
from ssiuu.methods.directions import (
    Cut,
    Subspace,
    check_directions,
    project_out,
    project_piece,
    random_bases,
    retain_bases,
    untouched,
)
from ssiuu.models.lora import weight_of
from ssiuu.models.maps import summed
from ssiuu.models.shards import rows_of, world

# Directions taken out where only "+projection" or "+outputs" is said: 32 of 576 is the first lead
# measured on the default model; 8 of the outputs has not been tuned.
DEFAULT_INPUTS = 32
DEFAULT_OUTPUTS = 8


class Projection(Transform):
    """G <- (I - U U^T) G (I - V V^T) for the forget gradient of every linear map; 0 elsewhere."""

    name: ClassVar[str] = "projection"
    origin: ClassVar[Origin] = "ours"
    source: ClassVar[str] = "Ours, after CIR and RepSelect."
    summary: ClassVar[str] = "with shared directions taken out of the forget gradient"
    brought_by: ClassVar[frozenset[str]] = frozenset(
        {"projection", "projection_outputs", "projection_from", "projection_cut", "projection_metric"}
    )
    order: ClassVar[int] = 30
    number: ClassVar[str] = "projection"
    suffixes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "projection": {"projection": DEFAULT_INPUTS},
        "outputs": {"projection_outputs": DEFAULT_OUTPUTS},
        "random": {"projection_from": "random"},
        "soft": {"projection_cut": "soft"},
        "quadratic": {"projection_cut": "quadratic"},
        "optimiser": {"projection_metric": "optimiser"},
    }
    knobs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{cut: {"projection_cut": cut} for cut in ("hard", "soft", "quadratic")},
        **{metric: {"projection_metric": metric} for metric in ("gradient", "optimiser")},
        "optimizer": {"projection_metric": "optimiser"},
    }

    projection: int | None = Field(
        default=None,
        ge=1,
        description="ours: how many leading directions of each linear map's inputs over the retain "
        "set are taken out of the forget gradient; null for none",
    )
    projection_outputs: int | None = Field(
        default=None,
        ge=1,
        description="ours: the same with the directions of each linear map's output gradients; "
        f"null for none, {DEFAULT_OUTPUTS} by +outputs",
    )
    projection_from: Literal["retain", "forget", "both", "random"] = Field(
        default="retain",
        description="the rows whose leading directions are taken out; random: a control, as many "
        "directions drawn at random",
    )
    projection_cut: Cut = Field(
        default="hard",
        description="what is left of a direction: nothing (hard), or the share that the smallest "
        "singular value of those taken has of its own (soft), or that share's square (quadratic)",
    )

    projection_metric: Literal["gradient", "optimiser"] = Field(
        default="gradient",
        description="what is projected: the gradient, or the forget step as the optimiser has scaled "
        "it, and then forget and retain rows take steps of their own",
    )

    @model_validator(mode="after")
    def _of_something(self) -> Projection:
        if self.off and self.projection_from == "random":
            raise ValueError("projection_from: random stands beside projection or projection_outputs")
        if self.off and self.projection_cut != "hard":
            cut = self.projection_cut
            raise ValueError(f"projection_cut: {cut} stands beside projection or projection_outputs")
        if self.off and self.projection_metric == "optimiser":
            raise ValueError(
                "projection_metric: optimiser stands beside projection or projection_outputs"
            )
        if self.projection_from == "random" and self.projection_cut != "hard":
            raise ValueError("directions drawn at random have no singular values: projection_cut: hard")
        return self

    @property
    def off(self) -> bool:
        """Whether nothing is taken out."""
        return self.projection is None and self.projection_outputs is None

    @property
    def _of_steps(self) -> bool:
        return self.projection_metric == "optimiser"

    @property
    def whose(self) -> Origin:
        """Random directions are a control."""
        return "control" if self.projection_from == "random" else "ours"

    @property
    def cost(self) -> float:
        """Measured beside gd, its directions included."""
        return 1.25

    @property
    def said(self) -> list[str]:
        """The suffixes that are in effect."""
        sides = (self.projection is not None, self.projection_outputs is not None)
        cuts = (self.projection_cut == "soft", self.projection_cut == "quadratic")
        flags = (*sides, self.projection_from == "random", *cuts, self._of_steps)
        return [word for word, flag in zip(self.suffixes, flags, strict=True) if flag]

    @property
    def phrase(self) -> str:
        """How many directions, which, and whose idea that is."""
        which = {"both": "leading", "random": "random"}.get(
            self.projection_from, f"leading {self.projection_from}"
        )
        counts = ((self.projection, "inputs"), (self.projection_outputs, "output gradients"))
        sides = [f"{k} {which} directions of each linear map's {what}" for k, what in counts if k]
        kind = "control" if self.whose == "control" else "extension"
        directions = " and the ".join(sides)
        done = {
            "hard": "taken out of",
            "soft": "divided by their singular values in",
            "quadratic": "divided by their squared singular values in",
        }[self.projection_cut]
        what = "forget step, after the optimiser's scaling" if self._of_steps else "forget gradient"
        return f"with the {directions} {done} the {what} (this project's {kind})"

    def check(self, model: CausalLM) -> None:
        """Refuse to take out more than there is."""
        check_directions(model, self.projection, self.projection_outputs)

    def prepare(self, ask: Ask) -> dict[str, Subspace]:
        """Read the directions off the rows, or draw them."""
        if self.projection_from == "random":
            return random_bases(ask.model, self.projection, self.projection_outputs)
        retain_rows = [*ask.shared] if self.projection_from != "forget" else []
        rows = [*retain_rows, *ask.rows["forget"]] if self.projection_from != "retain" else retain_rows
        batches = ask.batches(rows)
        sides = self.projection, self.projection_outputs
        return retain_bases(ask.model, batches, *sides, self.projection_cut)

    def bind(self, prepared: Any) -> Projecting:
        """Take these directions out."""
        return ProjectingSteps(prepared) if self._of_steps else Projecting(prepared)

    def untouched(self, model: CausalLM, prepared: Any) -> str:
        """Say which matrices keep no forget gradient."""
        unprojected = untouched(model, prepared)
        return (
            f"projection: no shared directions are known of {summed(unprojected)}; the forget gradient "
            "leaves these as they are, as it does embeddings and norms."
        ) * bool(unprojected)


class Projecting(Bound):
    """Projects every parameter's forget gradient; an adapter has one side each."""

    def __init__(self, bases: Mapping[str, Subspace] | None) -> None:
        self.bases = bases
        self.shapes = bases is not None
        self.named: Mapping[str, Tensor] = {}

    def attach(self, training: Training) -> None:
        """Know which part of each parameter is here."""
        self.named = training.named

    def shape(self, slope: Slope) -> None:
        """See `project_out`."""
        self.project(slope.name, slope.forget)

    def project(self, name: str, moved: Tensor) -> None:
        """Take the directions out of one parameter's gradient, or step, in place."""
        assert self.bases is not None
        weight, side = weight_of(name)
        basis = self.bases.get(weight)
        if basis is None:
            moved.zero_()  # only linear maps have shared directions
        else:
            kept = basis if side == "weight" else basis.of(side)
            if world() == 1:
                project_out(moved, kept)
            else:
                project_piece(moved, kept, rows_of(self.named[name]))


class ProjectingSteps(Projecting):
    """Projects the forget step in place of the forget gradient."""

    retain_step = RetainStep()

    def __init__(self, bases: Mapping[str, Subspace] | None) -> None:
        super().__init__(bases)
        self.shapes, self.corrects = False, bases is not None

    def attach(self, training: Training) -> None:
        """Refuse weight decay, whose part along the directions would be taken out too."""
        super().attach(training)
        if training.weight_decay:
            raise ConfigError(
                "projection_metric: optimiser: weight_decay must be 0, or only a part of each weight "
                "decays."
            )

    def correct(self, moves: Mapping[str, Tensor]) -> Iterable[str]:
        """See `project_out`."""
        for name, moved in moves.items():
            self.project(name, moved)
        return moves.keys()
