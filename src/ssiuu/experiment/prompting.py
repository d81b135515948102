"""Which form the questions of an experiment are asked in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ssiuu.experiment.recipe import Recipe
from ssiuu.likelihood import Prompt, PromptStyle
from ssiuu.likelihood.template import check


def choose_prompt(
    recipe: Recipe,
    tokenizer: Any,
    progress: Callable[[str], None],
    suits: PromptStyle | None = None,
) -> Prompt:
    """Return the form that the recipe asks for, or the one that suits the model, and say which.

    Args:
        recipe: Has prompt, prompt_form and prompt_system.
        tokenizer: The model's.
        progress: Told which form it is.
        suits: The form where the recipe decides nothing; None: the chat template where the model has
            one, else qa.

    Raises:
        ConfigError: The chat template is asked for and cannot be used.
    """
    suits = suits or ("chat" if tokenizer.chat_template else "qa")
    style = "qa" if recipe.prompt_form is not None else recipe.prompt or suits
    prompt = Prompt(tokenizer, style, recipe.prompt_form, recipe.prompt_system)
    if style == "chat":
        check(tokenizer, recipe.prompt_system)
    progress(f"prompt: {prompt.description}")
    return prompt
