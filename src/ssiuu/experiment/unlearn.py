"""One model and the user's own facts: unlearn them; audit or diagnose a pair, also on a benchmark's."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from ssiuu.attacks import switched_off
from ssiuu.benchmarks import BENCHMARKS
from ssiuu.benchmarks.base import Given, Progress
from ssiuu.data.columns import Columns
from ssiuu.data.problems import listed
from ssiuu.data.read import Source
from ssiuu.errors import ConfigError, DamagedError, InputError, OutputError
from ssiuu.experiment import launched
from ssiuu.experiment.drive import check_method
from ssiuu.experiment.estimate import known_of, of_unlearning
from ssiuu.experiment.folder import at_work
from ssiuu.experiment.forgetting import forget as forget_facts
from ssiuu.experiment.given import ModelSource, checkpoint, given_settings, in_place, setting
from ssiuu.experiment.recipe import resolve
from ssiuu.experiment.run import run
from ssiuu.experiment.session import Session, open_session
from ssiuu.experiment.tracked import tracked
from ssiuu.models.load import place, require_space, save
from ssiuu.models.shards import by_first
from ssiuu.models.sources import HUB_NAME, MODELS
from ssiuu.models.weights import legible, load_weights, save_weights
from ssiuu.records.files import (
    digest,
    put_aside,
    require_empty,
    standing,
    write_bytes,
    write_record,
)
from ssiuu.records.lease import check, told_to
from ssiuu.records.said import logged
from ssiuu.records.schema import RunRecord, Unlearning
from ssiuu.report.card import CARD, card_head, model_card
from ssiuu.report.knowledge import sentences
from ssiuu.training import interrupt

# What moves a model least where it forgets as much (docs/decisions/0008).
DEFAULT_METHOD: Mapping[str, Any] = {"name": "npo+kl+texts+others", "retain_weight": 5.0}
NO_METHOD = "methods=[none]"
RECORD = "unlearn.json"
RESULT, WEIGHTS = "result.json", "result.safetensors"  # of what was unlearned and could not be saved


def unlearn_model(
    model: ModelSource,
    forget: Source,
    out: str | Path | None = None,
    retain: Source | None = None,
    method: str | Mapping[str, Any] = DEFAULT_METHOD,
    sets: list[str] | None = None,
    progress: Progress = logged,
    *,
    tokenizer: Any = None,
    columns: Columns | str | None = None,
    base: str | Path | None = None,
    keep_anyway: bool = False,
    certify: Callable[[Path, Unlearning], object] = lambda *_: None,
) -> Unlearning:
    """Make a model forget facts and save it, with `unlearn.json`, in the Hugging Face layout.

    Without unlearn.learning_rate among `sets` a rate is searched. `outcome` of the record says what it
    led to; where that is not "forgotten", no checkpoint is written (nor a model in memory changed), and
    the record stands beside `out` as OUT.unlearn.json, unless `keep_anyway`.

    A model in memory is worked on as a copy. Without `out` nothing is written, and the weights that
    come of it are put into the model that was given.

    Args:
        model: Short name, folder or hub name, or a transformers model.
        forget: The facts: a file, a hub name, or rows (a list of dicts, a datasets.Dataset, a data
            frame).
        out: Folder for the checkpoint, or for the adapter alone (unlearn.lora.merge false); must
            not hold anything. None: a model in memory is changed in place, adapters merged.
        retain: The facts to keep, likewise, or "none".
        method: A name from `ssiuu list methods` with its suffixes, or a mapping with name and
            hyper-parameters.
        sets: Further settings, "key=value" as in a recipe.
        progress: Told about every step.
        tokenizer: That of a model in memory.
        columns: Which columns of the facts are read, by key: {"question": "text"}, or as
            `--columns` has it; None: known names.
        base: The model that an adapter belongs to, in place of the one that it states; also where
            the tokenizer is taken from if the model's folder has none.
        keep_anyway: Write the checkpoint whatever the outcome.
        certify: Writes a certificate into the checkpoint's folder, before that gets its name.

    Raises:
        InputError: Anything given cannot be used; nothing has been written.
        DivergedError: Training diverged; the last good state is kept beside `out`.
    """
    launched.begin("unlearn")
    if retain is None:
        raise ConfigError(
            "--retain is missing: without facts to keep, the model may lose far more than the "
            "facts to forget. Give a file of things it should still know, or --retain none to go "
            "without."
        )
    if out is None and launched.started() > 1:
        raise ConfigError("several processes unlearn into a folder: give out.")
    if out is None:
        merged = [*(sets or []), "unlearn.lora.merge=true"]
        with in_place(model) as folder:
            return unlearn_model(
                *(model, forget, folder, retain, method, merged, progress),
                tokenizer=tokenizer,
                columns=columns,
                keep_anyway=keep_anyway,
            )
    out = Path(os.path.abspath(out))  # "." has no name
    require_empty(out)
    named, given = given_settings(model, forget, retain, columns, tokenizer, base)
    recipe, sources = resolve(None, [*named, setting("methods", [method]), *(sets or [])])
    chosen = recipe.made()[0]
    if not chosen.trains:
        raise ConfigError(f"--method {method} does not unlearn anything.")
    if recipe.dtype == "nf4" and recipe.unlearn.lora.rank is None:
        raise ConfigError(
            "dtype: nf4 holds weights in 4 bits, which are not trained: set unlearn.lora.rank, or use "
            "bf16."
        )
    beside, progress = out.with_name(f"{out.name}.tracked"), told_to(progress)
    with (
        at_work(out, recipe.locks, progress) as work,
        interrupt.graceful(),
        tracked(recipe, beside, progress) as progress,
    ):
        session = open_session(recipe, None, progress, given)
        require_space(out, 4 * session.loaded.info.parameters)
        check_method(session, chosen)
        for note in session.notes:
            progress(note)
        lora = recipe.unlearn.lora
        adapter = work / "adapter" if lora.rank is not None and not lora.merge else None
        searches = chosen.has_gradient and sources["unlearn.learning_rate"] == "default"
        progress(of_unlearning(recipe, searches, **known_of(session, session.split.unlearned)))
        key = _key(session)
        kept = _kept(session, work, key, progress)
        if kept is None:
            record = forget_facts(session, chosen, searches, work, progress, adapter)
        else:
            progress("unlearned already, and only to be saved")
            record = kept
        unsaved = record
        notes = [*record.notes, *sentences(session.knowledge)]
        record = record.model_copy(update={"knowledge": session.knowledge, "notes": notes})
        note = f"{record.method.label} on {len(session.split.unlearned)} facts"
        assert record.outcome is not None
        check()
        if record.outcome.state != "forgotten" and not keep_anyway:
            write_record(out.with_name(f"{out.name}.unlearn.json"), record, private=True)
        else:
            try:
                _save(session, out, note, adapter, partial(_beside, session, record, certify))
            except (InputError, OSError) as error:
                raise OutputError(f"{error} {_keep(session, work, unsaved, key)}") from error
        shutil.rmtree(work, ignore_errors=True)
    return record


def _beside(
    session: Session,
    record: Unlearning,
    certify: Callable[[Path, Unlearning], object],
    folder: Path,
) -> None:
    """Write the record, the card and the certificate of a checkpoint beside its files.

    Raises:
        ModelError: The files of the model before are not those that were read, as is said of them.
    """
    write_record(folder / RECORD, record, private=True)
    write_bytes(folder / CARD, _card(session, record).encode())
    certify(folder, record)
    session.check()


def _save(
    session: Session, out: Path, note: str, adapter: Path | None, beside: Callable[[Path], None]
) -> None:
    """Save the adapter where there is one alone, else the session's model."""
    if adapter is not None:

        def put() -> None:
            legible(adapter)
            beside(adapter)
            place(adapter, out)

        by_first(put)
        return
    loaded = session.loaded
    noted = "; ".join(part for part in (note, loaded.info.note) if part)
    save(
        *(loaded.model, loaded.tokenizer, out, noted, loaded.info.dtype, beside),
        session.recipe.shard_size,
        loaded.source,
    )


def _card(session: Session, record: Unlearning) -> str:
    """Return the model card; the head of the one before is read where that lies on this machine."""
    from huggingface_hub import try_to_load_from_cache

    from ssiuu import __version__

    info = session.loaded.info
    hub = MODELS[info.name][0] if info.name in MODELS else info.name
    if Path(info.name).expanduser().is_dir():
        hub, before = "", Path(info.name).expanduser() / CARD
    else:
        found = try_to_load_from_cache(hub, CARD) if HUB_NAME.fullmatch(hub) else None
        before = Path(found) if isinstance(found, str) else Path()
    hub = hub if HUB_NAME.fullmatch(hub) else ""
    lora = session.recipe.unlearn.lora
    adapter = lora.rank is not None and not lora.merge
    return model_card(record, info, hub, __version__, card_head(before), adapter)


def _key(session: Session) -> str:
    """Return the digest of all that decides what unlearning ends in, before it has begun."""
    split = session.split.model_dump(mode="json")
    recipe = session.recipe.model_dump(mode="json", exclude={"track"})
    return digest(session.loaded.info.fingerprint, split, recipe)


def _keep(session: Session, work: Path, record: Unlearning, key: str) -> str:
    """Keep what could not be saved, where there is room for that, and say whether it is kept."""
    try:
        save_weights(session.model, work / WEIGHTS)
        write_record(work / RESULT, record.model_copy(update={"key": key}), private=True)
    except OutputError:
        return "The training could not be kept either: it is lost."
    return f"What was unlearned is kept in {work}: the same command only saves it."


def _kept(session: Session, work: Path, key: str, progress: Progress) -> Unlearning | None:
    """Return the record of what the same command unlearned and could not save; None: there is none.

    Its weights are put into the model.
    """
    record = standing(work / RESULT, Unlearning, progress)
    if record is None or record.key != key or not (work / WEIGHTS).exists():
        return None
    try:
        load_weights(session.model, work / WEIGHTS)
    except DamagedError:
        put_aside(work / WEIGHTS, progress)
        return None
    return record.model_copy(update={"key": ""})


def audit_models(
    before: ModelSource,
    after: ModelSource,
    forget: Source | None,
    out: str | Path,
    retain: Source | None = None,
    sets: list[str] | None = None,
    command: str = "",
    progress: Progress = logged,
    *,
    tokenizer: Any = None,
    columns: Columns | str | None = None,
    base: str | Path | None = None,
) -> RunRecord:
    """Judge a pair of checkpoints on the user's own facts.

    Args:
        before: Model before unlearning: short name, folder or hub name, or a transformers model.
            Models in memory are left as they are.
        after: Folder of the model after unlearning, of the same architecture, or the model.
        forget: The facts that should be gone: a file, a hub name, or rows (a list of dicts, a
            datasets.Dataset, a data frame); None where `sets` name a benchmark with its own.
        out: Folder for the record.
        retain: Facts that should still be there, likewise.
        sets: Further settings, "key=value" as in a recipe.
        command: As typed, for the record.
        progress: Told what is going on.
        tokenizer: That of models in memory.
        columns: Which columns of the facts are read, by key: {"question": "text"}, or as
            `--columns` has it; None: known names.
        base: The model that an adapter belongs to, in place of the one that it states; also where
            the tokenizer is taken from if the model's folder has none.

    Raises:
        InputError: Anything given cannot be used.
    """
    launched.begin("audit")
    with checkpoint(after, tokenizer, "after") as judged:
        named, given = _judged(before, forget, retain, sets or [], columns, tokenizer, base)
        recipe, sources = resolve(None, [*named, NO_METHOD, *(sets or [])])
        typed = command or " ".join(sys.argv)
        return run(recipe, sources, out, typed, judged, progress, given=given)


def diagnose_models(
    before: ModelSource,
    after: ModelSource,
    forget: Source | None,
    out: str | Path,
    retain: Source | None = None,
    attacked: ModelSource | None = None,
    sets: list[str] | None = None,
    command: str = "",
    progress: Progress = logged,
    *,
    tokenizer: Any = None,
    columns: Columns | str | None = None,
    base: str | Path | None = None,
) -> RunRecord:
    """Look inside a pair of checkpoints: all that `inside: true` shows, and no attack.

    It is an audit without attacks, which `audit_models` on the same folder adds; what it is given is
    given as there. `attacked` is the folder of the model after an attack on `after`, or the model, for
    the stability of attributions. Means and probes are fitted on the facts of `retain`.

    Raises:
        InputError: Anything given cannot be used.
    """
    launched.begin("diagnose")
    with ExitStack() as checkpoints:
        judged = checkpoints.enter_context(checkpoint(after, tokenizer, "after"))
        harmed = None
        if attacked is not None:
            harmed = checkpoints.enter_context(checkpoint(attacked, tokenizer, "attacked"))
        named, given = _judged(before, forget, retain, sets or [], columns, tokenizer, base)
        unattacked = [f"{key}={json.dumps(value)}" for key, value in switched_off().items()]
        assignments = [*named, NO_METHOD, "inside=true", *(sets or []), *unattacked, "examine.steps=[]"]
        recipe, sources = resolve(None, assignments)
        typed = command or " ".join(sys.argv)
        return run(recipe, sources, out, typed, judged, progress, harmed, given, look=True)


def _judged(
    before: ModelSource,
    forget: Source | None,
    retain: Source | None,
    sets: list[str],
    columns: Columns | str | None,
    tokenizer: Any,
    base: str | Path | None,
) -> tuple[list[str], Given]:
    """Return the settings of an audit: of the user's own facts, or of a benchmark's.

    Raises:
        ConfigError: There are no facts, or two kinds.
        DataError: Rows in memory cannot be used.
    """
    pairs = [text.partition("=") for text in sets]
    chosen = [value.strip(" '\"") for key, _, value in pairs if key.strip() == "benchmark"]
    name = chosen[-1] if chosen else "own"
    benchmark = BENCHMARKS.get(name, "--set benchmark")
    if benchmark.before is None:
        raise ConfigError(
            f"--set benchmark={name}: a pair of checkpoints is judged on your own facts (--forget) or "
            f"on those of {listed(_judging())} (--set benchmark=NAME)."
        )
    if not benchmark.yours:
        if forget is not None or retain is not None:
            raise ConfigError(
                f"benchmark={name} brings its own facts: leave --forget and --retain out, and give the "
                f"folder of its files with --set {name}.path=FOLDER."
            )
        if not isinstance(before, (str, Path)):
            raise ConfigError(f"benchmark={name}: give the model before by its path, not in memory.")
        named = {"benchmark": name, benchmark.before: before} | ({} if base is None else {"base": base})
        return [setting(key, str(value)) for key, value in named.items()], Given()
    if forget is None:
        raise ConfigError(
            "--forget is missing: the file of the facts that should be gone. For a benchmark's own "
            f"(NAME: {listed(_judging())}) give --set benchmark=NAME --set NAME.path=FOLDER."
        )
    return given_settings(before, forget, retain, columns, tokenizer, base)


def _judging() -> list[str]:
    """Return the benchmarks that a pair of checkpoints is judged on by facts of their own."""
    kinds = {name: BENCHMARKS.get(name) for name in BENCHMARKS}
    return [name for name, kind in kinds.items() if kind.before and not kind.yours]
