"""The front under equal budgets: what a method forgets and what comes back, by the KL that it may cost.

    python perf/front.py recipes/front.yaml --out front [--set split.seed=1] [--only gd,npo+kl]

Every method of the recipe gets as many settings as `tune.space` lists values. A trial unlearns without
a quarter of the facts to keep and ends where the facts are forgotten or the largest of BUDGETS is
spent; for a smaller budget it stands where its last check within that one stood. Of each method and
budget the trial is taken that `ssiuu.experiment.tuning.best` would take: one that reached the threshold
and kept most of the facts set aside, or else the one that forgot most. That model is scored, and
attacked at rising rates until a higher rate brings no more back. What was found of a method is written
once it is done (OUT/METHOD.json), and not done again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ssiuu.attacks import attacks_of
from ssiuu.errors import DivergedError
from ssiuu.evaluation.score import score_facts
from ssiuu.experiment.attacking import Attacker
from ssiuu.experiment.drive import unlearn_here
from ssiuu.experiment.recipe import resolve
from ssiuu.experiment.session import Session, open_session
from ssiuu.experiment.tuning import divide
from ssiuu.methods import make
from ssiuu.models.load import restore, snapshot
from ssiuu.models.precision import keep_memory
from ssiuu.records.files import read_record, write_record
from ssiuu.records.schema import Evaluation, Split, Unlearning
from ssiuu.training.limits import Budget, Limit, Spent

BUDGETS = (0.01, 0.03, 0.1, 0.3)  # KL on plain text, nats a token
TEXTS = 20  # that KL is read on at a check


@dataclass(frozen=True)
class Several(Budget):
    """The largest budget, which remembers the last weights within each of the smaller ones."""

    session: Any = None
    places: dict[float, int] = field(default_factory=dict)  # budget -> number of the check
    weights: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    seen: list[float] = field(default_factory=list)

    def over(self, spent: Spent) -> Limit | None:
        """Keep the weights for every budget that holds them; what was spent may be brought back."""
        number = len(self.seen)
        self.seen.append(spent.kl)
        for budget in BUDGETS:
            if spent.kl <= budget:
                self.places[budget] = number
        used = set(self.places.values())
        for old in [n for n in self.weights if n not in used]:
            del self.weights[old]
        if number in used:
            self.weights[number] = snapshot(self.session.model)
        return super().over(spent)


@dataclass
class Stand:
    """Where a trial stood within a budget."""

    values: dict[str, Any]
    step: int
    score: float
    kl: float
    reached: bool
    kept: float  # mean probability of an answer token, over the facts set aside
    weights: dict[str, Tensor]

    @property
    def rank(self) -> tuple[bool, float, float]:
        """As `ssiuu.experiment.tuning` ranks trials."""
        return self.reached, 0.0 if self.reached else -self.score, self.kept


class Front:
    """One split of facts, on which methods are tried one after the other."""

    def __init__(self, recipe: str, sets: list[str], out: Path, texts: int = TEXTS) -> None:
        self.texts = texts
        self.recipe, _ = resolve(recipe, sets)
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        split = read_record(out / "split.json", Split)
        self.session: Session = open_session(self.recipe, split, say)
        write_record(out / "split.json", self.session.split)
        self.attacker = Attacker(self.session)
        self.train, self.validation = divide(self.session.split.retain, 0)
        if not (out / "original.json").exists():
            scores = numbers(self._scores("original"))
            write(out / "original.json", scores | {"kept": self._kept()})

    def method(self, spec: str | dict[str, Any]) -> None:
        """Try a method's settings, and judge the best within each budget."""
        label = make(spec).label
        path = self.out / f"{label}.json"
        if path.exists():
            return
        begin, trials, best = time.perf_counter(), [], {}
        for values in self.grid(label):
            told, stands = self.trial(spec, values)
            trials.append(told)
            for budget, stand in stands.items():
                if budget not in best or stand.rank > best[budget].rank:
                    best[budget] = stand
            say(f"{label} {values}: {told}")
            write(path.with_name(f"{label}.trials"), trials)
        judged: dict[tuple[str, int], Any] = {}
        rows: list[dict[str, Any]] = []
        for budget, stand in sorted(best.items()):
            which = (json.dumps(stand.values), stand.step)
            # What has not forgotten has little to bring back; the largest budget has the best there is.
            last = best[max(best)]
            attack = stand.reached or (stand.values, stand.step) == (last.values, last.step)
            if which not in judged:
                restore(self.session.model, stand.weights)
                judged[which] = self.judge(f"{label} at {budget:g}", attack)
            rows.append(
                {
                    "method": label,
                    "budget": budget,
                    "values": stand.values,
                    "step": stand.step,
                    "reached": stand.reached,
                    "kept": stand.kept,
                    **judged[which],
                }
            )
            write(path.with_name(f"{label}.part"), rows)
        seconds = time.perf_counter() - begin
        write(path, {"method": label, "trials": trials, "rows": rows, "seconds": seconds})
        path.with_name(f"{label}.part").unlink(missing_ok=True)

    def grid(self, label: str) -> list[dict[str, Any]]:
        """Return a method's settings: the n-th values of its lists together."""
        tune = self.recipe.tune
        space = tune.space.get(label, tune.space.get("*", {}))
        return [{key: values[n] for key, values in space.items()} for n in range(tune.trials or 0)]

    def trial(
        self, spec: str | dict[str, Any], values: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[float, Stand]]:
        """Unlearn at one setting; return what to tell of it, and where it stood within each budget."""
        session, begin = self.session, time.perf_counter()
        session.original.restore()
        method = make(({"name": spec} if isinstance(spec, str) else spec) | values)

        def read() -> Spent:
            return Spent(*session.divergences.on_texts(session.model, self.texts))

        budget = Several(read, BUDGETS[-1], session=session)
        object.__setattr__(session, "_budget", lambda: budget)
        try:
            record = unlearn_here(
                *(session, method, 0, Path(self.out / "state"), quiet), retain=self.train
            )
        except DivergedError as error:
            return {"values": values, "diverged": str(error)}, {}
        stands = self._stands(values, record, budget)
        checks = [(s.step, s.forget_score, s.kl) for s in record.steps if s.kl is not None]
        return {
            "values": values,
            "stopped": record.stopped,
            "checks": checks,
            "seconds": round(time.perf_counter() - begin, 1),
            "kept": {b: stand.kept for b, stand in stands.items()},
        }, stands

    def _stands(
        self, values: dict[str, Any], record: Unlearning, budget: Several
    ) -> dict[float, Stand]:
        logs = [log for log in record.steps if log.kl is not None]
        stands, kept = {}, {}
        for limit, number in budget.places.items():
            log = logs[number]
            if log.forget_score is None:
                continue
            if number not in kept:
                restore(self.session.model, budget.weights[number])
                kept[number] = self._kept()
            reached = log.forget_score <= record.threshold
            weights = budget.weights[number]
            stands[limit] = Stand(
                *(values, log.step, log.forget_score, log.kl or 0.0, reached, kept[number], weights)
            )
        return stands

    def _kept(self) -> float:
        session = self.session
        scores = score_facts(session.model, session.prompt, self.validation, False, False)
        return sum(math.exp(s.logprob / s.tokens) for s in scores.values()) / len(scores)

    def judge(self, name: str, attacked: bool) -> dict[str, Any]:
        """Score the model as it is, then attack it until higher rates bring no more back."""
        scores = self._scores(name)
        if not attacked:
            return numbers(scores)
        weights = snapshot(self.session.model)
        pool = self.attacker.victim.pool
        found = {"before": sum(bool(scores.forget[f.id].correct) for f in pool), "pool": len(pool)}
        counts: dict[str, list[int]] = {}
        for attack in attacks_of(self.recipe.attacks):
            highest = -1
            for curve in attack.curves():
                restore(self.session.model, weights)
                record = self.attacker.carry_out(curve, scores, quiet)
                levels = [
                    sum(bool(r.correct) for r in read.facts.values()) for read in record.reads[1:]
                ]
                counts[f"{curve.learning_rate:g}"] = levels
                say(f"{name}: attack at {curve.learning_rate:g}: {levels} of {len(pool)}")
                if max(levels, default=0) <= highest:
                    break
                highest = max(levels, default=0)
        return {**numbers(scores), **found, "attacks": counts}

    def _scores(self, name: str) -> Evaluation:
        session = self.session
        model, prompt, split = session.model, session.prompt, session.split
        scores = Evaluation(
            forget=score_facts(model, prompt, split.forget, paraphrases=True, free=True),
            retain=score_facts(model, prompt, self.validation, paraphrases=False, free=False),
            heldout=score_facts(model, prompt, split.heldout, paraphrases=False, free=False),
            divergence=session.divergences.measure(model, quick=True),
            seconds=0.0,
        )
        say(f"{name}: {numbers(scores)}")
        return scores


def numbers(scores: Evaluation) -> dict[str, Any]:
    """Return the counts of a model, each of how many, and the divergences."""
    sets = {"forget": scores.forget, "retain": scores.retain, "heldout": scores.heldout}
    ranked = {k: [sum(bool(s.correct) for s in v.values()), len(v)] for k, v in sets.items()}
    phrased = [first for s in scores.forget.values() for first in s.paraphrases]
    divergence = scores.divergence
    assert divergence is not None
    return {
        **ranked,
        "free": [sum(bool(s.free_correct) for s in scores.forget.values()), len(scores.forget)],
        "paraphrased": [sum(map(bool, phrased)), len(phrased)],
        "kl": divergence.plain,
        "kl_instructions": divergence.instructions,
    }


def write(path: Path, record: Any) -> None:
    """Write JSON."""
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")


def say(line: str) -> None:
    """Print with the time of day."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def quiet(line: str) -> None:
    """Print nothing."""


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--only", default="")
    parser.add_argument("--texts", type=int, default=TEXTS)
    given = parser.parse_args()
    keep_memory()
    front = Front(given.recipe, given.sets, given.out, given.texts)
    wanted = given.only.split(",") if given.only else None
    for spec in front.recipe.methods:
        if wanted is None or make(spec).label in wanted:
            front.method(spec)


if __name__ == "__main__":
    main()
