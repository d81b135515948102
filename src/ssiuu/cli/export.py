"""`ssiuu export`: a checkpoint as one file for another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssiuu.errors import ConfigError, OutputError, unknown

KINDS = ("f16", "q8_0", "q4_0")


def command(
    model: Annotated[str, typer.Argument(help="short name, folder or hub name")],
    gguf: Annotated[Path, typer.Option(metavar="FILE", help="file for llama.cpp to write, .gguf")],
    type_: Annotated[
        str, typer.Option("--type", metavar="|".join(KINDS), help="of the weights")
    ] = "q8_0",
) -> None:
    """Write a Llama model to a GGUF file and read it back.

    What was unlearned may come back when weights are rounded:
    ssiuu audit --before MODEL --after FILE.gguf judges that very file.
    """
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
    off = rounding(loaded.model, read_gguf(gguf))
    size = gguf.stat().st_size / 1e6
    print(f"{gguf}: {size:.1f} MB; read back, its weights are off by {100 * off:.2g} % of their norm")
