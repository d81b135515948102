"""`ssiuu export`: a checkpoint, facts or an audit in the form of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssiuu.cli.options import ColumnNames
from ssiuu.cli.spoken import result
from ssiuu.errors import ConfigError, ModelError, OutputError, unknown

KINDS = ("f16", "q8_0", "q4_0", "q6_k", "q4_k_m")


def command(
    model: Annotated[
        str | None, typer.Argument(help="short name, folder or hub name; with --inspect an audit")
    ] = None,
    gguf: Annotated[
        Path | None, typer.Option(metavar="FILE", help="file for llama.cpp to write, .gguf")
    ] = None,
    type_: Annotated[
        str, typer.Option("--type", metavar="|".join(KINDS), help="of the weights")
    ] = "q8_0",
    facts: Annotated[str | None, typer.Option(help="facts to write in another form")] = None,
    retain: Annotated[str | None, typer.Option(help="facts to keep, a split of --dataset")] = None,
    lm_eval: Annotated[
        Path | None, typer.Option("--lm-eval", metavar="DIR", help="folder of a task of lm-eval")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(metavar="DIR", help="folder of a set that datasets loads")
    ] = None,
    inspect: Annotated[
        Path | None, typer.Option(metavar="DIR", help="folder, or .json, for a log of inspect_ai")
    ] = None,
    columns: ColumnNames = None,
) -> None:
    """Write a model to a GGUF file; facts as a task or a data set; an audit as a log.

    A GGUF file is read back. What was unlearned may come back when weights are rounded:
    ssiuu audit --before MODEL --after FILE.gguf judges that very file.
    """
    if inspect is not None:
        if model is None or gguf or facts or retain or lm_eval or dataset:
            raise ConfigError("--inspect DIR goes with the folder of an audit and nothing else.")
        _audit(Path(model), inspect)
        return
    if facts is not None and model is None and gguf is None:
        _facts(facts, retain, lm_eval, dataset, columns)
        return
    if model is None or gguf is None or facts or retain or lm_eval or dataset:
        raise ConfigError(
            "give MODEL with --gguf FILE, or --facts FILE with --lm-eval DIR, --dataset DIR, or AUDIT "
            "with --inspect DIR."
        )
    _model(model, gguf, type_)


def _audit(folder: Path, path: Path) -> None:
    """Write an audit as a log of inspect_ai."""
    from ssiuu.records.files import load_run
    from ssiuu.report.inspect_log import write_log

    log, count = write_log(load_run(folder), path)
    result(inspect=log, samples=count)
    print(f"{log}: {count} facts; inspect view --log-dir {log.parent}")
    print("It holds the facts in full, readable by you alone.")


def _model(model: str, gguf: Path, type_: str) -> None:
    """Write a model to a GGUF file."""
    if type_ not in KINDS:
        raise ConfigError(unknown("type", type_, KINDS, "--type"))
    if gguf.suffix != ".gguf":
        raise OutputError(f"--gguf {gguf}: the name must end in .gguf.")
    from ssiuu.cli.misuse import check_models

    check_models(model)
    from ssiuu.models.gguf import read_gguf, rounding, write
    from ssiuu.models.load import load

    loaded = load(model)
    write(loaded.model, loaded.tokenizer, gguf, type_)  # type: ignore[arg-type]
    try:
        loaded.check()
    except ModelError:
        gguf.unlink()
        raise
    off = rounding(loaded.model, read_gguf(gguf))
    size = gguf.stat().st_size / 1e6
    result(gguf=gguf, megabytes=size, rounding=off)
    print(f"{gguf}: {size:.1f} MB; read back, its weights are off by {100 * off:.2g} % of their norm")


def _facts(
    forget: str, retain: str | None, lm_eval: Path | None, dataset: Path | None, columns: str | None
) -> None:
    """Write facts in the forms that are asked for."""
    if lm_eval is None and dataset is None:
        raise ConfigError("--facts: in which form? Give --lm-eval DIR, --dataset DIR, or both.")
    if retain is not None and dataset is None:
        raise ConfigError("--retain is a split of a data set: give --dataset DIR.")
    from ssiuu.data.columns import given_columns
    from ssiuu.data.exported import check_empty, data_set, lm_eval_task
    from ssiuu.data.read import read_facts

    if lm_eval is not None and dataset is not None and lm_eval.resolve() == dataset.resolve():
        raise ConfigError(f"--lm-eval and --dataset are both {lm_eval}: give each a folder of its own.")
    for folder in (lm_eval, dataset):
        if folder is not None:
            check_empty(folder)
    named = given_columns(columns)
    splits = {"forget": read_facts(forget, "--facts", named)}
    if retain is not None:
        splits["retain"] = read_facts(retain, "--retain", named)
    if lm_eval is not None:
        tasks = lm_eval_task(splits["forget"], lm_eval)
        result(lm_eval=lm_eval, tasks=tasks)
        print(f"{lm_eval}: in it, lm_eval --include_path . --tasks {','.join(tasks)} --model ...")
    if dataset is not None:
        data_set(splits, dataset)
        result(dataset=dataset, splits={name: len(facts) for name, facts in splits.items()})
        print(f"{dataset}: datasets.load_dataset({str(dataset)!r})")
    print("These hold the facts in full, readable by you alone.")
