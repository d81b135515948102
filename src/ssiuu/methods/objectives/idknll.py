"""IdkNLL: learn to say that one does not know."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ssiuu.likelihood import AnswerLogprobs
from ssiuu.methods.base import Need, Normaliser, Objective, Origin, View
from ssiuu.methods.objectives.dpo import refusal_of


def idknll_loss(refusal: AnswerLogprobs) -> Float[Tensor, " B"]:
    """Return the token-mean NLL of each refusal, nats.

        L(x, r) = -(1/|r|) sum over t of log p(r_t | x, r_<t)

    The answer itself is nowhere in it: it loses what the refusal gains, and may stay where it was
    behind another beginning.

    Source: Maini et al. 2024 (TOFU), Sec. 3, "preference optimization" (IdkNLL in open-unlearning).
    Departures: each refusal is divided by its own tokens, the source's batch by all of its tokens: the
    same where refusals are equally long. A fact has one refusal for the whole run, the source draws
    another one each time.
    """
    return -refusal.sum / refusal.count


class IdkLikelihood(Objective):
    """IdkNLL: fine-tune the forget questions on refusals, beside the retain rows."""

    name: ClassVar[str] = "idknll"
    origin: ClassVar[Origin] = "literature"
    source: ClassVar[str] = "Maini et al. 2024 (COLM); named as in open-unlearning."
    summary: ClassVar[str] = "IdkNLL: learn a refusal for an answer, with a retain term"
    normaliser: ClassVar[Normaliser] = "examples"
    needs: ClassVar[frozenset[Need]] = frozenset({"refusal"})

    refusals: Literal["paper", "bank"] = Field(
        default="bank",
        description="what is learned: the one sentence of the paper's App. C.2, or one of a bank of "
        "refusals for each fact",
    )

    def refusal(self, id: str) -> str:
        """Return what is learned in place of the answer of one fact; the same at every call."""
        return refusal_of(id, self.refusals)

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """See `idknll_loss`."""
        if view.refusal is None:
            raise ValueError("IdkNLL needs the refusals")
        return idknll_loss(view.refusal)
