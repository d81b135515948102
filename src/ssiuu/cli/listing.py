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
        from ssiuu.attacks import ATTACKS

        return ATTACKS
    if what is What.benchmarks:
        from ssiuu.experiment.recipe import BENCHMARKS

        return BENCHMARKS
    from ssiuu.models.load import MODELS

    others = {"FOLDER": "any causal LM in the Hugging Face layout with safetensors weights"}
    return {name: text for name, (_, text) in MODELS.items()} | others | {"OWNER/NAME": "from the hub"}


def _methods() -> None:
    from ssiuu.methods import FORMS, METHODS, SUFFIXES
    from ssiuu.methods.base import Method

    shared = Method.model_fields
    for method in METHODS.values():
        print(f"{method.name:11s} [{method.origin}] {method().description}")
        for key, knob in method.model_fields.items():
            if key not in shared or knob.default != shared[key].default:
                print(f"              {knob.alias or key} = {knob.default}: {knob.description}")
    print("\nOf every method:")
    for key, knob in shared.items():
        print(f"              {key} = {knob.default}: {knob.description}")
    print(f"\nSuffixes, as in gd+projection: {', '.join(f'+{s}' for s in SUFFIXES)}.")
    print(f"Forms of ssiuu, as in ssiuu-gate-npo: {', '.join(FORMS)}, rhoNUMBER.")
