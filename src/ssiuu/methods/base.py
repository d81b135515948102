"""What a method is made of: an objective, retain terms and transforms, each with its own settings.

An `Objective` is a forget loss per example. A `RetainTerm` is another loss per example, beside it. A
`Transform` changes the gradient of the forget loss, or what is done with it. An `Edit` takes the place
of an objective where there is no gradient step. All are frozen; what one of them remembers while a run
lasts is in its `Bound`. The loop (ssiuu.training) knows these five and none of their names.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import ConfigDict
from torch import Tensor

from ssiuu.attribution.neuron import batches
from ssiuu.causal import CausalLM
from ssiuu.config import Exact
from ssiuu.likelihood import AnswerLogprobs, Batch, Example
from ssiuu.models.lora import Adapter
from ssiuu.records.schema import Target

Origin = Literal["paper", "literature", "ours", "control", "given"]
Need = Literal["logprob", "distribution", "refusal", "instead", "hidden"]
Normaliser = Literal["tokens", "examples", "positions", "later"]
Through = Literal["constant", "answer", "other"]
Rows = Literal["forget", "retain", "texts"]
Optimiser = Literal["adamw", "adamw8bit", "sgd", "momentum", "sign", "normsgd", "adafactor"]


class Alternates(NamedTuple):
    """Other answers that are made before the first step: how many of `each` fact, and how.

    "lineup": those of a fact's lineup. "model": what the model writes when told to make one up.
    """

    each: int
    made: Literal["lineup", "model"]


@dataclass(frozen=True)
class View:
    """What a loss is computed from: one micro-batch under the model in training.

    Log-probabilities are nats. A field that the loss does not ask for is None; `reference...` is what
    the model before the first step said of the same rows. `instead`: the refusal's tokens, laid over
    the answer's again and again. `outputs`: of the modules that the loss `taps`. `prepared`: what the
    loss has prepared, by rows if it likes: `ids` says which these are. `reference_length`: the mean
    length of `reference_hidden` over all rows of the run.
    """

    logprobs: AnswerLogprobs
    targets: Int[Tensor, "B A"] | None = None
    logits: Float[Tensor, "B A V"] | None = None
    refusal: AnswerLogprobs | None = None
    instead: Int[Tensor, "B A"] | None = None
    hidden: Float[Tensor, "B T d"] | None = None
    hidden_mask: Bool[Tensor, "B T"] | None = None
    outputs: Float[Tensor, "B T L d"] | None = None
    ids: tuple[str, ...] = ()
    prepared: Any = None
    reference: Float[Tensor, " B"] | None = None
    reference_refusal: Float[Tensor, " B"] | None = None
    reference_logits: Float[Tensor, "B A V"] | None = None
    reference_hidden: Float[Tensor, "B T d"] | None = None
    reference_length: float | None = None


@dataclass(frozen=True)
class Ask:
    """The model before it changes, and the rows of a run, for what a part needs to know of them.

    `shared`: what directions are read off; the retain rows unless others were given.
    """

    model: CausalLM
    label: str
    pad: int
    rows: Mapping[Rows, Sequence[Example]]
    shared: Sequence[Example]
    progress: Callable[[str], None] = lambda _: None

    def batches(self, examples: Sequence[Example]) -> list[Batch]:
        """Return rows as batches of similar lengths, on the model's device."""
        return list(batches(self.model, examples, self.pad))


@dataclass
class Training:
    """What is trained: the model, its parameters by name, and how; `optimizer` takes the forget step.

    `effective`: adapters whose W + s B A is taken for the features, by the weight's name; else empty.
    """

    model: CausalLM
    named: dict[str, Tensor]
    effective: dict[str, Adapter] = field(default_factory=dict)
    weight_decay: float = 0.0
    optimizer: torch.optim.Optimizer | None = None


class Slope(NamedTuple):
    """One parameter's forget gradient, and the second gradient that was asked for, times 1/scale.

    `second` may be `forget` itself; it is None where no part of the method asks for one.
    """

    name: str
    parameter: Tensor
    forget: Tensor
    second: Tensor | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Losses:
    """The losses of one step, means as their normalisers say; None where there was none."""

    forget: float
    retain: float | None
    texts: float | None


class RetainStep(NamedTuple):
    """How the rows to keep take a step of their own: None is as the forget step is taken."""

    optimiser: Optimiser | None = None
    learning_rate: float | None = None


class Bound:
    """What a part does while one run lasts, and what it remembers from step to step.

    Nothing is done here; a part overrides what it needs. In the order of a step: `begin`, `retained`,
    `elsewhere`, `surround`, `survey`, `direction`, `curved`, `shape` (or `reshape`), `weigh`, `finish`,
    `correct`, `after`.

    Attributes:
        wants: The second gradient that `shape` looks at, summed over the forget batch.
        shapes: Whether `shape` does something.
        surveys: Whether all forget gradients must be there before the first is shaped.
        retain_first: Whether the retain gradient comes first and is shown (`retained`).
        perturbs: Whether the forget gradient is taken `elsewhere`.
        displaces: Whether the retain gradient is, after the forget gradient; beside `retain_first`.
        starts: The gradient over the whole forget set that `start` is shown before the first step.
        maps: Modules whose weight's second gradient is wanted in place of the parameters'.
        curves: Whether the second gradient's derivative along a direction is wanted (`direction`).
        corrects: Whether what the optimiser has made of the forget gradient is corrected (`correct`).
        retain_step: Where it is given, the forget gradient takes a step first, and the retain term and
            all other terms one of their own from where it led, with an optimiser of their own.
        surrounds: Whether something stands around the passes of the forget rows (`surround`).
        ends: Why the run has to end after this step, in a sentence; "": it need not.
    """

    wants: Target | None = None
    shapes: bool = False
    surveys: bool = False
    retain_first: bool = False
    perturbs: bool = False
    displaces: bool = False
    starts: Target | None = None
    maps: Mapping[str, torch.nn.Module] = {}
    curves: bool = False
    corrects: bool = False
    retain_step: RetainStep | None = None
    surrounds: bool = False
    ends: str = ""

    @property
    def alone(self) -> bool:
        """Whether forget and retain rows must have passes of their own."""
        apart = self.retain_step is not None or self.surrounds
        return self.surveys or self.retain_first or self.perturbs or bool(self.maps) or apart

    def attach(self, training: Training) -> None:
        """Be told what is trained, once, before the first step.

        Raises:
            ConfigError: It cannot be done there.
        """

    def start(self, name: str, parameter: Tensor, gradient: Tensor, share: float) -> None:
        """Be shown a gradient over the whole forget set; times `share` it is of a batch's size."""

    def begin(self) -> None:
        """Begin a step."""

    def retained(self, name: str, gradient: Tensor) -> None:
        """Be shown one parameter's retain gradient, before the forget gradient is taken."""

    def elsewhere(self, named: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Move the parameters to where a gradient is to be taken, and back on leaving.

        `.grad` holds the forget gradient here.
        """
        raise NotImplementedError

    def surround(self, batches: Sequence[Batch]) -> AbstractContextManager[None]:
        """Stand around the passes of a step's forget rows whose gradient is shaped."""
        raise NotImplementedError

    def survey(self, slopes: Iterable[Slope]) -> None:
        """Be shown every forget gradient before the first is shaped."""

    def direction(self) -> Mapping[str, Tensor]:
        """Return along which direction curvature is wanted, by parameter; none: not in this step."""
        return {}

    def curved(self, products: Mapping[str, Tensor]) -> None:
        """Be shown the derivative of the second gradient along `direction`."""

    def shape(self, slope: Slope) -> None:
        """Change one parameter's forget gradient in place."""

    def reshape(self, second: dict[str, Tensor]) -> None:
        """Change the forget gradients in `.grad`, given the second gradients of `maps`."""

    def weigh(self, weight: float) -> float:
        """Return the weight of the retain term in this step."""
        return weight

    def finish(self, named: Mapping[str, Tensor]) -> None:
        """Change the gradients in `.grad` once all are there."""

    def correct(self, moves: Mapping[str, Tensor]) -> Iterable[str]:
        """Change, in place, how an optimiser's step has moved the parameters.

        That is the step of the forget gradient, where the rows to keep have one of their own; else of
        all terms together.

        Returns:
            The names of those that were changed; the others stay, to the bit.
        """
        return ()

    def after(self, losses: Losses, learning_rate: float) -> None:
        """Act after the optimiser's step."""

    def told(self) -> dict[str, float]:
        """Return what the log is to say of this step."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return what must be saved for the run to go on."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up a saved state."""

    def owner(self, key: str) -> str:
        """Return the name of the parameter of whose piece a tensor of the state is; "": of none."""
        return ""


class Part(Exact):
    """Base of all that a method is made of; the fields are hyper-parameters and their help.

    `brought_by` names the keys that add the part to a method unnamed. `order` sorts the parts: where
    they stand in a name and in which order they act. `reads`: the rows it wants beside those to forget
    and to keep: plain texts that touch no fact.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    name: ClassVar[str]
    origin: ClassVar[Origin]
    source: ClassVar[str]
    summary: ClassVar[str]
    brought_by: ClassVar[frozenset[str]] = frozenset()
    order: ClassVar[int] = 50
    reads: ClassVar[frozenset[Rows]] = frozenset()

    @classmethod
    def written(cls) -> dict[str, str]:
        """Return the field of every key of this part, as it is written."""
        return {field.alias or name: name for name, field in cls.model_fields.items()}

    @property
    def options(self) -> dict[str, Any]:
        """The hyper-parameters, as they are written."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def off(self) -> bool:
        """Whether the settings leave nothing to do."""
        return False

    @property
    def whose(self) -> Origin:
        """Whose it is, as configured."""
        return self.origin

    @property
    def cost(self) -> float:
        """How long a step takes over one without this part, roughly."""
        return 1.0

    def fits(self, among: Parts) -> None:
        """Refuse what does not go together.

        Raises:
            ValueError: It does not.
        """

    def check(self, model: CausalLM) -> None:
        """Refuse a model that it does not fit, before any work.

        Raises:
            ConfigError: A layer, parameters or neurons are not there.
        """

    @property
    def alone(self) -> str:
        """Why it works in a single process only, in words behind its name; "" where it does not."""
        return ""

    @property
    def undivided(self) -> str:
        """Why a model that stays in shards does not do, in words behind its name; "" where it does."""
        return ""

    def first_step(self, rows: int, size: int) -> int:
        """Return the first step that changes a weight, of a run on so many rows, `size` a step.

        Those before it only collect.
        """
        return 1

    def prepare(self, ask: Ask) -> Any:
        """Ask the model before the first step for all that `bind` needs.

        Raises:
            ConfigError: Something that is needed is missing.
        """
        return None

    def bind(self, prepared: Any) -> Bound:
        """Return what this part does in one run, given what `prepare` returned (None: nothing)."""
        return Bound()

    def stages(self, planned: Sequence[Stage], seed: int) -> list[Stage]:
        """Return the stages of a run in place of those that were planned.

        Raises:
            ConfigError: They cannot be made of these rows or steps.
        """
        return list(planned)

    def untouched(self, model: CausalLM, prepared: Any) -> str:
        """Return what must be said of weights that it leaves as they are."""
        return ""


class Loss(Part):
    """A part that is a loss per example.

    `normaliser` says what a batch's losses are divided by: "tokens" (its answer tokens, the field's
    token-mean cross-entropy), "examples", "positions" (all tokens it is fed) or "later" (all of these
    but the first of each row). `needs` says what the
    model before is asked of these rows. `in_nats`: whether a value beyond any likelihood is runaway.
    """

    normaliser: ClassVar[Normaliser] = "tokens"
    needs: ClassVar[frozenset[Need]] = frozenset()
    in_nats: ClassVar[bool] = True

    @property
    def bounded(self) -> bool:
        """Whether the mean is nats a token, of which nobody needs a thousand."""
        return self.in_nats and self.normaliser == "tokens"

    def taps(self, model: CausalLM) -> tuple[str, ...]:
        """Return the modules whose outputs the loss looks at, beside the block that it looks at."""
        return ()


class Objective(Loss):
    """A forget loss: one file, one equation.

    `through` says how the loss depends on the answer: "constant" (a constant times log P of every
    answer), "answer" (a function of each answer's log P) or "other"; the first two let a second
    gradient be read from the same backward pass. `retains`: whether a retain term can stand beside it.
    """

    through: ClassVar[Through] = "other"
    retains: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    has_gradient: ClassVar[bool] = True
    optimiser: ClassVar[Optimiser | None] = None  # what takes its steps where nothing is said
    rate: ClassVar[float | None] = None  # and the rate of that

    @abstractmethod
    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """Return the loss of each forget example, before normalising."""

    @classmethod
    def retain_default(cls, asked: str | None) -> tuple[str, float]:
        """Return the retain term and its weight, where the weight is not given."""
        return asked or "nll", 1.0

    @property
    def looks(self) -> int | None:
        """The block whose hidden states the loss looks at; None: the answers."""
        return None

    def updates(self, names: Sequence[str]) -> set[str]:
        """Return which of these weights are trained.

        Raises:
            ConfigError: None of them.
        """
        return set(names)

    def trained(self, names: Sequence[str], model: CausalLM) -> set[str]:
        """Return the same where it takes the model to tell."""
        return self.updates(names)

    @property
    def replaces(self) -> bool:
        """Whether something else is to stand in the answer's place."""
        return bool(self.needs & {"refusal", "instead"})

    @property
    def alternates(self) -> Alternates | None:
        """The other answers that stand in the answer's place; None: what `refusal` returns does."""
        return None

    def refusal(self, id: str) -> str:
        """Return what is preferred to the answer of one fact, where refusals are needed."""
        raise NotImplementedError


def behind_epochs(epochs: int, rows: int, size: int) -> int:
    """Return the step behind so many epochs, of which a step ends one at most."""
    return max(epochs, -(-epochs * rows // size)) + 1


class Work(NamedTuple):
    """What an edit works with.

    `tune`: fine-tunes the model for so many steps on some rows. `texts`: plain texts, for an edit that
    `reads` them. `once`: rows in steps of the run's size, each as micro-batches, every row once in an
    order of the run's seed. `casting`: the context of a forward pass. `check`: ends the run here if it
    was interrupted; for loops between which nothing is yielded.
    """

    forget: Sequence[Example]
    retain: Sequence[Example]
    pad: int
    tune: Callable[[Sequence[Example], int], None]
    texts: Sequence[Example] = ()
    once: Callable[[Sequence[Example]], list[list[Batch]]] = lambda rows: []
    casting: Callable[[Batch], AbstractContextManager[object]] = lambda batch: nullcontext()
    check: Callable[[], None] = lambda: None
    seed: int = 0


class Spent(str):
    """What an edit says where it ends because a budget of its own is spent."""


class Edit(Objective):
    """A change of the weights that is no descent on a loss; it stands where an objective stands.

    `adapts`: whether adapters can be trained in the place of the weights.
    """

    has_gradient: ClassVar[bool] = False
    retains: ClassVar[bool] = False
    adapts: ClassVar[bool] = True

    @classmethod
    def retain_default(cls, asked: str | None) -> tuple[str, float]:
        """It has no retain term."""
        return "none", 0.0

    def forget_loss(self, view: View) -> Float[Tensor, " B"]:
        """It has none."""
        raise NotImplementedError

    def edit(self, model: CausalLM, work: Work) -> Iterator[str]:
        """Change the weights in place; after every yield the stop score is read, and may end it.

        Yields:
            What has been done to the original, in words: "The difference was subtracted 0.5 times."; as
            `Spent`, where a budget ends it.
        """
        raise NotImplementedError


class RetainTerm(Loss):
    """A loss beside the forget loss.

    `rows` says of which rows. `joins`: whether it can be read off the pass of the forget rows; only a
    term of the retain rows can be. One term of the retain rows stands beside an objective (`retain`),
    others are added by name; `number` is the key of a number in parentheses behind that name.
    """

    rows: ClassVar[Rows] = "retain"
    number: ClassVar[str | None] = None
    joins: ClassVar[bool] = False
    place: ClassVar[str] = ""  # where it holds the model, for descriptions
    suffix: ClassVar[bool] = True  # whether it may stand behind a plus

    @property
    def weight(self) -> float:
        """What the loss is multiplied by; for a term of `retain` it is the method's retain_weight."""
        return 1.0

    @abstractmethod
    def loss(self, view: View) -> Float[Tensor, " B"]:
        """Return the loss of each example, before normalising."""

    def looks(self, objective: Objective | None) -> int | None:
        """Return the block whose hidden states the loss looks at; None: the answers."""
        return None


class Transform(Part):
    """Something done to the forget gradient, around it, or to the whole step.

    `suffixes` are the words that stand for it in a name after a plus, with the keys each sets; `knobs`
    are the words that may stand in parentheses behind it, and `number` is the key of a number there.
    `published_on`: the objectives for which its source has it; elsewhere the combination is ours.
    """

    suffixes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    knobs: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    number: ClassVar[str | None] = None
    published_on: ClassVar[frozenset[str]] = frozenset()
    silent: ClassVar[bool] = False  # a key that is no part of the name

    @property
    def heads(self) -> bool:
        """Whether a method with it is of Ssiuu's family, and called so."""
        return False

    @property
    def said(self) -> list[str]:
        """The words that name it as configured, in their order."""
        return [] if self.silent else [self.name]

    @property
    def phrase(self) -> str:
        """What it adds to a description, after a comma."""
        return self.summary


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a method is put together from. `retain` is the term of the retain rows, if there is one."""

    objective: Objective
    retain: RetainTerm | None = None
    retain_weight: float = 0.0
    others: tuple[RetainTerm, ...] = ()
    transforms: tuple[Transform, ...] = ()

    @property
    def all(self) -> list[Part]:
        """Every part."""
        terms = [] if self.retain is None else [self.retain]
        return [self.objective, *terms, *self.others, *self.transforms]


@dataclass(frozen=True)
class Stage:
    """A part of a run: steps of a method on rows of its own.

    It begins with the weights that the stage before has left, and what the method asks of the model
    before is asked of those.

    Attributes:
        method: What is optimised.
        forget: Rows to forget.
        retain: Rows to keep.
        texts: Texts to stay as they are on.
        steps: At most.
        word: What it is called in the log.
        stops: Whether the forget score is read in it, and may end it.
        begin: Done to the weights once the model before was asked.
        within: It ends once the mean loss on `retain` exceeds that of the model before by no more than
            this share; None: it does not.
        rate: A constant learning rate of its own.
    """

    method: Parts
    forget: Sequence[Example]
    retain: Sequence[Example]
    texts: Sequence[Example]
    steps: int
    word: str = ""
    stops: bool = True
    begin: Callable[[CausalLM], None] | None = None
    within: float | None = None
    rate: float | None = None
