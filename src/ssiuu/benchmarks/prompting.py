"""Which form the questions of an experiment are asked in, and whether the model can read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

from ssiuu.benchmarks.base import Basis
from ssiuu.causal import CausalLM
from ssiuu.data.problems import raise_all
from ssiuu.errors import ConfigError, DamagedError, InputError, show
from ssiuu.likelihood import Prompt, PromptStyle
from ssiuu.likelihood.template import check_template
from ssiuu.models.checks import embedding_rows
from ssiuu.records.files import fields_of
from ssiuu.records.schema import FactText

# Records that a checkpoint has beside it, and where in them the form is said; older ones lack `asked`.
SAID_IN: Final = (("teach.json", "asked"), ("teach.json", "form"), ("unlearn.json", "prompt"))
CUSTOM: Final = "custom"  # what a form of somebody's own is called in them
BY_HAND: Final = "--prompt qa, plain or chat says the form, or prompt_form gives one."


class Recorded(NamedTuple):
    """The form that the record of a checkpoint says it was trained in.

    `style`: None where that is a form of somebody's own, which only its owner has; `system`: whether
    there was a system text; `file`: that says so.
    """

    style: PromptStyle | None
    system: bool
    file: Path


def recorded(checkpoint: Path) -> Recorded | None:
    """Return the form that a checkpoint was taught or unlearned in; None where no record says it.

    Raises:
        InputError: A record is damaged, or what it says of the form is none.
    """
    for name, field in SAID_IN:
        file = checkpoint / name
        try:
            text = fields_of(file).get(field) if file.is_file() else None
        except DamagedError as error:
            raise InputError(f"{file} is cut short or damaged") from error
        if text in (None, ""):  # an older record, or one that says nothing of it
            continue
        word = text.partition(":")[0] if isinstance(text, str) else ""
        if word not in (*get_args(PromptStyle), CUSTOM):
            raise InputError(f"{file}: {field} is {show(text)}, which is no form")
        style = next((style for style in get_args(PromptStyle) if style == word), None)
        return Recorded(style, "system text" in text, file)
    return None


def choose_prompt(
    basis: Basis,
    tokenizer: Any,
    progress: Callable[[str], None],
    suits: PromptStyle | None = None,
    checkpoints: Sequence[Path] = (),
) -> Prompt:
    """Return the form that the recipe asks for, or the one that suits the model, and say which.

    Args:
        basis: Has prompt, prompt_form and prompt_system.
        tokenizer: The model's.
        progress: Told which form it is.
        suits: The form where neither the recipe nor a record decides; None: the chat template where the
            model has one, else qa.
        checkpoints: Folders whose records may say in which form they were trained: the first that does.

    Raises:
        ConfigError: The chat template cannot be used; or no form is given, and a record
            cannot be read.
    """
    by_hand, unread = basis.prompt_form is not None or basis.prompt is not None, ""
    try:
        told = next((found for folder in checkpoints if (found := recorded(folder))), None)
    except InputError as error:
        if not by_hand:
            why = str(error).rstrip(".")
            raise ConfigError(
                f"{why}, so the form that the model was trained in is not known: {BY_HAND}"
            ) from error
        told, unread = None, f" ({error})"
    suits = suits or ("chat" if tokenizer.chat_template else "qa")
    suits = told.style if told and told.style else suits
    style = "qa" if basis.prompt_form is not None else basis.prompt or suits
    prompt = Prompt(tokenizer, style, basis.prompt_form, basis.prompt_system)
    if style == "chat":
        try:
            check_template(tokenizer, basis.prompt_system)
        except ConfigError as error:
            if by_hand or told is None or told.style is None:
                raise
            raise ConfigError(
                f"{told.file} says that the model was trained in chat. {error}"
            ) from error
    progress(f"prompt: {prompt.description}{_beside(prompt, told) if told else unread}")
    return prompt


def _beside(prompt: Prompt, told: Recorded) -> str:
    """Return what the record of the checkpoint says to this form."""
    if told.style is None and prompt.form is None:
        return f" ({told.file}: trained in a form of its own; --set prompt_form=... gives it)"
    if told.style is not None and told.style != prompt.name:
        return f" ({told.file}: trained in {told.style})"
    if told.system and prompt.system is None:
        return f" ({told.file}: trained with a system text; --set prompt_system=... gives it)"
    return f" (as {told.file} says)"


def check_tokens(model: CausalLM, tokenizer: Any, facts: Sequence[FactText]) -> None:
    """Refuse facts with a token that the model has no embedding for, as of images.

    Raises:
        DataError: With every such text, up to ten.
    """
    rows = embedding_rows(model)
    if max(tokenizer.get_vocab().values()) < rows:
        return
    raise_all(
        f"{fact.id}: {tokenizer.convert_ids_to_tokens(token)!r} in {text!r} is a token that the model "
        "has no embedding for: take it out."
        for fact in facts
        for text in _texts(fact)
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]
        if token >= rows
    )


def _texts(fact: FactText) -> Iterator[str]:
    yield from (fact.question, fact.answer, *fact.paraphrases, *fact.options[1:], *fact.perturbed)
    for probe in (*fact.multi_hop, *fact.same_answer):
        yield from (probe.question, *(probe.options or [probe.answer]))
