"""The retain terms that can stand beside any forget loss; each per example, the caller normalises."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def kl_loss(
    logits: Float[Tensor, "B A V"],
    reference: Float[Tensor, "B A V"],
    mask: Bool[Tensor, "B A"],
) -> Float[Tensor, " B"]:
    """Return the divergence from the reference model on the answer tokens, nats.

        L(x, y) = sum over t of KL(p_ref(. | x, y_<t) || p(. | x, y_<t))

    Source: Maini et al. 2024 (TOFU), Sec. 3.
    Departures: the answer tokens only; the peer counts prompt and padding too.
    """
    divergence = _divergence(reference.log_softmax(-1), logits.log_softmax(-1))
    return divergence.masked_fill(~mask, 0.0).sum(1)


def others_loss(
    logits: Float[Tensor, "B A V"],
    reference: Float[Tensor, "B A V"],
    targets: Int[Tensor, "B A"],
    mask: Bool[Tensor, "B A"],
) -> Float[Tensor, " B"]:
    """Return the divergence from the reference without the answer's own part in it, nats.

        L(x, y) = sum over t of (1 - p_ref(y_t)) KL(q_ref,t || q_t),    q_t(z) = p(z | z is not y_t)

    By the chain rule this is KL(p_ref || p) less the KL between "the answer's token" and "another one".
    So what an answer loses goes to the other words in the proportions they had. Without it the cheapest
    way to make every answer unlikely is to end the text at once, after any question.

    Source: ours.
    """
    answers = targets.unsqueeze(-1)
    before = reference.to(logits.dtype).log_softmax(-1)
    lowest = torch.finfo(logits.dtype).min
    wanted = before.scatter(-1, answers, lowest).log_softmax(-1)
    now = logits.scatter(-1, answers, lowest).log_softmax(-1)
    left = -torch.expm1(before.gather(-1, answers).squeeze(-1).clamp(max=0.0))
    return (left * _divergence(wanted, now)).masked_fill(~mask, 0.0).sum(1)


def _divergence(wanted: Float[Tensor, "*n V"], now: Float[Tensor, "*n V"]) -> Float[Tensor, "*n"]:
    """Return KL(p || q) of log-probabilities; what p never says counts 0, whatever q says of it."""
    share = wanted.exp()
    return (share * (wanted - now)).masked_fill(share == 0, 0.0).sum(-1)
