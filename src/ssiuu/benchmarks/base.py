"""What a benchmark is: facts to forget and to keep, the model that knows them, and how both are asked.

    class Letters(Benchmark[LettersConfig]):
        name, summary = "letters", "made-up facts about letters"
        Config, defaults = LettersConfig, {"prompt": "qa"}

        def open(self, basis, given, progress) -> Ground: ...

        def cost(self, basis) -> Cost: ...

One file holds one: its section of the recipe (under its name), its defaults, what it opens, what it
costs. A package adds its own by the entry-point group `ssiuu.benchmarks`, or for one process by
`ssiuu.benchmarks.BENCHMARKS.register`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import Field, field_validator

from ssiuu.attribution.hidden import blocks
from ssiuu.causal import CausalLM
from ssiuu.config import Section
from ssiuu.data.fact import Fact
from ssiuu.errors import DataError, show
from ssiuu.evaluation.first import First
from ssiuu.evaluation.scores.base import Score, chance
from ssiuu.evaluation.scores.ranking import Ranking
from ssiuu.likelihood import Example, Prompt, encode
from ssiuu.models import shards
from ssiuu.models.load import Loaded, load
from ssiuu.models.original import Original
from ssiuu.models.place import Attention, Dtype, Placement
from ssiuu.models.room import Offload
from ssiuu.plugins import SENTENCES, held_to
from ssiuu.records.schema import BenchmarkInfo, FactText, Knowledge, Split

C = TypeVar("C", bound=Section)
Progress = Callable[[str], None]

PLAIN = ("none", "gd", "npo", "ssiuu", "ssiuu+projection")  # each at the recipe's own rate
TOKENS = 18  # of a question with its answer, typical of short facts


class SplitConfig(Section):
    """How many facts are forgotten, retained and held out."""

    forget: int = Field(default=36, ge=4, description="facts to forget")
    retain: int = Field(default=96, ge=0, description="facts to keep, trained on")
    heldout: int = Field(default=64, ge=0, description="facts to keep, never trained on")
    seed: int = Field(default=0, ge=0, description="decides which facts")


class EvaluateConfig(Section):
    """How a model is scored."""

    options: int = Field(default=3, ge=2, le=6, description="options a fact, the answer included")
    utility: bool = Field(
        default=False, description="the paper's five public tasks, by lm-eval and from the hub"
    )
    first: First = Field(
        default="fp32",
        description="what paraphrases and questions beside a fact are ranked in; bf16, tf32: near ties "
        "are read again in fp32, by the error that was measured",
    )

    @property
    def decides(self) -> dict[str, Any]:
        """What decides a score, for keys; of the first reading only what is not as ever."""
        told = self.model_dump(mode="json")
        return {key: value for key, value in told.items() if key != "first" or value != "fp32"}


class Mesh(Section):
    """How several processes share a model (torchrun, accelerate launch); one has it whole."""

    replicate: int = Field(
        default=1, ge=1, description="copies of the model, one a node: pieces travel within a node only"
    )
    shard: int | None = Field(
        default=None, ge=1, description="processes that a copy is cut over; null: all there are for one"
    )
    reading: Literal["auto", "replicas", "shards"] = Field(
        default="auto",
        description="what is asked and looked into: a replica of each process, or the one model in "
        "shards, by all at once; auto: replicas, where they fit",
    )


class Basis(Section):
    """What a recipe says of model, facts and questions: all of it that a benchmark sees."""

    model: str | None = Field(default=None, description="short name, folder or hub name")
    base: str | None = Field(
        default=None, description="model that an adapter belongs to, in place of the one that it states"
    )
    revision: str | None = Field(
        default=None, description="of a hub model: branch, tag or commit; null: its main branch"
    )
    forget: str | None = Field(default=None, description="own: file of facts to forget")
    retain: str | None = Field(default=None, description="own: file of facts to keep, or none")
    columns: dict[str, str] | None = Field(
        default=None,
        description="own: columns of the files, by key: {question: text}; null: known names",
    )
    split: SplitConfig = SplitConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto",
        description="of products while training; auto: bf16 where the device has instructions for it",
    )
    device: str = Field(
        default="auto",
        description="where all of it runs, as torch names it: cpu, cuda, cuda:1; auto: the first "
        "accelerator, else the processor",
    )
    dtype: Dtype = Field(
        default="auto",
        description="of the weights in memory; auto: fp32, in which they are trained and scored; nf4 "
        "(ssiuu ask, and unlearn by adapters): maps in 4 bits, and never in full. Files that are saved "
        "have the type of the checkpoint that came in",
    )
    attention: Attention = Field(default="auto", description="how it is computed; auto: the library's")
    gradient_checkpointing: bool = Field(
        default=False, description="compute activations again in the backward pass: less memory, slower"
    )
    offload: Offload = Field(
        default="auto",
        description="where copies of the weights lie: beside them, in main memory or on the disk, by "
        "what is free (auto), or in one of the latter two",
    )
    mesh: Mesh = Mesh()
    prompt: Literal["plain", "qa", "chat"] | None = Field(
        default=None,
        description="form of the questions; null: the benchmark's, and for facts of your own the "
        "model's chat template, or qa where it has none",
    )
    prompt_form: str | None = Field(
        default=None,
        description="a form of your own in place of prompt, with {question} in it; the answer comes "
        "behind it",
    )
    prompt_system: str | None = Field(
        default=None, description="text of the system's turn in a chat, else a paragraph in front"
    )

    @property
    def placement(self) -> Placement:
        """Where the model is put, and in which type.

        Raises:
            ConfigError: This machine has no such device.
        """
        settings = self.device, self.dtype, self.attention, self.gradient_checkpointing
        return Placement.of(*settings, offload=self.offload)

    def load(self, name: str | None = None, progress: Progress = lambda _: None) -> Loaded:
        """Load the model, or the one of another name, with all that is said here of how.

        Args:
            name: None: the model's.
            progress: Told that it is loaded, and what takes long at that.

        Raises:
            ModelError: It is not one of which anything can be said.
        """
        where = (name or str(self.model), self.base, self.placement, self.revision, progress)
        progress(f"loading {where[0]}")
        if not shards.dividing():
            return load(*where)

        def cut() -> Loaded:
            loaded = load(*where)
            shards.divide(loaded.model, blocks(loaded.model))
            return loaded

        return shards.by_turns(cut)  # whole in main memory in one process at a time

    @field_validator("prompt_form", "prompt_system")
    @classmethod
    def _line_ends(cls, value: str | None) -> str | None:
        """A shell and YAML without double quotes leave "\\n" as it is; nobody asks with it."""
        return None if value is None else value.replace("\\n", "\n")


@dataclass(frozen=True)
class Given:
    """What the recipe cannot name: facts and a model in memory, with what is to be said of them.

    `split`: the choice of facts that the run's folder holds already. `after`: the checkpoint that is
    judged, whose record may say in which form it is asked.
    """

    forget: Sequence[Fact] | None = None
    retain: Sequence[Fact] | None = None
    loaded: Loaded | None = None
    notes: tuple[str, ...] = ()
    split: Split | None = None
    after: Path | None = None


@dataclass(frozen=True)
class Cost:
    """What a benchmark costs, tokens read forward: `start` before the first step, `score` a model.

    `forget`: facts to forget, of `tokens` with their answers. `twin`: whether there is a never-learned
    model. `parameters`: of the model, where it is made here; `model`: its name else.
    """

    forget: int
    tokens: float
    start: float
    score: float
    twin: bool = False
    parameters: int | None = None
    model: str | None = None

    @classmethod
    def of(cls, forget: int, beside: int, basis: Basis, **more: Any) -> Cost:
        """Return the cost of short facts, asked before the first step, and of those `beside` them."""
        start = 4.0 * TOKENS * (forget + beside)
        score = TOKENS * (4 * forget + 1.5 * beside)
        return cls(forget, TOKENS, start, score, **{"model": basis.model, **more})


@dataclass(kw_only=True)
class Ground:
    """What a benchmark opens: a model, its facts, how they are asked and scored.

    Attributes:
        loaded: Model and tokenizer.
        original: The model's weights as they are now.
        prompt: How questions become tokens.
        split: Facts to forget, to keep, and held out.
        benchmark: Name, version and fingerprint of the facts, for the record and all keys.
        score: How models are scored on them.
        never_learned: Folder of the control: the model without the facts to forget.
        corpus: Texts that unlearning trains on in place of the facts to forget, which are only asked
            then; None: it trains on the facts. Those to keep are facts of `split` that are not scored.
        members: Texts of what is to be forgotten, which membership inference looks for; None: the
            facts to forget.
        non_members: Facts that no model here was trained on; None: the held-out facts are.
        lacking: Why there are none.
        ends: Whether the rows that are trained on have an end token.
        unscreened: Whether nobody has seen to it that the model knows the facts. It is asked first, and
            at the end must not answer them freely either.
        notes: What a reader of the record must know.
        knowledge: What the model knew, by set and fact id, where it was asked first.
    """

    loaded: Loaded
    original: Original
    prompt: Prompt
    split: Split
    benchmark: BenchmarkInfo
    score: Score = field(default_factory=Ranking)
    never_learned: Path | None = None
    corpus: list[FactText] | None = None
    members: list[FactText] | None = None
    non_members: list[FactText] | None = None
    lacking: str = ""
    ends: bool = False
    unscreened: bool = False
    notes: list[str] = field(default_factory=list)
    knowledge: dict[str, dict[str, Knowledge]] = field(default_factory=dict)

    @property
    def model(self) -> CausalLM:
        """The model; its weights change from stage to stage."""
        return self.loaded.model

    @property
    def pad(self) -> int:
        """Any token id; padding is masked."""
        return int(self.loaded.tokenizer.pad_token_id or 0)

    @property
    def context(self) -> int:
        """Longest sequence of the model, tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 1 << 20)

    @property
    def chance(self) -> float | None:
        """Accuracy of guessing among a fact's options; None where nothing is ranked."""
        return chance(self.split.forget)

    def rows(self, facts: Sequence[FactText]) -> list[Example]:
        """Tokenise base questions and answers as they are trained on."""
        return self.examples(facts, self.ends)

    def examples(self, facts: Sequence[FactText], end: bool = False) -> list[Example]:
        """Tokenise base questions and answers; all that do not fit are reported together."""
        return tokenised(self.prompt, facts, self.context, end)


def tokenised(
    prompt: Prompt, facts: Sequence[FactText], context: int, end: bool = False
) -> list[Example]:
    """Tokenise base questions and answers.

    Raises:
        DataError: With every fact that does not fit the model.
    """
    problems: list[str] = []
    examples = []
    for fact in facts:
        try:
            examples.append(encode(prompt, fact.id, fact.question, fact.answer, context, end))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return examples


def check_lengths(prompt: Prompt, facts: Iterable[FactText], context: int) -> None:
    """Refuse paraphrases, options and probes that the model has no room for, or no tokens.

    Raises:
        DataError: With the first of every fact that has some.
    """
    problems: list[str] = []
    for fact in facts:
        for what, question, answer in _asked(fact):
            joint = prompt.joint(question, [answer])
            length = len(joint.prompt) + len(joint.answers[0])
            if not joint.answers[0]:
                problems.append(
                    f"{fact.id}: {what} cannot be scored: {show(answer)} has no tokens for this "
                    "tokenizer. Leave it out."
                )
                break
            if length > context:
                problems.append(
                    f"{fact.id}: {what} has {length} tokens with its question or answer, and the "
                    f"model's context holds {context}. Shorten it or leave it out."
                )
                break
    if problems:
        raise DataError(problems)


def _asked(fact: FactText) -> Iterator[tuple[str, str, str]]:
    """Yield all that a fact is asked beside its question and answer: what it is, and both."""
    for text in (*fact.options[1:], *fact.perturbed):
        yield f"the option {show(text)}", fact.question, text
    longest = max(fact.options, key=len, default=fact.answer)
    for text in fact.paraphrases:
        yield f"the paraphrase {show(text)}", text, longest
    for probe in (*fact.multi_hop, *fact.same_answer):
        for text in probe.options or [probe.answer]:
            yield f"the probe {show(probe.question)}", probe.question, text


class Benchmark(ABC, Generic[C]):
    """A benchmark as a recipe sets it.

    Attributes:
        name: In a recipe, and the name of its section there.
        summary: What it is, in one line.
        Config: Its section; one without fields has none.
        defaults: What it decides where the recipe says nothing, by dotted key.
        sized: Whether its sets have exactly the sizes that `split` asks for.
        sizes: Which sizes of `split` it takes at all; any other would have no effect.
        before: The key that names the model before unlearning, where a pair of checkpoints can be
            judged on it.
        yours: Whether its facts are those of whoever asks, named in the recipe or given in memory.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Config: ClassVar[type[Section]] = Section
    defaults: ClassVar[dict[str, Any]] = {}
    sized: ClassVar[bool] = False
    sizes: ClassVar[frozenset[str]] = frozenset({"forget", "retain", "heldout"})
    before: ClassVar[str | None] = None
    yours: ClassVar[bool] = False

    def __init__(self, config: C) -> None:
        self.config = config

    def __init_subclass__(cls, **more: Any) -> None:
        """Hold `problems` to what it should return."""
        super().__init_subclass__(**more)
        held_to(cls, {"problems": SENTENCES})

    def problems(self, basis: Basis) -> list[str]:
        """Return what is wrong with its settings, a sentence each."""
        return []

    def look(self, basis: Basis) -> None:
        """Look at what its settings name beside its model and its data, which may take a while.

        Raises:
            InputError: It cannot be used.
        """
        return

    def entities(self) -> tuple[str, int] | None:
        """Return how many entities are forgotten, with the key that says so; None: not known before."""
        return None

    def outline(self, basis: Basis) -> CausalLM | None:
        """Return the architecture of a model that `open` trains first, its parameters without values.

        What does not fit it is refused before. None: nothing is trained, or it is not known.
        """
        return None

    @abstractmethod
    def open(self, basis: Basis, given: Given, progress: Progress) -> Ground:
        """Read the facts and load the model.

        Args:
            basis: What the recipe says of model, facts and questions.
            given: What the caller holds in memory of what the recipe would name.
            progress: Told what is going on.

        Raises:
            InputError: Model or data cannot be used.
        """

    @abstractmethod
    def cost(self, basis: Basis) -> Cost:
        """Return what it costs, from its files where they are there."""
