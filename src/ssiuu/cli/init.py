"""`ssiuu init`: a recipe to start from, every line of it explained."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ssiuu.cli.spoken import result
from ssiuu.errors import ConfigError, OutputError

# What people change, in the order of the file; everything else has one value that fits most runs.
LINES = (
    *("benchmark", "model", "forget", "retain", "prompt", "split.forget", "split.retain", "methods"),
    *("seeds", "protocol", "unlearn.max_steps", "unlearn.batch_size", "unlearn.lora.rank"),
    *("examine.steps", "inside", "keep_checkpoints"),
)
OWN = {"forget", "retain"}


def command(
    file: Annotated[Path, typer.Argument(help="recipe to write")] = Path("recipe.yaml"),
    model: Annotated[str | None, typer.Option(help="short name, folder or hub name")] = None,
    forget: Annotated[str | None, typer.Option(help="facts of your own to forget")] = None,
    retain: Annotated[str | None, typer.Option(help="facts to keep, or none")] = None,
    benchmark: Annotated[str | None, typer.Option(help="see ssiuu list benchmarks")] = None,
    method: Annotated[list[str] | None, typer.Option(help="see ssiuu list methods; repeatable")] = None,
    protocol: Annotated[str | None, typer.Option(help="paper, or strong: a swept attacker")] = None,
) -> None:
    """Write a commented recipe from these options; asks for what they leave open on a terminal."""
    if file.exists():
        raise OutputError(f"{file} is there already: name another file.")
    if not file.parent.is_dir():
        raise OutputError(f"{file.parent} is no folder.")
    if sys.stdin.isatty() and not any((model, forget, benchmark)):
        model = typer.prompt("Model (short name, folder or hub name)", "smollm2-135m")
        forget = typer.prompt("File of the facts to forget (empty: a benchmark's)", "") or None
        if forget:
            retain = typer.prompt("File of facts to keep, or none", "none")
    if forget and benchmark not in (None, "own"):
        raise ConfigError(f"--forget: facts of your own are benchmark own, not {benchmark}.")
    values: dict[str, Any] = {
        "benchmark": "own" if forget else benchmark,
        "model": model,
        "forget": forget,
        "retain": (retain or "none") if forget else retain,
        "methods": method or None,
        "protocol": protocol,
    }
    given = {key: value for key, value in values.items() if value is not None}
    written = _commented(given)
    from ssiuu.experiment.matrix import resolve_all
    from ssiuu.records.files import write_bytes

    resolve_all(None, [f"{key}={json.dumps(value)}" for key, value in given.items()])
    write_bytes(file, written.encode())
    result(recipe=file)
    print(f"{file} is written. What it will do and cost:  ssiuu check {file}")
    print(f"Then:  ssiuu run {file} --out {file.stem}")


def _commented(given: dict[str, Any]) -> str:
    """Return a recipe of these values; what is left at its default stands there as a comment."""
    from ssiuu.experiment.settings import settings

    known = {setting.key: setting for setting in settings()}
    lines = ["# Every other setting: ssiuu list settings. A line without # in front is set."]
    for key in LINES:
        if key in OWN and key not in given:
            continue
        setting = known[key]
        lines += ["", f"# {setting.description}", f"# ({setting.allowed})"]
        if key in given:
            lines.append(f"{key}: {json.dumps(given[key], ensure_ascii=False)}")
        else:
            lines.append(f"# {key}: {setting.default}")
    return "\n".join(lines) + "\n"
