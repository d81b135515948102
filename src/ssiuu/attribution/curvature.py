"""The curvature of the answers' likelihood along one direction, exact: a Hessian-vector product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ssiuu.causal import CausalLM
from ssiuu.likelihood import Batch, answer_logprobs
from ssiuu.records.schema import Target


def hessian_vector(
    model: CausalLM,
    batches: Sequence[Batch],
    named: Mapping[str, Tensor],
    along: Mapping[str, Tensor],
    target: Target,
) -> dict[str, Tensor]:
    """Return H v, with H the second derivative of the sum over rows of P(y|x), or of log P(y|x).

        H v = d/dphi (g . v),    g = d/dphi sum over rows of P(y|x),    v held constant

    g is taken with a graph of its own, and its product with v is differentiated once more: one forward
    pass, one backward pass through it and one through both. In the parameters' precision throughout,
    for autocast would round a difference of small numbers. What is in `.grad` stays.

    Args:
        model: In any mode; it is left in that mode.
        batches: The rows, in as many pieces as memory wants.
        named: The parameters, by name.
        along: v, by name; a parameter that is missing counts 0.
        target: "probability" or "logprob".
    """
    wanted = [parameter for name, parameter in named.items() if name in along]
    directions = [along[name] for name, parameter in named.items() if name in along]
    total = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    training = bool(getattr(model, "training", False))
    model.eval()  # activations that are computed again have no second derivative
    try:
        for batch in batches:
            # The fused kernels of attention have no second derivative.
            with sdpa_kernel(SDPBackend.MATH):
                logprobs = answer_logprobs(model, batch).sum
                value = (logprobs.exp() if target == "probability" else logprobs).sum()
                first = torch.autograd.grad(value, wanted, create_graph=True, allow_unused=True)
                pairs = [(g, v) for g, v in zip(first, directions, strict=True) if g is not None]
                product = torch.stack([(g * v).sum() for g, v in pairs]).sum()
                second = torch.autograd.grad(product, list(named.values()), allow_unused=True)
            for name, part in zip(named, second, strict=True):
                if part is not None:
                    total[name] += part
    finally:
        model.train(training)
    return total
