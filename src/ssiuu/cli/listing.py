"""`ssiuu list`: what there is to choose from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class What(StrEnum):
    """The kinds of things that can be listed."""

    methods = "methods"
    attacks = "attacks"
    benchmarks = "benchmarks"
    models = "models"


def command(what: Annotated[What, typer.Argument(help="what to list")]) -> None:
    """List methods, attacks, benchmarks or models."""
    if what is What.methods:
        _methods()
        return
    for name, text in _plain(what).items():
        print(f"{name:14s} {text}")


def _plain(what: What) -> dict[str, str]:
    if what is What.attacks:
        from ssiuu.attacks.retrain import ATTACKS

        return ATTACKS
    if what is What.benchmarks:
        from ssiuu.experiment.recipe import BENCHMARKS

        return BENCHMARKS
    from ssiuu.models.load import MODELS

    others = {"FOLDER": "any causal LM in the Hugging Face layout with safetensors weights"}
    return {name: text for name, (_, text) in MODELS.items()} | others | {"OWNER/NAME": "from the hub"}


def _methods() -> None:
    from ssiuu.methods import METHODS

    for method in METHODS.values():
        print(f"{method.name:8s} [{method.origin}] {method.summary}. {method.source}")
        for key, knob in method.model_fields.items():
            print(f"           {knob.alias or key} = {knob.default}: {knob.description}")
    print('"NAME+projection" takes the shared retain directions out of the forget gradient [ours].')
