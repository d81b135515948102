"""One optimiser step: the forget gradient first, changed by the method, then the retain gradient.

The two gradients are kept apart in time, not in memory. Where the model and the method allow it, both
batches run as one: a method that leaves the forget gradient alone needs no more, for another one
each parameter's two gradients are formed one after the other (SplitGradients). Else there are two
passes: after the forget backward `p.grad` holds the forget gradient alone, so a method can change
it in place; the retain backward then adds to it. What Ssiuu needs beside it, dP/dphi, is the forget
gradient itself where the loss is a constant times log P and log P is the target; else it comes from
the same backward pass (SecondGradient), and is used up parameter by parameter while that pass runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from ssiuu.attribution.hidden import hidden_states
from ssiuu.attribution.parameter import SecondGradient, SplitGradients
from ssiuu.errors import ConfigError, DivergedError
from ssiuu.likelihood import (
    AnswerLogprobs,
    Batch,
    answer_logits,
    answer_logprobs,
    collate,
    join,
)
from ssiuu.methods.base import Method, Normaliser, View
from ssiuu.methods.disruption import DisruptionMasked, mask_disruption
from ssiuu.methods.npo_sam import SharpnessAwarePreference
from ssiuu.methods.projection import project_out
from ssiuu.methods.regulariser import Moved, Regulariser, gate
from ssiuu.methods.retain import kl_loss, others_loss
from ssiuu.methods.rmu import Misdirection, rmu_loss
from ssiuu.methods.ssiuu import Ssiuu
from ssiuu.models.precision import attention, autocast
from ssiuu.models.sites import find_sites
from ssiuu.training.lora import adapters, weight_of
from ssiuu.training.prepare import Prepared, aligned

# A loss is called runaway beyond this many nats a token (uniform guessing is about 11).
RUNAWAY = 1000.0


@dataclass(frozen=True)
class Outcome:
    """What one step did; see `ssiuu.records.schema.StepLog`."""

    forget_loss: float
    retain_loss: float | None
    gradient_norm: float
    penalty_share: float | None
    penalty_parameters: float | None
    text_loss: float | None = None


class Step:
    """Takes optimiser steps of one method on one model."""

    def __init__(
        self,
        model: Any,
        method: Method | None,
        learning_rate: float,
        precision: Literal["bf16", "fp32"] = "fp32",
        prepared: Prepared | None = None,
        weight_decay: float = 0.0,
        retain_weight: float = 1.0,
        pad: int = 0,
        effective: bool = False,
        together: bool = True,
    ) -> None:
        """Prepare model and optimiser.

        Args:
            model: Trained in place, in fp32.
            method: None for plain fine-tuning on the "retain" rows (an attack).
            learning_rate: AdamW's.
            precision: Of the forward pass.
            prepared: What the method needs; see `ssiuu.training.prepare`.
            weight_decay: AdamW's.
            retain_weight: Weight of the retain loss where there is no method.
            pad: Padding token id.
            effective: Take W + s B A for the features where the model has adapters.
            together: Run forget and retain rows as one batch where that is possible.

        Raises:
            ConfigError: The method does not fit the model or the weight decay.
        """
        self.method, self.base = method, method.base() if method else None
        self.precision: Literal["bf16", "fp32"] = precision
        self.prepared = prepared or Prepared()
        self.retain_weight = method.retain_weight if method else retain_weight
        self.pad = pad
        if self.prepared.rows is not None and weight_decay:
            raise ConfigError("klue: weight_decay must be 0, or neurons that are not marked decay.")
        self.accelerator = Accelerator(mixed_precision="no")
        self._frozen = self._freeze(model)
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(
            list(self.named.values()), lr=learning_rate, weight_decay=weight_decay, fused=True
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        # Checkpointed activations are computed again in training mode only.
        self.recomputes = any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
        form = method if isinstance(method, Ssiuu) else None
        self.gated = form is not None and form.gate
        self.regulariser = (
            Regulariser(form, _neuron_weights(model, form))
            if form is not None and form.regularises
            else None
        )
        if effective and form and (form.gate or form.rho or form.anchor == "initial"):
            raise ConfigError(
                "ssiuu: gate, rho and anchor: initial have no effective space; "
                "set unlearn.lora.attribution: adapter."
            )
        self.effective = {a.name: a for a in adapters(model)} if effective and form else {}
        self.second = None
        if self.effective and self.regulariser:
            maps = {name: adapter.layer for name, adapter in self.effective.items()}
            self.second = SecondGradient(model, {}, maps)
        elif form is not None and (self.gated or self.regulariser) and not self._itself(form):
            self.second = SecondGradient(model, self.named)
        self.together = together and self._may_join(model)
        split = SplitGradients(model, self.named) if self.together and self._shapes() else None
        self.split = split if split is not None and split.possible else None
        self.running: dict[str, Tensor] = {}  # mean retain gradient, for disruption masking
        pulled = self.named if method is not None and method.pull else {}
        self.start = {name: p.detach().clone() for name, p in pulled.items()}

    def set_anchor(self, batches: Sequence[Batch], size: int) -> None:
        """Hold A to what it is now, over all these rows, scaled to `size` of them (anchor: initial).

        Does nothing for other anchors.
        """
        if self.regulariser is None or self.regulariser.form.anchor != "initial":
            return
        self.optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            with autocast(self.precision, batch.input_ids.device.type):
                logprobs = answer_logprobs(self.model, batch).sum
            probability = self.regulariser.form.target == "probability"
            self.accelerator.backward((logprobs.exp() if probability else logprobs).sum())
        share = size / sum(len(batch.ids) for batch in batches)
        for name, parameter in self.named.items():
            if parameter.grad is not None:
                self.regulariser.anchor(name, parameter, parameter.grad, share)
        self.optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Drop the gradients and let every parameter be trained again."""
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in self._frozen:
            parameter.requires_grad_(True)

    def __call__(
        self, forget: Sequence[Batch], retain: Sequence[Batch], texts: Sequence[Batch] = ()
    ) -> Outcome:
        """Take one step on the rows of these micro-batches; `texts` are for the second retain term.

        Raises:
            DivergedError: A loss or the gradient is not finite; the parameters were not changed.
        """
        # Dropout would make a run that cannot be repeated, and of two gradients those of two models.
        self.model.train(self.recomputes)
        self.optimizer.zero_grad(set_to_none=True)
        rows = [batch.input_ids for batch in (*forget, *retain, *texts)]
        longest = max(ids.shape[1] for ids in rows)
        with attention(self.precision, rows[0].device.type, longest):
            done = self._as_one(forget, retain) if self.together else None
            forget_loss, moved, retain_loss = done or self._apart(forget, retain)
            text_loss = self._holding_backward(forget, texts)
        self._keep_rows()
        norm = self._norm()
        kept_loss = text_loss if retain_loss is None else retain_loss + (text_loss or 0.0)
        self._require_finite(forget, [*retain, *texts], forget_loss, kept_loss, norm)
        self.optimizer.step()
        self._pull()
        told = moved is not None and bool(moved.forget_squared > 0)
        return Outcome(
            forget_loss=forget_loss,
            retain_loss=retain_loss,
            gradient_norm=norm,
            penalty_share=moved.share if moved and told else None,
            penalty_parameters=float(moved.parameters) / moved.total if moved and told else None,
            text_loss=text_loss,
        )

    def _apart(
        self, forget: Sequence[Batch], retain: Sequence[Batch]
    ) -> tuple[float, Moved | None, float | None]:
        """Run forget, then retain; return both losses and what a penalty did."""
        masked = isinstance(self.method, DisruptionMasked)
        forget_loss, moved, retain_loss, kept = 0.0, None, None, {}
        if masked and retain and self._keeps() != "none":
            retain_loss = self._retain_backward(retain)
            kept = self._set_aside()
        if forget and self.method:
            forget_loss, moved = self._forget(forget)
        if kept:
            for name, gradient in kept.items():
                _add_gradient(self.named[name], gradient)
        elif retain and self._keeps() != "none":
            retain_loss = self._retain_backward(retain)
        return forget_loss, moved, retain_loss

    # --- forget and retain as one batch ----------------------------------------------------------

    def _may_join(self, model: Any) -> bool:
        """Whether this method's forget and retain losses can be read off one forward pass."""
        if self.base is None or self._keeps() not in ("nll", "kl") or "refusal" in self.base.needs:
            return False
        if isinstance(self.base, Misdirection | SharpnessAwarePreference | DisruptionMasked):
            return False
        plain = self.second is None or self.base.through != "other"
        alone = self.accelerator.num_processes == 1 and not self.recomputes
        return plain and alone and not self.effective and self._rho() is None

    def _as_one(
        self, forget: Sequence[Batch], retain: Sequence[Batch]
    ) -> tuple[float, Moved | None, float] | None:
        """Run one micro-batch of each together; None where that cannot be done."""
        assert self.base is not None
        if len(forget) != 1 or len(retain) != 1 or (self._shapes() and self.split is None):
            return None
        both, rows = join(forget[0], retain[0]), len(forget[0].ids)
        divisor = _divisor(forget, self.base.normaliser)
        moved = Moved() if self.gated or self.regulariser else None
        fresh = self.regulariser is not None and not self.regulariser.reference
        split, strength = self.split, self._strength()
        found = split.found if split is not None and self.second is not None else None

        def whole(name: str, gradient: Tensor) -> None:
            self._shape(name, gradient, moved, divisor, strength, found)

        watching = split.watching(rows, len(both.ids), whole) if split else nullcontext()
        with watching:
            with autocast(self.precision, both.input_ids.device.type):
                logits = answer_logits(self.model, both)
                logprobs = answer_logprobs(self.model, both, logits)
            if split is not None and not split.heard:
                self.split = None
                return None
            view = View(logprobs[:rows], targets=both.targets[:rows], logits=logits[:rows])
            loss = self.base.forget_loss(self._referred(view, both.ids[:rows])).sum() / divisor
            if split is not None and self.second is not None:
                split.scale = self._scale(view.logprobs, loss)
                if split.scale is None:
                    return None
            kept = self._kept(logits[rows:], logprobs[rows:], both.ids[rows:]).sum()
            kept = kept / _divisor(retain, "tokens")
            self.accelerator.backward(loss + self.retain_weight * kept)
        return float(loss.detach()), None if fresh else moved, float(kept.detach())

    # --- forget ---------------------------------------------------------------------------------

    def _forget(self, batches: Sequence[Batch]) -> tuple[float, Moved | None]:
        """Leave the method's forget gradient in `.grad`; return the loss and what a penalty did."""
        if not isinstance(self.base, SharpnessAwarePreference):
            return self._forget_backward(batches)
        loss, _ = self._forget_backward(batches, shape=False)
        with self._perturbed(self.base.rho):
            self.optimizer.zero_grad(set_to_none=True)
            _, moved = self._forget_backward(batches)
        return loss, moved

    def _forget_backward(
        self, batches: Sequence[Batch], shape: bool = True
    ) -> tuple[float, Moved | None]:
        assert self.base is not None
        divisor = _divisor(batches, self.base.normaliser)
        fresh = self.regulariser is not None and not self.regulariser.reference
        moved = Moved() if shape and (self.gated or self.regulariser) else None
        second = self.second if moved is not None else None
        shapes = shape and self._shapes()
        if second is not None:
            second.found.clear()  # what an aborted step has left
        # A relative strength is known only after all parameters; with several processes the
        # gradients are only reduced then.
        streams = (
            second is not None
            and self._rho() is None
            and not self.effective
            and self.accelerator.num_processes == 1
        )
        total = 0.0
        for number, batch in enumerate(batches):
            view = self._view(batch, second)
            loss = self.base.forget_loss(view).sum() / divisor
            if second is not None:
                self._weigh(second, view, loss)
            last = number == len(batches) - 1
            with self._shaping(moved) if streams and last else nullcontext():
                self.accelerator.backward(loss)
            total += float(loss.detach())
        if second is not None and not streams:
            second.found = {n: self.accelerator.reduce(g, "sum") for n, g in second.found.items()}
        if shapes and not streams:
            strength = self._relative_strength(divisor, moved)
            if self.effective and moved is not None:
                self._shape_effective(moved, strength)
            for name, parameter in self.named.items():
                if parameter.grad is not None:
                    shown = None if self.effective else moved
                    self._shape(name, parameter.grad, shown, divisor, strength, self._found())
        return total, None if fresh else moved

    def _view(self, batch: Batch, second: SecondGradient | None = None) -> View:
        """Run the model forward as far as the method looks."""
        assert self.base is not None
        device = batch.input_ids.device
        made = self.prepared
        with autocast(self.precision, device.type):
            if isinstance(self.base, Misdirection):
                hidden = hidden_states(self.model, batch, self.base.layer)
                empty = torch.empty(0, device=device)
                return View(
                    AnswerLogprobs(empty, batch.answer_mask),
                    hidden=hidden.float() if hidden.dtype != torch.float64 else hidden,
                    hidden_mask=batch.attention_mask.bool(),
                )
            with second.listening() if second is not None else nullcontext():
                logits = answer_logits(self.model, batch)
            view = View(
                answer_logprobs(self.model, batch, logits), targets=batch.targets, logits=logits
            )
            if "refusal" in self.base.needs:
                rows = [made.refusals[i] for i in batch.ids]
                refusal = answer_logprobs(self.model, collate(rows, self.pad).to(device))
                reference = _values(made.refusal_logprob, batch.ids, device)
                view = replace(view, refusal=refusal, reference_refusal=reference)
        return self._referred(view, batch.ids)

    def _referred(self, view: View, ids: Sequence[str]) -> View:
        """Add what the reference model said of these rows."""
        assert self.base is not None
        if "logprob" in self.base.needs:
            values = _values(self.prepared.logprob, ids, view.logprobs.mask.device)
            view = replace(view, reference=values)
        if "distribution" in self.base.needs:
            before = [self.prepared.forget_logits[i] for i in ids]
            view = replace(view, reference_logits=aligned(before, view.logprobs.mask))
        return view

    def _itself(self, form: Ssiuu) -> bool:
        """Whether the forget gradient is, up to a constant, the gradient of the target."""
        return form.base().through == "constant" and form.target == "logprob"

    def _scale(self, logprobs: AnswerLogprobs, loss: Tensor) -> Float[Tensor, " B"] | None:
        """Return what each row's output gradients are to be multiplied by to give the target's.

        None where there is no such number: every token counts differently, or the slope is so small
        that it would have lost its digits on the way back.
        """
        assert self.base is not None
        (slopes,) = torch.autograd.grad(loss, logprobs.tokens, retain_graph=True)
        slope = slopes.masked_fill(~logprobs.mask, 0.0).sum(1) / logprobs.count
        if self.base.through == "other" or not bool((slope.abs() > 1e-20).all()):
            return None
        return self._wanted(logprobs) / slope

    def _wanted(self, logprobs: AnswerLogprobs) -> Float[Tensor, " B"]:
        """Return d target / d log P of each row."""
        assert isinstance(self.method, Ssiuu)
        total = logprobs.sum.detach()
        return total.exp() if self.method.target == "probability" else torch.ones_like(total)

    def _weigh(self, second: SecondGradient, view: View, loss: Tensor) -> None:
        """Tell the collector what each example counts, or add the target's gradient by hand."""
        heard = second.heard(len(view.logprobs.mask))
        if self.effective and not heard:
            raise ConfigError(
                "ssiuu: the effective space needs maps that put out row by row, and some adapted ones "
                "here put out rows and tokens as one. Set unlearn.lora.attribution: adapter."
            )
        second.scale = self._scale(view.logprobs, loss) if heard else None
        if second.scale is not None:
            return
        # A second backward through the same graph.
        wanted = self._wanted(view.logprobs)
        value = (wanted * view.logprobs.sum).sum()
        second.scale = torch.ones_like(wanted) if self.effective else None
        named = list(self.named.values())
        found = torch.autograd.grad(value, named, retain_graph=True, allow_unused=True)
        second.scale = None
        if not self.effective:  # there the collector has heard this pass
            second.add(found)

    # --- what a method does to the forget gradient -----------------------------------------------

    def _shapes(self) -> bool:
        made = self.prepared
        masks = isinstance(self.method, DisruptionMasked)
        return bool(self.gated or self.regulariser or made.bases is not None or masks)

    @contextmanager
    def _shaping(self, moved: Moved | None) -> Iterator[None]:
        """Shape every parameter's gradient as soon as it is whole, while the backward pass runs."""
        strength = self._strength()
        handles = [
            parameter.register_post_accumulate_grad_hook(
                lambda p, name=name: self._shape(name, p.grad, moved, 1.0, strength, self._found())
            )
            for name, parameter in self.named.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _shape(
        self,
        name: str,
        forget: Tensor,
        moved: Moved | None,
        divisor: float,
        strength: float,
        found: dict[str, Tensor] | None,
    ) -> None:
        """Change one parameter's forget gradient in place; uses up its second gradient in `found`."""
        parameter = self.named[name]
        if moved is not None:
            gradient, scale = _target_gradient(name, forget, divisor, found)
            if self.regulariser is not None:
                self.regulariser.apply(name, parameter, gradient, forget, scale, strength, moved)
            else:
                gate(parameter.detach(), gradient, forget, scale, moved)
            if found is not None:
                found.pop(name)
        if self.prepared.bases is not None:
            weight, side = weight_of(name)
            basis = self.prepared.bases.get(weight)
            if basis is None:
                forget.zero_()  # only linear maps have shared directions
            else:
                project_out(forget, basis if side == "weight" else basis.of(side))
        if name in self.running:
            mask_disruption(forget, self.running[name])

    def _shape_effective(self, moved: Moved, strength: float) -> None:
        """Penalise W + s B A and hand the penalty's gradient down to B and A."""
        assert self.regulariser is not None and self.second is not None
        for name, adapter in self.effective.items():
            gradient = self.second.found.pop(name)
            penalty = torch.zeros_like(gradient)
            self.regulariser.apply(name, adapter.effective(), gradient, penalty, 1.0, strength, Moved())
            pairs = zip((adapter.down, adapter.up), adapter.chained(penalty), strict=True)
            for parameter, added in pairs:
                if parameter.grad is not None:
                    moved.add(added, parameter.grad)

    def _found(self) -> dict[str, Tensor] | None:
        """Return the second gradients, or None where the forget gradient serves."""
        return self.second.found if self.second is not None else None

    def _rho(self) -> float | None:
        return self.method.rho if isinstance(self.method, Ssiuu) else None

    def _strength(self) -> float:
        return self.method.lambda_ if isinstance(self.method, Ssiuu) else 0.0

    def _relative_strength(self, divisor: float, moved: Moved | None) -> float:
        """Return lambda, or the one that makes the penalty rho times the forget gradient."""
        rho = self._rho()
        if rho is None or self.regulariser is None or moved is None:
            return self._strength()
        unit = Moved()
        for name, parameter in self.named.items():
            if parameter.grad is None:
                continue
            gradient, scale = _target_gradient(name, parameter.grad, divisor, self._found())
            self.regulariser.measure(name, parameter, gradient, parameter.grad, scale, unit)
        return rho / unit.share if unit.penalty_squared > 0 else 0.0

    @contextmanager
    def _perturbed(self, rho: float) -> Iterator[None]:
        """Move the parameters by rho along their gradient, and back again exactly."""
        there = {n: p.detach().clone() for n, p in self.named.items()}
        norm = self._norm()
        try:
            with torch.no_grad():
                for parameter in self.named.values():
                    if parameter.grad is not None and norm > 0:
                        parameter.add_(parameter.grad, alpha=rho / norm)
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.named.items():
                    parameter.copy_(there[name])

    # --- retain ---------------------------------------------------------------------------------

    def _keeps(self) -> str:
        if self.method is None:
            return "nll" if self.retain_weight else "none"
        return self.method.keeps

    def _retain_backward(self, batches: Sequence[Batch]) -> float:
        keeps = self._keeps()
        divisor = _divisor(batches, "positions" if keeps == "activations" else "tokens")
        total = 0.0
        for batch in batches:
            with autocast(self.precision, batch.input_ids.device.type):
                loss = self._retain_loss(batch, keeps).sum() / divisor
            self.accelerator.backward(self.retain_weight * loss)
            total += float(loss.detach())
        return total

    def _retain_loss(self, batch: Batch, keeps: str) -> Tensor:
        if keeps == "activations":
            assert isinstance(self.base, Misdirection)
            mask = batch.attention_mask.bool()
            hidden = hidden_states(self.model, batch, self.base.layer)
            before = aligned([self.prepared.retain_hidden[i] for i in batch.ids], mask)
            return rmu_loss(hidden, mask, before)
        logits = answer_logits(self.model, batch)
        return self._kept(logits, answer_logprobs(self.model, batch, logits), batch.ids)

    def _kept(self, logits: Tensor, logprobs: AnswerLogprobs, ids: Sequence[str]) -> Tensor:
        """Return the retain loss of each row, from its answer logits."""
        if self._keeps() != "kl":
            return -logprobs.sum
        rows = [self.prepared.retain_logits[i] for i in ids]
        return kl_loss(logits, aligned(rows, logprobs.mask), logprobs.mask)

    def _holding_backward(self, forget: Sequence[Batch], texts: Sequence[Batch]) -> float | None:
        """Add the gradients of what holds texts and the other words at the answers to forget.

        It is a pass of its own: the joined one knows two kinds of rows, and what is done to the forget
        gradient is not to be done to these. Returns the texts' divergence, nats a token, if any.
        """
        if self.method is None:
            return None
        texts, forget = texts if self.method.texts else (), forget if self.method.others else ()
        divisors = [_divisor(batches, "tokens") if batches else 1.0 for batches in (texts, forget)]
        pairs: list[tuple[Batch, int]] = [(batch, len(batch.ids)) for batch in texts]
        pairs += [(batch, 0) for batch in forget]
        if len(texts) == len(forget) == 1:
            pairs = [(join(texts[0], forget[0]), len(texts[0].ids))]
        total = 0.0
        for batch, rows in pairs:  # the first `rows` of a batch are texts
            with autocast(self.precision, batch.input_ids.device.type):
                logits = answer_logits(self.model, batch)
            mask, made = batch.answer_mask, self.prepared
            before = [made.text_logits[i] for i in batch.ids[:rows]]
            before += [made.forget_logits[i] for i in batch.ids[rows:]]
            wanted = aligned(before, mask)
            held = kl_loss(logits[:rows], wanted[:rows], mask[:rows]).sum() / divisors[0]
            others = others_loss(logits[rows:], wanted[rows:], batch.targets[rows:], mask[rows:])
            weighted = self.method.texts * held + self.method.others * others.sum() / divisors[1]
            self.accelerator.backward(weighted)
            total += float(held.detach())
        return total if texts else None

    def _set_aside(self) -> dict[str, Tensor]:
        """Take the retain gradient out of `.grad` and into its running mean."""
        assert isinstance(self.method, DisruptionMasked)
        decay = self.method.decay
        kept = {}
        for name, parameter in self.named.items():
            if parameter.grad is None:
                continue
            kept[name], parameter.grad = parameter.grad, None
            if name in self.running:
                self.running[name].lerp_(kept[name], 1 - decay)
            else:
                self.running[name] = kept[name].clone()
        return kept

    def _keep_rows(self) -> None:
        """Leave gradients only to the rows that may change, where a method says which."""
        if self.prepared.rows is None:
            return
        for name, parameter in self.named.items():
            if parameter.grad is None:
                continue
            weight, side = weight_of(name)
            rows = self.prepared.rows.get(weight)
            if rows is None or side == "inputs":
                parameter.grad = None
            else:
                parameter.grad[~rows] = 0.0

    # --- all ------------------------------------------------------------------------------------

    def _freeze(self, model: Any) -> list[Tensor]:
        """Let only what the method updates carry gradients; return what was frozen."""
        if not isinstance(self.base, Misdirection):
            return []
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        wanted = self.base.updates([weight_of(n)[0] for n, _ in trained])
        frozen = [p for n, p in trained if weight_of(n)[0] not in wanted]
        for parameter in frozen:
            parameter.requires_grad_(False)
        return frozen

    @torch.no_grad()
    def _pull(self) -> None:
        """Go a part of the way back to the start, apart from Adam's scaling as weight decay does."""
        if not self.start or self.method is None:
            return
        share = self.optimizer.param_groups[0]["lr"] * self.method.pull
        for name, parameter in self.named.items():
            parameter.lerp_(self.start[name], share)

    def _norm(self) -> float:
        grads = [p.grad for p in self.named.values() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads)) if grads else 0.0

    def _require_finite(
        self,
        forget: Sequence[Batch],
        retain: Sequence[Batch],
        forget_loss: float,
        retain_loss: float | None,
        norm: float,
    ) -> None:
        values = {"forget loss": forget_loss, "gradient norm": norm}
        # A loss per example is on a scale of its own: NPO's begins at 2 log 2 / beta.
        nats = {"retain loss"} if self._keeps() != "activations" else set()
        if self.base is None or self.base.normaliser == "tokens":
            nats.add("forget loss")
        if retain_loss is not None:
            values["retain loss"] = retain_loss
        for name, value in values.items():
            runaway = name in nats and abs(value) > RUNAWAY
            if not math.isfinite(value) or runaway:
                rows = [i for batch in (*forget, *retain) for i in batch.ids]
                raise DivergedError(
                    f"the {name} is {value} in this step; the parameters were left as they were "
                    f"before it. The batch: {', '.join(rows)}. A lower learning_rate may help."
                )


def _target_gradient(
    name: str, forget: Tensor, divisor: float, found: Mapping[str, Tensor] | None
) -> tuple[Tensor, float]:
    """Return g of one parameter, and what it is to be multiplied by."""
    if found is None:
        return forget, divisor  # the loss is sum of log P / divisor
    return found[name], 1.0


def _add_gradient(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad += gradient


def _values(found: Mapping[str, float], ids: Sequence[str], device: torch.device) -> Tensor:
    return torch.tensor([found[i] for i in ids], device=device)


def _neuron_weights(model: Any, form: Ssiuu) -> frozenset[str]:
    """Return the weights whose rows are neurons, where the penalty is on neurons."""
    if form.level == "parameter":
        return frozenset()
    sites = find_sites(model)
    if any(site.transposed for site in sites):
        raise ConfigError(
            f"ssiuu-neuron: {type(model).__name__} stores its weights as [in, out], and the penalty on "
            "neurons needs a row a neuron. Use level: parameter."
        )
    weights = {f"{site.path}.weight" for site in sites}
    adapted = {n for n, _ in model.named_parameters() if weight_of(n)[1] == "outputs"}
    return frozenset(weights | adapted)


def _divisor(batches: Sequence[Batch], normaliser: Normaliser) -> float:
    """Return what the losses of a whole step are divided by, over all its micro-batches."""
    if normaliser == "examples":
        return float(sum(len(batch.ids) for batch in batches))
    if normaliser == "positions":
        return float(sum(int(batch.attention_mask.sum()) for batch in batches))
    return float(sum(int(batch.answer_mask.sum()) for batch in batches))
