"""Run an experiment: for each method and seed unlearn, evaluate, diagnose, attack, record.

Every stage writes one file and is skipped when its file is there, so the same command continues
an interrupted run.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssiuu.attribution.neuron import extremes
from ssiuu.diagnosis.influence import Baseline, influence
from ssiuu.diagnosis.lens import logit_lens
from ssiuu.errors import InputError, OutputError
from ssiuu.evaluation.score import evaluate
from ssiuu.experiment.attacking import Attacker, Curve, plan
from ssiuu.experiment.provenance import machine, now, versions
from ssiuu.experiment.recipe import Recipe, flatten
from ssiuu.experiment.session import Session, open_session
from ssiuu.methods import Method
from ssiuu.models.load import (
    load_checkpoint_weights,
    load_weights,
    require_space,
    restore,
    save_weights,
    snapshot,
)
from ssiuu.models.precision import release_memory
from ssiuu.models.sites import find_sites
from ssiuu.records.files import cell_folder, load_run, read_record, write_record
from ssiuu.records.schema import (
    Diagnosis,
    Evaluation,
    MethodInfo,
    RunHeader,
    RunRecord,
    Unlearning,
)
from ssiuu.training import interrupt
from ssiuu.training.lora import Lora
from ssiuu.training.unlearn import Settings, unlearn

Progress = Callable[[str], None]

NEVER_LEARNED = MethodInfo(
    label="never-learned",
    name="never-learned",
    origin="control",
    description="Control: the twin trained in the same way without the facts to forget.",
)


def run(
    recipe: Recipe,
    sources: dict[str, str],
    out: Path,
    command: str = "",
    after: Path | None = None,
    progress: Progress = lambda _: None,
) -> RunRecord:
    """Run a recipe into a folder, or continue the same run there.

    Args:
        recipe: What to do.
        sources: Where each setting came from, for the record.
        out: The run's folder.
        command: As typed, for the record.
        after: Judge this checkpoint instead of unlearning (an audit).
        progress: Told what is going on.

    Raises:
        InputError: Model, data, settings or the output folder cannot be used.
        Interrupted: Ctrl-C; the same command continues.
    """
    check_folder(out, recipe, after)
    with interrupt.graceful(), _locked(out):
        session = open_session(recipe, out if (out / "run.json").exists() else None, progress)
        header = _header(session, sources, command, after)
        previous = read_record(out / "run.json", RunHeader)
        if previous is None:
            write_record(out / "run.json", header)
            write_record(out / "split.json", session.split)
        else:
            header = previous
        stages = _Stages(session, out, progress)
        for seed in header.seeds:
            for info in header.methods:
                stages.cell(info, _method(recipe, info), seed, after)
        return load_run(out)


def check_folder(out: Path, recipe: Recipe, after: Path | None = None) -> None:
    """Refuse a folder that holds something else.

    Raises:
        OutputError: It holds another run, or files that are no run.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputError(f"--out {out} is a file; name a folder.")
    header = read_record(out / "run.json", RunHeader)
    if header is None:
        left = [p.name for p in out.iterdir() if not p.name.startswith(".")]
        if left and left != ["split.json"]:
            raise OutputError(f"--out {out} is not empty and holds no run ({left[0]}, ...).")
        return
    wanted = flatten(_config(recipe, after))
    there = flatten(header.config)
    changed = sorted(k for k in wanted.keys() | there.keys() if wanted.get(k) != there.get(k))
    if changed:
        key = changed[0]
        raise OutputError(
            f"--out {out} holds another run: {key} is {there.get(key)!r} there and "
            f"{wanted.get(key)!r} now ({len(changed)} settings differ). Choose another folder."
        )


def _config(recipe: Recipe, after: Path | None) -> dict[str, Any]:
    config = recipe.model_dump(mode="json")
    return config | ({"after": str(after)} if after else {})


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Let one process at a time work in a run folder."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        stream = (out / ".lock").open("w")
    except OSError as error:
        raise OutputError(f"--out {out} cannot be written to: {error.strerror}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"--out {out} is in use by another process.") from error
        yield


def _header(session: Session, sources: dict[str, str], command: str, after: Path | None) -> RunHeader:
    recipe = session.recipe
    if after is not None:
        methods = [_info(recipe.made()[0]), _given(after)]
    else:
        methods = [_info(method) for method in recipe.made()]
        if session.never_learned is not None:
            methods.append(NEVER_LEARNED)
    notes = list(session.notes)
    if session.precision == "fp32":
        notes.append("Computed in fp32: this processor has no bf16 instructions, or fp32 was set.")
    return RunHeader(
        kind="run" if after is None else "audit",
        created=now(),
        command=command,
        protocol=recipe.protocol,
        config=_config(recipe, after),
        sources=sources,
        versions=versions(),
        machine=machine(session.precision),
        model=session.loaded.info,
        benchmark=session.benchmark,
        split=session.split,
        chance=session.chance,
        methods=methods,
        seeds=recipe.seeds,
        notes=notes,
    )


def _info(method: Method) -> MethodInfo:
    return MethodInfo(
        label=method.label,
        name=method.name,
        origin=method.whose,
        description=method.description,
        hyperparameters=method.model_dump(mode="json", by_alias=True),
    )


def _given(after: Path) -> MethodInfo:
    return MethodInfo(
        label="after",
        name="given",
        origin="given",
        description=f"The checkpoint given as the model after unlearning ({after.name}).",
    )


def _method(recipe: Recipe, info: MethodInfo) -> Method | None:
    return next((m for m in recipe.made() if m.label == info.label), None)


def settings_of(session: Session, method: Method, seed: int, threshold: float) -> Settings:
    """Return how a method is driven in this experiment."""
    config = session.recipe.unlearn
    return Settings(
        learning_rate=method.learning_rate or config.learning_rate,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        max_steps=config.max_steps,
        check_every=config.check_every,
        threshold=threshold,
        weight_decay=config.weight_decay,
        seed=seed,
        precision=session.precision,
        lora=None
        if config.lora.rank is None
        else Lora(
            config.lora.rank,
            config.lora.alpha,
            tuple(config.lora.targets),
            config.lora.attribution,
            seed,
        ),
    )


def unlearn_here(
    session: Session,
    method: Method,
    seed: int,
    state: Path,
    progress: Progress,
    adapter: Path | None = None,
) -> Unlearning:
    """Unlearn the session's facts in its model, in place.

    Raises:
        ConfigError: A projection is wanted and there is nothing to take directions from.
    """
    stop, threshold = session.stop_rule()
    retain = session.examples(session.split.retain)
    return unlearn(
        session.model,
        method,
        _info(method),
        session.examples(session.split.forget),
        retain,
        settings_of(session, method, seed, threshold),
        stop,
        session.pad,
        state,
        progress,
        shared=retain or session.benign(),
        refusals=session.refusals(method),
        adapter=adapter,
    )


class _Stages:
    """The stages of one run; what they share is made when first needed."""

    def __init__(self, session: Session, out: Path, progress: Progress) -> None:
        self.session, self.out, self.progress = session, out, progress
        self.forget = session.split.forget
        try:
            self.sites = find_sites(session.model) if session.recipe.diagnose else []
        except InputError as error:
            self.sites = []
            session.notes.extend(error.problems)
        self._baseline: Baseline | None = None
        self._lens: Any = None
        self.attacker = Attacker(session)

    def cell(self, info: MethodInfo, method: Method | None, seed: int, after: Path | None) -> None:
        """Do what is not done yet for one method and seed."""
        folder = cell_folder(self.out, info.label, seed)
        folder.mkdir(parents=True, exist_ok=True)
        control = info.name == "none"
        curves = (
            [] if control and not self.session.recipe.attacks.control else plan(self.session.recipe)
        )
        files = ["unlearn.json", "evaluate.json"] if method and method.trains else ["evaluate.json"]
        if self.sites and not control:
            files.append("diagnose.json")
        if all((folder / name).exists() for name in [*files, *[c.file for c in curves]]):
            return
        release_memory()
        original = self._original()
        if control:
            write_record(folder / "evaluate.json", original)
        self._weights(info, method, seed, after, folder)
        name = f"{info.label} seed {seed}"
        if not (folder / "evaluate.json").exists():
            self.progress(f"{name}: evaluating")
            scores = evaluate(self.session.model, self.session.prompt, self.session.split)
            write_record(folder / "evaluate.json", scores)
        if "diagnose.json" in files and not (folder / "diagnose.json").exists():
            self.progress(f"{name}: looking inside")
            write_record(folder / "diagnose.json", self._diagnose(info, method, seed, after, folder))
        self._attack(name, folder, curves)
        if not self.session.recipe.keep_checkpoints:
            (folder / "weights.safetensors").unlink(missing_ok=True)

    def _original(self) -> Evaluation:
        path = self.out / "original.json"
        found = read_record(path, Evaluation)
        if found is None:
            self.progress("original model: evaluating")
            self.session.original.restore()
            found = evaluate(self.session.model, self.session.prompt, self.session.split)
            write_record(path, found)
        return found

    def _weights(
        self, info: MethodInfo, method: Method | None, seed: int, after: Path | None, folder: Path
    ) -> None:
        """Put the weights of this cell into the model, unlearning where that has not been done."""
        session, stored = self.session, folder / "weights.safetensors"
        if info.name == "given" and after is not None:
            load_checkpoint_weights(session.model, after)
        elif info.name == "never-learned" and session.never_learned is not None:
            load_checkpoint_weights(session.model, session.never_learned)
        elif method is None or not method.trains:
            session.original.restore()
        elif (folder / "unlearn.json").exists() and stored.exists():
            load_weights(session.model, stored)
        else:
            require_space(folder, 4 * sum(p.numel() for p in session.model.parameters()))
            if self.sites:
                self._before()  # while the original weights are at hand
            session.original.restore()
            record = unlearn_here(session, method, seed, folder / "state.safetensors", self.progress)
            for note in record.notes:
                self.progress(f"{info.label} seed {seed}: {note}")
            release_memory()
            save_weights(session.model, stored)
            write_record(folder / "unlearn.json", record)

    def _before(self) -> tuple[Baseline, Any]:
        """Return the attributions and the lens of the original model."""
        if self._baseline is None:
            session = self.session
            session.original.restore()
            examples = session.examples(self.forget)
            self._baseline = Baseline.of(extremes(session.model, self.sites, examples, session.pad))
            self._lens = logit_lens(session.model, session.prompt, self.forget, session.pad)
        return self._baseline, self._lens

    def _diagnose(
        self, info: MethodInfo, method: Method | None, seed: int, after: Path | None, folder: Path
    ) -> Diagnosis:
        session = self.session
        if self._baseline is None:
            self._before()
            self._weights(info, method, seed, after, folder)
        begin = time.perf_counter()
        baseline, lens = self._before()
        examples = session.examples(self.forget)
        found = influence(
            baseline, extremes(session.model, self.sites, examples, session.pad), self.sites
        )
        return Diagnosis(
            influence=found,
            lens_before=lens,
            lens_after=logit_lens(session.model, session.prompt, self.forget, session.pad),
            seconds=round(time.perf_counter() - begin, 2),
        )

    def _attack(self, name: str, folder: Path, plan: list[Curve]) -> None:
        plan = [curve for curve in plan if not (folder / curve.file).exists()]
        if not plan:
            return
        weights = snapshot(self.session.model)
        scores = read_record(folder / "evaluate.json", Evaluation)
        assert scores is not None
        for curve in plan:
            restore(self.session.model, weights)
            record = self.attacker.carry_out(
                curve, scores, lambda text: self.progress(f"{name}: {text}")
            )
            write_record(folder / curve.file, record)
