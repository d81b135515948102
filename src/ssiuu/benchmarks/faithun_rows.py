"""FaithUn: 664 clusters of questions about 200 people, with official splits.

    data = load("FaithUn_Dataset.json", None)

The file maps a Wikidata id to four sets of questions: `hop1_unlearn` (base questions, one cluster
each), `hop1_test` (paraphrases), `hop2_test` (multi-hop) and `same_object` (same answer); each question
has its answers and false options. The clusters stand in the order of the file, and the splits are
indices of them. Yang et al. (arXiv 2502.19207); repository yny0506/faithun, MIT.
Departures: options are ranked by log-probability, not chosen in words; nothing is screened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ssiuu.data.fact import Fact, Probe
from ssiuu.errors import DataError

VERSION = "1"  # goes up whenever what is read or how it is asked changes
SOURCE = (
    "The question file is published in the repository yny0506/faithun (dataset/FaithUn_Dataset.json, "
    "MIT): download it and set faithun.path to it."
)
SPLITS: Final = {"forget": "forget_set", "retain": "retaining_set", "heldout": "test_set"}
BASE, PARAPHRASE, MULTI_HOP, SAME = "hop1_unlearn", "hop1_test", "hop2_test", "same_object"
# The keys a question's parts may have.
QUESTION = ("question", "query")
ANSWER = ("answers", "answer")
FALSE = ("false_options", "false_answers", "options", "distractors")


@dataclass(frozen=True)
class FaithUn:
    """The facts of each set; `clusters` counts those in no set too."""

    sets: dict[str, list[Fact]]
    clusters: int
    fingerprint: str


def load(path: str | None, splits: str | None) -> FaithUn:
    """Read the question file and the official splits.

    Args:
        path: The question file.
        splits: Folder of `forget_set_split.txt`, `retaining_set_split.txt` and `test_set_split.txt`;
            None for `splits` beside the question file.

    Raises:
        DataError: No path is given, or a file is missing or not as it should be.
    """
    if path is None:
        raise DataError(f"faithun.path: is not set. {SOURCE}")
    file = Path(path)
    text = _text(file, "faithun.path", SOURCE)
    facts = read_clusters(text, path)
    folder = Path(splits) if splits is not None else file.parent / "splits"
    sets: dict[str, list[Fact]] = {}
    home: dict[int, str] = {}
    for name, stem in SPLITS.items():
        where = folder / f"{stem}_split.txt"
        hint = "Set faithun.splits to the folder dataset/splits of the repository yny0506/faithun."
        indices = _indices(_text(where, "faithun.splits", hint), where, len(facts))
        for index in indices:
            if index in home:
                raise DataError(f"faithun.splits: cluster {index} is in {home[index]} and in {name}.")
            home[index] = name
        sets[name] = [facts[index] for index in indices]
    made_of = json.dumps([text, sorted(home.items())])
    return FaithUn(sets, len(facts), hashlib.sha256(made_of.encode()).hexdigest())


def read_clusters(text: str, path: str) -> list[Fact]:
    """Return the clusters of a question file in their order.

    The other questions of an entity belong to its base questions by key (mappings) or by place (lists);
    an entity with one base question has them all.

    Raises:
        DataError: With every problem, up to ten, each with its entity and key.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise DataError(f"faithun.path: {path} is not JSON: {error}.") from error
    if not isinstance(data, dict) or not data:
        raise DataError(f"faithun.path: {path} must map Wikidata ids to questions. {SOURCE}")
    facts: list[Fact] = []
    problems: list[str] = []
    for entity, kinds in data.items():
        try:
            facts += _entity(entity, kinds)
        except DataError as error:
            problems += [f"faithun.path: {path}: {p}" for p in error.problems]
    if problems:
        raise DataError(problems[:10])
    return facts


def _entity(entity: str, kinds: Any) -> Iterator[Fact]:
    if not isinstance(kinds, dict) or not kinds.get(BASE):
        raise DataError(f"{entity}: {BASE} is missing or empty.")
    bases = _keyed(kinds[BASE], f"{entity}.{BASE}")
    rest = {k: _members(kinds.get(k), list(bases), f"{entity}.{k}") for k in (MULTI_HOP, SAME)}
    if PARAPHRASE not in kinds:
        raise DataError(f"{entity}: {PARAPHRASE} is missing.")
    rest[PARAPHRASE] = _members(kinds[PARAPHRASE], list(bases), f"{entity}.{PARAPHRASE}")
    for number, (key, item) in enumerate(bases.items()):
        base = _probe(item, f"{entity}.{BASE}[{key}]")
        other = {
            kind: [_probe(i, f"{entity}.{kind}[{key}]") for i in members[key]]
            for kind, members in rest.items()
        }
        yield Fact(
            id=f"{entity}:{number}",
            question=base.question,
            answer=base.answer,
            entity=entity,
            paraphrases=tuple(probe.question for probe in other[PARAPHRASE]),
            distractors=base.distractors,
            multi_hop=tuple(other[MULTI_HOP]),
            same_answer=tuple(other[SAME]),
        )


def _keyed(items: Any, where: str) -> dict[str, Any]:
    """Return base questions by key; a list has its places as keys."""
    if isinstance(items, list):
        return {str(place): _only(item, where) for place, item in enumerate(items)}
    if isinstance(items, dict):
        return {"0": items} if _is_question(items) else {k: _only(i, where) for k, i in items.items()}
    raise DataError(f"{where}: must be a list or a mapping of questions.")


def _only(item: Any, where: str) -> Any:
    if isinstance(item, list):
        if len(item) != 1:
            raise DataError(f"{where}: a cluster has one base question, got {len(item)}.")
        return item[0]
    return item


def _members(items: Any, keys: list[str], where: str) -> dict[str, list[Any]]:
    """Return the questions of each cluster; none given: empty."""
    if not items:
        return {key: [] for key in keys}
    if isinstance(items, dict) and not _is_question(items):
        foreign = [key for key in items if key not in keys]
        if foreign:
            raise DataError(f"{where}: key {foreign[0]!r} is not in {BASE}.")
        return {key: _as_list(items.get(key)) for key in keys}
    items = _as_list(items)
    if len(keys) == 1:
        return {keys[0]: [question for item in items for question in _as_list(item)]}
    if len(items) != len(keys):
        raise DataError(
            f"{where}: has {len(items)} entries for the {len(keys)} questions of {BASE}; "
            "it needs one (a question or a list of them) for each."
        )
    return {key: _as_list(item) for key, item in zip(keys, items, strict=True)}


def _as_list(item: Any) -> list[Any]:
    if item is None:
        return []
    return item if isinstance(item, list) else [item]


def _is_question(item: dict[str, Any]) -> bool:
    return any(isinstance(item.get(key), str) for key in QUESTION)


def _probe(item: Any, where: str) -> Probe:
    if not isinstance(item, dict):
        raise DataError(f"{where}: must be a mapping with question, answers and false_options.")
    question = _texts(item, QUESTION, where)[0]
    answers = _texts(item, ANSWER, where)
    true = {answer.casefold() for answer in answers}
    wrong = [option for option in _texts(item, FALSE, where) if option.casefold() not in true]
    if not wrong:
        raise DataError(f"{where}: {FALSE[0]} holds only right answers.")
    return Probe(question=question, answer=answers[0], distractors=tuple(dict.fromkeys(wrong)))


def _texts(item: dict[str, Any], keys: tuple[str, ...], where: str) -> list[str]:
    """Return the texts under the first of the keys that is there."""
    key = next((key for key in keys if key in item), None)
    if key is None:
        raise DataError(
            f"{where}: {keys[0]} is missing; it has {', '.join(map(str, item)) or 'no key'}."
        )
    texts = _as_list(list(item[key].values()) if isinstance(item[key], dict) else item[key])
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{where}: {key} must be a text or a list of texts, none empty.")
    return [text.strip() for text in texts]


def _indices(text: str, where: Path, clusters: int) -> list[int]:
    try:
        indices = [int(word) for word in text.split()]
    except ValueError as error:
        raise DataError(f"faithun.splits: {where} must hold one index a line: {error}.") from error
    beyond = [index for index in indices if not 0 <= index < clusters]
    if beyond:
        raise DataError(
            f"faithun.splits: {where} names cluster {beyond[0]}, and the question file has {clusters} "
            f"(0 to {clusters - 1})."
        )
    if len(set(indices)) < len(indices):
        raise DataError(f"faithun.splits: {where} names a cluster twice.")
    return indices


def _text(path: Path, key: str, hint: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{key}: {path} cannot be read: {error}. {hint}") from error
