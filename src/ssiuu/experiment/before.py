"""Before step 1: what does the model know of the facts it is to forget, and of those it is to keep?

Facts that it does not know are told apart at once. They stay among the rows that are trained on, since
that was asked for, but no score, threshold, verdict or chance counts them: that they are not answered
afterwards is evidence of nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from ssiuu.benchmarks.base import Ground
from ssiuu.errors import NotKnownError
from ssiuu.evaluation.knowledge import know
from ssiuu.experiment.recipe import Recipe
from ssiuu.records.schema import FactText, Knowledge, ModelKnowledge
from ssiuu.report.knowledge import UNKNOWN, counts, sentences

RETAIN = 48  # retain facts asked: enough to say which share is known


def ask_first(ground: Ground, recipe: Recipe, progress: Callable[[str], None]) -> None:
    """Ask the model what it knows, note it in the ground, and tell apart what it does not know.

    Raises:
        NotKnownError: It knows none of the facts to forget, and the recipe does not say `force`.
    """
    split = ground.split
    progress("asking the model what it knows")
    knowledge = _asked(ground, split.forget, split.retain)
    drawn = random.Random(split.seed).sample(split.retain, min(RETAIN, len(split.retain)))
    ground.knowledge = {"forget": knowledge, "retain": _asked(ground, drawn, split.forget)}
    unknown = [fact for fact in split.forget if knowledge[fact.id].state in UNKNOWN]
    if not any(known.state == "known" for known in knowledge.values()):
        if not recipe.force:
            raise _refusal(ground, recipe)
        unknown = []  # all are scored, for what it is worth
    forget = [fact for fact in split.forget if fact not in unknown]
    ground.split = split.model_copy(
        update={"forget": forget, "unknown": unknown, "known": split.known - len(unknown)}
    )
    ground.notes += sentences(ground.knowledge, any(method.trains for method in recipe.made()))


def _asked(
    ground: Ground, facts: Sequence[FactText], others: Sequence[FactText]
) -> dict[str, Knowledge]:
    return know(ground.model, ground.prompt, facts, ground.context, others, ground.split.seed)


def _refusal(ground: Ground, recipe: Recipe) -> NotKnownError:
    prompt, forget = ground.prompt, ground.split.forget
    knowledge, fact = ground.knowledge["forget"], forget[0]
    known = knowledge[fact.id]
    outcome = f"is answered {known.says!r}" if known.says is not None else known.why
    error = NotKnownError(
        f"forget: {recipe.forget}: the model {recipe.model} knows none of these {len(knowledge)} facts "
        f"({counts(knowledge)}), so there is nothing to forget: {fact.question!r} {outcome}, and "
        f"right is {fact.answer!r}. Check that it is the model meant and that it is asked in the "
        f"right form (it is prompt={prompt.name}); `ssiuu ask` shows every fact. --force (force=true) "
        "goes on."
    )
    error.kept = sum(one.state == "known" for one in ground.knowledge["retain"].values())
    error.record = ModelKnowledge(
        model=ground.loaded.info,
        form=prompt.name,
        asked=prompt.description,
        facts=forget,
        knowledge=knowledge,
        seconds=0.0,
        notes=ground.notes,
    )
    return error
