"""Options that several sub-commands take, each in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from ssiuu.errors import ConfigError, unknown

STYLES: Final = ("chat", "qa", "plain")  # of `ssiuu.likelihood.PromptStyle`, which is slow to import


def _known(prompt: str | None) -> str | None:
    if prompt is not None and prompt not in STYLES:
        raise ConfigError(unknown("form of questions", prompt, STYLES, "--prompt"))
    return prompt


Base = Annotated[
    str | None,
    typer.Option(help="model that an adapter belongs to, in place of the one that it states"),
]
ColumnNames = Annotated[
    str | None, typer.Option(help="columns of the files: question=COLUMN,answer=COLUMN")
]
PromptForm = Annotated[
    str | None,
    typer.Option(
        callback=_known,
        help="chat, qa or plain; by default what a checkpoint's record says that it was trained in, "
        "else chat where the model has a template",
    ),
]
DigestKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="key of the digests, made where it is not there; default: beside it, NAME.digest-key",
    ),
]
Sign = Annotated[
    Path | None,
    typer.Option(
        metavar="KEY",
        help="sign the certificate: an Ed25519 key, OpenSSH's or PEM; its passphrase is asked for, or "
        "read from SSIUU_SIGN_PASSPHRASE",
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(help="what the request is called; in the certificate, so no personal data"),
]
FactDigestForm = Annotated[
    str,
    typer.Option(
        metavar="keyed|salted",
        help="facts in the certificate: by digests under a key, or salted, for anybody to check",
    ),
]
Redact = Annotated[
    bool, typer.Option("--redact", help="when it is done, digests take the place of every text")
]
Revision = Annotated[
    str | None, typer.Option(help="of a hub model: branch, tag or commit; default: its main branch")
]
Sets = Annotated[list[str] | None, typer.Option("--set", help="key=value, as in a recipe; repeatable")]
Thorough = Annotated[
    bool, typer.Option("--thorough", help="examine as long as it takes; an estimate comes first")
]
