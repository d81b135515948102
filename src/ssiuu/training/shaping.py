"""What the transforms of a method do to its forget gradient, and the second gradient they look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ssiuu.attribution.parameter import SecondGradient
from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.likelihood import AnswerLogprobs, Batch, answer_logprobs
from ssiuu.methods.base import Bound, Objective, Slope, View
from ssiuu.models.shards import all_sum, local, reduce_like, world
from ssiuu.records.schema import Target
from ssiuu.training.views import Views

Curvature = Callable[[Mapping[str, Tensor], Target], Mapping[str, Tensor]]


@dataclass
class Shaping:
    """The parts of a method that act on its forget gradient, in their order.

    `second` collects the second gradient; None where no part looks at one, or where the forget gradient
    itself is it.
    """

    model: CausalLM
    named: dict[str, Tensor]
    bounds: list[Bound]
    objective: Objective | None
    views: Views

    def __post_init__(self) -> None:
        self.wanting = [b for b in self.bounds if b.wants and (b.shapes or b.maps)]
        self.second = self._second(self.model)

    @property
    def acts(self) -> bool:
        """Whether a forget gradient is changed at all."""
        return any(b.shapes or b.maps for b in self.bounds)

    @property
    def waits(self) -> bool:
        """Whether all forget gradients must be there before the first is changed."""
        return any(b.surveys or b.maps for b in self.bounds)

    def _second(self, model: CausalLM) -> SecondGradient | None:
        """Return the collector of the second gradient; None where no part looks at one of its own."""
        if not self.wanting:
            return None
        first = self.wanting[0]
        if len({b.wants for b in self.wanting}) > 1 or (first.maps and len(self.wanting) > 1):
            raise ConfigError(
                "a method takes one second gradient, and its transforms look at different ones: leave "
                "one of them out."
            )
        if first.maps:
            return SecondGradient(model, {}, first.maps)
        assert self.objective is not None
        constant = self.objective.through == "constant" and first.wants == "logprob"
        # What is shaped before it is read is no longer the gradient.
        untouched = next(b for b in self.bounds if b.shapes) is first
        if constant and untouched and len(self.wanting) == 1:
            return None
        return SecondGradient(model, self.named)

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Shape every parameter's gradient as soon as it is whole, while the backward pass runs."""
        assert self.second is not None
        second = self.second
        handles = [
            parameter.register_post_accumulate_grad_hook(
                lambda p, name=name: self.shape(name, p.grad, 1.0, self._reduced(name, second))
            )
            for name, parameter in self.named.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _reduced(self, name: str, second: SecondGradient) -> dict[str, Tensor]:
        """Return the store of second gradients with what lies here of one of all rows."""
        if world() > 1:
            second.gradients[name] = self._whole_rows(name, second)
        return second.gradients

    def _whole_rows(self, name: str, second: SecondGradient) -> Tensor:
        found, parameter = second.gradients.get(name), self.named[name]
        there = second.reduced.pop(name, None)
        if found is None:  # every process has heard the same modules
            return local(torch.zeros_like(parameter)) if there is None else there
        mine = reduce_like(parameter, found)
        return mine if there is None else mine + there

    def reduce(self) -> dict[str, Tensor]:
        """Return what lies here of the second gradients of all rows; uses up those of these rows."""
        assert self.second is not None
        if world() == 1:
            return self.second.gradients
        names = [*self.named] if not self.second.maps else []
        return {name: self._whole_rows(name, self.second) for name in names}

    def _slope(
        self, name: str, forget: Tensor, divisor: float, second: Mapping[str, Tensor] | None
    ) -> Slope:
        parameter, forget = local(self.named[name]), local(forget)
        if not any(b.shapes for b in self.wanting):
            return Slope(name, parameter, forget)
        if second is None:  # the loss is the sum of log P over the divisor
            return Slope(name, parameter, forget, forget, divisor)
        return Slope(name, parameter, forget, second[name], 1.0)

    def shape(
        self, name: str, forget: Tensor, divisor: float, second: dict[str, Tensor] | None
    ) -> None:
        """Change one parameter's forget gradient in place; uses up its second gradient in `second`."""
        slope = self._slope(name, forget, divisor, second)
        for bound in self.bounds:
            if bound.shapes:
                bound.shape(slope)
        if second is not None:
            second.pop(name, None)

    def shape_all(self, divisor: float, second: dict[str, Tensor] | None, curvature: Curvature) -> None:
        """Shape the forget gradients in `.grad`, once all are there.

        Args:
            divisor: What the forget losses were divided by.
            second: The second gradients, where they are not the forget gradients themselves.
            curvature: Returns the derivative of the second gradient along a direction.
        """
        grads = {name: p.grad for name, p in self.named.items() if p.grad is not None}
        for bound in self.bounds:
            if bound.surveys:
                bound.survey(self._slope(name, g, divisor, second) for name, g in grads.items())
            if bound.curves and bound.wants is not None and (along := bound.direction()):
                bound.curved(curvature(along, bound.wants))
            if bound.maps and second is not None:
                bound.reshape(second)
        if any(b.shapes for b in self.bounds):
            for name, gradient in grads.items():
                self.shape(name, gradient, divisor, second)

    def scale(self, logprobs: AnswerLogprobs, loss: Tensor) -> Float[Tensor, " B"] | None:
        """Return what each row's output gradients are to be multiplied by to give the target's.

        None where there is no such number: every token counts differently, or the slope is so small
        that it would have lost its digits on the way back.
        """
        assert self.objective is not None
        if self.objective.through == "other":
            return None
        (slopes,) = torch.autograd.grad(loss, logprobs.tokens, retain_graph=True)
        # d loss / d log P: all tokens of a row have the same slope where the loss goes by their sum
        # alone.
        slope = slopes.masked_fill(~logprobs.mask, 0.0).sum(1) / logprobs.count
        if not bool((slope.abs() > 1e-20).all()):
            return None
        return self._wanted(logprobs) / slope

    def _wanted(self, logprobs: AnswerLogprobs) -> Float[Tensor, " B"]:
        """Return d target / d log P of each row."""
        total = logprobs.sum.detach()
        return total.exp() if self.wanting[0].wants == "probability" else torch.ones_like(total)

    def weigh(self, second: SecondGradient, batch: Batch, view: View, loss: Tensor) -> None:
        """Tell the collector what each example counts, or add the target's gradient by hand."""
        assert self.objective is not None
        logprobs, maps = view.logprobs, bool(second.maps)
        if self.objective.looks is not None and world() > 1:
            return self._passed(second, batch)
        if self.objective.looks is not None:  # it never reached the answers: a pass of its own
            with self.views.casting(batch), second.listening():
                logprobs = answer_logprobs(self.model, batch)
        heard = second.heard(len(logprobs.mask))
        if maps and not heard:
            raise ConfigError(
                "the effective space needs maps that put out row by row, and some adapted ones here "
                "put out rows and tokens as one. Set unlearn.lora.attribution: adapter."
            )
        joint = heard and self.objective.looks is None
        second.scale = self._idle(batch) if joint and not batch.counts else None
        if joint and batch.counts:
            second.scale = self.scale(logprobs, loss)
        # All processes take the same passes.
        if world() == 1:
            if second.scale is not None:
                return
        elif not all_sum(float(second.scale is None))[0]:
            return
        else:
            second.scale = None
            return self._passed(second, batch)
        # A second backward through the same graph.
        wanted = self._wanted(logprobs)
        value = (wanted * logprobs.sum).sum()
        # The factor of each row is in `value` already.
        second.scale = torch.ones_like(wanted) if maps else None
        named = list(self.named.values())
        gradients = torch.autograd.grad(value, named, retain_graph=True, allow_unused=True)
        second.scale = None
        if not maps:  # there the collector has heard this pass
            second.add(gradients)

    def _idle(self, batch: Batch) -> Tensor:
        return batch.input_ids.new_zeros(len(batch.ids), dtype=torch.float32)

    def _passed(self, second: SecondGradient, batch: Batch) -> None:
        """Add the target's gradient by a pass of its own, whose shards come where gradients do."""
        aside = {name: p.grad for name, p in self.named.items()}
        for parameter in self.named.values():
            parameter.grad = None
        with self.views.casting(batch):
            total = answer_logprobs(self.model, batch).sum
        batch.total(total.exp() if self.wanting[0].wants == "probability" else total).backward()
        for name, parameter in self.named.items():
            if parameter.grad is not None:
                found, there = local(parameter.grad), second.reduced.get(name)
                second.reduced[name] = found if there is None else there.add_(found)
            parameter.grad = aside[name]
