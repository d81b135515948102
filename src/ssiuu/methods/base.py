"""What every method is: a frozen set of hyper-parameters and a forget loss per example.

The loop (ssiuu.training) computes the forget gradient and the retain gradient apart, and lets a
method change the forget gradient in between. A method file holds one equation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from ssiuu.likelihood import AnswerLogprobs

Origin = Literal["paper", "literature", "ours", "control", "given"]
Retain = Literal["none", "nll", "kl", "activations"]
Need = Literal["logprob", "distribution", "refusal"]
Normaliser = Literal["tokens", "examples", "positions"]
Through = Literal["constant", "answer", "other"]


@dataclass(frozen=True)
class View:
    """What a forget loss is computed from: one micro-batch under the model in training.

    Log-probabilities are nats. A field that the method does not ask for is None.
    """

    logprobs: AnswerLogprobs
    targets: Int[Tensor, "B A"] | None = None
    logits: Float[Tensor, "B A V"] | None = None
    refusal: AnswerLogprobs | None = None
    hidden: Float[Tensor, "B T d"] | None = None
    hidden_mask: Bool[Tensor, "B T"] | None = None
    reference: Float[Tensor, " B"] | None = None
    reference_refusal: Float[Tensor, " B"] | None = None
    reference_logits: Float[Tensor, "B A V"] | None = None


class Method(BaseModel):
    """Base of every method; the fields are its hyper-parameters and their help.

    `normaliser` says what a batch's forget losses are divided by: "tokens" (its answer tokens, the
    field's token-mean cross-entropy), "examples" or "positions" (all tokens it is fed). `needs` says
    what the reference model is asked for, once, before the first step. `through` says how the loss
    depends on the answer: "constant" (a constant times log P of every answer), "answer" (a function
    of each answer's log P) or "other"; the first two let Ssiuu read a second gradient from the same
    backward pass.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    name: ClassVar[str]
    origin: ClassVar[Origin]
    source: ClassVar[str]
    summary: ClassVar[str]
    normaliser: ClassVar[Normaliser] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset()
    through: ClassVar[Through] = "other"
    trains: ClassVar[bool] = True
    has_gradient: ClassVar[bool] = True

    learning_rate: float | None = Field(
        default=None, gt=0, le=1, description="AdamW's learning rate; unlearn.learning_rate if null"
    )
    retain: Retain = Field(
        default="nll",
        description="retain term: none, nll, kl (to the model before, on the answer tokens) or, "
        "for RMU, activations",
    )
    retain_weight: float = Field(
        default=1.0, ge=0, description="weight of the retain term; 0 leaves it out"
    )
    projection: int | None = Field(
        default=None,
        ge=1,
        description="ours: how many leading directions of each linear map's inputs over the retain "
        "set are taken out of the forget gradient; null for none",
    )
    projection_outputs: int | None = Field(
        default=None,
        ge=1,
        description="ours: the same with the directions of each linear map's output gradients",
    )
    projection_from: Literal["retain", "forget", "both", "random"] = Field(
        default="retain",
        description="the rows whose leading directions are taken out; random: a control, as many "
        "directions drawn at random",
    )
    texts: float = Field(
        default=0.0,
        ge=0,
        description="ours: weight of a second retain term: the divergence from the model before on "
        "texts, instructions and questions that touch no fact of the run; 0 leaves it out",
    )
    others: float = Field(
        default=0.0,
        ge=0,
        description="ours: weight of a third retain term: the divergence from the model before at the "
        "answers to forget, over all words but the answer's; 0 leaves it out",
    )
    pull: float = Field(
        default=0.0,
        ge=0,
        description="control: decay to the weights before unlearning; a step goes back "
        "learning_rate * pull of the way",
    )
    tag: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="stands after the name in tables, to tell two settings of a method apart",
    )

    @model_validator(mode="after")
    def _terms_fit(self) -> Self:
        if self.retain == "activations" and self.name != "rmu":
            raise ValueError("retain: activations is RMU's; nll, kl or none")
        if self.retain == "kl" and not self.retain_weight:
            raise ValueError("retain: kl needs a retain_weight above 0")
        if self.projects and not self.has_gradient:
            raise ValueError("projection: this method has no forget gradient to take it out of")
        if (self.texts or self.others) and not self.has_gradient:
            raise ValueError("texts, others: this method takes no gradient steps to add a term to")
        if self.projection_from == "random" and not self.projects:
            raise ValueError("projection_from: random stands beside projection or projection_outputs")
        return self

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """Return the loss of each forget example, before normalising."""
        raise NotImplementedError

    def base(self) -> Method:
        """Return the method whose loss this is: itself, or a backbone."""
        return self

    @property
    def keeps(self) -> Retain:
        """The retain term in effect."""
        return self.retain if self.retain_weight else "none"

    @property
    def projects(self) -> bool:
        """Whether shared directions are taken out of the forget gradient."""
        return self.projection is not None or self.projection_outputs is not None

    @property
    def extended(self) -> bool:
        """Whether something of this project's is added to the objective or done to its gradient."""
        return bool(self.projects or self.texts or self.others)

    @property
    def stem(self) -> str:
        """The label without its suffixes."""
        return self.name

    @property
    def label(self) -> str:
        """The default name of a run of this method in tables and folders."""
        kl = "+kl" if self.retain == "kl" and type(self).model_fields["retain"].default != "kl" else ""
        tag = f"@{self.tag}" if self.tag else ""
        texts = "+texts" if self.texts else ""
        others = "+others" if self.others else ""
        return f"{self.stem}{kl}{texts}{others}{self._projections()}{tag}"

    def _projections(self) -> str:
        inputs = "+projection" if self.projection else ""
        outputs = "+outputs" if self.projection_outputs else ""
        return inputs + outputs + ("+random" if self.projection_from == "random" else "")

    @property
    def whose(self) -> Origin:
        """Whose method this is as configured: with an extension it is ours, or our control."""
        if not self.extended:
            return self.origin
        return "control" if self.projection_from == "random" else "ours"

    @property
    def description(self) -> str:
        """One sentence on what is run, with its source."""
        which = {"both": "leading", "random": "random"}.get(
            self.projection_from, f"leading {self.projection_from}"
        )
        sides = [
            f"{k} {which} directions of each linear map's {what}"
            for k, what in (
                (self.projection, "inputs"),
                (self.projection_outputs, "output gradients"),
            )
            if k
        ]
        extra = (
            f", with the {' and the '.join(sides)} taken out of the forget gradient (this project's "
            f"{'control' if self.projection_from == 'random' else 'extension'})"
            if sides
            else ""
        )
        places = [
            place
            for place, weight in (
                ("on other texts and questions", self.texts),
                ("at the answers to forget over all other words", self.others),
            )
            if weight
        ]
        if places:
            extra += f", held to the model before {' and '.join(places)} (this project's extension)"
        return f"{self.summary}{extra}. {self.source}"
