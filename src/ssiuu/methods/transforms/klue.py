"""KLUE: knowledge-localised unlearning, updates of the neurons alone that hold the facts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from ssiuu.attribution.neuron import extremes
from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.likelihood import Example
from ssiuu.methods.base import Ask, Bound, Origin, Training, Transform
from ssiuu.models.lora import weight_of
from ssiuu.models.maps import stacked_weights, summed
from ssiuu.models.shards import local, own
from ssiuu.models.sites import Site, known_sites

FEED_FORWARD = ("gate", "up", "down")


def knowledge_scores(
    attribution: Float[Tensor, " N"], superficial: Float[Tensor, "S N"], alpha: float
) -> Float[Tensor, " N"]:
    """Return how far each neuron carries a fact rather than its answer's words.

        score[i] = A[i](x, y) - alpha / S  sum over s of max(A[i](x_s, y), 0)

    x is the question, x_s are S questions of other facts with the same answer y put after them: a
    neuron that raises y whatever is asked carries "superficial" knowledge.

    Source: Yang et al. 2025, "FaithUn", Sec. 4 (KLUE).
    Departures: negative superficial scores are cut at 0, so that a neuron is never rewarded for
    opposing the answer elsewhere.
    """
    return attribution - alpha * superficial.clamp(min=0).mean(0)


def leading(scores: Float[Tensor, " N"], share: float) -> Bool[Tensor, " N"]:
    """Return a mask of the highest `share` of all neurons, at least one."""
    count = max(1, round(share * scores.numel()))
    mask = scores.new_zeros(scores.shape).bool()
    mask[scores.topk(count).indices] = True
    return mask


class Localised(Transform):
    """KLUE: only the feed-forward neurons are updated that attribution marks.

    Departures: the neurons are marked once, before the first step, for all facts together; facts
    that are forgotten already stay in the batches (the source drops them); biases are not trained.
    """

    name: ClassVar[str] = "klue"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Yang et al. 2025 (FaithUn), as in the paper's App. C.2."
    summary: ClassVar[str] = "on the feed-forward neurons that attribution marks"
    order: ClassVar[int] = 50
    published_on: ClassVar[frozenset[str]] = frozenset({"gd"})
    number: ClassVar[str] = "share"

    share: float = Field(default=0.1, gt=0, le=1, description="share of feed-forward neurons updated")
    alpha: float = Field(default=10.0, ge=0, description="weight of the superficial scores")
    contexts: int = Field(default=5, ge=1, description="other questions per fact (N)")

    def check(self, model: CausalLM) -> None:
        """Refuse a model without such neurons."""
        feed_forward_sites(model)

    def prepare(self, ask: Ask) -> dict[str, Tensor]:
        """Mark the neurons."""
        return knowledge_neurons(ask.model, self, ask.rows["forget"], ask.pad)

    def bind(self, prepared: Any) -> Localising:
        """Leave all rows alone that are not marked."""
        return Localising(prepared)

    def untouched(self, model: CausalLM, prepared: Any) -> str:
        """Say which weights hold neurons that are not known."""
        stacked = stacked_weights(model)
        return f"klue: the neurons of {summed(stacked)} are not known, and stay as they are." * bool(
            stacked
        )


class Localising(Bound):
    """Leaves gradients only to the rows that may change."""

    def __init__(self, rows: Mapping[str, Tensor] | None) -> None:
        self.rows = rows

    def attach(self, training: Training) -> None:
        """Refuse weight decay, which knows no rows."""
        if training.weight_decay:
            raise ConfigError("klue: weight_decay must be 0, or neurons that are not marked decay.")

    def finish(self, named: Mapping[str, Tensor]) -> None:
        """Drop every other gradient; an adapter's rows are those of B."""
        if self.rows is None:
            return
        for name, parameter in named.items():
            if parameter.grad is None:
                continue
            weight, side = weight_of(name)
            rows = self.rows.get(weight)
            # Without a gradient the optimiser leaves a parameter out; a row of zeros keeps moments of
            # zero.
            if rows is None or side == "inputs":
                parameter.grad = None
            else:
                local(parameter.grad)[~own(parameter, rows)] = 0.0


def knowledge_neurons(
    model: CausalLM, klue: Localised, forget: Sequence[Example], pad: int
) -> dict[str, Bool[Tensor, " out"]]:
    """Return which output units of the feed-forward maps KLUE updates, by parameter name.

    Scores (see `knowledge_scores`) are averaged over the forget facts. A neuron's attribution is
    its highest one over the tokens, as in Eq. 1 and 4.

    Raises:
        ConfigError: See `feed_forward_sites`.
    """
    sites = feed_forward_sites(model)
    # What is marked does not go with the seed of the run.
    rng = random.Random(0)
    facts = {
        name: row
        for batch_extremes in extremes(model, sites, forget, pad)
        for name, row in zip(batch_extremes.ids, batch_extremes.highest, strict=True)
    }
    total = torch.zeros_like(facts[forget[0].id])
    for example in forget:
        others = [e for e in forget if e.answer != example.answer]
        drawn = rng.sample(others, min(klue.contexts, len(others)))
        contexts = [Example(e.id, e.prompt, example.answer) for e in drawn]
        superficial = [r.highest for r in extremes(model, sites, contexts, pad)]
        if superficial:
            total += knowledge_scores(facts[example.id], torch.cat(superficial), klue.alpha)
        else:
            total += facts[example.id]
    mask = leading(total, klue.share)
    rows: dict[str, Tensor] = {}
    for site, piece in zip(sites, mask.split([site.width for site in sites]), strict=True):
        name = f"{site.path}.weight"
        if name not in rows:  # a fused map is filled part by part
            rows[name] = mask.new_zeros(len(model.get_parameter(name)))
        rows[name][site.places(len(rows[name]))] = piece
    return rows


def feed_forward_sites(model: CausalLM) -> list[Site]:
    """Return the sites whose neurons KLUE marks.

    Raises:
        ConfigError: None is known in the model, or its weights have no row a neuron.
    """
    sites = [site for site in known_sites(model) if site.module in FEED_FORWARD]
    if not sites:
        raise ConfigError(
            "klue: it trains neurons of feed-forward maps that stand by themselves (not of experts), "
            f"and {type(model).__name__} has none that is known. Choose another klue."
        )
    if any(site.transposed for site in sites):
        raise ConfigError(
            f"klue: {type(model).__name__} stores its weights as [in, out], and KLUE trains rows."
        )
    return sites
