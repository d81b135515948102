"""Calibrate the verdict on models of known truth.

    ssiuu calibrate --out calibration

A world is made and a model taught all of it. Then models of known truth are examined as an audit
examines them: never-learned twins (erased), the model with facts hidden on purpose in every way of
`ssiuu.hiding`, the model as it is (not removed), and mixed ones, whose twin has learned a share of the
facts and hides it. Thresholds are fitted on some worlds and ways of hiding and reported on others
(`ssiuu.analysis.calibration`). A model that somebody has taught, with its never-learned twin, is a
world as well, on which nothing is ever fitted.

Every examination is a file, so an interrupted calibration continues, and more of it can be added.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ssiuu.analysis.calibration import WORLDS, Calibrated, Case, Truth, World, calibrated
from ssiuu.benchmarks import fictional_twins as made
from ssiuu.benchmarks.base import Progress
from ssiuu.benchmarks.screening import as_text, known
from ssiuu.config import flatten
from ssiuu.errors import ConfigError, DamagedError, ModelError, OutputError
from ssiuu.evaluation.score import score_facts
from ssiuu.experiment import launched
from ssiuu.experiment.examine import Examiner
from ssiuu.experiment.given import given_settings
from ssiuu.experiment.provenance import machine, versions
from ssiuu.experiment.recipe import Recipe, check_whole, resolve
from ssiuu.experiment.session import Session, open_session
from ssiuu.hiding import HIDING, Subject
from ssiuu.likelihood import Prompt
from ssiuu.models.load import cache_folder, load, model_fingerprint
from ssiuu.models.original import Original
from ssiuu.records.files import digest, now, read_record, whole, write_bytes, write_record
from ssiuu.records.said import logged
from ssiuu.records.schema import BenchmarkInfo, Examination, FactText, Record, Split
from ssiuu.records.underway import duration
from ssiuu.training import interrupt

FORGET, HELDOUT = 0.4, 0.1  # shares of the people
OPTIONS = 3
PASSES = 16  # over every text: the model then says every fact by itself
MIXED = (0.1, 0.3, 0.5)  # shares of the facts to forget that a mixed model hides
TOLD, SETTINGS = "calibration.json", "settings.json"  # files beside the folders of the worlds


@dataclass(frozen=True)
class Kind:
    """A kind of world: its people's kin, and the architecture that learns it."""

    kin: bool
    family: made.Family
    rate: float


KINDS = {
    "kin": Kind(True, "llama", 4e-3),
    "strangers": Kind(False, "llama", 4e-3),
    "neox": Kind(False, "gpt-neox", 2e-3),
}


@dataclass(frozen=True)
class Taught:
    """A model that was taught facts, and its twin, which was taught all but those to forget.

    `full`, `twin`: folders, as `ssiuu teach` makes them. `forget`, `retain`: files of facts.
    """

    full: Path
    twin: Path
    forget: str
    retain: str

    @property
    def digest(self) -> str:
        """Of both models and the facts."""
        files = [Path(name) for name in (self.forget, self.retain)]
        facts = [file.read_text(encoding="utf-8") if file.is_file() else str(file) for file in files]
        return digest(model_fingerprint(self.full, None), model_fingerprint(self.twin, None), facts)


class Settings(Record):
    """What decides every examination of a folder."""

    people: int
    examine: dict[str, Any]


def calibrate(
    out: str | Path,
    kinds: Sequence[str] = tuple(WORLDS),
    seeds: Sequence[int] = (1,),
    people: int = 30,
    sets: Sequence[str] = (),
    progress: Progress = logged,
    taught: Taught | None = None,
) -> Calibrated:
    """Examine models of known truth, and tell of all that is in the folder, in `calibration.json`.

    Args:
        out: Folder of the examinations; those that are there are not made again.
        kinds: Made-up worlds, of `KINDS`.
        seeds: Of each.
        people: In each.
        sets: Settings of the examination, "key=value" as in a recipe.
        progress: Told what is going on.
        taught: A model that was taught, as one world more.

    Raises:
        InputError: What is given, or a file in the folder, cannot be used.
        Interrupted: Ctrl-C; the same call continues.
    """
    launched.begin("calibrate")
    out, began = Path(out), now()
    recipe, _ = resolve(None, ["benchmark=fictional", *sets])
    check_whole(recipe)
    _settle(out, Settings(people=people, examine=recipe.examine.decides))
    with interrupt.graceful():
        plans = [
            Plan(out / f"{kind}-{seed}", [*BASE, "retrained", *HIDING, *SHARES], bench)
            for seed in seeds
            for kind in kinds
            for bench in [partial(MadeUp, kind, seed, people, sets)]
        ]
        if taught is not None:
            named = f"taught-{taught.digest[:8]}"
            plans.append(Plan(out / named, [*BASE, *HIDING], partial(TaughtWorld, taught, sets)))
        count = Count(sum(len(plan.left(progress)) for plan in plans), progress)
        for plan in plans:
            plan.carry_out(count)
        if not (there := worlds(out)):
            raise ConfigError(f"--out {out} holds no world, and none is to be examined: name --worlds.")
        progress("telling what was found")
        found = calibrated(there, began[:10])
    told = {"created": began, "versions": versions(), "machine": machine("fp32")}
    found = found.model_copy(update=told)
    write_bytes(out / TOLD, (found.model_dump_json() + "\n").encode())
    return found


def _settle(out: Path, wanted: Settings) -> None:
    """Refuse a folder of other settings; note these in a new one.

    Raises:
        OutputError: It holds examinations under other settings, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"--out {out} is a file; name a folder.")
    try:
        there = read_record(out / SETTINGS, Settings)
    except DamagedError as error:
        raise OutputError(
            f"{out / SETTINGS} is damaged, and nothing else says under which settings the models in "
            "it were examined: choose another folder for --out."
        ) from error
    if there is None:
        write_record(out / SETTINGS, wanted)
        return
    old, new = flatten(there.model_dump()), flatten(wanted.model_dump())
    for key, value in new.items():
        if old.get(key) != value:
            raise OutputError(
                f"--out {out} holds a calibration with {key} {old.get(key)!r}, this is one with "
                f"{value!r}: models are only told of together under the same. Choose another folder."
            )


def worlds(out: Path) -> list[World]:
    """Return the worlds of a folder."""
    found = []
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        cases = [read_record(path, Case) for path in sorted(folder.glob("*.json"))]
        fitted = WORLDS.get(folder.name.rpartition("-")[0], False)
        found.append(World(folder.name, fitted, tuple(case for case in cases if case)))
    return found


@dataclass
class Count:
    """Says progress with the models done and the time left.

    `models`: how many are to be examined by this process.
    """

    models: int
    say: Progress
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    def __call__(self, text: str) -> None:
        """Say one line, or stop where that was asked for."""
        interrupt.check()
        spent = time.monotonic() - self.began
        each = spent / self.done if self.done else 0.0
        left = f", {duration(each * (self.models - self.done))} left" if self.done else ""
        self.say(f"{self.done}/{self.models} models{left} | {text}")


BASE = ["planted", "original", "twin"]
SHARES = [f"mixed-{share:.0%}" for share in MIXED]


@dataclass(frozen=True)
class Plan:
    """The models of one world, and how they come to be there."""

    folder: Path
    names: Sequence[str]
    bench: Callable[[Progress], Bench]

    def left(self, say: Progress) -> list[str]:
        """Return those that are not examined yet, or whose record is damaged."""
        return [name for name in self.names if not whole(self._file(name), say)]

    def carry_out(self, count: Count) -> None:
        """Examine what is left."""
        left = self.left(count)
        if not left:
            return
        bench = self.bench(lambda text: count(f"{self.folder.name}: {text}"))
        for name in left:
            count(f"{self.folder.name}: {name}")
            write_record(self._file(name), bench.case(name))
            count.done += 1

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"


class Bench:
    """A world with its models, and the examiner of all of them."""

    def __init__(self, session: Session, never_learned: Path, progress: Progress) -> None:
        self.session, self.never_learned, self.progress = session, never_learned, progress
        self.examiner = Examiner(session, session.recipe.examine, progress)

    @cached_property
    def known(self) -> set[str]:
        """The facts to forget that the model says; of others nothing is true by construction."""
        session = self.session
        asked = session.knowledge.get("forget", {})
        return {f.id for f in session.split.forget if not asked or asked[f.id].state == "known"}

    def case(self, name: str) -> Case:
        """Make a model of known truth and examine it; of one that cannot be made a note says why."""
        session = self.session
        session.original.restore()
        if name == "planted":
            return Case(name=name, truth={}, said=[], found=self.examiner.plant())
        facts = session.split.forget
        try:
            truth = self.put(name, facts)
        except ModelError as error:
            found = Examination(places=[], facts={}, notes=[str(error)], seconds=0.0)
            return Case(name=name, truth={}, said=[], found=found)
        scores = score_facts(session.model, session.prompt, facts, paraphrases=False)
        found = self.examiner.examine()
        said = [fact.id for fact in facts if scores[fact.id].free_correct]
        sure = {id: true for id, true in truth.items() if id in self.known}
        return Case(name=name, truth=sure, said=said, found=found)

    def put(self, name: str, facts: Sequence[FactText]) -> dict[str, Truth]:
        """Put a model's weights in place; return the truth of its facts, where there is one."""
        if name == "original":
            return {fact.id: "not removed" for fact in facts}
        if name == "twin":
            return self.learned(self.never_learned, facts)
        return self.hide(name, facts)

    def learned(self, folder: Path, facts: Sequence[FactText]) -> dict[str, Truth]:
        """Put a model in place that has not learned these facts."""
        self.session.put(folder)
        return {fact.id: "erased" for fact in facts}

    def hide(self, kind: str, facts: Sequence[FactText]) -> dict[str, Truth]:
        """Hide facts in the model that is in place."""
        session = self.session
        subject = Subject.of(session, session.precision, session.split.seed)
        found = HIDING[kind]().hide(subject, facts, session.split.retain, self.progress)
        return dict.fromkeys(found.facts, "hidden")


class MadeUp(Bench):
    """A world that is made, and models taught it from scratch."""

    def __init__(
        self, kind: str, seed: int, people: int, sets: Sequence[str], progress: Progress
    ) -> None:
        self.kind, self.seed = KINDS[kind], seed
        self.world = made.build_world(people, seed, self.kind.kin)
        self.pools = made.designate(self.world.facts, seed, FORGET, HELDOUT)
        self.progress = progress
        twins = self._twins(self.pools["forget"], seed)
        recipe, _ = resolve(None, ["benchmark=fictional", *sets, f"split.seed={seed}"])
        super().__init__(self._open(recipe, twins.full), twins.never_learned, progress)

    def put(self, name: str, facts: Sequence[FactText]) -> dict[str, Truth]:
        """Put a model's weights in place, retrained and mixed ones too."""
        if name == "retrained":
            twins = self._twins(self.pools["forget"], self.seed + 1000)
            return self.learned(twins.never_learned, facts)
        if name not in SHARES:
            return super().put(name, facts)
        chosen = set(_some(facts, MIXED[SHARES.index(name)]))
        twins = self._twins(self.pools["forget"] - chosen, self.seed)
        erased = self.learned(twins.never_learned, [fact for fact in facts if fact.id not in chosen])
        return erased | self.hide("middle-map", [fact for fact in facts if fact.id in chosen])

    def _twins(self, absent: set[str], seed: int) -> made.Twins:
        recipe = made.TwinConfig(passes=PASSES, family=self.kind.family, learning_rate=self.kind.rate)
        cache = cache_folder() / "fictional"
        return made.train_twins(self.world, absent, cache, seed, progress=self.progress, recipe=recipe)

    def _open(self, recipe: Recipe, full: Path) -> Session:
        loaded = load(str(full), placement=recipe.placement)
        prompt = Prompt(loaded.tokenizer, "plain")
        facts = self.world.facts
        knows = known(loaded.model, prompt, facts)
        chosen: dict[str, Any] = {
            name: [as_text(f, OPTIONS, self.seed) for f in facts if f.id in knows & pool]
            for name, pool in self.pools.items()
        }
        split = Split(seed=self.seed, asked=len(facts), known=len(knows), **chosen)
        info = BenchmarkInfo(
            name="fictional", version=made.VERSION, fingerprint=full.parent.name, facts=len(facts)
        )
        return Session(
            recipe=recipe,
            loaded=loaded,
            original=Original(loaded),
            prompt=prompt,
            split=split,
            benchmark=info,
            precision="fp32",
        )


class TaughtWorld(Bench):
    """A model that somebody has taught, with its never-learned twin."""

    def __init__(self, taught: Taught, sets: Sequence[str], progress: Progress) -> None:
        named, given = given_settings(str(taught.full), taught.forget, taught.retain)
        recipe, _ = resolve(None, [*named, *sets])
        check_whole(recipe)
        session = open_session(recipe, None, progress, given)
        session.put(taught.twin, session.loaded.tokenizer)
        session.original.restore()  # another architecture is refused before any work
        super().__init__(session, taught.twin, progress)


def _some(facts: Sequence[FactText], share: float) -> Iterator[str]:
    """Yield the ids of this share of the facts, entity by entity."""
    entities = sorted({fact.entity or fact.id for fact in facts})
    random.Random("mixed").shuffle(entities)
    order = {entity: place for place, entity in enumerate(entities)}
    ranked = sorted(facts, key=lambda fact: order[fact.entity or fact.id])
    for fact in ranked[: max(1, round(share * len(facts)))]:
        yield fact.id
