"""Options that several sub-commands take, each in the same words."""

from __future__ import annotations

from typing import Annotated

import typer

Base = Annotated[
    str | None,
    typer.Option(help="model that an adapter belongs to, in place of the one that it states"),
]
ColumnNames = Annotated[
    str | None, typer.Option(help="columns of the files: question=COLUMN,answer=COLUMN")
]
PromptForm = Annotated[
    str | None,
    typer.Option(help="chat, qa or plain; by default chat where the model has a template"),
]
Sets = Annotated[list[str] | None, typer.Option("--set", help="key=value, as in a recipe; repeatable")]
Thorough = Annotated[
    bool, typer.Option("--thorough", help="examine as long as it takes; an estimate comes first")
]
