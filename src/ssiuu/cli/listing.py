"""`ssiuu list`: what there is to choose from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssiuu.cli.spoken import result
from ssiuu.cli.terminal import say
from ssiuu.errors import ConfigError, unknown

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ssiuu.plugins import Registry


class What(StrEnum):
    """The kinds of things that can be listed."""

    methods = "methods"
    attacks = "attacks"
    benchmarks = "benchmarks"
    scores = "scores"
    models = "models"
    sites = "sites"
    settings = "settings"
    recipes = "recipes"


def command(
    what: Annotated[str, typer.Argument(help="what to list", metavar="|".join(What))],
    of: Annotated[
        str, typer.Argument(help="sites: of which model; settings: of which key or section")
    ] = "",
) -> None:
    """List what there is of a kind, every setting, or the sites of a model's neurons."""
    if what not in [*What]:
        raise ConfigError(unknown("kind", what, [kind.value for kind in What], "list"))
    if what == What.sites and not of:
        raise ConfigError("list sites: which model? For example: ssiuu list sites smollm2-135m.")
    if of and what not in (What.sites, What.settings):
        raise ConfigError(f"list {what}: takes nothing more, got {of!r}.")
    if what == What.methods:
        _methods()
    elif what == What.attacks:
        _attacks()
    elif what == What.sites:
        _sites(of)
    elif what == What.settings:
        _every(of)
    else:
        found = _plain(what)
        result(**{what: found})
        for name, text in found.items():
            say(f"{name:14s} {text}", 15)


def _plain(what: str) -> dict[str, str]:
    if what == What.benchmarks:
        from ssiuu.benchmarks import BENCHMARKS

        return {name: _said(BENCHMARKS, name) for name in BENCHMARKS}
    if what == What.scores:
        from ssiuu.analysis.scores import SCORES

        return {name: _said(SCORES, name) for name in SCORES}
    if what == What.recipes:
        from ssiuu.shipped import recipes, said

        return {name: said(path) for name, path in recipes().items()}
    from ssiuu.models.load import MODELS

    others = {"FOLDER": "any causal LM in the Hugging Face layout with safetensors weights"}
    return {name: text for name, (_, text) in MODELS.items()} | others | {"OWNER/NAME": "from the hub"}


def _said(registry: Registry[Any], name: str) -> str:
    """Return what a name stands for, and the package that it is from where that is another one."""
    package = registry.plugin(name)
    summary = str(registry.get(name).summary)
    return summary if package is None else f"{summary} [{package}]"


def _attacks() -> None:
    from ssiuu.attacks import ATTACKS
    from ssiuu.attacks.base import AttackConfig

    result(attacks={name: _said(ATTACKS, name) for name in ATTACKS})
    for name in ATTACKS:
        kind = ATTACKS.get(name)
        say(f"{name:14s} {_said(ATTACKS, name)}", 15)
        _settings(f"attacks.{kind.setting()}", kind.Config)
    print("\nOf all that they concern:")
    _settings("attacks", AttackConfig)


def _every(below: str) -> None:
    from ssiuu.experiment.settings import settings

    found = settings(below)
    result(settings=[asdict(setting) for setting in found])
    for setting in found:
        say(f"{setting.key} = {setting.default}", 4)
        say(f"    {setting.allowed}: {setting.description}", 4)


def _settings(section: str, config: type[BaseModel]) -> None:
    for name, field in config.model_fields.items():
        key = section if name == "root" else f"{section}.{name}"
        say(f"{'':14s} {key} = {json.dumps(field.default)}: {field.description}", 17)


def _sites(name: str) -> None:
    from ssiuu.models.load import load
    from ssiuu.models.sites import coverage, find_sites

    model = load(name).model
    sites = find_sites(model)
    result(
        sites=[{"path": s.path, "layer": s.layer, "module": s.module, "width": s.width} for s in sites]
    )
    longest = max(len(site.path) for site in sites)
    print(f"layer  module  width  {'path':{longest}s}  outputs")
    for site in sites:
        print(
            f"{site.layer:5d}  {site.module:6s}  {site.width:5d}  {site.path:{longest}s}  {site.units}"
        )
    print(f"\n{sum(site.width for site in sites):,} neurons in {len(sites)} sites.")
    if remark := coverage(model, sites):
        say(remark)


def _methods() -> None:
    from ssiuu.methods import OBJECTIVES, RETAIN_TERMS, TRANSFORMS, known_methods, make
    from ssiuu.methods.names import FORM_WORDS, Common, suffixes

    told: dict[str, str] = {}
    for name in known_methods():
        method = make(name)
        told[name] = method.description
        say(f"{name:11s} [{method.whose}] {method.description}{_from(OBJECTIVES.plugin(name))}", 12)
        for part in method.all:
            _knobs(part)
    result(methods=told)
    print()
    say("What goes on any of them that takes gradient steps, as in npo+sam or gd+projection+mask:")
    parts = [*TRANSFORMS, *(name for name in RETAIN_TERMS if RETAIN_TERMS.get(name).suffix)]
    for name in parts:
        registry: Any = TRANSFORMS if name in TRANSFORMS else RETAIN_TERMS
        kind = registry.get(name)
        say(f"+{name:10s} [{kind.origin}] {kind.summary}{_from(registry.plugin(name))}", 12)
        _knobs(kind)
    print("\nOf every method:")
    for key, knob in Common.model_fields.items():
        say(f"              {key} = {knob.default}: {knob.description}", 16)
    print()
    say(f"Suffixes, as in gd+projection: {', '.join(f'+{word}' for word in suffixes())}.")
    say(f"Forms of ssiuu, as in ssiuu-gate-npo: {', '.join(FORM_WORDS)}, rhoNUMBER, or an objective.")


def _knobs(part: Any) -> None:
    for name, value, text in knobs(part):
        say(f"              {name} = {value}: {text}", 16)


def knobs(part: Any) -> Iterator[tuple[str, Any, str | None]]:
    """Yield what can be set of a part of a method, or of its class: name, value or default, meaning."""
    kind: Any = part if isinstance(part, type) else type(part)
    word = getattr(kind, "suffixes", {}).get(kind.name, {})  # what its name behind a plus sets
    for name, knob in kind.model_fields.items():
        value = word.get(name, knob.default) if part is kind else getattr(part, name)
        yield knob.alias or name, value, knob.description


def _from(plugin: object) -> str:
    return "" if plugin is None else f" [{plugin}]"
