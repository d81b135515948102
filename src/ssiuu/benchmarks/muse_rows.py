"""MUSE's files: texts to forget and to keep, excerpts of them, questions about them, and a hold-out.

    data = load("data/news", "News", "raw/forget")      # a folder, or None for the hub

News articles or books, of which a part is to be forgotten (Shi et al., arXiv 2407.06460;
muse-bench/MUSE-News and MUSE-Books on the hub). A folder holds them as the authors' does: CONFIG/SPLIT
with JSON lines or one JSON list, as `verbmem/forget.json`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import BaseModel, Field

from ssiuu.benchmarks.rows import TextRow, read_file, read_hub
from ssiuu.errors import DataError

HUB: Final = "muse-bench/MUSE-{corpus}"
VERSION: Final = "1"  # goes up whenever what is read or how it is asked changes
Corpus = Literal["News", "Books", "made-up"]
# The first request; larger ones (scal), and those that come one after another (sust), of News.
Request = Literal[
    "raw/forget",
    "scal/forget_1",
    "scal/forget_2",
    "scal/forget_3",
    "scal/forget_4",
    "sust/forget_1",
    "sust/forget_2",
    "sust/forget_3",
    "sust/forget_4",
]


class ExcerptRow(BaseModel):
    """The beginning of a text (`prompt`) and how it goes on (`gt`)."""

    prompt: str = Field(min_length=1)
    gt: str = Field(min_length=1)


class QuestionRow(BaseModel):
    """A question about a text."""

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)


@dataclass(frozen=True)
class MuseSets:
    """The sets of one corpus.

    `forget`, `retain`: texts that are trained on. `excerpts`: of the forget texts. `known`, `kept`:
    questions about the forget texts and about those to keep, each with `known_shots`, `kept_shots`,
    the answered ones in front. `members`, `non_members`: texts that are to be forgotten, and texts
    that no model was trained on.
    """

    forget: list[str]
    retain: list[str]
    excerpts: list[tuple[str, str]]
    known: list[tuple[str, str]]
    known_shots: list[tuple[str, str]]
    kept: list[tuple[str, str]]
    kept_shots: list[tuple[str, str]]
    members: list[str]
    non_members: list[str]

    @property
    def fingerprint(self) -> str:
        """The sha256 of all."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


R = TypeVar("R", TextRow, ExcerptRow, QuestionRow)


def load(path: str | None, corpus: Corpus, request: Request) -> MuseSets:
    """Read the sets.

    Args:
        path: Folder of one corpus; None for the hub.
        corpus: Which one the hub is asked for.
        request: The file of the texts to forget.

    Raises:
        DataError: A file is missing or not as it should be, the hub cannot be reached, or a hold-out
            text is one of those to forget.
    """

    def texts(name: str) -> list[str]:
        return [row.text for row in _read(path, corpus, name, TextRow)]

    def asked(name: str) -> list[tuple[str, str]]:
        return [(r.question, r.answer) for r in _read(path, corpus, f"knowmem/{name}", QuestionRow)]

    excerpts = _read(path, corpus, "verbmem/forget", ExcerptRow)
    sets = MuseSets(
        forget=texts(request),
        retain=texts("raw/retain1"),
        excerpts=[(row.prompt, row.gt) for row in excerpts],
        known=asked("forget_qa"),
        known_shots=asked("forget_qa_icl"),
        kept=asked("retain_qa"),
        kept_shots=asked("retain_qa_icl"),
        members=texts("privleak/forget"),
        non_members=texts("privleak/holdout"),
    )
    if twice := sorted({*sets.non_members} & {*sets.members, *sets.forget}):
        raise DataError(f"muse: the hold-out text {twice[0][:60]!r}... is one of those to forget too.")
    return sets


def _read(path: str | None, corpus: Corpus, name: str, kind: type[R]) -> list[R]:
    config, _, split = name.partition("/")
    hub = HUB.format(corpus=corpus)
    if path is None:
        rows = read_hub(hub, config, split, kind, "muse")
    else:
        found = [Path(path) / f"{name}{ending}" for ending in (".json", ".jsonl")]
        file = next((file for file in found if file.exists()), found[0])
        rows = read_file(file, kind, "muse", f"the files of {hub}, as {name}.json")
    if not rows:
        raise DataError(f"muse: {name} of {path or hub} has no rows; it must hold at least one.")
    return rows
