"""The model before and the model after, asked the same question: the box of `ssiuu view`.

    pair = pairs_of(Path("audit"))["after"]
    both = Both()
    both.ask(pair, "Where does Ada Kowalski live?")   # loads them once; then only asks

Asked is as in `ssiuu ask`: greedily, in the form of the record. Which two models a folder is of stands
in its records as far as they say it: an audit holds the command as it was typed, a checkpoint the name
of the model before where everybody knows it by one, a run the weights of those cells that are at work.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssiuu.benchmarks.base import Basis
from ssiuu.benchmarks.prompting import check_tokens, choose_prompt
from ssiuu.causal import CausalLM
from ssiuu.errors import DataError, InputError, ModelError
from ssiuu.evaluation.ask import write
from ssiuu.likelihood import Prompt
from ssiuu.models.gguf import is_gguf
from ssiuu.models.load import Loaded, load_checkpoint_weights, load_weights
from ssiuu.models.sources import MODELS
from ssiuu.records.files import HEADER, read_header, read_record
from ssiuu.records.said import logged
from ssiuu.records.schema import FactText, RunHeader, Unlearning
from ssiuu.report.card import CARD, card_head

RECORD = "unlearn.json"
ROOM = 96  # tokens of an answer
GONE = {
    "audit": "the model after is not where its command named it",
    "run": "no weights are there to be asked, as a run keeps those of a cell only while it is at work",
}
FORMS = ("plain", "qa", "chat")
KEPT = ("model", "base", "revision", "prompt", "prompt_form", "prompt_system")
GIVE = "ssiuu view DIR --before MODEL --after DIR names both"


@dataclass(frozen=True)
class Pair:
    """Two models. `basis`: that of before, and the form; `after`: a checkpoint, or a file of weights.

    `fingerprint`: of the model before, where it is recorded.
    """

    basis: Basis
    after: Path
    fingerprint: str = ""


@dataclass(frozen=True)
class Answers:
    """What both said. `form`: how they were asked, in words; the names are as they were given."""

    before: str
    after: str
    names: tuple[str, str]
    form: str


class Both:
    """Asks pairs of models; the two that were asked last stay in memory."""

    def __init__(self) -> None:
        """Load nothing yet."""
        self._pair: Pair | None = None
        self._loaded: tuple[Loaded, CausalLM, Prompt] | None = None

    def ask(self, pair: Pair, question: str) -> Answers:
        """Return the greedy answers to a question, one line each (of a chat the turn).

        Raises:
            InputError: A model cannot be loaded, or is not the one of the record; or the question is
                too long for it, or holds what it has no embedding for.
        """
        if self._pair != pair or self._loaded is None:
            self._pair = self._loaded = None  # two models are enough for a machine
            self._loaded = _load(pair)
            self._pair = pair
        loaded, other, prompt = self._loaded
        asked = FactText.model_construct(id="question", question=question, answer="", paraphrases=[])
        check_tokens(loaded.model, loaded.tokenizer, [asked])
        ids = prompt.question(question)
        context = int(getattr(loaded.model.config, "max_position_embeddings", None) or 1 << 20)
        if len(ids) + ROOM > context:
            raise DataError(
                f"the question has {len(ids)} tokens, and the model's context of {context} holds "
                f"{max(0, context - ROOM)} beside an answer: shorten it."
            )
        ending = prompt.ending([])
        said = [
            prompt.text(write(model, prompt, [ids], [ROOM], endings=[ending])[0], ending)
            for model in (loaded.model, other)
        ]
        try:
            loaded.check()
        except ModelError:
            self._pair = self._loaded = None  # what is there now is read the next time
            raise
        names = str(pair.basis.model), pair.after.name
        return Answers(said[0], said[1], names, prompt.description)


def _load(pair: Pair) -> tuple[Loaded, CausalLM, Prompt]:
    """Load both models, and the form in which they are asked."""
    loaded = pair.basis.load()
    if pair.fingerprint not in ("", loaded.info.fingerprint):
        raise ModelError(
            f"{pair.basis.model} is not the model before that the record is of: it has changed since, "
            f"or another one is called so. {GIVE}."
        )
    prompt = choose_prompt(pair.basis, loaded.tokenizer, logged)
    other: Any = copy.deepcopy(loaded.model)
    if pair.after.is_dir() or is_gguf(pair.after):
        load_checkpoint_weights(other, pair.after, pair.basis.base, loaded.tokenizer)
    else:
        load_weights(other, pair.after)
    return loaded, other, prompt


def pairs_of(folder: Path, before: str | None = None, after: Path | None = None) -> Mapping[str, Pair]:
    """Return the pairs of models that a folder is of, by what the second of each is called.

    Args:
        folder: Of an audit, a checkpoint of `ssiuu unlearn`, or a run.
        before: The model before, in place of what the records say.
        after: The model after, likewise.

    Raises:
        InputError: They do not say it: the sentence tells why and what to give.
    """
    if (folder / HEADER).exists():
        header = read_header(folder)
        basis, out = {key: header.config.get(key) for key in KEPT}, _option(header.command, "--out")
        basis["prompt"] = basis["prompt"] or _style(header.prompt)
        pairs = _of_audit(folder, header) if header.kind == "audit" else _of_run(folder)
        why, made_here = GONE[header.kind], header.model.source not in ("hub", "cache")
        fingerprint = header.model.fingerprint
    else:
        record = read_record(folder / RECORD, Unlearning)
        if record is None:
            raise InputError(f"{folder} holds neither a run nor a checkpoint of ssiuu unlearn.")
        out, why, made_here = "", "", False
        pairs, fingerprint = {folder.name: folder}, ""
        basis = {"model": _stated(folder), "prompt": _style(record.prompt)}
    if after is not None:
        pairs = {after.name: after}
    if before is not None:
        basis, fingerprint = basis | {"model": before, "base": None, "revision": None}, ""
        made_here = False
    if not pairs:
        raise InputError(f"{folder}: {why}. {GIVE}.")
    model = _standing(str(basis["model"] or ""), folder, out)
    if not model:
        raise InputError(f"{folder} does not say which model it was before. {GIVE}.")
    if made_here and not Path(model).exists():  # its name may be another's on the hub
        raise InputError(
            f"{folder}: the model before, {model}, is no folder here: it has been moved, was made by a "
            f"benchmark, or was in memory. {GIVE}."
        )
    made = Basis(**{key: value for key, value in (basis | {"model": model}).items() if value})
    return {name: Pair(made, path, fingerprint) for name, path in pairs.items()}


def _style(described: str) -> str | None:
    """Return the form that a record was asked in, by its description; None: one of somebody's own."""
    form = described.partition(":")[0]
    return form if form in FORMS else None


def _of_audit(folder: Path, header: RunHeader) -> dict[str, Path]:
    """Return the model after of an audit, as its command named it; nothing where that is not there."""
    name = _option(header.command, "--after")
    place = Path(_standing(name, folder, _option(header.command, "--out"))) if name else None
    return {place.name: place} if place is not None and place.exists() else {}


def _of_run(folder: Path) -> dict[str, Path]:
    """Return the unlearned models of a run whose weights are there now, by their cells."""
    files = sorted(folder.glob("cells/*/unlearn-*.safetensors"))
    return {p.parent.name: p for p in files if not p.name.endswith(".state.safetensors")}


def _stated(folder: Path) -> str:
    """Return the model before by the card of a checkpoint: its name on the hub, or a short one."""
    base = str(card_head(folder / CARD).get("base_model") or "")
    return next((name for name, (hub, _) in MODELS.items() if hub == base), base)


def _option(command: str, option: str) -> str:
    """Return the value of an option in a command as it was typed; empty where it has none."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if word == option:
            return value
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""


def _standing(name: str, folder: Path, out: str = "") -> str:
    """Return where a folder stands that was named from another one: here, or where `out` led from.

    Args:
        name: As it was typed; what is no folder is a name.
        folder: That the command wrote.
        out: How the command named that.
    """
    typed = Path(name).expanduser()
    if not name or typed.is_absolute() or typed.exists():
        return name and str(typed)
    depth = len([part for part in Path(out).parts if part != "."]) if out else 1
    above = folder.resolve().parents
    there = above[min(depth, len(above)) - 1] / typed
    return str(there) if there.exists() else name
