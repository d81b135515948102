"""A tokenizer's chat template, rendered within limits: it is code that came with a model."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from threading import Thread
from typing import Any, Final

from ssiuu.errors import ConfigError

SECONDS: Final = 10.0
LONGEST: Final = 1_000_000  # characters
REMEDY: Final = "Set prompt to qa or plain, or give prompt_form."


def rendered(tokenizer: Any, turns: Sequence[tuple[str, str]], generate: bool = True) -> str:
    """Return a chat as text, as `transformers` has it: in its sandbox, with the defaults of generation.

    Args:
        tokenizer: Holds the template.
        turns: Roles (system, user, assistant) with what they say.
        generate: End where the answer begins.

    Raises:
        ConfigError: There is no template, or it fails, refuses a role, or does not end.
    """
    if not tokenizer.chat_template:
        raise ConfigError(f"prompt: chat needs a chat template, and this model has none. {REMEDY}")
    _check_powers(str(tokenizer.chat_template))
    chat = [{"role": role, "content": content} for role, content in turns]
    outcomes: list[str | Exception] = []

    def render() -> None:
        try:
            text = tokenizer.apply_chat_template(chat, add_generation_prompt=generate, tokenize=False)
            outcomes.append(str(text))
        except Exception as error:  # whatever a template does
            outcomes.append(error)
        except SystemExit:
            pass  # stopped below

    thread = Thread(target=render, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not outcomes:
        if thread.ident is not None:  # it ends at its next step
            stop = ctypes.py_object(SystemExit)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), stop)
        raise ConfigError(f"prompt: the model's chat template did not end in {SECONDS:g} s. {REMEDY}")
    text = outcomes[0]
    if isinstance(text, Exception):
        reason = " ".join(str(text).split())[:200] or type(text).__name__
        without = ", or leave prompt_system out" if turns[0][0] == "system" else ""
        raise ConfigError(
            f"prompt: the model's chat template cannot be used ({reason}). {REMEDY[:-1]}{without}."
        )
    if len(text) > LONGEST:
        raise ConfigError(
            f"prompt: the model's chat template makes {len(text)} characters of one question, and "
            f"{LONGEST} are allowed. {REMEDY}"
        )
    return text


@lru_cache(maxsize=16)
def _check_powers(template: str) -> None:
    """Refuse a power: one can take for ever in a single step, in which no thread can be given up.

    Raises:
        ConfigError: The template has one, and no template of a chat needs it.
    """
    from jinja2 import Environment, TemplateError

    try:
        tokens = list(Environment().lex(template))
    except TemplateError:
        return  # which is said when it is rendered
    before = ""
    for _, kind, value in tokens:
        # Behind a bracket or a comma it hands on arguments by name.
        if kind == "operator" and value == "**" and before not in ("(", ","):
            raise ConfigError(f"prompt: the model's chat template raises to a power (**). {REMEDY}")
        before = before if kind == "whitespace" else value


def check_template(tokenizer: Any, system: str | None = None) -> None:
    """Refuse a template that cannot be used.

    Raises:
        ConfigError: See `rendered`; or it leaves out what is asked, or the system text.
    """
    before = [] if system is None else [("system", system)]
    text = rendered(tokenizer, [*before, ("user", "spoken")])
    if "spoken" not in text:
        raise ConfigError(f"prompt: the model's chat template leaves the question out. {REMEDY}")
    if system is not None and system.strip() not in text:
        raise ConfigError(
            "prompt_system: the model's chat template leaves the system text out. Leave it out too, "
            "or give prompt_form."
        )
