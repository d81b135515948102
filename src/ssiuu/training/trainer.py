"""Ssiuu's term in a training loop that is not ours: by hand, or in a transformers.Trainer.

    term = SsiuuTerm(model)                 # or SsiuuTerm(model, Ssiuu(target="logprob"))
    loss.backward()
    term.add(input_ids, labels)             # of the rows to forget; adds to every p.grad
    optimizer.step()

    class MyTrainer(SsiuuTrainer):                # compute_loss as before
        ...

A batch of a `SsiuuTrainer` says which rows are to be forgotten: by a column "forget" (one truth value a
row, which is taken out before the model sees the batch), or by being {"forget": {...}, ...}, as where a
loss reads forget and retain rows apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import Trainer

from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.likelihood import Example, answer_logprobs, collate
from ssiuu.methods.base import Slope, Training
from ssiuu.methods.transforms.ssiuu import Ssiuu

IGNORED = -100  # the label of a token that no loss counts
ROWS = ("input_ids", "labels", "attention_mask")


class SsiuuTerm:
    """Adds the gradient of Ssiuu's penalty to what a backward pass has left in `.grad`.

    It holds A_{t-1} of every parameter (2 bytes each), so one is made for a whole run.
    """

    def __init__(self, model: CausalLM, form: Ssiuu | None = None) -> None:
        """Begin without a memory: there is no penalty in the first step.

        Args:
            model: A causal language model; what requires a gradient now is what the term is over.
            form: Which penalty; None: Algorithm 1 as printed.

        Raises:
            ConfigError: The penalty needs more than one batch, or does not fit the model.
        """
        self.form = form or Ssiuu()
        if self.form.anchor == "initial" or self.form.rho is not None:
            raise ConfigError(
                "SsiuuTerm: anchor: initial is taken over the whole forget set, and rho of the forget "
                "gradient alone; neither is seen here. Use anchor: previous and lambda."
            )
        if self.form.derivative == "exact":
            raise ConfigError(
                "SsiuuTerm: derivative: exact wants a second derivative, which a caller's backward "
                "pass has not left. Use derivative: constant."
            )
        self.model = model
        self.named: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.penalty = self.form.bind(None)
        self.penalty.attach(Training(model, self.named))

    def add(
        self,
        input_ids: Int[Tensor, "B T"],
        labels: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"] | None = None,
    ) -> dict[str, float]:
        """Add the term of one step, of all rows that are forgotten in it.

        Args:
            input_ids: Prompts with their answers.
            labels: As the library has them: -100 except at the answer, which stands in one piece.
            attention_mask: 0 at padding; None: there is none in front of a prompt.

        Returns:
            What the log may say: the penalty's share of the gradient's norm, and of the parameters.

        Raises:
            ConfigError: A row has no answer, or one in several pieces.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        batch = collate(_examples(input_ids, labels, mask), 0).to(input_ids.device)
        before = {name: p.grad for name, p in self.named.items()}
        try:
            logprobs = answer_logprobs(self.model, batch).sum
            value = logprobs.exp() if self.form.target == "probability" else logprobs
            second = self._gradients(value.sum())
        finally:
            for name, parameter in self.named.items():
                parameter.grad = before[name]
        slopes = [
            Slope(name, parameter.detach(), parameter.grad, second[name])
            for name, parameter in self.named.items()
            if parameter.grad is not None and name in second
        ]
        self.penalty.begin()
        for slope in slopes:
            self.penalty.shape(slope)
        return self.penalty.told()

    def _gradients(self, value: Tensor) -> dict[str, Tensor]:
        gradients = torch.autograd.grad(value, list(self.named.values()), allow_unused=True)
        return {n: g for n, g in zip(self.named, gradients, strict=True) if g is not None}


class SsiuuTrainer(Trainer):
    """A transformers.Trainer whose steps have Ssiuu's term; the loss is the caller's own.

    One process, one batch a step: A_t is over all rows that a step forgets.
    """

    def __init__(self, *given: Any, ssiuu: Ssiuu | None = None, **named: Any) -> None:
        """Take what the library's takes, and the penalty.

        Args:
            given: The library's.
            ssiuu: Which penalty; None: Algorithm 1 as printed.
            named: The library's.

        Raises:
            ConfigError: The loop would add the term to something else than one step's gradient.
        """
        super().__init__(*given, **named)
        if self.args.gradient_accumulation_steps != 1:
            raise ConfigError(
                "SsiuuTrainer: gradient_accumulation_steps must be 1, got "
                f"{self.args.gradient_accumulation_steps}: attribution is over all rows of a step."
            )
        if self.args.fp16 or self.args.world_size > 1 or self.args.n_gpu > 1:
            raise ConfigError(
                "SsiuuTrainer: one process and no scaled loss (fp16); bf16 and fp32 will do."
            )
        self.args.remove_unused_columns = False  # "forget" is no argument of the model
        self.term = SsiuuTerm(cast(CausalLM, self.model), ssiuu)  # to the library any module is one

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Leave in `.grad` the gradient of the caller's loss with that of the term."""
        rows = _forgotten(inputs)
        inputs = {key: value for key, value in inputs.items() if not _marks(key, value)}
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if len(rows["labels"]):
            device = next(model.parameters()).device
            self.term.add(**{key: rows[key].to(device) for key in ROWS if key in rows})
        return loss


def _marks(key: str, value: Any) -> bool:
    """Whether this says which rows are to be forgotten, and is nothing for the model."""
    return key == "forget" and not isinstance(value, Mapping)


def _forgotten(inputs: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the rows to forget of a batch.

    Raises:
        ConfigError: It does not say which.
    """
    marked = inputs.get("forget")
    if marked is None:
        raise ConfigError(
            'SsiuuTrainer: a batch has no "forget": one truth value a row, or the rows to forget.'
        )
    if isinstance(marked, Mapping):
        return marked
    chosen: Bool[Tensor, " B"] = torch.as_tensor(marked).bool()
    return {key: inputs[key][chosen] for key in ROWS if key in inputs}


def _examples(input_ids: Tensor, labels: Tensor, mask: Tensor) -> list[Example]:
    examples = []
    for number, (ids, wanted, real) in enumerate(zip(input_ids, labels, mask.bool(), strict=True)):
        text, places = ids[real].tolist(), (wanted[real] != IGNORED).nonzero().flatten().tolist()
        if not places or places[-1] - places[0] + 1 != len(places) or places[0] == 0:
            raise ConfigError(
                f"SsiuuTerm: row {number} must have an answer in one piece behind a prompt: labels "
                f"that are not {IGNORED}, of which this one has {len(places)}."
            )
        examples.append(Example(str(number), text[: places[0]], text[places[0] : places[-1] + 1]))
    return examples
