"""Collapse of irrelevant representations (CIR), and MCU: break what the feed-forward layers put out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ssiuu.attribution.hidden import block, hidden_states, stacked, tapped
from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.likelihood import Batch, aligned
from ssiuu.methods.base import (
    Ask,
    Bound,
    Losses,
    Normaliser,
    Objective,
    Optimiser,
    Origin,
    Parts,
    RetainStep,
    Rows,
    Slope,
    Training,
    View,
    behind_epochs,
)
from ssiuu.methods.budget import PlainText
from ssiuu.methods.components import SKIPPED, Moments, as_one, later, mean_and_components, outside
from ssiuu.methods.tokens import (
    bare,
    by_kind,
    experts_left,
    feed_forward_maps,
    listening,
    refuse_second_gradients,
)
from ssiuu.models.lora import Adapter, adapters, weight_of
from ssiuu.models.maps import BLOCK, output_width, stream_width


def breaking_loss(
    outputs: Float[Tensor, "B T L d"],
    before: Float[Tensor, "B T L d"],
    size: Float[Tensor, " L"],
    mask: Bool[Tensor, "B T"],
) -> Float[Tensor, " B"]:
    """Return how much of each layer's output is still there, summed over tokens, a mean over layers.

        L(x) = sum over t of mean over l of max(<o_tl, o0_tl>, 0) / size_l

    With size_l = mean |o0_l|^2 it is 1 a token before the first step, and 0 where o is orthogonal to
    what it was, or opposed.

    Source: Sondej and Yang 2025 (CIR; arXiv 2605.11685).
    Departures: the released code divides by the square of the mean length, not by the mean square.
    """
    kept = (outputs * before).sum(-1).clamp(min=0) / size
    return kept.mean(-1).masked_fill(~mask, 0.0).sum(1)


@dataclass
class Broken:
    """What the model before put out, by row: [T, L, d]; its mean square, [L]; a budget, if any.

    `directions`: of each layer's outputs, those that are left out of the loss; none: of CIR.
    """

    outputs: dict[str, Tensor]
    size: Float[Tensor, " L"]
    rows: int
    directions: list[Float[Tensor, "d m"]] = field(default_factory=list)
    plain: PlainText | None = None

    def outside(self, outputs: Float[Tensor, "*n L d"]) -> Float[Tensor, "*n L d"]:
        """Return outputs without the directions that are left out."""
        if not self.directions:
            return outputs
        return torch.stack([outside(outputs[..., n, :], d) for n, d in enumerate(self.directions)], -2)


class Breaking(Objective):
    """CIR: outputs of feed-forward layers are turned away from what they were, and nothing else is.

        G_W = sum over forget tokens of d' x'^T,    x' = x without mean and leading components,
                                                    d' = d likewise

    x are a map's inputs and d the gradients at its outputs. Mean and components are of the epoch
    before, taken out one by one; the first epoch only collects. The gradient is scaled to length 1: a
    step is `learning_rate` long. Then the rows to keep take a step of their own (`states`), by SGD. It
    ends when the loss on plain text exceeds `loss_limit` times what it was.

    Source: Sondej and Yang 2025 (CIR; arXiv 2605.11685): blocks 6 to 11 of 16, mean + 23 components of
    inputs, mean + 35 of output gradients, rate 0.2, retain rate 3e-4, limit 1.001.
    Departures: sizes of outputs and states are means over all rows of the run, not of a batch; it ends
    at the forget score and at `max_steps` too; plain text is read where the source reads Wikipedia.
    """

    name: ClassVar[str] = "cir"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Sondej and Yang 2025 (CIR; arXiv 2605.11685)."
    summary: ClassVar[str] = (
        "CIR: break feed-forward outputs, without what tokens have in common on either side"
    )
    normaliser: ClassVar[Normaliser] = "later"
    reads: ClassVar[frozenset[Rows]] = frozenset({"texts"})
    optimiser: ClassVar[Optimiser | None] = "normsgd"
    rate: ClassVar[float | None] = 0.2

    layers: list[int] = Field(
        default=[6, 11], description="first and last block whose outputs are broken, from 0"
    )
    input_directions: int = Field(
        default=24, ge=0, description="mean and components of each map's inputs that are taken out"
    )
    output_directions: int = Field(
        default=36, ge=0, description="mean and components of its output gradients that are taken out"
    )
    retain_rate: float = Field(
        default=3e-4, gt=0, le=1, description="rate of the retain step, which is of its own"
    )
    loss_limit: float | None = Field(
        default=1.001,
        ge=1,
        description="what the loss on plain text may be times what it was; null: anything",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Breaking:
        if len(self.layers) != 2 or not 0 <= self.layers[0] <= self.layers[1]:
            raise ValueError(f"layers: the first and the last block, as in [6, 11], got {self.layers}")
        return self

    @classmethod
    def retain_default(cls, asked: str | None) -> tuple[str, float]:
        """Return the states term, of weight 1."""
        return asked or "states", 1.0

    @property
    def looks(self) -> int:
        """The last block that is broken: nothing behind it is computed."""
        return self.layers[1]

    @property
    def cost(self) -> float:
        """Tokens are collected, and decomposed once an epoch."""
        return 2.0

    @property
    def left_out(self) -> int:
        """How many directions of the outputs are left out of the loss."""
        return 0

    @property
    def alone(self) -> str:
        """Its tokens are collected where they pass, and those of all rows are needed at once."""
        return "it collects the tokens of all rows"

    def fits(self, among: Parts) -> None:
        """Refuse a projection beside its own, a retain step beside its own, and second gradients."""
        refuse_second_gradients(among, self.name)
        if any(part.name == "projection" for part in among.transforms):
            raise ValueError(
                f"{self.name} takes directions out by itself (input_directions, output_directions); "
                "what was called cir with projection and projection_outputs is called collapse now"
            )
        if any(part.name == "apart" for part in among.transforms):
            raise ValueError(f"apart: {self.name} takes a retain step of its own: set retain_rate")

    def check(self, model: CausalLM) -> None:
        """Refuse a model without these blocks, their maps, or so many directions."""
        block(
            model,
            self.looks,
            f"{self.name}.layers",
            lambda count: f"layers: [{6 * count // 16}, {11 * count // 16}]",
        )
        self.taps(model)
        maps = [m for p, m in feed_forward_maps(model, self.name).items() if _layer(p) <= self.looks]
        outputs = [output_width(module) for module in maps]
        inputs = [m.weight.numel() // out for m, out in zip(maps, outputs, strict=True)]
        for key, k, least, what in (
            ("input_directions", self.input_directions, min(inputs), "input"),
            ("output_directions", self.output_directions, min(outputs), "output"),
            ("components", self.left_out, stream_width(model), "residual stream"),
        ):
            if k >= least:
                raise ConfigError(
                    f"{self.name}.{key}: must be below {least}, the narrowest {what} here, got {k}."
                )

    def first_step(self, rows: int, size: int) -> int:
        """Return the step behind the epoch that only collects."""
        return behind_epochs(1, rows, size)

    def taps(self, model: CausalLM) -> tuple[str, ...]:
        """Return the last feed-forward map of every block that is broken."""
        width, last = stream_width(model), dict[int, str]()
        for path, module in feed_forward_maps(model, self.name).items():
            if output_width(bare(module)) == width:
                last[_layer(path)] = path
        wanted = range(self.layers[0], self.layers[1] + 1)
        missing = [layer for layer in wanted if layer not in last]
        if missing:
            raise ConfigError(
                f"{self.name}.layers: no feed-forward map of block {missing[0]} of "
                f"{type(model).__name__} puts out {width} numbers, as a last one does."
            )
        return tuple(last[layer] for layer in wanted)

    def trained(self, names: Sequence[str], model: CausalLM) -> set[str]:
        """Return the feed-forward maps of all blocks up to the last that is broken."""
        maps = feed_forward_maps(model, self.name)
        return {f"{path}.weight" for path in maps if _layer(path) <= self.looks} & set(names)

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `breaking_loss`."""
        if view.outputs is None or view.hidden_mask is None:
            raise ValueError(f"{self.name} needs the outputs of feed-forward layers")
        known: Broken = view.prepared
        before = aligned([known.outputs[i] for i in view.ids], view.hidden_mask).to(view.outputs)
        now = known.outside(view.outputs)
        return breaking_loss(now, before, known.size.to(now), later(view.hidden_mask))

    @torch.no_grad()
    def prepare(self, ask: Ask) -> Broken:
        """Ask the model what its layers put out on the rows to forget, and its loss on plain text."""
        taps, outputs = self.taps(ask.model), dict[str, Tensor]()
        sums: list[Moments] | None = None
        for batch in ask.batches(ask.rows["forget"]):
            mask = batch.attention_mask.bool()
            with tapped(ask.model, taps) as found:
                hidden_states(ask.model, batch, self.looks)
            together = _wide(stacked(found, taps, mask))
            for n, id in enumerate(batch.ids):
                outputs[id] = together[n, mask[n]].clone()
            chosen = together[later(mask)]
            each = [Moments.of(chosen[:, n]) for n in range(len(taps))]
            sums = each if sums is None else [a.add(b) for a, b in zip(sums, each, strict=True)]
        assert sums is not None
        known = Broken(outputs, torch.ones(len(taps)), len(ask.rows["forget"]))
        if self.left_out:
            pairs = zip(sums, taps, strict=True)
            known.directions = [
                as_one(mean_and_components(m, self.left_out, path)) for m, path in pairs
            ]
            known.outputs = {id: known.outside(of) for id, of in outputs.items()}
        squares = [of[SKIPPED:].square().sum(-1) for of in known.outputs.values()]
        known.size = torch.cat(squares).mean(0)
        known.plain = self._budget(ask)
        return known

    def _budget(self, ask: Ask) -> PlainText | None:
        if self.loss_limit is None:
            return None
        if not ask.rows["texts"]:
            raise ConfigError(
                f"{ask.label}: no plain text for its budget fits the model's context; set "
                "loss_limit: null."
            )
        return PlainText(ask.model, ask.batches(ask.rows["texts"]))

    def bind(self, prepared: Any) -> Collapsing:
        """Begin with an epoch that collects; unprepared it is there to be looked at."""
        return Collapsing(self, prepared)

    def untouched(self, model: CausalLM, prepared: Any) -> str:
        """Say which experts are not trained."""
        return experts_left(model, self.name)


class OutsideBreaking(Breaking):
    """MCU: CIR of what outputs have beyond their mean and leading components over the forget rows.

        <o', o0'>,    o' = o without mean and `components` − 1 components of o0

    Source: MCU 2026 (arXiv 2605.11685): mean + 7 components.
    Departures: those of CIR; they are taken out as one subspace, not one by one, so that no change
    within it shows.
    """

    name: ClassVar[str] = "mcu"
    source: ClassVar[str] = "MCU 2026 (arXiv 2605.11685)."
    summary: ClassVar[str] = "MCU: CIR of what outputs have beyond their mean and leading components"

    components: int = Field(
        default=8, ge=1, description="mean and components of the outputs that the loss does not see"
    )

    @property
    def left_out(self) -> int:
        """As set."""
        return self.components


class Collapsing(Bound):
    """Collects tokens, and makes every map's gradient anew from those of a step, collapsed.

    `sums`: of the epoch's tokens so far, `directions`: of the epoch before, by path and side.
    """

    shapes = True
    surrounds = True

    def __init__(self, settings: Breaking, known: Broken | None) -> None:
        self.settings, self.known = settings, known
        self.retain_step = RetainStep("sgd", settings.retain_rate)
        self.tokens: dict[str, Tensor] = {}
        self.sums: dict[str, Moments] = {}
        self.directions: dict[str, Tensor] = {}
        self.seen, self.epoch = 0, 0

    def attach(self, training: Training) -> None:
        """Find the maps that are trained, or whose adapters are."""
        self.model = training.model
        self.adapters: dict[str, Adapter] = {a.name: a for a in adapters(training.model)}
        weights = dict.fromkeys(weight_of(name)[0] for name in training.named)
        self.paths = [name.removesuffix(".weight") for name in weights]
        self.across = {
            path for path in self.paths if isinstance(bare(training.model.get_submodule(path)), Conv1D)
        }

    def begin(self) -> None:
        """Forget the last step's tokens."""
        self.tokens = {}

    @contextmanager
    def surround(self, batches: Sequence[Batch]) -> Iterator[None]:
        """Listen to the maps."""
        with listening(self.model, self.paths, self._see, SKIPPED):
            yield
        self.seen += sum(len(batch.ids) for batch in batches)

    def _see(self, path: str, x: Tensor, d: Tensor) -> None:
        for key, rows in ((f"inputs:{path}", x), (f"outputs:{path}", d)):
            sums = Moments.of(rows)
            self.sums[key] = self.sums[key].add(sums) if key in self.sums else sums
        gradient = self._without(path, d, "outputs").T @ self._without(path, x, "inputs")
        self.tokens[path] = self.tokens[path].add_(gradient) if path in self.tokens else gradient

    def _without(self, path: str, rows: Tensor, side: str) -> Tensor:
        known = self.directions.get(f"{side}:{path}")
        return rows if known is None else outside(rows, known)

    def shape(self, slope: Slope) -> None:
        """Put the gradient of the collapsed tokens in the place of the gradient; none at first."""
        weight, side = weight_of(slope.name)
        path = weight.removesuffix(".weight")
        gradient = self.tokens.get(path)
        if self.epoch == 0 or gradient is None:
            slope.forget.zero_()
            return
        gradient = gradient.to(slope.forget)
        if side != "weight":
            gradient = self.adapters[weight].chained(gradient)[side == "outputs"]
        elif path in self.across:
            gradient = gradient.T
        slope.forget.copy_(gradient)

    def weigh(self, weight: float) -> float:
        """Take no retain step in the first epoch: where nothing has moved a length has no slope."""
        return weight if self.epoch else 0.0

    def after(self, losses: Losses, learning_rate: float) -> None:
        """Renew the directions after an epoch, and read the budget."""
        assert self.known is not None
        if self.seen < self.known.rows * (self.epoch + 1):
            return
        self.epoch += 1
        sides = {"inputs": self.settings.input_directions, "outputs": self.settings.output_directions}
        self.directions = {
            key: mean_and_components(sums, sides[key.partition(":")[0]], key)
            for key, sums in self.sums.items()
            if sides[key.partition(":")[0]]
        }
        self.sums = {}
        if self.epoch > 1:
            self.ends = self._over()

    def _over(self) -> str:
        """Return what is exceeded on plain text."""
        plain, limit = self.known.plain if self.known is not None else None, self.settings.loss_limit
        if plain is None or limit is None:
            return ""
        self.model.eval()
        share = plain.loss(self.model) / plain.original_loss()
        if share <= limit:
            return ""
        return (
            f"Unlearning ended where the loss on plain text was {share:.4f} times what it was, above "
            f"loss_limit {limit:g}."
        )

    def told(self) -> dict[str, float]:
        """Return how many epochs are behind."""
        return {"epochs": float(self.epoch)}

    def state(self) -> dict[str, Tensor]:
        """Return the epoch's sums, the directions of the one before, and the counts."""
        tensors = {"counts": torch.tensor([self.seen, self.epoch])}
        for key, sums in self.sums.items():
            there = {name: value for name, value in vars(sums).items() if value is not None}
            tensors |= {f"{name}:{key}": value for name, value in there.items()}
        return tensors | {f"directions:{key}": value for key, value in self.directions.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take them up."""
        if "counts" not in state:
            return
        self.seen, self.epoch = (int(n) for n in state["counts"])
        parts = by_kind(state)
        squares, rows = parts.get("square", {}), parts.get("rows", {})
        self.directions = parts.get("directions", {})
        self.sums = {
            key: Moments(count, parts["total"][key], squares.get(key), rows.get(key))
            for key, count in parts.get("count", {}).items()
        }


def _layer(path: str) -> int:
    match = BLOCK.search(path)
    assert match is not None
    return int(match[1])


def _wide(states: Tensor) -> Tensor:
    return states if states.dtype == torch.float64 else states.float()
