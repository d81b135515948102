"""Which form the questions of an experiment are asked in, and whether the model can read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ssiuu.benchmarks.base import Basis
from ssiuu.causal import CausalLM
from ssiuu.data.problems import raise_all
from ssiuu.likelihood import Prompt, PromptStyle
from ssiuu.likelihood.template import check_template
from ssiuu.models.checks import embedding_rows
from ssiuu.records.schema import FactText


def choose_prompt(
    basis: Basis, tokenizer: Any, progress: Callable[[str], None], suits: PromptStyle | None = None
) -> Prompt:
    """Return the form that the recipe asks for, or the one that suits the model, and say which.

    Args:
        basis: Has prompt, prompt_form and prompt_system.
        tokenizer: The model's.
        progress: Told which form it is.
        suits: The form where the recipe decides nothing; None: the chat template where the model has
            one, else qa.

    Raises:
        ConfigError: The chat template is asked for and cannot be used.
    """
    suits = suits or ("chat" if tokenizer.chat_template else "qa")
    style = "qa" if basis.prompt_form is not None else basis.prompt or suits
    prompt = Prompt(tokenizer, style, basis.prompt_form, basis.prompt_system)
    if style == "chat":
        check_template(tokenizer, basis.prompt_system)
    progress(f"prompt: {prompt.description}")
    return prompt


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
