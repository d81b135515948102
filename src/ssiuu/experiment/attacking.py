"""The attacks of an experiment: which curves a recipe asks for, and how one is carried out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ssiuu.attacks.membership import SCORES, membership_aucs
from ssiuu.attacks.prompts import Asking, few_shot, fitting, prompts, read_prompted
from ssiuu.attacks.quantise import BITS, quantised
from ssiuu.attacks.retrain import attacked_facts, common_pool, retrain, share, trained_maps
from ssiuu.attacks.samples import leaks
from ssiuu.benchmarks import filler
from ssiuu.errors import ConfigError
from ssiuu.evaluation.scores.ranking import read_facts
from ssiuu.evaluation.sequence import score_sequences
from ssiuu.experiment.recipe import AttackConfig, Recipe
from ssiuu.experiment.session import Session
from ssiuu.likelihood import Example
from ssiuu.records.schema import Attack, AttackRead, Evaluation, FactText, Reading, Space

Kind = Literal[
    "harmful", "benign", "filler", "quantised", "prompts", "few-shot", "sampled", "membership"
]
# What the reads of an attack run over; a retraining attack's are steps.
AXES: dict[str, str] = {
    "quantised": "bits",
    "prompts": "prompt",
    "few-shot": "shots",
    "sampled": "k",
    "membership": "score",
}
NON_MEMBERS = (
    "AUC of the {members} forget facts in the pool against {others} held-out facts, which the original "
    "model knows and unlearning never trained on; 0.5: the forgotten cannot be told from them"
)
OUTSIDE = (
    "AUC of the {members} forget facts against {others} questions of the same kind that no model here "
    "was trained on; 0.5: the forgotten cannot be told from them, 1: plainly trained on"
)
LACKING = (
    "Membership inference was not scored, for there is nothing to compare with: {lacking}. Held-out "
    "retain questions will not do: the model was fine-tuned on them"
)


@dataclass(frozen=True)
class Curve:
    """One attack curve: its kind and the attacker's settings.

    `points`: where it is read, on the attack's axis; formats for quantisation, none for prompts and
    membership.
    """

    name: str
    kind: Kind
    learning_rate: float | None = None
    fraction: float | None = None
    space: Space = "full"
    seed: int = 0
    points: tuple[int | str, ...] = ()

    @property
    def file(self) -> str:
        """Name of the record in the cell's folder."""
        rate = f"-{self.learning_rate:g}" if self.learning_rate is not None else ""
        space = f"-{self.space}" if self.space != "full" else ""
        seed = f"-s{self.seed}" if self.seed else ""
        return f"attack-{self.name}{rate}{space}{seed}.json"


def plan(recipe: Recipe) -> list[Curve]:
    """Return every attack curve a recipe asks for."""
    return [*_retraining(recipe.attacks), *_untrained(recipe.attacks)]


def _retraining(config: AttackConfig) -> list[Curve]:
    """Return kinds x spaces x learning rates x seeds."""
    kinds: list[tuple[str, Kind, float | None, list[float]]] = [
        (f"harmful_{p:g}", "harmful", p, config.harmful.learning_rates)
        for p in config.harmful.fractions
    ]
    kinds.append(("benign", "benign", None, config.benign.learning_rates))
    kinds.append(("filler", "filler", None, config.filler.learning_rates))
    return [
        Curve(name, kind, rate, fraction, space, seed, tuple(config.reads))
        for name, kind, fraction, rates in kinds
        for space in config.spaces
        for rate in rates
        for seed in config.orders
    ]


def _untrained(config: AttackConfig) -> list[Curve]:
    """Return the attacks that do not train, each once, under the first seed."""
    seed = config.orders[0]
    points: dict[Kind, tuple[int | str, ...]] = {
        "quantised": tuple(config.quantise),
        "few-shot": tuple(config.shots),
        "sampled": tuple(config.samples),
    }
    wanted: list[Kind] = [kind for kind, found in points.items() if found]
    wanted += ["prompts"] if config.prompts else []
    wanted += ["membership"] if config.membership else []
    return [Curve(kind, kind, seed=seed, points=points.get(kind, ())) for kind in wanted]


def heaviest(curves: Iterable[Curve]) -> Curve | None:
    """Return the harmful curve with the largest fraction and then learning rate, the first of equals.

    Which curve brings most back is known only when all are done, and their weights are not kept.
    """
    harmful = [curve for curve in curves if curve.kind == "harmful"]
    return max(harmful, key=lambda c: (c.fraction or 0.0, c.learning_rate or 0.0), default=None)


def ending(attack: Attack) -> str:
    """Return the name of the model that a retraining attack ends with."""
    setting = f"learning rate {attack.learning_rate:g}, trained {attack.space}, seed {attack.seed}"
    return f"{attack.name} ({setting}) at step {attack.reads[-1].step}"


class Attacker:
    """What the attacks of one session share: the facts the attacker holds, and those scored."""

    def __init__(self, session: Session) -> None:
        """Refuse what can be seen to fail, before anything is run or written.

        Raises:
            ConfigError: No fact is left to score, more shots are wanted than there are retain facts, a
                prompt is longer than the model's context, or it has no maps for an attacker's adapters.
            DataError: The instructions of the benign attack cannot be read.
        """
        self.session = session
        curves = plan(session.recipe)
        for space in dict.fromkeys(curve.space for curve in curves):
            if chosen := trained_maps(session.model, space):
                session.notes.extend(f"attacks.spaces: {space}: {note}." for note in chosen.notes)
        for curve in curves:
            self.settings(curve)
            for _, asking in self._asking(curve).values():
                fitting(self.pool, asking, session.context)

    def settings(self, curve: Curve) -> dict[str, Any]:
        """Return everything beside the model that decides a curve, for its key."""
        config = self.session.recipe.attacks
        return {
            "curve": asdict(curve),
            "batch_size": config.batch_size,
            "examples": self._rows(curve),
            "pool": [fact.id for fact in self.pool],
        }

    def _rows(self, curve: Curve) -> list[Any]:
        """Return what a curve uses beside the pool: its training rows, or the facts it asks with."""
        if curve.kind == "few-shot":
            return [fact.id for fact in self.session.split.retain]
        if curve.kind == "membership":
            return [[fact.id, fact.question, fact.answer] for fact in self._compared[1]]
        if curve.kind in AXES:
            return []
        return [[e.id, e.prompt, e.answer] for e in self._examples(curve)]

    def carry_out(
        self,
        curve: Curve,
        scores: Evaluation,
        progress: Callable[[str], None],
        state: Path | None = None,
    ) -> Attack:
        """Attack the model as it is; its weights may be changed.

        Args:
            curve: Which attack.
            scores: Of the model before the attack.
            progress: Told at every reading.
            state: Where to keep the state of an unfinished curve.
        """
        if curve.kind in AXES:
            progress(curve.name)
            return self._ask(curve, scores)
        session, config = self.session, self.session.recipe.attacks
        assert curve.learning_rate is not None
        return retrain(
            session.model,
            session.prompt,
            curve.name,
            curve.kind,
            self._examples(curve),
            self.pool,
            self._start(scores),
            curve.learning_rate,
            [int(point) for point in curve.points],
            config.batch_size,
            curve.seed,
            session.precision,
            session.pad,
            curve.fraction,
            curve.space,
            progress,
            state,
        )

    @cached_property
    def held(self) -> list[str]:
        """Ids of the forget facts the attacker holds at the largest fraction, in order."""
        config = self.session.recipe.attacks
        return attacked_facts(self.session.split.forget, config.harmful.fractions, config.seed)

    @cached_property
    def pool(self) -> list[FactText]:
        """The facts that are scored; none shares an entity with one the attacker holds."""
        pool = common_pool(self.session.split.forget, self.held)
        if not pool:
            raise ConfigError(
                "attacks: every forget fact shares an entity with one the attacker holds, so none "
                "is left to score. Lower attacks.harmful.fractions or forget more entities."
            )
        return pool

    # --- attacks that train ---------------------------------------------------------------------

    @cached_property
    def _benign(self) -> list[Example]:
        return self.session.benign()

    @cached_property
    def _filler(self) -> list[Example]:
        """Plain text: there is no prompt, so a row's first token is given and the rest is learned."""
        made = []
        for number, text in enumerate(filler.load()):
            ids = self.session.prompt.sentence(text)[: self.session.recipe.attacks.filler.tokens]
            made.append(Example(f"filler:{number}", ids[:1], ids[1:]))
        return made

    def _examples(self, curve: Curve) -> list[Example]:
        if curve.kind == "benign":
            return self._benign
        if curve.kind == "filler":
            return self._filler
        assert curve.fraction is not None
        forget = self.session.split.forget
        facts = {f.id: f for f in forget}
        held = self.held[: share(len(forget), curve.fraction)]
        return self.session.rows([facts[i] for i in held])

    def _start(self, scores: Evaluation, facts: Sequence[FactText] | None = None) -> dict[str, Reading]:
        """Return the readings before an attack."""
        pool = self.pool if facts is None else facts
        return {fact.id: self.session.score.reading(fact, scores.forget[fact.id]) for fact in pool}

    # --- attacks that ask -----------------------------------------------------------------------

    def _ask(self, curve: Curve, scores: Evaluation) -> Attack:
        begin = time.perf_counter()
        start = self._start(scores)
        values: dict[str, float | None] = {}
        note = ""
        if curve.kind == "membership":
            reads: list[AttackRead] = []
            start = self._start(scores, self._compared[0])
            values, note = self._membership()
        elif curve.kind == "sampled":
            # One answer, the likeliest: the greedy one.
            free = {i: scores.forget[i].free_correct for i in start}
            start = {i: r.model_copy(update={"correct": free[i]}) for i, r in start.items()}
            reads = self._sampled(curve, start)
        elif curve.kind == "quantised":
            reads = self._quantised(curve)
        else:
            reads = self._prompted(curve, start)
        return Attack(
            name=curve.name,
            kind=curve.kind,
            learning_rate=None,
            seed=curve.seed,
            axis=AXES[curve.kind],
            trained=[],
            pool=list(start),
            reads=[AttackRead(step=0, facts=start), *reads],
            values=values,
            seconds=round(time.perf_counter() - begin, 2),
            note=note,
        )

    def _quantised(self, curve: Curve) -> list[AttackRead]:
        session = self.session
        return [
            AttackRead(
                step=BITS[name],
                facts=read_facts(session.model, session.prompt, self.pool),
                label=name,
            )
            for name in quantised(session.model, [str(point) for point in curve.points])
        ]

    def _sampled(self, curve: Curve, start: dict[str, Reading]) -> list[AttackRead]:
        session = self.session
        counts = [int(point) for point in curve.points]
        examples = session.examples(self.pool)
        return leaks(session.model, session.prompt, self.pool, examples, counts, start, curve.seed)

    def _asking(self, curve: Curve) -> dict[str, tuple[int, Asking]]:
        """Return the prompts of a curve by label, each with its place; none where it has none."""
        session = self.session
        if curve.kind == "few-shot":
            kept = session.split.retain
            return {
                str(k): (int(k), few_shot(session.prompt, kept, int(k), curve.seed))
                for k in curve.points
            }
        if curve.kind != "prompts":
            return {}
        made = prompts(session.prompt, self.pool)
        return {label: (n, asking) for n, (label, asking) in enumerate(made.items(), 1)}

    def _prompted(self, curve: Curve, start: dict[str, Reading]) -> list[AttackRead]:
        """Ask under each prompt; a fact that a prompt cannot ask about keeps its reading."""
        session = self.session
        reads = []
        for label, (place, asking) in self._asking(curve).items():
            found = read_prompted(session.model, session.prompt, self.pool, asking, session.context)
            label = label if curve.kind == "prompts" else ""
            reads.append(AttackRead(step=place, facts=start | found, label=label))
        return reads

    @property
    def _compared(self) -> tuple[list[FactText], list[FactText]]:
        """Return the members and the non-members of membership inference."""
        session = self.session
        if session.non_members is None:
            return self.pool, session.split.heldout
        return session.split.forget, session.non_members

    def _membership(self) -> tuple[dict[str, float | None], str]:
        session, sets = self.session, self._compared
        if session.lacking:
            return dict.fromkeys(SCORES), LACKING.format(lacking=session.lacking)
        members, others = (
            score_sequences(session.model, session.examples(facts), moments=True) for facts in sets
        )
        note = NON_MEMBERS if session.non_members is None else OUTSIDE
        return membership_aucs(members, others), note.format(members=len(members), others=len(others))
