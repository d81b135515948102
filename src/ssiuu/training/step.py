"""One optimiser step: the forget gradient first, changed by transforms, then the retain gradient.

The two gradients are kept apart in time, not in memory. Where the model and the method allow it, both
batches run as one: a method that leaves the forget gradient alone needs no more, for another one
each parameter's two gradients are formed one after the other (SplitGradients). Else there are two
passes: after the forget backward `p.grad` holds the forget gradient alone, so a transform can change
it in place; the retain backward then adds to it. The second gradient that a transform may look at,
dP/dphi or dlogP/dphi, is the forget gradient itself where the loss is a constant times log P and log P
is the target; else it comes from the same backward pass (SecondGradient), and is used up parameter by
parameter while that pass runs.

Where a part wants it, forget and retain gradients take steps of their own, one after the other, each
with its own optimiser (`Bound.retain_step`); and what an optimiser has made of a gradient may be
corrected after it (`Bound.correct`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ssiuu.attribution.curvature import hessian_vector
from ssiuu.attribution.hidden import blocks
from ssiuu.attribution.parameter import SplitGradients
from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError, DivergedError, SsiuuError
from ssiuu.likelihood import Batch, answer_logits, answer_logprobs, join
from ssiuu.methods.base import (
    Bound,
    Losses,
    Objective,
    Optimiser,
    RetainStep,
    RetainTerm,
    Rows,
    Training,
)
from ssiuu.methods.method import Method
from ssiuu.methods.retain import LikelihoodTerm
from ssiuu.models.lora import adapters, weight_of
from ssiuu.models.precision import attention
from ssiuu.models.shards import Shards, all_sum, any_of, every, local, norm, world
from ssiuu.records.schema import Target
from ssiuu.training.interrupt import Interrupted
from ssiuu.training.optimiser import build
from ssiuu.training.prepare import Prepared
from ssiuu.training.shaping import Shaping
from ssiuu.training.terms import Terms, divisor_of
from ssiuu.training.views import Views, part

# A loss is called runaway beyond this many nats a token (uniform guessing is about 11).
RUNAWAY = 1000.0


@dataclass(frozen=True)
class StepOutcome:
    """What one step did; see `ssiuu.records.schema.StepLog`."""

    forget_loss: float
    retain_loss: float | None
    gradient_norm: float
    penalty_share: float | None = None
    penalty_parameters: float | None = None
    text_loss: float | None = None
    told: dict[str, float] = field(default_factory=dict)


class Step:
    """Takes optimiser steps of one method on one model."""

    def __init__(
        self,
        model: CausalLM,
        method: Method | None,
        learning_rate: float,
        precision: Literal["bf16", "fp32"] = "fp32",
        prepared: Prepared | None = None,
        weight_decay: float = 0.0,
        retain_weight: float = 1.0,
        pad: int = 0,
        effective: bool = False,
        together: bool = True,
        optimiser: Optimiser = "adamw",
        max_grad_norm: float | None = None,
    ) -> None:
        """Prepare model and optimiser.

        Args:
            model: Trained in place, in fp32.
            method: None for plain fine-tuning on the "retain" rows (an attack).
            learning_rate: The optimiser's.
            precision: Of the forward pass.
            prepared: What the parts need; see `ssiuu.training.prepare`.
            weight_decay: The optimiser's.
            retain_weight: Weight of the retain loss where there is no method.
            pad: Padding token id.
            effective: Take W + s B A for the features where the model has adapters.
            together: Run forget and retain rows as one batch where that is possible.
            optimiser: Which one.
            max_grad_norm: The gradient is scaled down to this L2 norm; None: never.

        Raises:
            ConfigError: The method does not fit the model or the weight decay.
        """
        self.method, self.precision, self.max_grad_norm = method, precision, max_grad_norm
        self.objective: Objective | None = method.objective if method else None
        self.term: RetainTerm | None = method.retain if method else LikelihoodTerm()
        self._frozen = self._freeze(model)
        # In shards before names are taken: a parameter is another object then.
        self.shards = Shards(model, blocks(model) if world() > 1 else ())
        self.named: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        parameters = list(self.named.values())
        optimizer = build(optimiser, parameters, learning_rate, weight_decay)
        self.model, self.optimizer = model, optimizer
        self._reached = world() == 1
        self.views = Views(self.model, prepared or Prepared(), precision, pad)
        # Checkpointed activations are computed again in training mode only.
        self.recomputes = any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
        self.bounds: dict[str, Bound] = {}
        adapted = {a.name: a for a in adapters(model)} if effective else {}
        training = Training(model, self.named, adapted, weight_decay, optimizer)
        for each in method.all if method else ():
            self.bounds[each.name] = each.bind(self.views.prepared.parts.get(each.name))
            self.bounds[each.name].attach(training)
        bounds = list(self.bounds.values())
        self.retain_step = _one([b.retain_step for b in bounds if b.retain_step is not None])
        self.optimizers = {"optimiser": self.optimizer}
        if self.retain_step is not None and any(b.displaces for b in bounds):
            raise ConfigError(
                "rosu: its retain gradient is taken beside the forget gradient, and here the rows to "
                "keep take a step of their own: use rosu(forget), or leave one of them out."
            )
        if (own := self.retain_step) is not None:
            # Weights decay in the forget step alone, not twice.
            second = build(own.optimiser or optimiser, parameters, learning_rate, 0.0)
            self.optimizers["retain optimiser"] = second
        self.shaping = Shaping(self.model, self.named, bounds, self.objective, self.views)
        weight = method.retain_weight if method else retain_weight
        self.terms = Terms(
            *(self.views, self.objective, self.term, weight, method.others if method else (), bounds),
            torch.Tensor.backward,
        )
        self.together = together and self._may_join()
        split = SplitGradients(model, self.named) if self.together and self.shaping.acts else None
        self.split = split if split is not None and split.possible else None

    def bound(self, name: str) -> Any:
        """Return what the part of this name does in this run.

        Raises:
            KeyError: The method has no such part.
        """
        return self.bounds[name]

    def start(self, batches: Sequence[Batch], size: int) -> None:
        """Show the parts that ask for it a gradient over all these rows, of which a step has `size`."""
        for target in {b.starts for b in self.bounds.values() if b.starts is not None}:
            self.optimizer.zero_grad(set_to_none=True)
            for batch in batches:
                with self.views.casting(batch):
                    total = answer_logprobs(self.model, batch).sum
                batch.total(total.exp() if target == "probability" else total).backward()
            # A is held against sums over the rows of a step: the sum over all rows comes down to that.
            share = size / all_sum(sum(len(batch.ids) for batch in batches if batch.counts))[0]
            for name, parameter in self.named.items():
                for bound in self.bounds.values():
                    if parameter.grad is not None and bound.starts == target:
                        bound.start(name, local(parameter), local(parameter.grad), share)
            self.optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Drop the gradients, make the model whole and let every parameter be trained again."""
        self.optimizer.zero_grad(set_to_none=True)
        met = sys.exc_info()[1]
        # An error of one process alone: the others are not coming to put anything together.
        if met is None or isinstance(met, (SsiuuError, Interrupted)):
            self.shards.whole()
        for parameter in self._frozen:
            parameter.requires_grad_(True)

    def __call__(
        self, forget: Sequence[Batch], retain: Sequence[Batch], texts: Sequence[Batch] = ()
    ) -> StepOutcome:
        """Take one step on the rows of these micro-batches; `texts` are for terms that read them.

        Raises:
            DivergedError: A loss or the gradient is not finite; the parameters were not changed.
        """
        # Dropout would make a run that cannot be repeated, and of two gradients those of two models.
        self.model.train(self.recomputes)
        self.optimizer.zero_grad(set_to_none=True)
        batches: dict[Rows, Sequence[Batch]] = {"forget": forget, "retain": retain, "texts": texts}
        ids = [batch.input_ids for each in batches.values() for batch in each]
        remarks: dict[str, float] = {}
        for bound in self.bounds.values():
            bound.begin()
        with attention(self.precision, ids[0].device.type, max(i.shape[1] for i in ids)):
            if self.retain_step is None:
                # Where the joined pass gives up it has left nothing in `.grad`: its backward is later.
                both = self._as_one(forget, retain) if self.together else None
                both = both or self._apart(forget, retain)
                losses = Losses(*both, self.terms.others_backward(batches))
                norm = self._advance(self.optimizer, batches, losses)
            else:
                losses, norm, remarks["retain_gradient_norm"] = self._in_turn(batches)
        for bound in self.bounds.values():
            bound.after(losses, self.optimizer.param_groups[0]["lr"])
            remarks |= bound.told()
        return StepOutcome(
            forget_loss=losses.forget,
            retain_loss=losses.retain,
            gradient_norm=norm,
            penalty_share=remarks.pop("penalty_share", None),
            penalty_parameters=remarks.pop("penalty_parameters", None),
            text_loss=losses.texts,
            told=remarks,
        )

    def _apart(self, forget: Sequence[Batch], retain: Sequence[Batch]) -> tuple[float, float | None]:
        """Run forget, then retain, or retain first where a part must see it; return both losses."""
        forget_loss, retain_loss, aside = 0.0, None, {}
        keeps = bool(retain) and self.term is not None
        first = keeps and any(b.retain_first for b in self.bounds.values())
        if first:
            retain_loss = self.terms.retain_backward(retain)
            aside = self._set_aside()
        if forget and self.objective is not None:
            forget_loss = self._forget(forget)
        moving = [b for b in self.bounds.values() if b.displaces]
        if first and moving:
            aside = self._displaced(moving, retain)
        for name, gradient in aside.items():
            parameter = self.named[name]
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        if keeps and not first:
            retain_loss = self.terms.retain_backward(retain)
        return forget_loss, retain_loss

    def _displaced(self, moving: Sequence[Bound], retain: Sequence[Batch]) -> dict[str, Tensor]:
        """Return the retain gradient of where parts want it; the forget gradient stays in `.grad`."""
        with ExitStack() as stack:
            for bound in moving:
                stack.enter_context(bound.elsewhere(self.named))
            forget = {name: p.grad for name, p in self.named.items()}
            self.optimizer.zero_grad(set_to_none=True)
            self.terms.retain_backward(retain)
        found = {name: p.grad for name, p in self.named.items() if p.grad is not None}
        for name, parameter in self.named.items():
            parameter.grad = forget[name]
        return found

    def _in_turn(self, batches: Mapping[Rows, Sequence[Batch]]) -> tuple[Losses, float, float]:
        """Take the forget step, then from there that of all other terms; return the norms of both.

        Raises:
            DivergedError: Something is not finite; the parameters are as they were before both.
        """
        assert self.retain_step is not None
        before = {name: local(p).clone() for name, p in self.named.items()}
        forget, retain = batches["forget"], batches["retain"]
        keeps = bool(retain) and self.term is not None
        if keeps and any(b.retain_first for b in self.bounds.values()):
            # Only shown: the retain step is taken along the gradient from where the forget step led.
            self.terms.retain_backward(retain)
            self._set_aside()
        loss = self._forget(forget) if forget and self.objective is not None else 0.0
        norm = self._advance(self.optimizer, batches, Losses(loss, None, None))
        self.optimizer.zero_grad(set_to_none=True)
        retain_loss = self.terms.retain_backward(retain) if keeps else None
        losses = Losses(loss, retain_loss, self.terms.others_backward(batches))
        own, rate = self.optimizers["retain optimiser"], self.retain_step.learning_rate
        for group, of_forget in zip(own.param_groups, self.optimizer.param_groups, strict=True):
            group["lr"] = of_forget["lr"] if rate is None else rate
        try:
            return losses, norm, self._advance(own, batches, losses, corrects=False)
        except DivergedError:
            with torch.no_grad():
                for name, parameter in self.named.items():
                    local(parameter).copy_(before[name])
            raise

    def _advance(
        self,
        optimizer: torch.optim.Optimizer,
        batches: Mapping[Rows, Sequence[Batch]],
        losses: Losses,
        corrects: bool = True,
    ) -> float:
        """Let an optimiser take what stands in `.grad`; return its norm.

        Raises:
            DivergedError: A loss or the gradient is not finite; the optimiser took no step.
        """
        self._require_reached()
        for bound in self.bounds.values():
            # Before the norm, so that what is checked and clipped is what the optimiser takes.
            bound.finish(self.named)
        # Checked before it is clipped: a clipped gradient is finite whatever it was.
        norm = self._norm()
        self._require_finite(
            [i for each in batches.values() for b in each for i in b.ids], losses, norm
        )
        if self.max_grad_norm is not None:
            self._clip(norm, self.max_grad_norm)
        correcting = [b for b in self.bounds.values() if b.corrects and corrects]
        before = {n: local(p).clone() for n, p in self.named.items()} if correcting else {}
        optimizer.step()
        if correcting:
            self._correct(correcting, before)
        return norm

    @torch.no_grad()
    def _correct(self, bounds: Sequence[Bound], before: Mapping[str, Tensor]) -> None:
        """Let parts change how the parameters have moved."""
        moves = {name: local(p) - before[name] for name, p in self.named.items()}
        changed = {name for bound in bounds for name in bound.correct(moves)}
        for name in changed:
            torch.add(before[name], moves[name], out=local(self.named[name]))

    def _clip(self, norm: float, most: float) -> None:
        """Scale the gradient down to an L2 norm."""
        if world() == 1:
            torch.nn.utils.clip_grads_with_norm_(self.named.values(), most, torch.tensor(norm))
            return
        share = float((most / (torch.tensor(norm) + 1e-6)).clamp(max=1.0))  # as torch has it
        for parameter in self.named.values():
            if parameter.grad is not None:
                local(parameter.grad).mul_(share)

    # --- forget and retain as one batch ----------------------------------------------------------

    def _may_join(self) -> bool:
        """Whether the forget and retain losses can be read off one forward pass."""
        if self.objective is None or self.term is None or not self.term.joins:
            return False
        if "refusal" in self.objective.needs or self.objective.looks is not None:
            return False
        # Scaling each row of this pass gives the target's gradient only where the loss is log P's.
        plain = self.shaping.second is None or self.objective.through != "other"
        # Several processes reduce gradients in hooks of their own; checkpointed modules run twice.
        alone = world() == 1 and not self.recomputes
        return plain and alone and not any(b.alone for b in self.bounds.values())

    def _as_one(
        self, forget: Sequence[Batch], retain: Sequence[Batch]
    ) -> tuple[float, float | None] | None:
        """Run one micro-batch of each together; None where that cannot be done."""
        assert self.objective is not None and self.term is not None
        if len(forget) != 1 or len(retain) != 1 or (self.shaping.acts and self.split is None):
            return None
        both, rows = join(forget[0], retain[0]), len(forget[0].ids)
        divisor, split = divisor_of(forget, self.objective.normaliser), self.split
        second = split.second if split is not None and self.shaping.second is not None else None

        def whole(name: str, gradient: Tensor) -> None:
            self.shaping.shape(name, gradient, divisor, second)

        watching = split.watching(rows, len(both.ids), whole) if split else nullcontext()
        with watching:
            with self.views.casting(both):
                logits = answer_logits(self.model, both)
                view = self.views.answers(both, logits)
            # Some module saw other rows than these, and will again: it is not tried another time.
            if split is not None and not split.heard:
                self.split = None
                return None
            first, rest = part(view, slice(None, rows)), part(view, slice(rows, None))
            first = self.views.referred(self.objective, "forget", first, both.ids[:rows])
            rest = self.views.referred(self.term, "retain", rest, both.ids[rows:])
            loss = self.objective.forget_loss(first).sum() / divisor
            if split is not None and self.shaping.second is not None:
                split.scale = self.shaping.scale(first.logprobs, loss)
                if split.scale is None:
                    return None
            retain_loss = self.term.loss(rest).sum() / divisor_of(retain, self.term.normaliser)
            (loss + self.terms.weight() * retain_loss).backward()
        return float(loss.detach()), float(retain_loss.detach())

    # --- forget ---------------------------------------------------------------------------------

    def _forget(self, batches: Sequence[Batch]) -> float:
        """Leave the shaped forget gradient in `.grad`; return the loss, which is that of here."""
        moving = [b for b in self.bounds.values() if b.perturbs]
        if not moving:
            return self._forget_backward(batches)
        # The first gradient only says where the worst point nearby is; the step's is taken there.
        loss = self._forget_backward(batches, shape=False)
        with ExitStack() as stack:
            for bound in moving:
                stack.enter_context(bound.elsewhere(self.named))
            self.optimizer.zero_grad(set_to_none=True)
            self._forget_backward(batches)
        return loss

    def _forget_backward(self, batches: Sequence[Batch], shape: bool = True) -> float:
        assert self.objective is not None
        divisor = divisor_of(batches, self.objective.normaliser)
        second = self.shaping.second if shape else None
        if second is not None:
            second.gradients.clear()  # what an aborted step has left
            second.reduced.clear()
        # A part that surveys all gradients acts only once all are there.
        streams = second is not None and not self.shaping.waits
        total = 0.0
        with ExitStack() as around:
            for bound in self.bounds.values():
                if bound.surrounds and shape:
                    around.enter_context(bound.surround(batches))
            for number, batch in enumerate(batches):
                view = self.views.of(self.objective, "forget", batch, self.objective.looks, second)
                loss = batch.total(self.objective.forget_loss(view)) / divisor
                if second is not None:
                    self.shaping.weigh(second, batch, view, loss)
                last = number == len(batches) - 1
                with self.shaping.streaming() if streams and last else nullcontext():
                    loss.backward()
                total += float(loss.detach())
        if shape and not streams:
            found = self.shaping.reduce() if second is not None else None
            self.shaping.shape_all(divisor, found, partial(self._curvature, batches))
        return all_sum(total)[0]

    def _curvature(
        self, batches: Sequence[Batch], along: Mapping[str, Tensor], target: Target
    ) -> dict[str, Tensor]:
        """Return the derivative of the target's gradient over these rows, along a direction."""
        return hessian_vector(self.model, batches, self.named, along, target)

    def _set_aside(self) -> dict[str, Tensor]:
        """Take the retain gradient out of `.grad`, and show it to the parts that asked for it."""
        aside = {}
        for name, parameter in self.named.items():
            if parameter.grad is None:
                continue
            aside[name], parameter.grad = parameter.grad, None
            for bound in self.bounds.values():
                bound.retained(name, local(aside[name]))
        return aside

    # --- all ------------------------------------------------------------------------------------

    def _freeze(self, model: CausalLM) -> list[Tensor]:
        """Let only what the objective updates carry gradients; return what was frozen."""
        if self.objective is None:
            return []
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        wanted = self.objective.trained([weight_of(n)[0] for n, _ in trained], model)
        frozen: list[Tensor] = [p for n, p in trained if weight_of(n)[0] not in wanted]
        for parameter in frozen:
            parameter.requires_grad_(False)
        return frozen

    def _norm(self) -> float:
        return norm(p.grad for p in self.named.values() if p.grad is not None)

    def _require_reached(self) -> None:
        """Refuse, in the first step of several processes, parameters that no gradient has come to.

        Raises:
            ConfigError: There are some: they may have been parted from what the passes went through.
        """
        if self._reached:
            return
        self._reached = True
        missing = [name for name, p in self.named.items() if p.grad is None]
        if any_of(bool(missing)):
            names = ", ".join(missing[:3])
            raise ConfigError(
                f"{len(missing)} trained parameters have no gradient after the first step on {world()} "
                f"processes ({names}): train it in a single one."
            )

    def _require_finite(self, ids: Sequence[str], losses: Losses, norm: float) -> None:
        values = {"forget loss": losses.forget, "gradient norm": norm}
        # A loss per example is on a scale of its own; it may begin anywhere.
        bounded = {"forget loss": self.objective, "retain loss": self.term}
        nats = {name for name, loss in bounded.items() if loss is None or loss.bounded}
        if losses.retain is not None or losses.texts is not None:
            values["retain loss"] = (losses.retain or 0.0) + (losses.texts or 0.0)
        for name, value in values.items():
            runaway = name in nats and abs(value) > RUNAWAY
            if not math.isfinite(value) or runaway:
                rows = dict.fromkeys(every(ids))
                raise DivergedError(
                    f"the {name} is {value} in this step; the parameters were left as they were "
                    f"before it. The batch: {', '.join(rows)}. A lower learning_rate may help."
                )


def _one(wanted: Sequence[RetainStep]) -> RetainStep | None:
    """Return how the rows to keep take their step, given what the parts say of it."""
    said = [step for step in wanted if step != RetainStep()]
    return next(iter([*said, *wanted]), None)
