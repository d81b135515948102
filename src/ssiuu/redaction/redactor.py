"""One record without its texts: every string by its rule, every figure as it was.

    redactor = Redactor(key, [record.header, record.original, ...])
    redactor.record(record.header)

Ids and entities keep their order, since intervals are drawn over entities in that of their names: they
are the same to the last digit.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any, TypeVar

from pydantic import BaseModel

from ssiuu.records.schema import ModelInfo, Record, RunHeader
from ssiuu.redaction.keys import DigestKey
from ssiuu.redaction.rules import SETTINGS, WORDS, Rule, of_keys, of_value

R = TypeVar("R", bound=Record)
SHORTEST = 3  # letters of a text that is looked for in a sentence: "no" and "42" stand in any
USUAL = {"forget", "retain", "facts", "keep", "data", "train", "test", "model", "before", "after"}
STAYS = ("hub", "cache", "gguf")  # kinds of places whose models have a public name
_WORD = re.compile(r"\w+")
_QUOTED = re.compile(r"""(?<!\w)'(.+?)'(?!\w)|"(.+?)"|“(.+?)”|‘(.+?)’|«(.+?)»|`(.+?)`""", re.DOTALL)
# What ssiuu itself never writes, but for a Greek letter by itself: a word of another script.
_FOREIGN = re.compile(r"(?!\b[\u0391-\u03c9]\b)[^\W\d_\x00-\x7f]")
_FORM = re.compile(r"(qa|plain|chat)(: .*)?|custom", re.DOTALL)


class Redactor:
    """Takes the texts out of the records of one folder."""

    def __init__(self, key: DigestKey, records: Iterable[Record | None]) -> None:
        self.key = key
        found = _Found()
        for record in records:
            if record is not None:
                _collect(record, found)
        self._ids = {text: n for n, text in enumerate(sorted(found.ids))}
        self._entities = {text: n for n, text in enumerate(sorted(found.entities))}
        self._phrases: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for words in {_words(text) for text in found.every}:
            if len("".join(words)) >= SHORTEST and not (len(words) == 1 and words[0] in USUAL):
                self._phrases[words[0]].append(words)
        for phrases in self._phrases.values():
            phrases.sort(key=len, reverse=True)

    def record(self, record: R) -> R:
        """Return a record without texts, which says so."""
        kind, values = type(record), {}
        for name, field in kind.model_fields.items():
            rules = of_value(kind.__name__, name, field), of_keys(kind.__name__, name, field)
            values[name] = self._value(getattr(record, name), *rules)
        if "redacted" in kind.model_fields:
            values["redacted"] = self.key.name
        if isinstance(record, RunHeader):
            values["stages"] = {self.path(p, k): self.stage(k) for p, k in record.stages.items()}
        return kind.model_construct(**values) if values else record

    def _value(self, value: Any, rule: Rule, keys: tuple[Rule, ...]) -> Any:
        if isinstance(value, ModelInfo):
            return self._model(value)
        if isinstance(value, Record):
            return self.record(value)
        if rule == "config":
            return self._config(value)
        if isinstance(value, Mapping):
            mine, inner = keys[0], keys[1:] or keys
            return {self._text(k, mine): self._value(v, rule, inner) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._value(part, rule, keys) for part in value)
        return self._text(value, rule) if isinstance(value, str) else value

    def _text(self, text: Any, rule: Rule) -> Any:
        if rule == "keep" or not isinstance(text, str) or not text:
            return text
        if rule == "sentence":
            return self.sentence(text)
        if rule == "id":
            return self.id(text)
        if rule == "entity":
            return f"{self._entities[text]:05d}{self.key.text(text)}"
        if rule == "key":
            return self.stage(text)
        if rule == "form":
            return text if _FORM.fullmatch(text) and "system text" not in text else self.key.text(text)
        return text if rule == "source" and text in WORDS else self.key.text(text)

    def id(self, text: str) -> str:
        """Return what stands for a fact's id: it comes at the same place among ids and entities."""
        side = "case" if text < "entity " else "fact"  # as `ssiuu.analysis.comparisons` sorts them
        return f"{side}-{self._ids[text]:05d}{self.key.text(text)}"

    def stage(self, key: str) -> str:
        """Return what stands for the key of a stage or a fingerprint: both are digests of the facts.

        Without a key of its own one could try facts with them.
        """
        return self.key.digest("stage", key) if key else ""

    def path(self, path: str, key: str) -> str:
        """Return the path of a stage's record, which ends in the first digits of its key."""
        end = f"-{key[:8]}.json"
        return f"{path.removesuffix(end)}-{self.stage(key)[:8]}.json"

    def sentence(self, text: str) -> str:
        """Return a sentence of ours without what it quotes, and without any text of the records."""
        text = _QUOTED.sub(lambda found: self.key.text(found[0][1:-1]), text)
        kept, last = [], 0
        for start, end in self._places(text):
            kept += [text[last:start], self.key.text(text[start:end])]
            last = end
        text = "".join([*kept, text[last:]])
        return self.key.text(text) if _FOREIGN.search(text) else text

    def _places(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where texts of the records stand in a sentence, the longest of each place."""
        found = [(m.start(), m.end(), _folded(m[0])) for m in _WORD.finditer(text)]
        n = 0
        while n < len(found):
            for phrase in self._phrases.get(found[n][2], ()):
                if tuple(word for _, _, word in found[n : n + len(phrase)]) == phrase:
                    yield found[n][0], found[n + len(phrase) - 1][1]
                    n += len(phrase) - 1
                    break
            n += 1

    def _model(self, model: ModelInfo) -> ModelInfo:
        """Return a model whose name stays where everybody knows it; a folder's gives way."""
        name = model.name if model.source in STAYS or model.name in WORDS else self.key.text(model.name)
        return model.model_copy(update={"name": name, "note": self.sentence(model.note)})

    def _config(self, value: Any, key: str = "") -> Any:
        """Return settings: figures, and words of ours; file names, forms and texts give way."""
        if isinstance(value, Mapping):
            return {name: self._config(part, str(name)) for name, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._config(part, key) for part in value]
        if isinstance(value, str) and value and key not in SETTINGS and value not in WORDS:
            return self.key.text(value)
        return value


class _Found:
    """The texts of records: ids, entities, and every one of them."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.entities: set[str] = set()
        self.every: set[str] = set()

    def add(self, text: str, rule: Rule) -> None:
        if rule == "id":
            self.ids.add(text)
        elif rule == "entity":
            self.entities.add(text)
        if rule in ("id", "entity", "text"):
            self.every.add(text)


def _collect(record: BaseModel, found: _Found) -> None:
    """Find the texts of a record: in its fields, their keys, and the names of files in its settings."""
    kind = type(record)
    for name, field in kind.model_fields.items():
        rule, keys = of_value(kind.__name__, name, field), of_keys(kind.__name__, name, field)
        _gather(getattr(record, name), rule, keys, found)


def _gather(value: Any, rule: Rule, keys: tuple[Rule, ...], found: _Found) -> None:
    if isinstance(value, ModelInfo) and value.source not in STAYS:
        found.every |= _names(value.name)
    if isinstance(value, BaseModel):
        _collect(value, found)
    elif rule == "config":
        found.every |= set().union(*(_names(text) for text in _settings(value)))
    elif isinstance(value, Mapping):
        for key, part in value.items():
            if isinstance(key, str):
                found.add(key, keys[0])
            _gather(part, rule, keys[1:] or keys, found)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _gather(part, rule, keys, found)
    elif isinstance(value, str) and value:
        found.add(value, rule)


def _settings(value: Any, key: str = "") -> Iterator[str]:
    """Yield the texts of settings that give way."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _settings(part, str(name))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _settings(part, key)
    elif isinstance(value, str) and key not in SETTINGS and value not in WORDS:
        yield value


def _names(path: str) -> set[str]:
    """Return a path, and what a sentence may call it by: its last part, and that without an ending."""
    last = PurePath(path)
    return {path, last.name, last.stem}


def _words(text: str) -> tuple[str, ...]:
    return tuple(_folded(word) for word in _WORD.findall(unicodedata.normalize("NFC", text))) or ("",)


def _folded(word: str) -> str:
    return unicodedata.normalize("NFC", word).casefold()
