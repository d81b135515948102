"""The trials of tuning: which there are, how one is carried out, and what they lead to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssiuu.errors import DivergedError
from ssiuu.evaluation.score import score_facts
from ssiuu.experiment.cells import CellPlan, Keys, StagePlan
from ssiuu.experiment.drive import info_of, unlearn_here
from ssiuu.experiment.folder import locked, sweep
from ssiuu.experiment.progress import Meter, stage_line
from ssiuu.experiment.session import Session
from ssiuu.experiment.tuning import best, divide
from ssiuu.methods import Method
from ssiuu.models.precision import release_memory
from ssiuu.records.files import digest, keyed, read_stage, whole, write_record
from ssiuu.records.said import led
from ssiuu.records.schema import Trial, Unlearning
from ssiuu.records.sharing import Sharing, lock_of
from ssiuu.report.tuned import budget
from ssiuu.training.state import remove_state


@dataclass(frozen=True)
class TrialPlan(CellPlan):
    """One setting to try of a method; its only stage is the trial's record."""

    values: dict[str, Any]

    @property
    def name(self) -> str:
        """How progress calls it."""
        return f"{self.info.label} {_told(self.values)}"


def plan_trials(keys: Keys) -> list[TrialPlan]:
    """Return the trials of an experiment; none where nothing is tuned.

    Raises:
        ConfigError: There are too few facts to retain.
    """
    session, plans = keys.session, []
    recipe = session.recipe
    for label, drawn in recipe.tried().items():
        _, validation = divide(session.split.retain, recipe.tune.seed)
        ids = [fact.id for fact in validation]
        for values, method in drawn:
            key = digest(keys.unlearning(method, recipe.seeds[0]), "trial", ids)
            stage = StagePlan("trial", key, Path("tune") / label / keyed("trial", key))
            plans.append(TrialPlan(info_of(method), method, recipe.seeds[0], [stage], values))
    return plans


class Tuner:
    """Carries trials out."""

    def __init__(
        self,
        session: Session,
        out: Path,
        say: Callable[[str], None],
        plans: Sequence[TrialPlan],
        sharing: Sharing | None,
    ) -> None:
        self.session, self.out, self.sharing = session, out, sharing
        self.train, self.validation = divide(session.split.retain, session.recipe.tune.seed)
        self.meter = Meter(out, plans, say, "trials")

    def attempt(self, plan: TrialPlan) -> bool:
        """Do a trial that is not done; False if another process is at it."""
        path = self.out / plan.stages[0].path
        with locked(lock_of(path), sharing=self.sharing, part=True) as mine:
            if mine:
                sweep(path.parent, path.stem)
                state = path.with_suffix(".state.safetensors")
                if not whole(path, self.meter):
                    self._carry_out(plan, path, state)
                remove_state(state)
        self.meter.look(plan)
        return mine

    def _carry_out(self, plan: TrialPlan, path: Path, state: Path) -> None:
        session = self.session
        assert plan.method is not None
        begin = time.perf_counter()
        release_memory()
        session.original.restore()
        unlearning, score = None, None
        try:
            unlearning = unlearn_here(
                *(session, plan.method, plan.seed, state),
                lambda text: self.meter(led("", text, plan.name)),
                retain=self.train,
            )
            score = self._score()
            outcome = f"{stage_line(unlearning)}, retain score {score:.3f}"
        except DivergedError as error:
            outcome = f"diverged: {error}"
        write_record(path, self._record(plan, unlearning, score, time.perf_counter() - begin))
        self.meter.look(plan)
        self.meter(f"{plan.name}: {outcome}")

    def _score(self) -> float:
        """Return the mean probability of an answer token over the validation facts."""
        session = self.session
        scores = score_facts(session.model, session.prompt, self.validation, False, False)
        return sum(math.exp(s.logprob / s.tokens) for s in scores.values()) / len(scores)

    def _record(
        self, plan: TrialPlan, unlearning: Unlearning | None, score: float | None, seconds: float
    ) -> Trial:
        return Trial(
            key=plan.stages[0].key,
            method=plan.info,
            seed=plan.seed,
            values=plan.values,
            unlearning=unlearning,
            score=score,
            seconds=round(seconds, 2),
        )


def choose(
    methods: Sequence[Method], plans: Sequence[TrialPlan], out: Path
) -> tuple[list[Method], list[str]]:
    """Return the methods, each at its best setting, and a sentence for each that was tuned.

    Raises:
        DivergedError: Training diverged in every trial of a method.
    """
    chosen, notes = [], []
    for method in methods:
        tried = {}
        for plan in (plan for plan in plans if plan.info.label == method.label):
            trial = read_stage(out / plan.stages[0].path, Trial, plan.stages[0].key)
            assert trial is not None and plan.method is not None
            tried[trial.key] = trial, plan.method
        if tried:
            trial = best([trial for trial, _ in tried.values()])
            method = tried[trial.key][1]
            notes.append(
                f"{method.label} was tuned: {_told(trial.values)} was taken of {len(tried)} settings "
                f"tried; {_reason(trial)}.{_within([trial for trial, _ in tried.values()])}"
            )
        chosen.append(method)
    return chosen, notes


def _reason(trial: Trial) -> str:
    if not trial.fits:
        return "none changed anything within the budget"
    if trial.unlearning is not None and trial.unlearning.stopped == "threshold":
        return f"of those that reached the threshold it has the highest retain score, {trial.score:.3f}"
    return "none reached the threshold and it came nearest"


def _within(trials: Sequence[Trial]) -> str:
    """Say how many settings stayed within the budget; nothing where there was none."""
    limits = next((trial.unlearning.budget for trial in trials if trial.unlearning), {})
    if not limits:
        return ""
    count, words = sum(trial.fits for trial in trials), budget(limits)
    if not count:
        return f" None of them fit within the budget ({words}): nothing was changed by any."
    return f" {count} of them fit within the budget ({words})."


def _told(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
