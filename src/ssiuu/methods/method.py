"""A method: an objective, what stands beside it, and what is done to its gradient; with a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ssiuu.methods.base import Optimiser, Origin, Parts

ORDER: tuple[Origin, ...] = ("paper", "literature", "given", "ours", "control")
FAMILY = "ssiuu"  # what a method with Ssiuu's penalty or gate is called: ssiuu-gate-npo


@dataclass(frozen=True)
class Alias:
    """A name of the literature for a composition: "masked" is gd+mask.

    Attributes:
        name: The name.
        spelled: What it stands for.
        origin: Whose it is.
        source: Where it is from.
        summary: What it is, in one sentence without its full stop.
    """

    name: str
    spelled: str
    origin: Origin
    source: str
    summary: str


@dataclass(frozen=True, kw_only=True)
class Method(Parts):
    """What is run: parts, a learning rate of its own, and the name it goes by.

    Attributes:
        learning_rate: In place of the recipe's.
        optimiser: In place of the recipe's.
        tag: Stands after the name, to tell two settings of a method apart.
        alias: The name it was called by, where that is one of the literature.
        own: Names of the parts that the alias stands for.
        packages: The package and version of every part that comes from another one, by kind and name.
        retain_term: The retain term's name and weight as set, also where the weight is 0.
        clashing: Keys that two parts have, which are written with their part's name.
    """

    learning_rate: float | None = None
    optimiser: Optimiser | None = None
    tag: str | None = None
    alias: Alias | None = None
    own: frozenset[str] = frozenset()
    packages: tuple[tuple[str, str], ...] = ()
    retain_term: str = "none"
    clashing: frozenset[str] = frozenset()

    @property
    def has_gradient(self) -> bool:
        """Whether it takes gradient steps."""
        return self.objective.has_gradient

    @property
    def trains(self) -> bool:
        """Whether it changes the model."""
        return self.objective.trains

    def plugins(self) -> dict[str, str]:
        """Return which packages its parts come from: {"objective pdu": "my-package 1.0"}."""
        return dict(self.packages)

    def part(self, name: str) -> Any:
        """Return the part of this name.

        Raises:
            KeyError: It has none.
        """
        return {part.name: part for part in self.all}[name]

    @property
    def options(self) -> dict[str, Any]:
        """Every hyper-parameter as it is written, defaults included."""
        options: dict[str, Any] = {
            "learning_rate": self.learning_rate,
            "retain": self.retain_term,
            "retain_weight": self.retain_weight,
        }
        for part in self.all:
            for key, value in part.options.items():
                options[f"{part.name}.{key}" if key in self.clashing else key] = value
        chosen = {"optimiser": self.optimiser, "tag": self.tag}
        return options | {key: value for key, value in chosen.items() if value}

    # --- the name -------------------------------------------------------------------------------

    @property
    def _head(self) -> Any:
        """The penalty or the gate, if there is one: such a method is of Ssiuu's family."""
        return next((t for t in self.transforms if t.heads), None)

    @property
    def name(self) -> str:
        """The name without forms and suffixes."""
        if self._head is not None:
            return FAMILY
        return self.objective.name if self.alias is None else self.alias.name

    @property
    def stem(self) -> str:
        """The label without suffixes: a name, or Ssiuu's with every knob that is not the paper's."""
        if self._head is None:
            return self.name
        gate = ["gate"] if self._head.name == "gate" else []
        objective = [self.objective.name] if self.objective.name != "gd" else []
        return "-".join([FAMILY, *gate, *objective, *([] if gate else self._head.form)])

    @property
    def label(self) -> str:
        """The default name of a run of this method in tables and folders."""
        own = self.objective.retain_default(None)[0]
        named = [t for t in (self.retain,) if t is not None and t.suffix and t.name != own]
        words = [term.name for term in (*named, *self.others)]
        words += [word for part in self._added for word in part.said]
        tag = f"@{self.tag}" if self.tag else ""
        return "+".join([self.stem, *words]) + tag

    @property
    def _added(self) -> list[Any]:
        """The transforms that are no part of the stem."""
        return [t for t in self.transforms if t.name not in self.own and t is not self._head]

    # --- whose it is ----------------------------------------------------------------------------

    @property
    def literal(self) -> bool:
        """Whether this is Algorithm 1, or the objective it is for, as printed; lambda is free."""
        head = self._head
        plain = self.retain is not None and self.retain.name == "nll" and self.retain_weight == 1
        return head is not None and head.whose == "paper" and self.objective.name == "gd" and plain

    @property
    def whose(self) -> Origin:
        """Whose method this is as configured: with an extension it is ours, or our control."""
        known = [self.objective.whose if self.alias is None else self.alias.origin]
        if self._head is not None:
            known = [self._head.whose if self.literal or self._head.whose != "paper" else "ours"]
        known += [self._whose(part) for part in [*self.others, *self._added]]
        return max(known, key=ORDER.index)

    def _whose(self, part: Any) -> Origin:
        if getattr(part, "silent", False):
            return "paper"  # it says nothing of the method
        alone = self._head is None and len(self._added) == 1
        published = alone and self.objective.name in getattr(part, "published_on", ())
        return part.whose if published or part.whose == "control" else "ours"

    @property
    def source(self) -> str:
        """Where the method is from."""
        if self._head is not None:
            return str(self._head.source)
        return self.objective.source if self.alias is None else self.alias.source

    @property
    def description(self) -> str:
        """One sentence on what is run, with its source."""
        added = [part for part in self._added if not part.silent]
        phrases = [part.phrase for part in added]
        if self.others:
            places = " and ".join(term.place for term in self.others)
            phrases.append(f"held to the model before {places} (this project's extension)")
        sources = [part.source for part in added if part.origin == "literature"]
        return f"{', '.join([self._summary, *phrases])}. {' '.join([self.source, *sources])}"

    @property
    def _summary(self) -> str:
        head, base = self._head, self.objective.name.upper()
        if head is None:
            return self.objective.summary if self.alias is None else self.alias.summary
        if head.name == "gate":
            return f"{base} {head.summary}"
        if self.literal:
            return str(head.title)
        return f"Ssiuu on {base} in this project's form {self.stem}"
