"""What a certificate holds: an in-toto Statement with a predicate of ours.

Source: in-toto Attestation Framework, Statement v1 (`_type`, `subject`, `predicateType`, `predicate`).
Departures: none. The subject are the files of the models, each by its sha256: "after/config.json".
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from ssiuu.records.schema import KnowledgeState, Record, Verdict

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "urn:ssiuu:certificate:v1"
CONTENT: Final = "canonical JSON (RFC 8785) of [question, answer, [paraphrases]]"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Role = Literal["before", "after", "base"]


class Digests(Record):
    """The digests of one file."""

    sha256: Sha256


class Subject(Record):
    """One file of a model; `name`: the model's role and the path from its folder."""

    name: str
    digest: Digests


class ModelTold(Record):
    """A model, by its role. `name`: where everybody knows it by one; `size` in bytes, of its files."""

    role: Role
    name: str = ""
    dtype: str = ""
    parameters: int | None = None
    layers: int | None = None
    files: int
    size: int


class FactTold(Record):
    """A fact by its digest, and what was found of it; None: not measured.

    `before`: what the model before knew of it. `said`: whether the model after says it freely.
    `p_erased`, `p_hidden`: the p-values that the verdict rests on.
    """

    digest: Sha256
    before: KnowledgeState | None = None
    verdict: Verdict | None = None
    said: bool | None = None
    p_erased: float | None = None
    p_hidden: float | None = None


class FactsTold(Record):
    """The facts of the request, in its order, and how their digests are made.

    "hmac-sha256" under the key `key` (its name), or "sha256" of `salt` and the content: then whoever
    guesses a fact can tell that it is meant. `unknown`: facts that the model did not know before.
    """

    algorithm: Literal["hmac-sha256", "sha256"]
    key: str = ""
    salt: str = ""
    content: str = CONTENT
    forget: list[FactTold]
    unknown: list[FactTold] = Field(default=[])
    retain: int
    heldout: int = 0


class MethodTold(Record):
    """What made the model after, as far as that is known; settings without texts."""

    label: str
    description: str
    parts: list[str] = Field(default=[])
    plugins: dict[str, str] = Field(default={})
    settings: dict[str, Any] = Field(default={})


class PlantedTold(Record):
    """Facts hidden on purpose in one way: how many of how many were found."""

    kind: str
    found: int
    of: int


class ErrorsTold(Record):
    """How often a verdict may be wrong, and on what that rests.

    `promised`: the share of hidden facts called erased, and of erased ones called hidden, at most.
    `power`: the share of facts hidden in the hardest ways that this examination finds.
    """

    promised: float
    power: float | None
    planted: list[PlantedTold]
    calibration: str
    weights: dict[str, float]
    shift: float
    said: str


class Tried(Record):
    """One way in which facts were looked for, with its settings in words."""

    what: str
    settings: str = ""


class Predicate(Record):
    """What was done and found. `digest`: of the statement without it, so that no change goes unseen.

    `references`: what the requests are called by whoever keeps them.
    """

    kind: Literal["audit", "unlearn"]
    references: list[str] = Field(default=[])
    measured: str
    issued: str
    versions: dict[str, str]
    machine: dict[str, str] = Field(default={})
    models: list[ModelTold]
    facts: FactsTold
    method: MethodTold
    protocol: str = ""
    settings: dict[str, Any]
    verdict: str
    answer: list[str]
    counts: dict[str, int]
    errors: ErrorsTold | None
    tried: list[Tried]
    not_tried: list[str]
    shown: list[str]
    not_shown: list[str]
    wanted: list[str]
    digest: Digests | None = None


class Statement(Record):
    """An in-toto Statement."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(default=STATEMENT, alias="_type")
    subject: list[Subject]
    predicate_type: Literal["urn:ssiuu:certificate:v1"] = Field(
        default=PREDICATE, alias="predicateType"
    )
    predicate: Predicate
