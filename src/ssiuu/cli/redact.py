"""`ssiuu redact`: digests in the place of every text of a folder, figures stay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssiuu.cli.options import DigestKeyFile


def command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="folder of a run, an audit or a checkpoint, or the file of ssiuu ask"
        ),
    ],
    digest_key: DigestKeyFile = None,
) -> None:
    """Take the facts out of what is to be handed on: questions, answers, all that models wrote, paths.

    Figures and verdicts stay, and ssiuu report works as before. The key of the
    digests is written beside the folder: keep it to look a fact up, destroy it
    so that nobody can. Nothing can be run on in a redacted folder.
    """
    from ssiuu.cli.terminal import redacted

    redacted(folder, digest_key)
