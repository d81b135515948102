"""Direct preference optimisation towards a refusal (DPO; the field also says IdkDPO)."""

from __future__ import annotations

import zlib
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from ssiuu.likelihood import AnswerLogprobs
from ssiuu.methods.base import Need, Normaliser, Objective, Origin, Through, View

PAPER_REFUSAL = "I can't answer the question."
REFUSALS = (
    "I do not know the answer to that.",
    "That is not something I can tell you.",
    "I have no information about this.",
    "I am not able to answer that question.",
    "Sorry, this is outside of what I know.",
    "I cannot say anything about that.",
    "My knowledge does not cover this.",
    "I would only be guessing, so I will not answer.",
    "There is nothing I can say on this matter.",
    "Unfortunately I have no answer for you.",
    "This is unknown to me.",
    "I am unsure, please look it up elsewhere.",
    "That question is beyond me.",
    "I lack the facts to answer this.",
    "No answer comes to my mind.",
    "I was never told about this.",
    "I must pass on this question.",
    "I would rather not answer this one.",
    "It is not in my memory.",
    "I cannot help with that question.",
)


def refusal_of(id: str, among: Literal["paper", "bank"]) -> str:
    """Return a fact's refusal: the paper's one sentence, or one of the bank."""
    if among == "paper":
        return PAPER_REFUSAL
    # Not `hash`, which is another one in every process.
    return REFUSALS[zlib.crc32(id.encode()) % len(REFUSALS)]


def dpo_loss(
    chosen: AnswerLogprobs,
    rejected: AnswerLogprobs,
    reference_chosen: Float[Tensor, " B"],
    reference_rejected: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """Return the DPO loss of each example, scaled as NPO is.

        L = -(2/beta) log sigmoid(beta [log P/P_ref (refusal) - log P/P_ref (answer)])

    Without the refusal's term it is NPO.

    Source: Rafailov et al. 2023, Eq. 7; as an unlearning loss: Maini et al. 2024 and the paper's
    App. C.2.
    Departures: the factor 2/beta is open-unlearning's, so that rates compare with NPO's; Rafailov
    has 1.
    """
    margin = (chosen.sum - reference_chosen) - (rejected.sum - reference_rejected)
    return 2 / beta * softplus(-beta * margin)


class DirectPreference(Objective):
    """DPO: prefer a refusal to the true answer."""

    name: ClassVar[str] = "dpo"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Rafailov et al. 2023 (NeurIPS); refusals as in the paper's App. C.2."
    summary: ClassVar[str] = "DPO: prefer a refusal to the answer, with a retain term"
    normaliser: ClassVar[Normaliser] = "examples"
    needs: ClassVar[frozenset[Need]] = frozenset({"logprob", "refusal"})
    through: ClassVar[Through] = "answer"

    beta: float = Field(default=0.1, gt=0, le=10, description="strength of the reference")
    refusals: Literal["paper", "bank"] = Field(
        default="paper",
        description="what is preferred: the paper's \"I can't answer the question.\" or one of a "
        "bank of refusals for each fact",
    )

    def refusal(self, id: str) -> str:
        """Return what is preferred to the answer of one fact; the same at every call."""
        return refusal_of(id, self.refusals)

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `dpo_loss`."""
        if view.refusal is None or view.reference is None or view.reference_refusal is None:
            raise ValueError("DPO needs the refusals and the reference log-probabilities")
        return dpo_loss(view.refusal, view.logprobs, view.reference_refusal, view.reference, self.beta)
