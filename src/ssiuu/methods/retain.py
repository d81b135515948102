"""The retain terms that can stand beside any forget loss; each per example, the caller normalises."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from ssiuu.errors import ConfigError
from ssiuu.methods.base import Ask, Need, Normaliser, Objective, Origin, Parts, RetainTerm, Rows, View
from ssiuu.methods.objectives.rmu import rmu_loss


def kl_loss(
    logits: Float[Tensor, "B A V"], reference: Float[Tensor, "B A V"], mask: Bool[Tensor, "B A"]
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
    # The answer's logit is put out of reach, so that both softmaxes are over the other words.
    wanted = before.scatter(-1, answers, lowest).log_softmax(-1)
    now = logits.scatter(-1, answers, lowest).log_softmax(-1)
    # 1 - p with its digits where p is near 1; rounding may leave log p a little above 0.
    others_share = -torch.expm1(before.gather(-1, answers).squeeze(-1).clamp(max=0.0))
    return (others_share * _divergence(wanted, now)).masked_fill(~mask, 0.0).sum(1)


def js_loss(
    logits: Float[Tensor, "B A V"], reference: Float[Tensor, "B A V"], mask: Bool[Tensor, "B A"]
) -> Float[Tensor, " B"]:
    """Return the Jensen-Shannon divergence from the reference on the answer tokens, nats.

        L(x, y) = sum over t of (KL(p_ref || m) + KL(p || m)) / 2,    m = (p_ref + p) / 2

    It lies between 0 and log 2 a token.

    Source: Singh et al. 2025 (JensUn, arXiv 2509.02820), the retain loss.
    Departures: the answer tokens only; the authors' code counts prompt and padding too.
    """
    before, now = reference.log_softmax(-1), logits.log_softmax(-1)
    middle = torch.logaddexp(before, now) - math.log(2)
    divergence = (_divergence(before, middle) + _divergence(now, middle)) / 2
    return divergence.masked_fill(~mask, 0.0).sum(1)


def _divergence(wanted: Float[Tensor, "*n V"], now: Float[Tensor, "*n V"]) -> Float[Tensor, "*n"]:
    """Return KL(p || q) of log-probabilities; what p never says counts 0, whatever q says of it."""
    share = wanted.exp()
    return (share * (wanted - now)).masked_fill(share == 0, 0.0).sum(-1)


class LikelihoodTerm(RetainTerm):
    """The answers' NLL on the retain rows."""

    name: ClassVar[str] = "nll"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Liu, Liu and Stone 2022."
    summary: ClassVar[str] = "the NLL of the retain rows"
    suffix: ClassVar[bool] = False
    joins: ClassVar[bool] = True

    def loss(self, view: View) -> Float[Tensor, " B"]:
        """Return -log P(y|x), nats."""
        return -view.logprobs.sum


class DivergenceTerm(RetainTerm):
    """The divergence from the model before on the retain rows."""

    name: ClassVar[str] = "kl"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Maini et al. 2024 (TOFU), Sec. 3."
    summary: ClassVar[str] = "the divergence from the model before on the answers of the retain rows"
    joins: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"distribution"})

    def loss(self, view: View) -> Float[Tensor, " B"]:
        """See `kl_loss`."""
        assert view.logits is not None and view.reference_logits is not None
        return kl_loss(view.logits, view.reference_logits, view.logprobs.mask)


class JensenShannonTerm(RetainTerm):
    """JensUn's: the bounded divergence from the model before on the retain rows."""

    name: ClassVar[str] = "js"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Singh et al. 2025 (arXiv 2509.02820)."
    summary: ClassVar[str] = "the Jensen-Shannon divergence from the model before on the retain rows"
    joins: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"distribution"})

    def loss(self, view: View) -> Float[Tensor, " B"]:
        """See `js_loss`."""
        assert view.logits is not None and view.reference_logits is not None
        return js_loss(view.logits, view.reference_logits, view.logprobs.mask)


class HiddenTerm(RetainTerm):
    """Hidden states of the retain rows stay where they were, in the block the objective looks at."""

    suffix: ClassVar[bool] = False
    normaliser: ClassVar[Normaliser] = "positions"
    needs: ClassVar[frozenset[Need]] = frozenset({"hidden"})

    def looks(self, objective: Objective | None) -> int | None:
        """Return the objective's block."""
        return None if objective is None else objective.looks


class ActivationTerm(HiddenTerm):
    """RMU's: hidden states of the retain rows stay where they were, in the block that is steered."""

    name: ClassVar[str] = "activations"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Li et al. 2024 (ICML)."
    summary: ClassVar[str] = "the distance of the retain rows' hidden states from those before"

    def fits(self, among: Parts) -> None:
        """Refuse an objective that steers no block."""
        if among.objective.looks is None:
            raise ValueError("retain: activations is RMU's; nll, kl or none")

    def loss(self, view: View) -> Float[Tensor, " B"]:
        """See `rmu_loss`; the target is each token's state before."""
        assert view.hidden is not None and view.hidden_mask is not None
        assert view.reference_hidden is not None
        return rmu_loss(view.hidden, view.hidden_mask, view.reference_hidden)


def shift_loss(
    hidden: Float[Tensor, "B T d"],
    before: Float[Tensor, "B T d"],
    mask: Bool[Tensor, "B T"],
    length: float,
) -> Float[Tensor, " B"]:
    """Return how far hidden states have moved, as a share of how long they are.

        L(x) = sum over t of |h_t - h0_t| / mean |h0|

    Source: Sondej and Yang 2025 (CIR; arXiv 2605.11685), as the circuit breakers' retain loss.
    Departures: the mean length is over all retain rows, not over those of a batch.
    """
    moved: Tensor = torch.linalg.vector_norm(hidden - before, dim=-1) / length
    return moved.masked_fill(~mask, 0.0).sum(1)


class StatesTerm(HiddenTerm):
    """CIR's: hidden states of the retain rows stay where they were, behind the last block it breaks."""

    name: ClassVar[str] = "states"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Sondej and Yang 2025 (CIR)."
    summary: ClassVar[str] = "the distance of the retain rows' hidden states, over their length"

    def fits(self, among: Parts) -> None:
        """Refuse an objective that looks at no block."""
        if among.objective.looks is None:
            raise ValueError("retain: states is for objectives of hidden states; nll, kl or none")

    def loss(self, view: View) -> Float[Tensor, " B"]:
        """See `shift_loss`."""
        assert view.hidden is not None and view.hidden_mask is not None
        assert view.reference_hidden is not None and view.reference_length is not None
        before = view.reference_hidden.to(view.hidden)
        return shift_loss(view.hidden, before, view.hidden_mask, view.reference_length)


class TextTerm(RetainTerm):
    """The divergence from the model before on texts and questions that touch no fact of the run."""

    name: ClassVar[str] = "texts"
    origin: ClassVar[Origin] = "ours"
    source: ClassVar[str] = "Ours."
    summary: ClassVar[str] = "the divergence from the model before on other texts and questions"
    brought_by: ClassVar[frozenset[str]] = frozenset({"texts"})
    number: ClassVar[str | None] = "texts"
    order: ClassVar[int] = 1
    rows: ClassVar[Rows] = "texts"
    needs: ClassVar[frozenset[Need]] = frozenset({"distribution"})
    place: ClassVar[str] = "on other texts and questions"

    texts: float = Field(
        default=5.0,
        ge=0,
        description="ours: weight of a second retain term: the divergence from the model before on "
        "texts, instructions and questions that touch no fact of the run; 0 leaves it out",
    )

    @property
    def off(self) -> bool:
        """Whether its weight is 0."""
        return self.texts == 0

    @property
    def weight(self) -> float:
        """As set."""
        return self.texts

    def prepare(self, ask: Ask) -> None:
        """Refuse to hold the model to nothing."""
        if not ask.rows["texts"]:
            raise ConfigError(
                f"{ask.label}: no text to hold it to fits the model's context; set texts: 0."
            )

    def loss(self, view: View) -> Float[Tensor, " B"]:
        """See `kl_loss`."""
        assert view.logits is not None and view.reference_logits is not None
        return kl_loss(view.logits, view.reference_logits, view.logprobs.mask)


class OtherWordsTerm(RetainTerm):
    """The divergence from the model before at the answers to forget, over all other words."""

    name: ClassVar[str] = "others"
    origin: ClassVar[Origin] = "ours"
    source: ClassVar[str] = "Ours."
    summary: ClassVar[str] = "the divergence from the model before at the answers, over other words"
    brought_by: ClassVar[frozenset[str]] = frozenset({"others"})
    number: ClassVar[str | None] = "others"
    order: ClassVar[int] = 2
    rows: ClassVar[Rows] = "forget"
    needs: ClassVar[frozenset[Need]] = frozenset({"distribution"})
    place: ClassVar[str] = "at the answers to forget over all other words"

    others: float = Field(
        default=3.0,
        ge=0,
        description="ours: weight of a third retain term: the divergence from the model before at the "
        "answers to forget, over all words but the answer's; 0 leaves it out",
    )

    @property
    def off(self) -> bool:
        """Whether its weight is 0."""
        return self.others == 0

    def loss(self, view: View) -> Float[Tensor, " B"]:
        """See `others_loss`; the weight is in it."""
        assert view.logits is not None and view.reference_logits is not None
        assert view.targets is not None
        divergence = others_loss(view.logits, view.reference_logits, view.targets, view.logprobs.mask)
        return self.others * divergence
