"""What every method is: a frozen set of hyper-parameters and a forget loss per example.

The loop (ssiuu.training) computes the forget gradient and the retain gradient apart, and lets a
method change the forget gradient in between. A method file holds one equation.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ssiuu.likelihood import AnswerLogprobs

Origin = Literal["paper", "literature", "ours", "control", "given"]


class Method(BaseModel):
    """Base of every method; the fields are its hyper-parameters and their help.

    `normaliser` says what a batch's forget losses are divided by: "tokens" (its answer tokens, the
    field's token-mean cross-entropy) or "examples".
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False
    )

    name: ClassVar[str]
    origin: ClassVar[Origin]
    source: ClassVar[str]
    summary: ClassVar[str]
    normaliser: ClassVar[Literal["tokens", "examples"]] = "tokens"
    needs_reference: ClassVar[bool] = False
    trains: ClassVar[bool] = True

    learning_rate: float | None = Field(
        default=None, gt=0, le=1, description="AdamW's learning rate; unlearn.learning_rate if null"
    )
    retain_weight: float = Field(
        default=1.0, ge=0, description="weight of the NLL on the retain set; 0 leaves it out"
    )
    projection: int | None = Field(
        default=None,
        ge=1,
        description="ours: how many leading directions of each linear map's inputs over the retain "
        "set are taken out of the forget gradient; null for none",
    )

    def forget_loss(
        self, logprobs: AnswerLogprobs, reference: Float[Tensor, " B"] | None
    ) -> Float[Tensor, " B"]:
        """Return the loss of each forget example, before normalising.

        Args:
            logprobs: Of the answer tokens under the model in training.
            reference: log P(y|x) under the model before unlearning, where the method needs it.
        """
        raise NotImplementedError

    @property
    def label(self) -> str:
        """The default name of a run of this method in tables and folders."""
        return f"{self.name}+projection" if self.projection else self.name

    @property
    def whose(self) -> Origin:
        """Whose method this is as configured: with a projection it is ours."""
        return "ours" if self.projection else self.origin

    @property
    def description(self) -> str:
        """One sentence on what is run, with its source."""
        extra = (
            f", with the {self.projection} leading retain directions of each linear map's inputs "
            "taken out of the forget gradient (this project's extension)"
            if self.projection
            else ""
        )
        return f"{self.summary}{extra}. {self.source}"
