"""Calibrate the verdict on models of known truth.

    ssiuu calibrate --out calibration

A world is made and a model taught all of it. Then models of known truth are examined as an audit
examines them: never-learned twins (erased), the model with facts hidden on purpose in every way of
`ssiuu.hiding`, the model as it is (not removed), and mixed ones, whose twin has learned a share of the
facts and hides it. Thresholds are fitted on some worlds and ways of hiding and reported on others
(`ssiuu.analysis.calibration`).

Every examination is a file, so an interrupted calibration continues, and more of it can be added.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssiuu.analysis.calibration import Calibrated, Case, Truth, World, calibrated
from ssiuu.benchmarks import fictional_twins as made
from ssiuu.benchmarks.screening import as_text, known
from ssiuu.evaluation.score import score_facts
from ssiuu.experiment.examine import Examiner
from ssiuu.experiment.recipe import ExamineConfig, resolve
from ssiuu.experiment.session import Session
from ssiuu.hiding import HIDING, Subject
from ssiuu.likelihood import Prompt
from ssiuu.models.load import cache_folder, load, load_checkpoint_weights
from ssiuu.models.original import Original
from ssiuu.records.files import read_record, write_record
from ssiuu.records.schema import BenchmarkInfo, FactText, Split

Progress = Callable[[str], None]
FORGET, HELDOUT = 0.4, 0.1  # shares of the people
OPTIONS = 3
PASSES = (
    16  # over every text: the model then says every fact by itself, as it would what it is asked about
)
MIXED = (0.1, 0.3, 0.5)  # shares of the facts to forget that a mixed model hides


@dataclass(frozen=True)
class Kind:
    """A kind of world: its people's kin, and the architecture that learns it."""

    kin: bool
    family: made.Family
    rate: float
    fitted: bool


KINDS = {
    "kin": Kind(True, "llama", 4e-3, True),
    "strangers": Kind(False, "llama", 4e-3, True),
    "neox": Kind(False, "gpt-neox", 2e-3, False),
}


def calibrate(
    out: Path, kinds: Sequence[str], seeds: Sequence[int], people: int, version: str, progress: Progress
) -> Calibrated:
    """Examine models of known truth, and return what was found of all that is in the folder.

    Args:
        out: Folder of the examinations; those that are there are not made again.
        kinds: Worlds, of `KINDS`.
        seeds: Of each.
        people: In each.
        version: Names the calibration.
        progress: Told what is going on.

    Raises:
        InputError: A file in the folder cannot be read.
        Interrupted: Ctrl-C; the same call continues.
    """
    for seed in seeds:
        for kind in kinds:
            _world(out / f"{kind}-{seed}", kind, seed, people, progress)
    return calibrated(worlds(out), version)


def worlds(out: Path) -> list[World]:
    """Return the worlds of a folder."""
    found = []
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        cases = [read_record(path, Case) for path in sorted(folder.glob("*.json"))]
        name = folder.name.rpartition("-")[0]
        fitted = name in KINDS and KINDS[name].fitted
        found.append(World(folder.name, fitted, tuple(case for case in cases if case)))
    return found


def _world(folder: Path, kind: str, seed: int, people: int, progress: Progress) -> None:
    wanted = ["planted", "original", "twin", "retrained", *HIDING, *(f"mixed-{p:.0%}" for p in MIXED)]
    left = [name for name in wanted if not (folder / f"{name}.json").exists()]
    if not left:
        return
    bench = Bench(kind, seed, people, progress)
    for name in left:
        progress(f"{folder.name}: {name}")
        case = bench.case(name)
        if case is not None:
            write_record(folder / f"{name}.json", case)


class Bench:
    """A world with its models, and the examiner of all of them."""

    def __init__(self, kind: str, seed: int, people: int, progress: Progress) -> None:
        self.kind, self.seed, self.progress = KINDS[kind], seed, progress
        self.world = made.build_world(people, seed, self.kind.kin)
        self.pools = made.designate(self.world.facts, seed, FORGET, HELDOUT)
        self.session = self._open()
        self.examiner = Examiner(self.session, ExamineConfig(), progress)

    def _twins(self, absent: set[str], seed: int) -> made.Twins:
        recipe = made.TwinConfig(passes=PASSES, family=self.kind.family, learning_rate=self.kind.rate)
        cache = cache_folder() / "fictional"
        return made.train_twins(self.world, absent, cache, seed, progress=self.progress, recipe=recipe)

    def _open(self) -> Session:
        recipe, _ = resolve(None, ["benchmark=fictional", f"split.seed={self.seed}"])
        self.twins = self._twins(self.pools["forget"], self.seed)
        loaded = load(str(self.twins.full))
        prompt = Prompt(loaded.tokenizer, "plain")
        knows = known(loaded.model, prompt, self.world.facts)
        chosen: dict[str, Any] = {
            name: [as_text(f, OPTIONS, self.seed) for f in self.world.facts if f.id in knows & pool]
            for name, pool in self.pools.items()
        }
        count = len(self.world.facts)
        split = Split(seed=self.seed, asked=count, known=len(knows), **chosen)
        info = BenchmarkInfo(
            name="fictional",
            version=made.VERSION,
            fingerprint=self.twins.full.parent.name,
            facts=count,
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

    def case(self, name: str) -> Case | None:
        """Make a model of known truth and examine it; None where its facts could not be hidden."""
        session = self.session
        session.original.restore()
        facts = session.split.forget
        if name == "planted":
            found = self.examiner.plant()
            return None if found is None else Case(name=name, truth={}, said=[], found=found)
        truth = self._put(name, facts)
        scores = score_facts(session.model, session.prompt, facts, paraphrases=False)
        found = self.examiner.examine()
        said = [fact.id for fact in facts if scores[fact.id].free_correct]
        return Case(name=name, truth=truth, said=said, found=found)

    def _put(self, name: str, facts: Sequence[FactText]) -> dict[str, Truth]:
        """Put a model's weights in place; return the truth of its facts, where there is one."""
        model = self.session.model
        if name == "original":
            return {fact.id: "not removed" for fact in facts}
        if name in ("twin", "retrained"):
            twins = (
                self.twins if name == "twin" else self._twins(self.pools["forget"], self.seed + 1000)
            )
            load_checkpoint_weights(model, twins.never_learned)
            return {fact.id: "erased" for fact in facts}
        if name in HIDING:
            return self._hide(name, facts)
        chosen = set(_some(facts, float(name.removeprefix("mixed-").rstrip("%")) / 100))
        twins = self._twins(self.pools["forget"] - chosen, self.seed)
        load_checkpoint_weights(model, twins.never_learned)
        hidden = self._hide("middle-map", [fact for fact in facts if fact.id in chosen])
        learned: dict[str, Truth] = {f.id: "erased" for f in facts if f.id not in chosen}
        return learned | hidden

    def _hide(self, kind: str, facts: Sequence[FactText]) -> dict[str, Truth]:
        session = self.session
        subject = Subject.of(session, session.precision, self.seed)
        found = HIDING[kind]().hide(subject, facts, session.split.retain, self.progress)
        return dict.fromkeys(found.facts, "hidden")


def _some(facts: Sequence[FactText], share: float) -> Iterator[str]:
    """Yield the ids of this share of the facts, entity by entity."""
    entities = sorted({fact.entity or fact.id for fact in facts})
    random.Random("mixed").shuffle(entities)
    order = {entity: place for place, entity in enumerate(entities)}
    ranked = sorted(facts, key=lambda fact: order[fact.entity or fact.id])
    for fact in ranked[: max(1, round(share * len(facts)))]:
        yield fact.id
