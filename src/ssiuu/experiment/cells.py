"""The cells of an experiment and their stages, each with a key: the digest of all that decides it.

A key is made of what goes in, so all keys are known before any work: the model's fingerprint, the
facts, the method as it is driven, the seed, and for what is done to an unlearned model the key of
that model. Versions of libraries and the machine are no part of it; they stand in the header.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from ssiuu.attacks.base import Curve
from ssiuu.benchmarks import texts
from ssiuu.experiment.attacking import Attacker, heaviest, plan
from ssiuu.experiment.drive import settings_of
from ssiuu.experiment.session import Session
from ssiuu.methods import Method
from ssiuu.records.files import cell_folder, digest, keyed
from ssiuu.records.schema import MethodInfo, Split
from ssiuu.training.loop import rows_of

# Raised when a result under the same settings becomes another one, so that no older one is taken.
REVISION: Final = 3
EVALUATED: Final = 2  # the same for scores,
DIAGNOSIS: Final = 2  # for what a diagnosis finds
EXAMINED: Final = 3  # and an examination, of planted controls too, which are kept over runs

StageKind = Literal["unlearn", "evaluate", "diagnose", "attack", "stability", "examine", "trial"]


@dataclass(frozen=True)
class StagePlan:
    """One result of a cell: its kind, its key, the path of its record from the run's folder."""

    kind: StageKind
    key: str
    path: Path
    curve: Curve | None = None


@dataclass(frozen=True)
class CellPlan:
    """One method and seed, and what is to be measured of it. `method`: None where none is run."""

    info: MethodInfo
    method: Method | None
    seed: int
    stages: list[StagePlan]

    @property
    def name(self) -> str:
        """How progress calls it."""
        return f"{self.info.label} seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Its folder, from the run's folder."""
        return cell_folder(self.info.label, self.seed)

    def stage(self, kind: StageKind) -> StagePlan | None:
        """Return the first stage of a kind, if there is one."""
        return next((stage for stage in self.stages if stage.kind == kind), None)


class Keys:
    """The keys of one experiment. Made while the model has its original weights."""

    def __init__(
        self,
        session: Session,
        attacker: Attacker,
        after: Path | None = None,
        attacked: Path | None = None,
    ) -> None:
        self.session, self.attacker, self.after, self.attacked = session, attacker, after, attacked
        self.stop, self.threshold = session.stop_rule()
        self.original = digest(
            REVISION,
            session.loaded.info.fingerprint,
            session.prompt.key,
            session.precision,
            session.benchmark.fingerprint,
            _told(session.split),
            *session.plugins.values(),
            *session.recipe.placement.key,
        )
        # Where there is nothing to retain, a projection takes its directions from these.
        self.shared = [] if session.split.retain else self.unrelated

    def unlearning(self, method: Method, seed: int) -> str:
        """Return the key of an unlearned model."""
        settings = settings_of(self.session, method, seed, self.threshold).told()
        parts = [[part.name, part.options] for part in method.all]
        objective = [parts, method.retain_weight, method.plugins()]
        # Only where it is set: a folder of before it was there is still good.
        forms: list[Any] = [count] if (count := self.session.recipe.unlearn.diversify) else []
        if self.stop.budget is not None:
            forms += [self.stop.budget.limits, texts.version()]
        if any(part.reads for part in method.all):
            forms.append(texts.version())  # a method's own budget is read on them
        return digest(self.original, objective, settings, self.stop.kind, self.shared, *forms)

    def model(self, info: MethodInfo, method: Method | None, seed: int) -> str:
        """Return the key of the model that a cell judges."""
        folder = {"given": self.after, "never-learned": self.session.never_learned}.get(info.name)
        if folder is not None:
            return digest(self.original, self.session.source(folder).fingerprint)
        return self.unlearning(method, seed) if method and method.trains else self.original

    def evaluation(self, model: str) -> str:
        """Return the key of a model's scores."""
        config = self.session.recipe.evaluate.decides
        return digest(model, "evaluate", EVALUATED, config, texts.version())

    @cached_property
    def unrelated(self) -> list[list[Any]]:
        """The instructions that the benign attack trains on."""
        return rows_of(self.session.benign())

    def examination(self, model: str) -> str:
        """Return the key of a model's examination; of the original: with facts hidden on purpose."""
        recipe = self.session.recipe
        options = recipe.evaluate.options  # of the well-known facts that lend answers
        return digest(model, "examine", EXAMINED, recipe.examine.decides, self.unrelated, options)

    def cell(self, info: MethodInfo, method: Method | None, seed: int, diagnosed: bool) -> CellPlan:
        """Return the plan of one method and seed."""
        model, folder = self.model(info, method, seed), cell_folder(info.label, seed)
        control = info.name == "none"
        stages = [_stage(folder, "evaluate", self.evaluation(model))]
        if method and method.trains:
            stages.insert(0, _stage(folder, "unlearn", model))
        if diagnosed and not control:
            key = digest(model, "diagnose", DIAGNOSIS, self.session.recipe.inside)
            stages.append(_stage(folder, "diagnose", key))
        if self.session.recipe.examine.steps and not control:
            stages.append(_stage(folder, "examine", self.examination(model)))
        last, looks = self.last, diagnosed and not control and self.session.recipe.inside
        for curve, settings in self.curves:
            if not control or self.session.recipe.attacks.control or self.attacker.control(curve):
                key = digest(model, "attack", settings)
                stages.append(_stage(folder, "attack", key, curve))
                if looks and curve == last:  # beside its attack, which then is carried out once
                    stages.append(_stage(folder, "stability", digest(key, "stability"), curve))
        if looks and self.attacked is not None:
            key = digest(model, "stability", self.session.source(self.attacked).fingerprint)
            stages.append(_stage(folder, "stability", key))
        return CellPlan(info, method, seed, stages)

    @cached_property
    def last(self) -> Curve | None:
        """The curve after which attributions are taken; None where the attacked model was given."""
        return None if self.attacked else heaviest(curve for curve, _ in self.curves)

    @cached_property
    def curves(self) -> list[tuple[Curve, str]]:
        """The attack curves of every cell, each with the digest of its settings."""
        curves = plan(self.session.recipe)
        return [(curve, digest(self.attacker.settings(curve))) for curve in curves]


def _stage(folder: Path, kind: StageKind, key: str, curve: Curve | None = None) -> StagePlan:
    name = Path(curve.file).stem if curve is not None and kind == "attack" else kind
    return StagePlan(kind, key, folder / keyed(name, key), curve)


def _told(split: Split) -> dict[str, Any]:
    """Return a split as it stands in a key; what older runs did not have only where there is any."""
    dumped = split.model_dump(mode="json")
    return dumped if split.unknown else {k: v for k, v in dumped.items() if k != "unknown"}
