"""How strongly one answer pulls at a model's parameters: norms of the gradient of its own loss.

    norms = gradient_norms(model, examples, p=2)     # a number for each answer

One answer at a time, and of its gradient one tensor: it is measured as soon as it is complete, and let
go. Beside the weights there is memory for the activations of one answer and the gradient of the largest
tensor, where the whole gradient is as large as the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ssiuu.causal import CausalLM
from ssiuu.likelihood import Example, answer_logprobs, collate
from ssiuu.models.shards import dealt


def gradient_norms(model: CausalLM, examples: Sequence[Example], p: float) -> list[float]:
    """Return the mean over parameters W of ||d loss / d W||_p for each answer.

    The loss is -1/n sum_t log p_t. Every norm is of one whole tensor; tied ones count once, and what
    has no gradient does not count.

    Args:
        model: A causal LM in evaluation mode, whole on this process; its own gradients stay.
        examples: Prompts and answers.
        p: Of the norm; infinity is the largest entry.
    """
    device = next(model.parameters()).device

    def norm_of(example: Example) -> float:
        batch = collate([example], pad=0).to(device)
        with _measured(model, p) as norms, torch.enable_grad():
            scored = answer_logprobs(model, batch)
            (-scored.sum / scored.count).sum().backward()
        return sum(norms) / len(norms)

    return dealt(examples, norm_of)


@contextmanager
def _measured(model: CausalLM, p: float) -> Iterator[list[float]]:
    """Collect the norm of every parameter's gradient in a backward pass, and keep none of them."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.grad for parameter in trained]
    norms: list[float] = []

    def measure(parameter: Tensor) -> None:
        assert parameter.grad is not None
        wide = torch.promote_types(parameter.dtype, torch.float32)
        norms.append(float(torch.linalg.vector_norm(parameter.grad, p, dtype=wide)))
        parameter.grad = None

    hooks = [parameter.register_post_accumulate_grad_hook(measure) for parameter in trained]
    try:
        for parameter in trained:
            parameter.grad = None
        yield norms
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, gradient in zip(trained, before, strict=True):
            parameter.grad = gradient
