"""From a name to a method: `loss+transform(knob,knob)+term`, names of the literature, forms of Ssiuu.

    method  = head { "+" part }
    head    = ( an objective | an alias | "ssiuu" { "-" form } ) [ "(" knob { "," knob } ")" ]
    part    = word [ "(" knob { "," knob } ")" ]         word: a transform, a suffix or a retain term
    knob    = a word of the part | a number | key "=" value
    value   = a number | a word | "[" value { "," value } "]"

A mapping says the rest, with flat keys: each goes to the part that declares it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic import ConfigDict, Field, ValidationError

from ssiuu.config import Exact
from ssiuu.errors import ConfigError, show, unknown
from ssiuu.methods.base import Objective, Optimiser, Part, RetainTerm, Transform
from ssiuu.methods.edits.none import NoUnlearning
from ssiuu.methods.edits.repselect import RepSelect
from ssiuu.methods.edits.task_vector import TaskVector
from ssiuu.methods.method import FAMILY, Alias, Method
from ssiuu.methods.objectives.altpo import AlternatePreference
from ssiuu.methods.objectives.ceu import CrossEntropyUnlearning
from ssiuu.methods.objectives.cir import Breaking, OutsideBreaking
from ssiuu.methods.objectives.dpo import DirectPreference
from ssiuu.methods.objectives.ga import GradientAscent
from ssiuu.methods.objectives.gd import GradientDifference
from ssiuu.methods.objectives.idknll import IdkLikelihood
from ssiuu.methods.objectives.jensun import JensenShannonUnlearning
from ssiuu.methods.objectives.npo import NegativePreference
from ssiuu.methods.objectives.pdu import PrimalDual
from ssiuu.methods.objectives.repselect_steps import RepSelectSteps
from ssiuu.methods.objectives.rmu import Misdirection, OutsideMisdirection
from ssiuu.methods.objectives.satimp import SaturationImportance
from ssiuu.methods.objectives.simnpo import SimpleNegativePreference
from ssiuu.methods.objectives.undial import SelfDistillation
from ssiuu.methods.objectives.wga import WeightedGradientAscent
from ssiuu.methods.retain import (
    ActivationTerm,
    DivergenceTerm,
    JensenShannonTerm,
    LikelihoodTerm,
    OtherWordsTerm,
    StatesTerm,
    TextTerm,
)
from ssiuu.methods.transforms.apart import Apart
from ssiuu.methods.transforms.fisher import Fisher
from ssiuu.methods.transforms.gate import Gate
from ssiuu.methods.transforms.gu import GeometricDisentanglement
from ssiuu.methods.transforms.klue import Localised
from ssiuu.methods.transforms.layered import Layered
from ssiuu.methods.transforms.mask import DisruptionMask
from ssiuu.methods.transforms.nullspace import NullSpace
from ssiuu.methods.transforms.projection import Projection
from ssiuu.methods.transforms.pull import Pull
from ssiuu.methods.transforms.rosu import RetainOrthogonal
from ssiuu.methods.transforms.sam import SharpnessAware
from ssiuu.methods.transforms.ssiuu import Ssiuu
from ssiuu.methods.transforms.undo import Undo
from ssiuu.plugins import Registry, used

OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    "ssiuu.objectives",
    Objective,
    (
        NoUnlearning,
        GradientAscent,
        GradientDifference,
        DirectPreference,
        NegativePreference,
        Misdirection,
        SimpleNegativePreference,
        SelfDistillation,
        WeightedGradientAscent,
        SaturationImportance,
        PrimalDual,
        CrossEntropyUnlearning,
        JensenShannonUnlearning,
        IdkLikelihood,
        AlternatePreference,
        TaskVector,
        RepSelect,
        RepSelectSteps,
        Breaking,
        OutsideBreaking,
        OutsideMisdirection,
    ),
)
TRANSFORMS: Registry[Transform] = Registry(
    "transform",
    "ssiuu.transforms",
    Transform,
    (
        *(Ssiuu, Gate, Fisher, Projection, DisruptionMask, Localised, SharpnessAware, RetainOrthogonal),
        *(GeometricDisentanglement, Apart, NullSpace, Pull, Layered, Undo),
    ),
)
RETAIN_TERMS: Registry[RetainTerm] = Registry(
    "retain term",
    "ssiuu.retain_terms",
    RetainTerm,
    (
        LikelihoodTerm,
        DivergenceTerm,
        JensenShannonTerm,
        ActivationTerm,
        StatesTerm,
        TextTerm,
        OtherWordsTerm,
    ),
)

LONGEST = 400  # characters of a name; the longest of ours has fifty
# What others call a method, letters alone, where no spelling leads to ours.
ELSEWHERE: Final = {
    **dict.fromkeys(("gradascent", "gradientascent"), "ga"),
    **dict.fromkeys(("graddiff", "gradientdifference"), "gd"),
    **{"idk": "idknll", "idkdpo": "dpo"},
}
ALIASES = {
    alias.name: alias
    for alias in (
        Alias(
            *("klue", "gd+klue", "literature", Localised.source),
            "KLUE: GD on the feed-forward neurons that attribution marks",
        ),
        Alias(
            *("npo-sam", "npo+sam", "literature", SharpnessAware.source),
            "NPO+SAM: NPO whose forget gradient is taken at the worst point nearby",
        ),
        Alias(
            *("masked", "gd+mask", "literature", DisruptionMask.source),
            "GD whose forget gradient is masked where it would disrupt retain",
        ),
        Alias(
            *("collapse", "gd+projection+outputs", "ours"),
            "Ours, on an idea of CIR and RepSelect.",
            "GD without the shared directions of inputs and output gradients",
        ),
        Alias(
            *("fdcu", "gd+fisher+gate(20)", "literature", Fisher.source),
            "FDCU: GD damped where retain hangs on a parameter, or the parameter opposes the answer",
        ),
    )
}
# Every built-in name that stands for a method by itself, in the order of lists.
METHODS = (
    *("none", "ga", "gd", "dpo", "npo", "klue", "rmu", "ssiuu", "simnpo", "undial", "wga"),
    *("satimp", "pdu", "npo-sam", "task-vector", "masked", "collapse"),
    *("ceu", "jensun", "idknll", "altpo"),
    *("repselect", "repselect-steps", "cir", "mcu", "rmu-mcu"),
    *("fdcu", "ssiuu-exact"),
)
# The words after a plus that are no transform's own name, with the transform and what each sets.
SUFFIXES: dict[str, tuple[str, Mapping[str, Any]]] = {
    word: (kind.name, keys)
    for kind in TRANSFORMS.built_in.values()
    for word, keys in kind.suffixes.items()
}
# What a form of Ssiuu's penalty may say in a name, and for which objectives it may stand.
FORM_WORDS = ("gate", *Ssiuu.knobs)

_PART = re.compile(r"([^()+]*)(?:\(([^()]*)\))?")


class Common(Exact):
    """What every method has, whatever it is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    learning_rate: float | None = Field(
        default=None, gt=0, le=1, description="the optimiser's rate; unlearn.learning_rate if null"
    )
    optimiser: Optimiser | None = Field(
        default=None, description="what takes the steps; unlearn.optimiser if null"
    )
    retain: str | None = Field(
        default=None,
        description="retain term: none, nll, kl or js (to the model before, on the answer tokens) "
        "or, for RMU, activations, for CIR, states; null for the objective's own",
    )
    retain_weight: float | None = Field(
        default=None,
        ge=0,
        description="weight of the retain term; 0 leaves it out, null for the objective's own",
    )
    tag: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="stands after the name in tables, to tell two settings of a method apart",
    )


@dataclass
class Draft:
    """A method while its name and its keys are read."""

    where: str
    objective: str = ""
    alias: Alias | None = None
    parts: dict[str, type[Part]] = field(default_factory=dict)
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)  # by part, as a name sets them
    free: set[tuple[str, str]] = field(default_factory=set)  # set by a suffix, for a key to change

    def add(self, kind: type[Part]) -> None:
        """Add a part."""
        self.parts[kind.name] = kind

    def set(self, part: str, key: str, value: Any, word: str, free: bool = False) -> None:
        """Set a key of a part, as a word of the name says.

        Raises:
            ConfigError: Another word says otherwise.
        """
        keys = self.keys.setdefault(part, {})
        if key in keys and keys[key] != value and (part, key) not in self.free:
            raise ConfigError(f"{self.where}: {word!r} sets {key}, which is {keys[key]!r} already.")
        keys[key] = value
        if free:
            self.free.add((part, key))
        else:
            self.free.discard((part, key))

    def loosen(self) -> None:
        """Let every number that is set by now give way to another one."""
        self.free |= {
            (part, key)
            for part, keys in self.keys.items()
            for key, value in keys.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }


def suffixes() -> list[str]:
    """Return every word that may stand behind a plus."""
    terms = [name for name in RETAIN_TERMS if RETAIN_TERMS.get(name).suffix]
    return [*dict.fromkeys([*SUFFIXES, *TRANSFORMS, *terms])]


def known_methods() -> list[str]:
    """Return every name that stands for a method by itself: built in, of a package, registered."""
    return [*dict.fromkeys([*METHODS, *OBJECTIVES])]


def make(spec: str | Mapping[str, Any], where: str = "methods") -> Method:
    """Return a method from its name, or from a mapping with its name and hyper-parameters.

    Args:
        spec: "gd", "npo+sam", "ssiuu+projection", or {"name": "ssiuu", "lambda": 1e-4}.
        where: The key it stands under, for messages.

    Raises:
        ConfigError: Unknown name or hyper-parameter, or a value out of range.
    """
    values: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "optimizer" in values and "optimiser" not in values:
        values["optimiser"] = values.pop("optimizer")
    if not (name := str(values.pop("name", "")).strip()):
        raise ConfigError(
            f"{where}: a method has a name, as in gd or {{name: npo, beta: 0.1}}, got {show(spec)}."
        )
    if len(name) > LONGEST:
        raise ConfigError(f"{where}: {show(name)} has {len(name)} characters; at most {LONGEST}.")
    draft = Draft(where)
    head, *words = _split(_joined(name, where), where)
    _head(draft, head, values)
    for number, word in enumerate(words):
        if word in words[:number]:
            raise ConfigError(f"{where}: {word[0]!r} stands twice behind a plus.")
        _suffix(draft, word)
    _bring(draft, values)
    return _assembled(draft, values)


def _joined(name: str, where: str) -> str:
    """Refuse a name with a plus that joins nothing: "npo+", "+sam", "gd++sam"."""
    parts = [part.strip() for part in name.split("+")]
    if all(parts) or not any(parts):
        return name
    meant = [part for part in parts if part]
    if not parts[0] and meant[0].partition("(")[0] in suffixes():
        meant = ["gd", *meant]
    raise ConfigError(
        f"{where}: {name!r}: a plus joins a method and what is added to it. Did you mean "
        f"{'+'.join(meant)!r}?"
    )


def _split(name: str, where: str) -> list[tuple[str, list[str]]]:
    """Return the words of a name with the knobs in parentheses behind each."""
    words = []
    # At every plus that is not inside of parentheses.
    for part in re.split(r"\+(?![^(]*\))", name):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise ConfigError(
                f"{where}: {name!r} cannot be read: parentheses come in pairs behind a word, as in "
                '"gd+ssiuu(logprob,growth)". In a list such a name needs quotation marks.'
            )
        # At every comma that is not inside of a list.
        knobs = [knob.strip() for knob in re.split(r",(?![^\[]*\])", match[2])] if match[2] else []
        words.append((match[1].strip(), knobs))
    return words


# --- the head -----------------------------------------------------------------------------------


def _head(draft: Draft, word: tuple[str, list[str]], values: dict[str, Any]) -> None:
    """Read what a name begins with."""
    name, knobs = word
    if name in (FAMILY, *ALIASES) and name in OBJECTIVES:
        raise ConfigError(
            f"{draft.where}: {name!r} is a method of ssiuu and an objective of "
            f"{OBJECTIVES.plugin(name)}: that package has to name it otherwise."
        )
    if name == FAMILY or name.startswith(f"{FAMILY}-"):
        _family(draft, name.split("-")[1:], values)
    elif name in ALIASES:
        draft.alias = ALIASES[name]
        (inner, _), *words = _split(draft.alias.spelled, draft.where)
        draft.objective = inner
        for part in words:
            _suffix(draft, part)
        draft.loosen()
    elif name in OBJECTIVES:
        draft.objective = name
    else:
        if ours := ELSEWHERE.get("".join(filter(str.isalpha, name)).casefold()):
            raise ConfigError(f"{draft.where}: {name} is called {ours!r} here.")
        raise ConfigError(unknown("method", name, known_methods(), draft.where))
    draft.add(OBJECTIVES.get(draft.objective, draft.where))
    for knob in knobs:
        _head_knob(draft, name, knob)


def _head_knob(draft: Draft, name: str, knob: str) -> None:
    """Read one knob behind what a name begins with; of several parts the one that has it takes it."""
    key = knob.partition("=")[0].strip()
    kinds = list(draft.parts.values())
    owners = [kind for kind in kinds if key in kind.written() or key in getattr(kind, "knobs", {})]
    if len(owners) > 1:
        names = " and ".join(kind.name for kind in owners)
        raise ConfigError(f"{draft.where}: {name}: {names} both have {key!r}: say it in a mapping.")
    if not owners and len(kinds) > 1:
        raise ConfigError(_no_knob(name, knob, kinds, draft.where))
    _knob(draft, (owners or kinds)[0], knob)


def _no_knob(name: str, knob: str, kinds: Sequence[type[Part]], where: str) -> str:
    """Return the sentence for a knob that none of these parts has."""
    known = [
        w for k in kinds for w in (*getattr(k, "knobs", {}), *(f"{key}=VALUE" for key in k.written()))
    ]
    if not known:
        return f"{where}: {name} has no knobs, got {knob!r}."
    return unknown(f"knob of {name}", knob, known, where)


def _family(draft: Draft, forms: list[str], values: dict[str, Any]) -> None:
    """Read a form of Ssiuu: "ssiuu-gate-npo"; also the keys that were its own."""
    objective = [form for form in forms if form in OBJECTIVES and form not in FORM_WORDS]
    backbone = values.pop("backbone", None)
    if len({*objective, *([backbone] if backbone else [])}) > 1:
        raise ConfigError(f"{draft.where}: a method has one objective, got {objective} and {backbone}.")
    # Algorithm 1 is printed on gd.
    draft.objective = str(backbone) if backbone else (objective or ["gd"])[0]
    gated = bool(values.pop("gate", False)) or "gate" in forms
    draft.add(Gate if gated else Ssiuu)
    for form in forms:
        if form not in ("gate", *objective):
            _form(draft, form, gated)
    if draft.objective not in OBJECTIVES:
        known = [name for name in OBJECTIVES if OBJECTIVES.get(name).has_gradient]
        raise ConfigError(
            unknown("objective", draft.objective, known, f"{draft.where}: ssiuu.backbone")
        )
    if not OBJECTIVES.get(draft.objective, draft.where).has_gradient:
        raise ConfigError(
            f"{draft.where}: ssiuu.backbone: {draft.objective} has no forget gradient to act on."
        )
    for key, value in dict(values.pop("backbone_options", None) or {}).items():
        if key in Common.model_fields:
            raise ConfigError(
                f"{draft.where}: backbone_options: {key} is set beside the backbone, not in it."
            )
        draft.set(draft.objective, key, value, "backbone_options")
    if gated:
        _gated(draft, values)


def _form(draft: Draft, form: str, gated: bool) -> None:
    """Read one word of a form."""
    if form in Ssiuu.knobs:
        keys: Mapping[str, Any] = Ssiuu.knobs[form]
    elif (number := _number(form.removeprefix("rho"))) is not None and form.startswith("rho"):
        keys = {"rho": number}
    else:
        known = [*FORM_WORDS, *(name for name in OBJECTIVES if OBJECTIVES.get(name).has_gradient)]
        raise ConfigError(unknown("form of ssiuu", form, known, draft.where))
    for key, value in keys.items():
        draft.set("gate" if gated else FAMILY, key, value, form)


def _gated(draft: Draft, values: dict[str, Any]) -> None:
    """Refuse knobs of a penalty beside a gate, which takes its place; those at rest are dropped."""
    knobs = draft.keys.pop("gate", {}) | {k: values.pop(k) for k in Ssiuu.written() if k in values}
    if knobs.pop("target", "logprob") != "logprob":
        raise ConfigError(f"{draft.where}: ssiuu: gate looks at log P: leave target out.")
    fields = {key: Ssiuu.model_fields[name].default for key, name in Ssiuu.written().items()}
    for key in sorted(knobs):
        # At rest is what has no effect, or is what nobody has set.
        if knobs[key] not in (0, fields[key]):
            raise ConfigError(
                f"{draft.where}: ssiuu: gate takes the place of the penalty: leave {key} out."
            )


# --- the words after a plus ---------------------------------------------------------------------


def _suffix(draft: Draft, word: tuple[str, list[str]]) -> None:
    """Read one word after a plus."""
    name, knobs = word
    owner, keys = SUFFIXES.get(name, (name, {}))
    kind: type[Part]
    if owner in TRANSFORMS:
        kind = TRANSFORMS.get(owner, draft.where)
    elif name in RETAIN_TERMS and RETAIN_TERMS.get(name, draft.where).suffix:
        kind = term = RETAIN_TERMS.get(name)
        if term.rows == "retain":
            draft.set("", "retain", name, name)
            for knob in knobs:
                _weight(draft, name, knob)
            return
    else:
        raise ConfigError(unknown("suffix of a method", name, suffixes(), draft.where))
    draft.add(kind)
    for key, value in keys.items():
        # A number that a word sets gives way to a key beside the name; what a word says does not.
        draft.set(owner, key, value, name, free=not isinstance(value, str))
    for knob in knobs:
        _knob(draft, kind, knob, next(iter(keys), None))


def _knob(draft: Draft, kind: type[Part], knob: str, key: str | None = None) -> None:
    """Read one knob in parentheses; a bare number is the one its word sets."""
    words = getattr(kind, "knobs", {})
    name, equals, text = knob.partition("=")
    number = _number(text if equals else knob)
    key = key or getattr(kind, "number", None)
    if equals and name.strip() in kind.written():
        draft.set(kind.name, name.strip(), _value(text.strip()), knob)
    elif knob in words:
        for field_, value in words[knob].items():
            draft.set(kind.name, field_, value, knob)
    elif number is not None and key is not None:
        draft.set(kind.name, key, number, knob)
    elif (rho := _number(knob.removeprefix("rho"))) is not None and "rho" in kind.written():
        draft.set(kind.name, "rho", rho, knob)
    else:
        raise ConfigError(_no_knob(kind.name, knob, [kind], draft.where))


def _weight(draft: Draft, term: str, knob: str) -> None:
    """Read the knob of a term of the retain rows: its weight, which is the method's retain_weight."""
    number = _number(knob.removeprefix("retain_weight="))
    if number is None:
        raise ConfigError(unknown(f"knob of {term}", knob, ["retain_weight=VALUE"], draft.where))
    draft.set("", "retain_weight", number, knob)


def _value(text: str) -> Any:
    """Read what stands behind a key: a number, a word, or a list of these."""
    if text.startswith("[") and text.endswith("]"):
        return [_value(entry.strip()) for entry in text[1:-1].split(",") if entry.strip()]
    number = _number(text)
    return text if number is None else number


def _number(text: str) -> float | int | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return None


# --- the keys -----------------------------------------------------------------------------------


def _bring(draft: Draft, values: dict[str, Any]) -> None:
    """Add the parts that a key adds unnamed; what is null of an absent one is as good as left out."""
    every: list[type[Part]] = [*TRANSFORMS.built_in.values(), *RETAIN_TERMS.built_in.values()]
    for kind in every:
        if kind.name in draft.parts:
            continue
        bringing = [key for key in kind.brought_by if key in values]
        if any(values[key] is not None for key in bringing):
            draft.add(kind)
        else:
            for key in bringing:
                del values[key]


def _routed(draft: Draft, values: dict[str, Any], label: str) -> tuple[dict[str, Any], list[str]]:
    """Hand every key to the part that declares it; return those that every method has, and problems."""
    common: dict[str, Any] = dict(draft.keys.pop("", {}))
    problems = []
    for key, value in values.items():
        part, dot, inner = key.rpartition(".")
        owners = [n for n, kind in draft.parts.items() if (inner if dot else key) in _keys(kind)]
        owners = [n for n in owners if n == part] if dot else owners
        if key in Common.model_fields:
            if key in common and common[key] != value:
                word = common[key]
                text = f"{word!r} sets {key}, which is {value!r} already."
                raise ConfigError(f"{draft.where}: {text}")
            common[key] = value
        elif len(owners) == 1:
            _given(draft, owners[0], inner if dot else key, value)
        elif owners:
            written = " or ".join(f"{owner}.{key}" for owner in owners)
            problems.append(
                f"{draft.where}: {label}.{key}: {' and '.join(owners)} both have it; write {written}."
            )
        else:
            parts = draft.parts.values()
            known = [*Common.model_fields, *(key for kind in parts for key in kind.written())]
            problems.append(unknown(f"hyper-parameter of {label}", key, known, draft.where))
    return common, problems


def _keys(kind: type[Part]) -> set[str]:
    """Return how the keys of a part may be written."""
    return {*kind.written(), *kind.written().values()}


def _given(draft: Draft, part: str, key: str, value: Any) -> None:
    """Set a key that was given beside the name; only where a word says a number it gives way."""
    keys_of_part = draft.keys.setdefault(part, {})
    if key in keys_of_part and keys_of_part[key] != value and (part, key) not in draft.free:
        word = next((w for w, (owner, keys) in SUFFIXES.items() if key in keys and owner == part), part)
        raise ConfigError(f"{draft.where}: {word!r} sets {key}, which is {value!r} already.")
    keys_of_part[key] = value


# --- putting together ---------------------------------------------------------------------------


def _assembled(draft: Draft, values: dict[str, Any]) -> Method:
    objective: Any = draft.parts[draft.objective]
    head = objective.has_gradient and any(name in (FAMILY, "gate") for name in draft.parts)
    label = draft.alias.name if draft.alias else FAMILY if head else draft.objective
    common, problems = _routed(draft, values, label)
    parts: list[Part] = []
    for name, kind in draft.parts.items():
        try:
            parts.append(kind(**draft.keys.pop(name, {})))
        except ValidationError as error:
            problems += [_sentence(label, problem, draft.where) for problem in error.errors()]
    try:
        checked = Common(**common)
    except ValidationError as error:
        problems += [_sentence(label, problem, draft.where) for problem in error.errors()]
        raise ConfigError(problems) from error
    term, weight = _retained(objective, checked, label, draft.where)
    if problems:
        raise ConfigError(problems)
    others = sorted((p for p in parts if isinstance(p, RetainTerm) and not p.off), key=_place)
    transforms = sorted((p for p in parts if isinstance(p, Transform) and not p.off), key=_place)
    head = any(part.heads for part in transforms)
    method = Method(
        objective=next(p for p in parts if isinstance(p, Objective)),
        retain=RETAIN_TERMS.get(term, draft.where)() if term != "none" and weight else None,
        retain_weight=weight,
        others=tuple(others),
        transforms=tuple(transforms),
        learning_rate=checked.learning_rate,
        optimiser=checked.optimiser or objective.optimiser,
        tag=checked.tag,
        alias=None if head else draft.alias,
        own=_owned(draft) if not head else frozenset(),
        retain_term=term,
        clashing=_clashing(parts),
    )
    _fitting(method, label, draft.where)
    return _with_packages(method)


def _place(part: Part) -> tuple[int, str]:
    return part.order, part.name


def _owned(draft: Draft) -> frozenset[str]:
    """Return the transforms that an alias stands for."""
    words = _split(draft.alias.spelled, draft.where)[1:] if draft.alias else []
    return frozenset(SUFFIXES.get(word, (word, {}))[0] for word, _ in words)


def _clashing(parts: list[Part]) -> frozenset[str]:
    """Return the keys that two parts have."""
    keys = [key for part in parts for key in part.written()]
    return frozenset(key for key in keys if keys.count(key) > 1)


def _retained(objective: Any, common: Common, label: str, where: str) -> tuple[str, float]:
    """Return the retain term and its weight."""
    term, weight = objective.retain_default(common.retain)
    if common.retain not in (None, "none") and common.retain not in RETAIN_TERMS:
        known = unknown("retain term", str(common.retain), ["none", *RETAIN_TERMS])
        raise ConfigError(f"{where}: {label}.retain: {known[:-1]}, got {common.retain!r}.")
    weight = weight if common.retain_weight is None else common.retain_weight
    if not objective.retains and common.retain not in (None, "none", "nll"):
        raise ConfigError(f"{where}: {label}: retain: {objective.name} has no retain term.")
    if not objective.retains and weight:
        raise ConfigError(
            f"{where}: {label}.retain_weight: {objective.name} has no retain term, so it must be 0, "
            f"got {weight!r}."
        )
    if common.retain not in (None, "none", "nll") and not weight:
        raise ConfigError(f"{where}: {label}: retain: {term} needs a retain_weight above 0.")
    return term, weight


def _fitting(method: Method, label: str, where: str) -> None:
    """Refuse parts that do not go together."""
    problems = []
    if not method.has_gradient:
        if method.others:
            names = ", ".join(term.name for term in method.others)
            problems.append(f"{names}: this method takes no gradient steps to add a term to")
        if method.transforms:
            names = ", ".join(part.name for part in method.transforms)
            problems.append(f"{names}: this method has no forget gradient to act on")
    for part in method.all:
        try:
            part.fits(method)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError([f"{where}: {label}: {problem}." for problem in problems])


def _with_packages(method: Method) -> Method:
    """Add which packages the parts come from."""
    kinds: list[tuple[Registry[Any], Sequence[Part]]] = [
        (OBJECTIVES, [method.objective]),
        (TRANSFORMS, method.transforms),
        (RETAIN_TERMS, [*([method.retain] if method.retain else []), *method.others]),
    ]
    packages = used(*((registry, part.name) for registry, parts in kinds for part in parts))
    return replace(method, packages=tuple(packages.items()))


def _sentence(label: str, problem: Any, where: str) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "value_error":  # of one value or of several together
        at = f"{label}.{key}" if key else label
        return f"{where}: {at}: {problem['msg'].removeprefix('Value error, ')}."
    if problem["type"] == "extra_forbidden":
        return f"{where}: {label}.{key}: no such hyper-parameter, got {show(problem['input'])}."
    return f"{where}: {label}.{key}: {problem['msg']}, got {show(problem['input'])}."
