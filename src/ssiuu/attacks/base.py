"""What an attack is: curves over one axis, each a way to get the facts back out of a model.

    class Noise(Attack[NoiseConfig]):
        name, summary = "noise", "add noise to every weight"
        Config, axis = NoiseConfig, Axis("sigma", "noise, share of each weight's spread")

        def curves(self) -> list[Curve]:
            return self.once(self.config.sigmas)

        def reads(self, victim, curve, start) -> Iterator[AttackRead]: ...

One file holds one: its settings (under `attacks.` in a recipe), its axis, what it does and costs. A
package adds its own by the entry-point group `ssiuu.attacks`, or for one process by
`ssiuu.attacks.ATTACKS.register`. Nothing else has to know of it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, Field

from ssiuu.benchmarks.base import Ground, Progress
from ssiuu.causal import CausalLM
from ssiuu.config import Section
from ssiuu.errors import ConfigError
from ssiuu.likelihood import Prompt
from ssiuu.models.files import Source
from ssiuu.plugins import SENTENCES, held_to
from ssiuu.records import schema
from ssiuu.records.schema import AttackRead, Evaluation, FactText, Reading, Scored, Space

C = TypeVar("C", bound=BaseModel)
MOST = 1_000_000  # steps, samples or examples that an attack may be asked for
READINGS = 8  # what an attack costs that does not say how often it reads


class Axis(NamedTuple):
    """What the places of an attack's curves are.

    `name` stands in the record, `label` below a figure. `scored`: what a reading is by; see the record
    (`ssiuu.records.schema.AttackCurve`).
    """

    name: str
    label: str
    scored: Scored = "written"


@dataclass(frozen=True)
class Curve:
    """One attack curve: which attack, and the attacker's settings.

    `kind`: the attack's name. `fraction`: the share of the forget facts that it trains on. `points`:
    where it is read, on the attack's axis; none where the attack decides that.
    """

    name: str
    kind: str
    learning_rate: float | None = None
    fraction: float | None = None
    space: Space = "full"
    seed: int = 0
    points: tuple[int | float | str, ...] = ()

    @property
    def file(self) -> str:
        """Name of the record in the cell's folder."""
        rate = f"-{self.learning_rate:g}" if self.learning_rate is not None else ""
        space = f"-{self.space}" if self.space != "full" else ""
        seed = f"-s{self.seed}" if self.seed else ""
        return f"attack-{self.name}{rate}{space}{seed}.json"

    @property
    def steps(self) -> int:
        """Optimiser steps; 0 where nothing is trained."""
        return int(self.points[-1]) if self.learning_rate is not None else 0


class AttackConfig(Section):
    """What attacks share; each has its own settings beside it, under its key."""

    spaces: list[Space] = Field(default=["full"], description="what is trained")
    reads: list[int] = Field(default=[3, 6], description="steps at which the pool is read")
    batch_size: int = Field(default=4, ge=1, description="rows a step")
    seed: int = Field(default=0, ge=0, description="which facts the attacker holds, and their order")
    seeds: list[int] = Field(
        default=[], description="a curve for each, in an order of its own; none: seed"
    )
    control: bool = Field(default=False, description="attack the original model too")

    @property
    def orders(self) -> list[int]:
        """Seeds of the curves."""
        return self.seeds or [self.seed]

    def of(self, kind: type[Attack[C]]) -> C:
        """Return the settings of one attack."""
        section: C = getattr(self, kind.setting())
        return section

    def problems(self) -> list[str]:
        """Return what is wrong with the values, a sentence each."""
        problems = ascending("reads", self.reads, "steps")
        if not self.reads:
            problems.append("attacks.reads: must be ascending steps from 1 on, got [].")
        if len(set(self.seeds)) < len(self.seeds) or min(self.orders) < 0:
            problems.append(f"attacks.seeds: must be different and at least 0, got {self.seeds}.")
        problems += different("spaces", self.spaces)
        if not self.spaces:
            problems.append("attacks.spaces: must hold at least one of full, lora-qv, lora-all.")
        return problems


@dataclass(frozen=True)
class Victim:
    """The model under attack, with what the attacker holds and what is scored.

    `ground`: model, facts, and how they are asked and scored. `precision`: of forward passes in
    training. `held`: the forget facts of the largest fraction, in order; a smaller one is the first of
    them. `pool`: the facts that are scored; none shares an entity with one that is held. `put`: reads
    another checkpoint's weights into the model; with a tokenizer, holds the two against each other
    first. `source`: what such a checkpoint held when it was first read.
    """

    ground: Ground
    precision: Literal["bf16", "fp32"]
    held: list[FactText]
    pool: list[FactText]
    put: Callable[[Path, Any], list[str]]
    source: Callable[[Path], Source]

    @property
    def model(self) -> CausalLM:
        """The model; its weights may be changed, and are put back by whoever attacks."""
        return self.ground.model

    @property
    def prompt(self) -> Prompt:
        """How questions become tokens."""
        return self.ground.prompt

    def read(self) -> dict[str, Reading]:
        """Read the pool as the model is now, by fact id."""
        return self.ground.score.read(self.model, self.prompt, self.pool)

    def before(self, scores: Evaluation, facts: Sequence[FactText]) -> dict[str, Reading]:
        """Return the readings of the model before the attack, by fact id."""
        return {fact.id: self.ground.score.reading(fact, scores.forget[fact.id]) for fact in facts}


class Attack(ABC, Generic[C]):
    """An attack as a recipe sets it.

    Attributes:
        name: In `ssiuu list attacks`, and in records.
        summary: What is done, in one line.
        Config: Its settings: a section, or one value (pydantic's RootModel).
        axis: What its places are.
        key: Where its settings stand, under `attacks.`; the name where none is given.
        strong: What `protocol: strong` sets where the recipe says nothing: as Config reads it.
        control: Whether the original is attacked too, whatever `attacks.control` says.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Config: ClassVar[type[BaseModel]]
    axis: ClassVar[Axis]
    key: ClassVar[str] = ""
    strong: ClassVar[Any] = None
    control: ClassVar[bool] = False

    def __init__(self, config: C, shared: AttackConfig) -> None:
        self.config, self.shared = config, shared

    def __init_subclass__(cls, **more: Any) -> None:
        """Refuse what would fail only when it has run: an attack that does nothing, or an axis that no
        record could hold; hold methods to what they should return.
        """
        super().__init_subclass__(**more)
        held_to(cls, dict.fromkeys(("problems", "too_few", "fits"), SENTENCES))
        held_to(cls, {"curves": (Curve, "curves")})
        if cls.reads is Attack.reads and cls.carry_out is Attack.carry_out:
            raise TypeError(f"{cls.__name__} does nothing: define reads() or carry_out().")
        axis = getattr(cls, "axis", None)
        known = get_args(Scored)
        if axis is not None and axis.scored not in known:
            problem = f"scored is {axis.scored!r}, not one of {', '.join(known)}"
            raise TypeError(f"{cls.__name__}.axis: {problem}")

    @classmethod
    def setting(cls) -> str:
        """Return where its settings stand, under `attacks.`."""
        return cls.key or cls.name

    @classmethod
    def off(cls) -> dict[str, Any]:
        """Return what leaves it out, by dotted key: its first list or switch, emptied."""
        for name, field in cls.Config.model_fields.items():
            value = field.get_default(call_default_factory=True)
            whole = f"attacks.{cls.setting()}"
            if isinstance(value, list | bool):
                return {whole if name == "root" else f"{whole}.{name}": type(value)()}
            if name == "root" and value is None:
                return {whole: None}
        return {}

    def problems(self) -> list[str]:
        """Return what is wrong with its settings, a sentence each."""
        return []

    def too_few(self, forget: int, retain: int) -> list[str]:
        """Return what it cannot do with so many facts to forget and to keep, a sentence each."""
        return []

    def holds(self) -> list[float]:
        """Return the shares of the forget facts that the attacker holds."""
        return []

    @abstractmethod
    def curves(self) -> list[Curve]:
        """Return every curve that is asked for; none: the attack is off."""

    def once(self, points: Sequence[int | float | str] = (), wanted: bool | None = None) -> list[Curve]:
        """Return one curve under the first seed, if it is wanted.

        Args:
            points: Where it is read; none where the attack decides that.
            wanted: None: where there are points.
        """
        seed = self.shared.orders[0]
        runs = bool(points) if wanted is None else wanted
        return [Curve(self.name, self.name, seed=seed, points=tuple(points))] if runs else []

    def fits(self, victim: Victim) -> list[str]:
        """Refuse what can be seen to fail before anything is run; return what a reader must know.

        Raises:
            ConfigError: The attack cannot be carried out on this model with these facts.
            DataError: What it uses cannot be read.
        """
        return []

    def uses(self, victim: Victim, curve: Curve) -> list[Any]:
        """Return what decides a curve beside its settings and the pool, as JSON: a part of its key."""
        return []

    def reads(self, victim: Victim, curve: Curve, start: Mapping[str, Reading]) -> Iterable[AttackRead]:
        """Change the model or the question, and read the pool at every place."""
        raise NotImplementedError

    def start(self, victim: Victim, scores: Evaluation) -> dict[str, Reading]:
        """Return the readings at place 0, from the scores of the model before the attack."""
        return victim.before(scores, victim.pool)

    def carry_out(
        self,
        victim: Victim,
        curve: Curve,
        scores: Evaluation,
        progress: Progress,
        state: Path | None = None,
    ) -> schema.AttackCurve:
        """Attack the model as it is.

        Args:
            victim: The model with its facts; its weights may be changed.
            curve: Which curve.
            scores: Of the model before the attack.
            progress: Told at every reading.
            state: Where to keep the state of an unfinished curve.
        """
        progress(curve.name)
        begin = time.perf_counter()
        start = self.start(victim, scores)
        reads = list(self.reads(victim, curve, start))
        if not reads or not all(isinstance(read, AttackRead) for read in reads):
            kinds = ", ".join(sorted({type(read).__name__ for read in reads})) or "nothing"
            raise ConfigError(
                f"attack {self.name!r}: reads() of {type(self).__qualname__} must yield an AttackRead "
                f"at every place of the curve, got {kinds}."
            )
        # A fact without options has nothing to be first among: its rank is left open.
        if self.axis.scored == "ranking":
            alone = {fact.id for fact in victim.pool if not fact.options}
            start = _unranked(start, alone)
            reads = [r.model_copy(update={"facts": _unranked(r.facts, alone)}) for r in reads]
        return self.record(curve, start, reads, begin)

    def record(
        self,
        curve: Curve,
        start: dict[str, Reading],
        reads: Iterable[AttackRead],
        begin: float,
        **more: Any,
    ) -> schema.AttackCurve:
        """Return the record of a curve that trains nothing; `begin` is when it began, seconds."""
        return schema.AttackCurve(
            name=curve.name,
            kind=self.name,
            learning_rate=None,
            seed=curve.seed,
            axis=self.axis.name,
            axis_label=self.axis.label,
            scored=self.axis.scored,
            trained=[],
            pool=list(start),
            reads=[AttackRead(step=0, facts=start), *reads],
            seconds=round(time.perf_counter() - begin, 2),
            **more,
        )

    def tokens(self, curve: Curve, fact: float, pool: float) -> float:
        """Return what a curve costs, tokens read forward.

        Args:
            curve: Which curve.
            fact: Tokens of a question with its answer.
            pool: How many facts are scored.
        """
        return fact * pool * (len(curve.points) or READINGS)


def _unranked(facts: Mapping[str, Reading], alone: Collection[str]) -> dict[str, Reading]:
    """Return readings with the rank of facts left open that have nothing to be ranked among."""
    return {
        i: reading.model_copy(update={"correct": None}) if i in alone else reading
        for i, reading in facts.items()
    }


def ascending(key: str, values: Sequence[int], what: str = "numbers") -> list[str]:
    """Return the problem of a setting that must ascend from 1 to `MOST`, if it does not."""
    ordered = sorted(set(values)) == list(values)
    if not values or (ordered and values[0] >= 1 and values[-1] <= MOST):
        return []
    return [f"attacks.{key}: must be ascending {what} from 1 to {MOST:,}, got {list(values)}."]


def different(key: str, values: Sequence[Any]) -> list[str]:
    """Return the problem of a setting in which a value stands twice, if one does."""
    if len(set(values)) == len(values):
        return []
    return [f"attacks.{key}: each may stand once, got {list(values)}."]
