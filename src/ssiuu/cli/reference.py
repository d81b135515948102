"""The page of everything that can be named or set, made from the code that reads it.

python -m ssiuu.cli.reference > docs/reference.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import typer

from ssiuu.attacks import ATTACKS
from ssiuu.benchmarks import BENCHMARKS
from ssiuu.cli import exits
from ssiuu.cli.listing import knobs
from ssiuu.cli.main import app
from ssiuu.cli.spoken import SHARED
from ssiuu.experiment.settings import Setting, settings
from ssiuu.methods import OBJECTIVES, RETAIN_TERMS, TRANSFORMS, make
from ssiuu.methods.names import Common
from ssiuu.report.formats import escape_markdown
from ssiuu.shipped import recipes, said

HEAD = """# Reference

Every command, setting, method, attack, benchmark, recipe, exit code and environment variable. Made from
the code by `python -m ssiuu.cli.reference`; `ssiuu list` prints the same, of other packages too. The
columns of a run stand in [columns](columns.md), its scores in [scores](scores.md), the equations of the
methods in [papers](papers.md).
"""
OF_ALL = {"help", *SHARED}
ENVIRONMENT = {
    "SSIUU_CACHE": "folder of what is made once and used again: models, worlds, planted controls",
    "SSIUU_PLUGINS": "files that add methods, attacks, benchmarks or scores, separated as in PATH",
    "SSIUU_DEVICE": "what `device: auto` is, cuda:1 say; unset: an accelerator, else the processor",
    "XDG_CACHE_HOME": "its parent where SSIUU_CACHE is not set; else ~/.cache",
    "HF_HOME, HF_TOKEN, HF_HUB_OFFLINE": "the hub's own: its cache, access to gated models, no network",
    "OMP_NUM_THREADS": "torch's own: threads on a CPU; the last digits of results differ with it",
    "CUDA_VISIBLE_DEVICES": "CUDA's own: of these GPUs each of several workers gets one",
    "SSIUU_SIGN_PASSPHRASE": "of the key that signs certificates, where nobody can be asked",
    "WORLD_SIZE, RANK, LOCAL_RANK, LOCAL_WORLD_SIZE": "set by torchrun and accelerate launch",
}


def reference_page() -> str:
    """Return the page as Markdown."""
    return "\n".join(
        [
            HEAD,
            _commands(),
            _settings(),
            _methods(),
            *(
                _table(title, ("name", "what it is"), {f"`{n}`": r.get(n).summary for n in _own(r)})
                for title, r in (("Attacks", ATTACKS), ("Benchmarks", BENCHMARKS))
            ),
            _table(
                "Recipes", ("name", "what it is"), {f"`{n}`": said(p) for n, p in recipes().items()}
            ),
            _table(
                "Exit codes", ("code", "meaning"), {str(c): text for c, text in exits.CODES.items()}
            ),
            _table(
                "Environment variables",
                ("variable", "what it does"),
                {f"`{name.replace(', ', '`, `')}`": text for name, text in ENVIRONMENT.items()},
            ),
        ]
    )


def _own(registry: Any) -> list[str]:
    return [name for name in registry if name in registry.built_in]


def _table(title: str, heads: tuple[str, str], rows: Mapping[str, str], level: str = "##") -> str:
    lines = [f"| {heads[0]} | {heads[1]} |", "|---|---|"]
    lines += [f"| {name} | {escape_markdown(text)} |" for name, text in rows.items()]
    return "\n".join([f"{level} {title}", *lines, ""])


def _commands() -> str:
    group: Any = typer.main.get_command(app)
    parts = ["## Commands", "`--set key=value` sets any of the settings below. Every command takes", ""]
    group_of_one = next(command for name, command in _leaves(group) if name == "check")
    parts += [f"- `{_typed(o)}`: {o.help}" for o in group_of_one.params if o.name in SHARED]
    parts.append("")
    for name, command in _leaves(group):
        rows = {
            _typed(option): option.help or "" for option in command.params if option.name not in OF_ALL
        }
        first = " ".join((command.help or "").split("\n\n")[0].split())
        parts.append(f"### ssiuu {name}\n{escape_markdown(first)}\n")
        parts += [f"| `{typed}` | {escape_markdown(text)} |" for typed, text in rows.items()]
        index = len(parts) - len(rows)
        parts[index:index] = ["| option | what it does |", "|---|---|"]
        parts.append("")
    return "\n".join(parts)


def _leaves(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the commands below one, each with the words it is called by."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def _typed(option: Any) -> str:
    if option.param_type_name == "argument":
        return str(option.metavar or option.name).upper().replace("|", " or ")
    return str(max(option.opts, key=len))


def _settings() -> str:
    lines = ["## Settings", ""]
    sections: dict[str, list[Setting]] = {}
    for setting in settings():
        sections.setdefault(setting.key.rpartition(".")[0], []).append(setting)
    for section, members in sections.items():
        lines += [f"### `{section}`" if section else "### The recipe itself"]
        lines += ["| key | default | what may stand there | what it does |", "|---|---|---|---|"]
        for setting in members:
            told = " | ".join(map(escape_markdown, (setting.allowed, setting.description)))
            lines.append(f"| `{setting.key}` | `{setting.default}` | {told} |")
        lines.append("")
    return "\n".join(lines)


def _methods() -> str:
    lines = ["## Methods", "The first word of a name.", ""]
    for name in (name for name in OBJECTIVES if name in OBJECTIVES.built_in):
        method = make(name)
        lines += _part(f"`{name}`", method.whose, method.description, _knobs(method.all))
    lines += ["### What goes on them", "Behind a plus, as in `npo+sam` or `gd+projection+mask`.", ""]
    registries: tuple[Any, ...] = (TRANSFORMS, RETAIN_TERMS)
    for registry in registries:
        for name in _own(registry):
            kind = registry.get(name)
            if registry is RETAIN_TERMS and not kind.suffix:
                continue
            lines += _part(f"`+{name}`", kind.origin, kind.summary, _knobs([kind]))
    common = {
        key: f"{knob.description} (default: {knob.default})"
        for key, knob in Common.model_fields.items()
    }
    lines += ["### Of every method", *(f"- `{key}`: {text}" for key, text in common.items()), ""]
    return "\n".join(lines)


def _knobs(parts: Iterable[Any]) -> list[str]:
    return [
        f"  - `{name}` (default `{value}`): {escape_markdown(text or '')}"
        for part in parts
        for name, value, text in knobs(part)
    ]


def _part(name: str, whose: str, text: str, below: list[str]) -> list[str]:
    return [f"- {name} [{whose}] {escape_markdown(text)}", *below, ""]


if __name__ == "__main__":
    print(reference_page(), end="")
