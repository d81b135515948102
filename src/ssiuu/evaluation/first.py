"""Rank in bf16 or TF32 first, and again in fp32 whatever these may have decided otherwise.

    with reading_first("bf16"):
        score_facts(model, prompt, facts)

Only questions of which nothing but the decision is kept are read so: paraphrases and the questions
beside a fact. What is kept as a number (log p, a free answer) is read in fp32 as ever.

The bound is measured, not assumed. What decides is the margin m, the mean log p a token of the right
answer less that of the best other option. Of the questions read first those with the smallest |m|,
and others spread evenly over the rest of them in the order of |m|, are read in fp32 too; e is the
largest |m(first) - m(fp32)| among them. Every question with |m(first)| <= 2 e is read in fp32, each of
which is one more measurement of e, until none is left: what the first decides alone has a margin over
twice the largest error that was seen on this model and these questions. Rounding goes through a whole
model, and moves an unlearned one's log p by half a nat in the mean, so another model's bound would not
do. It is a bound by a sample, not a proof: a decision differs where an error that was not sampled is
more than twice as large as any that was, and goes the wrong way.

TF32 is fp32 whose products take ten digits of each factor and no more, on accelerators that have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch

from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.evaluation.ask import Question, margins
from ssiuu.evaluation.growing import keeps_states
from ssiuu.models.precision import autocast, has_tf32, resolve_precision, tf32

First = Literal["fp32", "bf16", "tf32"]

NEAR, SPREAD = 16, 16  # questions that are read in both: the nearest ties, and spread over the others
RESERVE = 2.0  # times the largest error that was measured

_first: ContextVar[First] = ContextVar("first", default="fp32")


@contextmanager
def reading_first(precision: First) -> Iterator[None]:
    """Let `decide` read in this precision first."""
    token = _first.set(precision)
    try:
        yield
    finally:
        _first.reset(token)


def check_first(precision: First, model: CausalLM) -> None:
    """Refuse a first reading where it would be emulated, or nothing is left to read again.

    Raises:
        ConfigError: The device has no such precision, or the weights are in bf16 already.
    """
    if precision == "fp32":
        return
    one = next(model.parameters())
    if model.dtype == torch.bfloat16:
        raise ConfigError(
            f"evaluate.first: {precision!r} reads near ties again in fp32, and the weights are held in "
            "bf16 (dtype): leave one of the two out."
        )
    if precision == "tf32":
        if not has_tf32(one.device):
            raise ConfigError(
                f"evaluate.first: this {one.device.type} has no 'tf32'. Use 'fp32', or 'bf16' where it "
                "has that."
            )
        return
    if resolve_precision("auto", one.device) != "bf16":
        raise ConfigError(
            f"evaluate.first: 'bf16' is not supported by this {one.device.type} and would be emulated "
            "at a fraction of the speed. Use 'fp32'."
        )


def decides_alone() -> bool:
    """Whether a first reading may decide."""
    return _first.get() != "fp32"


@torch.no_grad()
def rough_margins(model: CausalLM, questions: Sequence[Question]) -> list[float]:
    """Return a margin of every question, in the precision of the first reading."""
    device = next(model.parameters()).device.type
    with tf32() if _first.get() == "tf32" else autocast("bf16", device):
        return margins(model, questions)


@torch.no_grad()
def decide(model: CausalLM, questions: Sequence[Question]) -> list[bool | None]:
    """Return of every question whether the right answer is ranked first; None: nothing to rank."""
    found: list[bool | None] = [None] * len(questions)
    ranked = [i for i, question in enumerate(questions) if len(question.options) > 1]
    chosen = [questions[i] for i in ranked]
    if len(chosen) <= NEAR + SPREAD:
        values = margins(model, chosen)
    else:
        keeps_states(model)  # tried in fp32, once
        values = _settled(model, chosen)
    for i, value in zip(ranked, values, strict=True):
        found[i] = value > 0
    return found


def _settled(model: CausalLM, questions: Sequence[Question]) -> list[float]:
    """Return a margin of every question, in fp32 where the first one is no larger than its error."""
    rough = rough_margins(model, questions)
    order = sorted(range(len(rough)), key=lambda i: abs(rough[i]))
    others = order[NEAR:]
    wanted = {*order[:NEAR], *others[:: max(1, len(others) // SPREAD)]}
    exact: dict[int, float] = {}
    while unread := sorted(wanted - exact.keys()):
        exact |= zip(unread, margins(model, [questions[i] for i in unread]), strict=True)
        bound = RESERVE * max(abs(rough[i] - value) for i, value in exact.items())
        # Where anything is not a number nothing is known of the error, and all is read again.
        wanted = {i for i, value in enumerate(rough) if not abs(value) > bound}
    return [exact.get(i, value) for i, value in enumerate(rough)]
