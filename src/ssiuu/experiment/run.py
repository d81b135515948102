"""Run an experiment: for each method and seed unlearn, evaluate, diagnose, attack, record.

Every stage writes one file, named by a key of all that decides it, and is skipped when its file is
there. So the same command continues an interrupted run, and under changed settings only what depends
on them is run. Several processes may work in one folder: each takes a cell that no other is at, and
where there is none it helps with a part of one: its scores, its look inside, one attack curve.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import compress
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from ssiuu.attacks.retrain import ending
from ssiuu.attribution.neuron import extremes
from ssiuu.benchmarks.base import Given, Progress
from ssiuu.diagnosis.influence import Baseline, influence
from ssiuu.diagnosis.lens import LensReader
from ssiuu.errors import ConfigError, DamagedError, DivergedError, ModelError
from ssiuu.experiment import launched, unfinished
from ssiuu.experiment.attacking import Attacker, feasible
from ssiuu.experiment.cells import CellPlan, Keys, StagePlan
from ssiuu.experiment.drive import check_method, info_of, settings_of, unlearn_here
from ssiuu.experiment.estimate import estimate, known_of
from ssiuu.experiment.examine import Examiner
from ssiuu.experiment.folder import (
    check_folder,
    in_turn,
    locked,
    make_folder,
    settle,
    standing_split,
    sweep,
)
from ssiuu.experiment.given import IN_MEMORY
from ssiuu.experiment.inside import Inside
from ssiuu.experiment.planted import planted
from ssiuu.experiment.progress import Meter, stage_line
from ssiuu.experiment.provenance import machine, versions
from ssiuu.experiment.recipe import Recipe, check_whole
from ssiuu.experiment.session import Session, open_session
from ssiuu.experiment.tracked import tracked
from ssiuu.experiment.trials import TrialPlan, Tuner, choose, plan_trials
from ssiuu.methods import Method
from ssiuu.models.load import (
    load_weights,
    require_space,
    restore,
    save_weights,
    snapshot,
)
from ssiuu.models.precision import release_memory
from ssiuu.models.shards import agreed, is_cut, rank, world
from ssiuu.models.sites import Site, coverage, find_sites
from ssiuu.models.weights import complete
from ssiuu.records.files import (
    HEADER,
    again,
    assemble,
    failure,
    field_of,
    keyed,
    now,
    personal,
    put_aside,
    read_stage,
    whole,
    without_times,
    write_bytes,
    write_record,
)
from ssiuu.records.lease import Lost, check, clear, told_to
from ssiuu.records.said import led, logged
from ssiuu.records.schema import (
    AttackCurve,
    Diagnosis,
    Evaluation,
    Examination,
    Failure,
    Lens,
    MethodInfo,
    RunHeader,
    RunRecord,
    Stability,
    Unlearning,
)
from ssiuu.records.sharing import LOCK, Sharing, lock_of
from ssiuu.training import interrupt
from ssiuu.training.state import remove_state
from ssiuu.training.unlearn import check_steps

R = TypeVar("R", Unlearning, Evaluation, Diagnosis, Examination, AttackCurve, Stability)

NEVER_LEARNED = MethodInfo(
    label="never-learned",
    name="never-learned",
    origin="control",
    description="Control: the twin trained in the same way without the facts to forget.",
)
SETS_UP = "another process sets up the run"
WEIGHTS, STATE = ".safetensors", ".state.safetensors"  # beside a record, while they are needed


def run(
    recipe: Recipe,
    sources: dict[str, str],
    out: str | Path,
    command: str = "",
    after: str | Path | None = None,
    progress: Progress = logged,
    attacked: str | Path | None = None,
    given: Given | None = None,
    look: bool = False,
) -> RunRecord:
    """Run a recipe into a folder; what is there already is not run again.

    Args:
        recipe: What to do.
        sources: Where each setting came from, for the record.
        out: The run's folder; several processes may share it.
        command: As typed, for the record.
        after: Judge this checkpoint instead of unlearning (an audit).
        progress: Told what is going on.
        attacked: A checkpoint that came of attacking `after`, to compare attributions with.
        given: What the caller holds in memory of what the recipe would name.
        look: Refuse a model that cannot be looked into, in place of a note.

    Raises:
        InputError: Model, data, settings or the output folder cannot be used.
        Interrupted: Ctrl-C; the same command continues.
    """
    launched.begin("diagnose" if look else "run" if after is None else "audit")
    check_whole(recipe)
    out, progress = Path(out), told_to(progress)
    after, attacked = (Path(folder) if folder else None for folder in (after, attacked))
    check_folder(out, recipe, after)
    make_folder(out, recipe.opens.yours)
    closed = personal if recipe.opens.yours else nullcontext
    with interrupt.graceful(), tracked(recipe, out / "tracked", progress) as progress:
        sharing = Sharing(out, recipe.locks) if rank() == 0 else None
        set_up = partial(locked, out / LOCK, partial(progress, SETS_UP), sharing)
        with set_up():
            sweep(out)
            split = standing_split(out, progress)
            resumed = (out / HEADER).exists()
            session = open_session(recipe, split, progress, replace(given or Given(), after=after))
            session = feasible(session, sources)
            recipe = session.recipe
            _check_divided(session)
            _check_given(session, after, attacked)
            if recipe.examine.thorough or not resumed:
                known = known_of(session, session.split.forget)
                progress(estimate(recipe, after is not None, **known))
            for method in recipe.made() if after is None else ():
                check_method(session, method)
                check_steps(method, len(session.trained), settings_of(session, method, 0, 0.0))
            shared = _Shared(_sites(session, look), Attacker(session))
            keys = Keys(session, shared.attacker, after, attacked)
            trials = plan_trials(keys)
            header_of = partial(_header, session, sources, command, keys, trials)
            methods = _methods(session, after, recipe.made())
            notes: list[str] = []
            # Which settings are run is only known once they are tuned: until then the header names
            # the trials.
            cells = [] if trials else _plan(keys, methods, shared)
            if not resumed:
                with closed():
                    settle(out, header_of(methods, cells, notes), progress)
        with closed():
            if trials:
                tuned, notes = _tune(session, out, trials, progress, sharing)
                methods = _methods(session, after, tuned)
                cells = _plan(keys, methods, shared)
            with set_up():
                header = settle(out, header_of(methods, cells, notes), progress)
                # Still under the lock: whoever comes first scores the original, for all.
                original = _original(session, out, keys, progress)
                examiner = Examiner(session, recipe.examine, progress)
                if recipe.examine.plants:
                    _planted(examiner, out, keys, progress)
            meter = Meter(out, cells, progress)
            stages = _Stages(session, out, keys, shared, original, examiner, meter, sharing)
            in_turn(cells, stages.attempt, meter, stages.help_with)
        return assemble(out, header)


def _check_divided(session: Session) -> None:
    """Refuse to hide facts in a model that stays in shards.

    Raises:
        ConfigError: That is asked for.
    """
    if session.recipe.examine.plants and is_cut(session.model):
        raise ConfigError(
            "examine.planted: facts are hidden by hand, in whole weights, and this model stays in "
            "shards: set examine.planted to 0, or mesh.reading to replicas where the model fits."
        )


def _check_given(session: Session, *folders: Path | None) -> None:
    """Refuse checkpoints of another architecture before any work."""
    for folder in folders:
        if folder is not None:
            session.notes += session.put(folder, session.loaded.tokenizer)
            session.original.restore()


@dataclass(frozen=True)
class _Shared:
    """What the cells of a run share: where the neurons are, and the attacker."""

    sites: list[Site]
    attacker: Attacker


def _plan(
    keys: Keys, methods: Sequence[tuple[MethodInfo, Method | None]], shared: _Shared
) -> list[CellPlan]:
    """Return all cells, in the order of the report."""
    seeds, diagnosed = keys.session.recipe.seeds, bool(shared.sites)
    return [keys.cell(info, method, seed, diagnosed) for seed in seeds for info, method in methods]


def _tune(
    session: Session,
    out: Path,
    trials: list[TrialPlan],
    progress: Progress,
    sharing: Sharing | None,
) -> tuple[list[Method], list[str]]:
    """Return the methods at the settings they are run with, and what is to be said of that."""
    tuner = Tuner(session, out, progress, trials, sharing)
    in_turn(trials, tuner.attempt, tuner.meter)
    return choose(session.recipe.made(), trials, out)


def _sites(session: Session, look: bool) -> list[Site]:
    """Return where the neurons are; what is not looked into is noted.

    Raises:
        ModelError: There are none that are known, and they are all that is asked for.
    """
    if not session.recipe.diagnose:
        return []
    try:
        sites = find_sites(session.model)
    except ModelError as error:
        if look:
            raise
        session.notes.extend(f"Nothing is looked into: {problem}" for problem in error.problems)
        return []
    if remark := coverage(session.model, sites):
        session.notes.append(remark)
    return sites


def _methods(
    session: Session, after: Path | None, methods: Sequence[Method]
) -> list[tuple[MethodInfo, Method | None]]:
    """Return what is judged, with the method where one is run."""
    judged: list[tuple[MethodInfo, Method | None]] = [(info_of(m), m) for m in methods]
    if after is not None:
        judged = [judged[0], (_given(after), None)]
    if session.never_learned is not None:
        judged.append((NEVER_LEARNED, None))
    return judged


def _header(
    session: Session,
    sources: dict[str, str],
    command: str,
    keys: Keys,
    trials: Sequence[TrialPlan],
    methods: Sequence[tuple[MethodInfo, Method | None]],
    cells: Sequence[CellPlan],
    tuned: Sequence[str],
) -> RunHeader:
    recipe = session.recipe
    folders = {"after": keys.after, "attacked": keys.attacked}
    checkpoints = {
        name: IN_MEMORY if folder.name == IN_MEMORY else str(folder)
        for name, folder in folders.items()
        if folder
    }
    notes = [*session.notes, *tuned]
    if session.precision == "fp32":
        notes.append("Computed in fp32: this processor has no bf16 instructions, or fp32 was set.")
    original = keys.evaluation(keys.original)
    stages = {keyed("original", original): original}
    if recipe.examine.plants:
        planted = keys.examination(keys.original)
        stages[keyed("planted", planted)] = planted
    stages |= {stage.path.as_posix(): stage.key for cell in (*trials, *cells) for stage in cell.stages}
    return RunHeader(
        kind="audit" if keys.after else "run",
        created=now(),
        command=command,
        protocol=recipe.protocol,
        config=recipe.model_dump(mode="json") | checkpoints,
        sources=sources,
        versions=versions(),
        machine=machine(session.precision, recipe.placement),
        model=session.loaded.info,
        benchmark=session.benchmark,
        split=session.split,
        knowledge=session.knowledge,
        chance=session.chance,
        prompt=session.prompt.description,
        other_prompt=session.prompt.other().description,
        score=session.score.name,
        plugins=session.plugins | keys.attacker.plugins | _plugins(info for info, _ in methods),
        methods=[info for info, _ in methods],
        seeds=recipe.seeds,
        stages=stages,
        notes=notes,
    )


def _plugins(methods: Iterable[MethodInfo]) -> dict[str, str]:
    """Return what the methods have of other packages."""
    return {part: package for info in methods for part, package in info.plugins.items()}


def _given(after: Path) -> MethodInfo:
    return MethodInfo(
        label="after",
        name="given",
        origin="given",
        description=f"The checkpoint given as the model after unlearning ({after.name}).",
    )


def _original(session: Session, out: Path, keys: Keys, progress: Progress) -> Evaluation:
    """Return the scores of the model before unlearning; taken where they are not there."""
    key = keys.evaluation(keys.original)
    path = out / keyed("original", key)
    evaluation = read_stage(path, Evaluation, key) if whole(path, progress) else None
    if evaluation is None:
        progress("original model: evaluating")
        session.original.restore()
        evaluation = session.scores(original=True).model_copy(update={"key": key})
        session.check()
        write_record(path, evaluation)
    return evaluation


def _planted(examiner: Examiner, out: Path, keys: Keys, progress: Progress) -> None:
    """Examine the original with facts hidden on purpose, where that is not there."""
    key = keys.examination(keys.original)
    path = out / keyed("planted", key)
    if not whole(path, progress) or read_stage(path, Examination, key) is None:
        found = planted(examiner, key, unfinished.beside(path)).model_copy(update={"key": key})
        examiner.session.check()
        write_record(path, found)
        unfinished.remove(path)


@dataclass(frozen=True)
class _Part:
    """What one process does of a cell by itself: a stage, or a curve with what is read at its end."""

    stages: list[StagePlan]

    @property
    def name(self) -> str:
        return self.stages[0].path.as_posix()


def _parts(cell: CellPlan) -> list[_Part]:
    """Return the parts that follow unlearning, in the order of their stages."""
    parts: list[_Part] = []
    for stage in (stage for stage in cell.stages if stage.kind != "unlearn"):
        if stage.curve is not None and parts and parts[-1].stages[-1].curve == stage.curve:
            parts[-1].stages.append(stage)
        else:
            parts.append(_Part([stage]))
    return parts


class _Stages:
    """The stages of one run; what they share is made when first needed."""

    def __init__(
        self,
        session: Session,
        out: Path,
        keys: Keys,
        shared: _Shared,
        original: Evaluation,
        examiner: Examiner,
        meter: Meter,
        sharing: Sharing | None,
    ) -> None:
        self.session, self.out, self.keys, self.meter = session, out, keys, meter
        self.shared, self.original, self.examiner, self.sharing = shared, original, examiner, sharing
        examiner.progress = meter
        self._baseline: Baseline | None = None
        self._lens: Lens | None = None
        self._weights_of_cell: dict[str, Tensor] | None = None
        self._given_up: set[str] = set()
        # Of models that several cells have: a record by key, and keys that all cells were searched for.
        self._same: dict[str, Path] = {}
        self._sought: set[str] = set()
        # Cells of equal models have equal keys: what is under one is done once.
        self._locks: dict[str, Path] = {}
        for stage in (stage for cell in meter.cells for stage in cell.stages):
            self._locks.setdefault(stage.key, lock_of(out / stage.path))

    def attempt(self, cell: CellPlan) -> bool:
        """Do what is not done yet of a cell; False if another process is at it, or at a part."""
        if world() == 1 and self._over(cell):
            return True
        done = False
        try:
            with locked(self.out / cell.folder / LOCK, sharing=self.sharing) as mine:
                done = mine and self._try(cell)
        except Lost as lost:
            self.meter(f"{cell.name}: {lost}")
        self.meter.look(cell)
        return done

    def _over(self, cell: CellPlan) -> bool:
        """Whether all of a cell is there, and nothing to be put in order: no lock has to be asked for.

        With many workers most cells that one comes to are so, and a folder is listed then instead of a
        lock taken and every file looked for that a killed process may have left.
        """
        if self.session.recipe.keep_checkpoints and cell.stage("unlearn"):
            return False  # its weights have to be there, too
        try:
            names = {*os.listdir(self.out / cell.folder)}
        except OSError:
            return False
        left = (n for n in names if n.startswith((".", "failed-")) or n.endswith(WEIGHTS))
        if {*left} - {LOCK} or not {stage.path.name for stage in cell.stages} <= names:
            return False
        self.meter.look(cell)
        return self.meter.finished(cell)

    def help_with(self, cell: CellPlan) -> bool:
        """Do one part of a cell that another process is at; False if there is none to do."""
        if world() > 1:
            return False  # what is there may change while they look
        parts = [part for part in _parts(cell) if part.name not in self._given_up]
        try:
            return any(self._help(cell, part) for part in parts)
        except Lost as lost:
            self.meter(f"{cell.name}: {lost}")
        return False

    def _help(self, cell: CellPlan, part: _Part) -> bool:
        missing = [stage for stage in part.stages if not (self.out / stage.path).exists()]
        if not missing or not self._ready(cell, part):
            return False
        with self._at(part.stages[0]) as mine:
            missing = [stage for stage in missing if not (self.out / stage.path).exists()]
            if not mine or not missing or not self._open():
                return False
            try:
                self._prepare(missing)
                if not self._put(cell):
                    return False
                self._do(cell, missing)
            except DivergedError as error:  # recorded by who is at the cell, whom it will meet too
                self._given_up.add(part.name)
                self.meter(f"{cell.name}: failed: {error}")
            finally:
                self._weights_of_cell = None
        return True

    def _open(self) -> bool:
        """Whether nobody has the whole folder, as who redacts it has: that one looks for parts then."""
        with locked(self.out / LOCK, sharing=self.sharing) as mine:
            return mine

    def _try(self, cell: CellPlan) -> bool:
        """Do a cell; where it breaks off, that is recorded, and the other cells still get their turn.

        The state of training is kept, so that the same command says at once what it would run into.
        """
        key = cell.stages[0].key
        told = failure(self.out / cell.folder, key)
        sweep(told.parent, "failed")
        try:
            if not self._cell(cell):
                return False
        except DivergedError as error:
            write_record(told, Failure(key=key, reason=str(error)))
            self.meter(f"{cell.name}: failed: {error}")
            return True
        finally:
            self._weights_of_cell = None
        told.unlink(missing_ok=True)
        self._tidy(cell)
        return True

    def _cell(self, cell: CellPlan) -> bool:
        """Do what is missing of a cell; False where another process is at some of it."""
        missing = [stage for stage in cell.stages if not self._there(cell, stage)]
        if not missing and not self._lost(cell):
            return True
        self._prepare(missing)
        if not self._weights(cell):
            return False
        keys = {stage.key for stage in missing}
        parts = [part for part in _parts(cell) if keys & {stage.key for stage in part.stages}]
        return all([self._part(cell, part) for part in parts])

    def _part(self, cell: CellPlan, part: _Part) -> bool:
        """Do a part of a cell whose weights the model has; False where another process is at it."""
        if not agreed(self._ready(cell, part)):
            return False
        with self._at(part.stages[0]) as mine:
            if mine:
                missing = agreed([not self._there(cell, stage, held=True) for stage in part.stages])
                self._do(cell, [*compress(part.stages, missing)])
        return mine

    def _ready(self, cell: CellPlan, part: _Part) -> bool:
        """Whether there is what a part is measured against: an attack needs the scores before."""
        scores = cell.stage("evaluate")
        if part.stages[0].kind not in ("attack", "stability") or scores is None:
            return True
        return (self.out / scores.path).exists()

    @contextmanager
    def _at(self, stage: StagePlan) -> Iterator[bool]:
        """Hold the lock of a stage, and remove what a killed process has left of it."""
        with locked(self._locks[stage.key], sharing=self.sharing, part=True) as mine:
            if mine:
                sweep(self.out / stage.path.parent, stage.path.stem)
            yield mine

    def _prepare(self, missing: Sequence[StagePlan]) -> None:
        """Take what these stages need of the original, before the model gets other weights."""
        release_memory()
        if any(stage.kind in ("diagnose", "stability") for stage in missing):
            self._before()

    def _do(self, cell: CellPlan, stages: Sequence[StagePlan]) -> None:
        """Do the stages of one part, of the model as it is."""
        for stage in stages:
            if stage.kind == "evaluate":
                self.meter(f"{cell.name}: evaluating")
                self._write(cell, stage, self.session.scores())
            elif stage.kind == "diagnose":
                self.meter(f"{cell.name}: looking inside")
                self._write(cell, stage, self._diagnose())
            elif stage.kind == "examine":
                self.meter(f"{cell.name}: examining")
                kept = unfinished.beside(self.out / stage.path)
                self._write(cell, stage, self.examiner.examine(kept, stage.key))
            else:
                self._attack(cell, stages)
                return

    def _lost(self, cell: CellPlan) -> bool:
        """Whether weights that are to be kept are not there."""
        unlearning = cell.stage("unlearn") if self.session.recipe.keep_checkpoints else None
        return unlearning is not None and not self._kept(unlearning)

    def _kept(self, stage: StagePlan) -> bool:
        """Whether the weights of a stage are there, whole as far as their size says; see `_load`."""
        path = self._beside(stage, WEIGHTS)
        if path.exists() and not complete(path):
            put_aside(path, self.meter)
        return path.exists()

    def _tidy(self, cell: CellPlan) -> None:
        """Remove what a finished cell needs no more."""
        sweep(self.out / cell.folder)
        for stage in cell.stages:
            if rank() == 0:  # of processes that were killed when they had written
                clear(lock_of(self.out / stage.path))
            remove_state(self._beside(stage, STATE))
            if stage.kind == "examine":
                unfinished.remove(self.out / stage.path)
            if not self.session.recipe.keep_checkpoints:
                self._beside(stage, WEIGHTS).unlink(missing_ok=True)

    def _there(self, cell: CellPlan, stage: StagePlan, held: bool = False) -> bool:
        """Whether a stage is done, be it of an equal model in another cell; read once where it is.

        Args:
            cell: Whose stage it is.
            stage: Which it is.
            held: Its lock is held: nobody else is at it.
        """
        path = self.out / stage.path
        if stage.path in self.meter.whole:
            return True
        done = whole(path, self.meter)
        if not done and stage.key == self.original.key:
            write_record(path, self.original)
            done = True
        if not done and not cell.stage("unlearn"):  # else it is a model of its own
            done = self._copied(stage, held)
        if done:
            self.meter.whole.add(stage.path)
        return done

    def _copied(self, stage: StagePlan, held: bool) -> bool:
        """Whether another cell has the same result; it is copied then."""
        for other in self._alike(stage, held):
            with suppress(DamagedError):  # which its own cell tells of
                if other.exists() and field_of(other, "key") == stage.key:
                    write_bytes(self.out / stage.path, other.read_bytes())
                    self._same[stage.key] = other
                    return True
        return False

    def _alike(self, stage: StagePlan, held: bool) -> list[Path]:
        """Return where the same result may be; all cells are looked through twice for a key at most.

        That is when it is first asked for, and when it is about to be made.
        """
        if stage.key in self._same:
            return [self._same[stage.key]]
        if stage.key in self._sought and not held:
            return []
        self._sought.add(stage.key)
        return sorted((self.out / "cells").glob(f"*/{stage.path.name}"))

    def _beside(self, stage: StagePlan, suffix: str) -> Path:
        return (self.out / stage.path).with_suffix(suffix)

    def _write(self, cell: CellPlan, stage: StagePlan, record: R) -> None:
        check()
        self.session.check()
        write_record(self.out / stage.path, record.model_copy(update={"key": stage.key}))
        if not cell.stage("unlearn"):
            self._same[stage.key] = self.out / stage.path
        remove_state(self._beside(stage, STATE))
        if stage.kind == "examine":
            unfinished.remove(self.out / stage.path)
        self.meter.look(cell)
        self.meter(led(f"{cell.name}: ", stage_line(record), cell.name))

    def _put(self, cell: CellPlan) -> bool:
        """Put the weights of this cell into the model; False where they are not there yet."""
        session, unlearning = self.session, cell.stage("unlearn")
        if cell.info.name == "given" and self.keys.after is not None:
            session.put(self.keys.after)
        elif cell.info.name == "never-learned" and session.never_learned is not None:
            session.put(session.never_learned)
        elif unlearning is None:
            session.original.restore()
        else:
            return self._load(unlearning)
        return True

    def _weights(self, cell: CellPlan) -> bool:
        """Put them into it, unlearning where they are not there; False if another process does so."""
        if self._put(cell):
            return True
        unlearning = cell.stage("unlearn")
        assert unlearning is not None
        with self._at(unlearning) as mine:
            if mine:
                self._unlearn(cell, unlearning)
        return mine

    def _load(self, stage: StagePlan) -> bool:
        """Put the weights kept of a stage into the model; False where they are not to be had."""
        path = self._beside(stage, WEIGHTS)
        if not (self.out / stage.path).exists() or not path.exists():
            return False
        try:
            load_weights(self.session.model, path)
        except DamagedError:
            put_aside(path, self.meter)
            return False
        return True

    def _unlearn(self, cell: CellPlan, stage: StagePlan) -> None:
        """Unlearn and keep the weights; once more where a record has outlived them."""
        session, state = self.session, self._beside(stage, STATE)
        assert cell.method is not None
        require_space(state.parent, 4 * sum(p.numel() for p in session.model.parameters()))
        session.original.restore()
        record = unlearn_here(
            *(session, cell.method, cell.seed, state),
            lambda text: self.meter(led("", text, cell.name)),
        )
        save_weights(session.model, self._beside(stage, WEIGHTS))
        before = read_stage(self.out / stage.path, Unlearning, stage.key)
        if before is None:
            self._write(cell, stage, record)
        elif without_times(before) != without_times(record):
            write_record(self.out / again(stage.path), record)
            self.meter(f"{cell.name}: unlearning again gave other weights than the first time")
        for note in record.notes:
            self.meter(f"{cell.name}: {note}")

    def _before(self) -> tuple[Baseline, Lens | None]:
        """Return the attributions and the lens of the original model."""
        if self._baseline is None:
            self.session.original.restore()
            self._baseline, self._lens = self._look()
        return self._baseline, self._lens

    def _look(self) -> tuple[Baseline, Lens | None]:
        """Return the attributions and the lens of the model as it is."""
        session, forget = self.session, self.session.split.forget
        reader = LensReader(session.model, session.prompt, forget)
        examples = session.examples(forget)
        batches = extremes(session.model, self.shared.sites, examples, session.pad, reader)
        return Baseline.of(batches), reader.lens()

    @cached_property
    def _inside(self) -> Inside:
        return Inside(self.session, self.shared.sites)

    def _diagnose(self) -> Diagnosis:
        session, begin = self.session, time.perf_counter()
        baseline, lens = self._before()
        after, lens_after = self._look()
        evidence = self._inside.look(baseline) if session.recipe.inside else None
        return Diagnosis(
            influence=influence(baseline, after, self.shared.sites, session.split.forget),
            lens_before=lens,
            lens_after=lens_after,
            evidence=evidence,
            seconds=round(time.perf_counter() - begin, 2),
        )

    def _attack(self, cell: CellPlan, stages: Sequence[StagePlan]) -> None:
        """Carry out an attack, and look at the attributions that it ends with; or with those given."""
        if self._weights_of_cell is None:
            self._weights_of_cell = snapshot(self.session.model)
        weights, evaluation, curve = self._weights_of_cell, cell.stage("evaluate"), stages[0].curve
        assert evaluation is not None
        scores = read_stage(self.out / evaluation.path, Evaluation, evaluation.key)
        assert scores is not None
        attack: AttackCurve | None = None
        if curve is not None:
            restore(self.session.model, weights)
            attack = self.shared.attacker.carry_out(
                curve,
                scores,
                lambda text: self.meter(led(f"{cell.name}: ", text, cell.name)),
                self._beside(stages[0], STATE),
            )
        for stage in stages:
            if stage.kind == "stability":
                self._write(cell, stage, self._stability(attack, weights))
            elif attack is not None:
                self._write(cell, stage, attack)

    def _stability(self, attack: AttackCurve | None, weights: dict[str, Tensor]) -> Stability:
        """Compare attributions with the attacked model, which is there or was given as a checkpoint."""
        baseline, _ = self._before()
        if attack is not None:
            return self._inside.stability(baseline, weights, ending(attack), attack.pool, attack.note)
        folder = self.keys.attacked
        assert folder is not None
        self.session.put(folder)
        return self._inside.stability(baseline, weights, f"the checkpoint given ({folder.name})")
