"""What a method needs before its first step, computed once from the model as it is."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssiuu.attribution.hidden import hidden_states
from ssiuu.attribution.neuron import extremes
from ssiuu.errors import ConfigError
from ssiuu.likelihood import (
    Batch,
    Example,
    answer_logits,
    answer_logprobs,
    collate,
    length_sorted,
)
from ssiuu.methods.base import Method
from ssiuu.methods.disruption import DisruptionMasked
from ssiuu.methods.klue import LocalisedUnlearning, knowledge_scores, leading
from ssiuu.methods.projection import Basis, random_bases, retain_bases
from ssiuu.methods.rmu import Misdirection
from ssiuu.models.sites import Site, known_sites

BATCH = 16
CACHE_LIMIT = 4 << 30  # bytes of reference distributions kept in memory; above, they are taken anew
FEED_FORWARD = ("gate", "up", "down")


@dataclass
class Prepared:
    """The reference model's answers, and the directions or neurons a method works on.

    `logprob`, `refusal_logprob`: log P by id, nats. `forget_logits`, `retain_logits`, `text_logits`:
    log p of every word at every answer token, [A, V] by id, kept or asked of a frozen copy.
    `retain_hidden`: [T, d] by id. `bases`: by parameter. `rows`: which rows of a parameter may change,
    by parameter; all others stay.
    """

    logprob: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, Example] = field(default_factory=dict)
    refusal_logprob: dict[str, float] = field(default_factory=dict)
    forget_logits: Mapping[str, Tensor] = field(default_factory=dict)
    retain_logits: Mapping[str, Tensor] = field(default_factory=dict)
    text_logits: Mapping[str, Tensor] = field(default_factory=dict)
    retain_hidden: dict[str, Tensor] = field(default_factory=dict)
    bases: dict[str, Basis] | None = None
    rows: dict[str, Bool[Tensor, " out"]] | None = None


class Frozen(Mapping[str, Tensor]):
    """The distributions of rows under a frozen copy of the model, taken anew whenever asked for.

    In place of a dict of them, where that would not fit in memory; equal to it up to rounding.
    """

    def __init__(self, model: Any, examples: Sequence[Example], pad: int) -> None:
        self.model, self.rows, self.pad = model, {e.id: e for e in examples}, pad

    def __getitem__(self, id: str) -> Float[Tensor, "A V"]:
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, enabled=False):  # as they were taken before the first step
            return _kept(self.model, [self.rows[id]], self.pad)[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def prepare(
    model: Any,
    method: Method,
    forget: Sequence[Example],
    retain: Sequence[Example],
    pad: int,
    refusals: Sequence[Example] = (),
    shared: Sequence[Example] = (),
    texts: Sequence[Example] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Ask the model, before it changes, for all that a method needs.

    Args:
        model: In evaluation mode.
        method: What will be run.
        forget: Rows to forget.
        retain: Rows to keep.
        pad: Padding token id.
        refusals: The forget questions with a refusal for an answer, under the same ids.
        shared: What a projection takes its directions from; the retain rows if empty.
        texts: Texts to stay as they are on, where the method has that term.
        progress: Told where a second model is kept in memory.

    Raises:
        ConfigError: Something that the method needs is missing.
    """
    base = method.base()
    made = Prepared()
    if "logprob" in base.needs:
        made.logprob = reference_logprobs(model, forget, pad)
    if "refusal" in base.needs:
        if not refusals:
            raise ConfigError(f"{method.label}: there are no refusals to prefer.")
        made.refusals = {e.id: e for e in refusals}
        made.refusal_logprob = reference_logprobs(model, refusals, pad)
    asked = [
        forget if "distribution" in base.needs or method.others else (),
        retain if method.keeps == "kl" else (),
        texts if method.texts else (),
    ]
    found = _distributions(model, asked, pad, progress)
    made.forget_logits, made.retain_logits, made.text_logits = found
    if method.texts and not texts:
        raise ConfigError(
            f"{method.label}: no text to hold it to fits the model's context; set texts: 0."
        )
    if isinstance(method, DisruptionMasked) and not retain:
        raise ConfigError("masked: the mask is the retain gradient's, and there are no retain rows.")
    if isinstance(base, Misdirection) and method.keeps == "activations":
        made.retain_hidden = _hidden(model, retain, pad, base.layer)
    if method.projects and method.projection_from == "random":
        made.bases = random_bases(model, method.projection, method.projection_outputs)
    elif method.projects:
        kept = [*(shared or retain)] if method.projection_from != "forget" else []
        rows = [*kept, *forget] if method.projection_from != "retain" else kept
        batches = _batches(model, rows, pad)
        made.bases = retain_bases(model, batches, method.projection, method.projection_outputs)
    if isinstance(method, LocalisedUnlearning):
        made.rows = knowledge_neurons(model, method, forget, pad)
    return made


@torch.no_grad()
def reference_logprobs(model: Any, examples: Sequence[Example], pad: int) -> dict[str, float]:
    """Return log P(y|x) of every example under the model as it is, by id, nats."""
    found: dict[str, float] = {}
    for batch in _batches(model, examples, pad):
        sums = answer_logprobs(model, batch).sum.tolist()
        found |= dict(zip(batch.ids, sums, strict=True))
    return found


def knowledge_neurons(
    model: Any, method: LocalisedUnlearning, forget: Sequence[Example], pad: int
) -> dict[str, Bool[Tensor, " out"]]:
    """Return which output units of the feed-forward maps KLUE updates, by parameter name.

    Scores (see `knowledge_scores`) are averaged over the forget facts. A neuron's attribution is
    its highest one over the tokens, as in Eq. 1 and 4.

    Raises:
        ConfigError: See `feed_forward_sites`.
    """
    sites = feed_forward_sites(model)
    rng = random.Random(0)
    facts = {
        name: row
        for found in extremes(model, sites, forget, pad)
        for name, row in zip(found.ids, found.highest, strict=True)
    }
    total = torch.zeros_like(facts[forget[0].id])
    for example in forget:
        others = [e for e in forget if e.answer != example.answer]
        drawn = rng.sample(others, min(method.contexts, len(others)))
        contexts = [Example(e.id, e.prompt, example.answer) for e in drawn]
        superficial = [r.highest for r in extremes(model, sites, contexts, pad)]
        if superficial:
            total += knowledge_scores(facts[example.id], torch.cat(superficial), method.alpha)
        else:
            total += facts[example.id]
    mask = leading(total, method.share)
    rows: dict[str, Tensor] = {}
    for site, piece in zip(sites, mask.split([site.width for site in sites]), strict=True):
        name = f"{site.path}.weight"
        if name not in rows:  # a fused map is filled part by part
            rows[name] = mask.new_zeros(model.get_submodule(site.path).out_features)
        rows[name][site.take(torch.arange(len(rows[name])))] = piece
    return rows


def feed_forward_sites(model: Any) -> list[Site]:
    """Return the sites whose neurons KLUE marks.

    Raises:
        ConfigError: None is known in the model, or its weights have no row a neuron.
    """
    sites = [site for site in known_sites(model) if site.module in FEED_FORWARD]
    if not sites:
        raise ConfigError(
            "klue: it trains neurons of feed-forward maps that stand by themselves (not of experts), "
            f"and {type(model).__name__} has none that is known. Choose another method."
        )
    if any(site.transposed for site in sites):
        raise ConfigError(
            f"klue: {type(model).__name__} stores its weights as [in, out], and KLUE trains rows."
        )
    return sites


def _batches(model: Any, examples: Sequence[Example], pad: int) -> list[Batch]:
    device = next(model.parameters()).device
    lengths = [len(e.prompt) + len(e.answer) for e in examples]
    return [
        collate([examples[i] for i in rows], pad).to(device) for rows in length_sorted(lengths, BATCH)
    ]


def _distributions(
    model: Any, asked: Sequence[Sequence[Example]], pad: int, progress: Callable[[str], None]
) -> list[Mapping[str, Tensor]]:
    """Return the distributions of each set of rows: kept, or asked of one frozen copy of the model."""
    tokens = sum(len(e.answer) for examples in asked for e in examples)
    need = 4 * model.config.vocab_size * tokens
    if need <= CACHE_LIMIT:
        return [_kept(model, examples, pad) for examples in asked]
    frozen = copy.deepcopy(model).requires_grad_(False)
    size = sum(p.numel() * p.element_size() for p in frozen.parameters())
    progress(
        f"the reference's distributions of {tokens} answer tokens would take {need / 1e9:.1f} GB: they "
        f"are asked of a frozen copy of the model at every step ({size / 1e9:.1f} GB, and slower)"
    )
    return [Frozen(frozen, examples, pad) for examples in asked]


@torch.no_grad()
def _kept(model: Any, examples: Sequence[Example], pad: int) -> dict[str, Float[Tensor, "A V"]]:
    found = {}
    for batch in _batches(model, examples, pad):
        logprobs = answer_logits(model, batch).log_softmax(-1)
        for i, name in enumerate(batch.ids):
            found[name] = logprobs[i, batch.answer_mask[i]].clone()
    return found


@torch.no_grad()
def _hidden(
    model: Any, examples: Sequence[Example], pad: int, layer: int
) -> dict[str, Float[Tensor, "T d"]]:
    found = {}
    for batch in _batches(model, examples, pad):
        states = hidden_states(model, batch, layer)
        for i, name in enumerate(batch.ids):
            found[name] = states[i, batch.attention_mask[i].bool()].clone()
    return found


def aligned(rows: Sequence[Float[Tensor, "n d"]], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T d"]:
    """Return rows of different lengths as one tensor, each where its mask is set; 0 elsewhere."""
    out = rows[0].new_zeros((*mask.shape, rows[0].shape[-1]))
    for i, row in enumerate(rows):
        out[i, mask[i]] = row.to(out.device)
    return out
