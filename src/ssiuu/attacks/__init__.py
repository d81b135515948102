"""Attacks on any checkpoint, one a file: train it further, coarsen it, or ask it in another way."""

from __future__ import annotations

from collections.abc import Container
from functools import cache
from typing import Any

from pydantic import create_model

from ssiuu.attacks.base import Attack, AttackConfig
from ssiuu.attacks.benign import Benign
from ssiuu.attacks.few_shot import FewShot
from ssiuu.attacks.filler import Filler
from ssiuu.attacks.harmful import Harmful
from ssiuu.attacks.membership import Membership
from ssiuu.attacks.membership_gradient import MembershipGradient
from ssiuu.attacks.membership_reference import MembershipReference
from ssiuu.attacks.prompts import Prompts
from ssiuu.attacks.quantise import Quantised
from ssiuu.attacks.samples import Sampled
from ssiuu.config import flatten
from ssiuu.plugins import Registry

AttackKind = type[Attack[Any]]
# In the order of a run.
BUILT_IN: tuple[AttackKind, ...] = (
    *(Harmful, Benign, Filler, Quantised, FewShot, Sampled, Prompts, Membership),
    *(MembershipGradient, MembershipReference),
)
ATTACKS: Registry[Attack[Any]] = Registry("attack", "ssiuu.attacks", Attack, BUILT_IN)
# What all attacks share, under `protocol: strong`.
STRONG: dict[str, Any] = {
    "attacks.spaces": ["full", "lora-qv", "lora-all"],
    "attacks.reads": [1, 2, 4, 8, 16],
    "attacks.seeds": [0, 1, 2],
    "attacks.control": True,
}


def strong_defaults() -> dict[str, Any]:
    """Return what `protocol: strong` sets where a recipe says nothing, by dotted key."""
    kinds = (ATTACKS.get(name) for name in ATTACKS)
    own = {f"attacks.{kind.setting()}": kind.strong for kind in kinds if kind.strong is not None}
    return STRONG | flatten(own)


def switched_off() -> dict[str, Any]:
    """Return what leaves every attack out, by dotted key."""
    return {key: value for name in ATTACKS for key, value in ATTACKS.get(name).off().items()}


def known_settings() -> list[str]:
    """Return the key of every attack's settings, under `attacks.`."""
    return [ATTACKS.get(name).setting() for name in ATTACKS]


def attack_section(wanted: Container[str]) -> type[AttackConfig]:
    """Return the recipe's section: of every attack of this package, and of those with a key wanted."""
    return _section(
        tuple(
            kind
            for name in ATTACKS
            if (kind := ATTACKS.get(name)).setting() in wanted or name in ATTACKS.built_in
        )
    )


@cache
def _section(kinds: tuple[AttackKind, ...]) -> type[AttackConfig]:
    fields: dict[str, Any] = {kind.setting(): (kind.Config, kind.Config()) for kind in kinds}
    return create_model("AttackConfig", __base__=AttackConfig, **fields)


def attacks_of(config: AttackConfig) -> list[Attack[Any]]:
    """Return the attacks as a recipe sets them, in the order of a run; those that are off too."""
    kinds = (ATTACKS.get(name) for name in ATTACKS)
    return [kind(config.of(kind), config) for kind in kinds if hasattr(config, kind.setting())]
