"""The session of an RWKU experiment: what the model is to forget about some people."""

from __future__ import annotations

import random
from collections.abc import Callable

from ssiuu.benchmarks import rwku
from ssiuu.errors import ConfigError
from ssiuu.evaluation.tofu import rouge_recalls
from ssiuu.experiment.prompting import choose_prompt
from ssiuu.experiment.recipe import Recipe
from ssiuu.experiment.session import Original, Session
from ssiuu.experiment.tofu import some
from ssiuu.models.load import load
from ssiuu.models.precision import resolve
from ssiuu.records.schema import BenchmarkInfo, Split


def open_rwku(recipe: Recipe, progress: Callable[[str], None]) -> Session:
    """Read the data, load the model and note how much it knows of the people.

    Raises:
        InputError: Model or data cannot be used.
        ConfigError: One subject only, and facts of others are wanted to score an attack on.
    """
    config, seed = recipe.rwku, recipe.split.seed
    data = rwku.load(config.path, config.subjects, recipe.evaluate.options, seed)
    if len(data.subjects) < 2 and recipe.attacks.harmful.fractions:
        raise ConfigError(
            "rwku.subjects: must be at least 2, as an attack is scored on people of whom the attacker "
            "holds nothing; with one, set attacks.harmful.fractions to []."
        )
    progress(f"loading {recipe.model}")
    loaded = load(str(recipe.model), recipe.base)
    session = Session(
        recipe,
        loaded,
        choose_prompt(recipe, loaded.tokenizer, progress),
        split_of(recipe, data),
        BenchmarkInfo(
            name="rwku",
            version=rwku.VERSION,
            fingerprint=data.fingerprint,
            facts=data.facts,
            note=f"real people: {', '.join(data.subjects)}; not screened",
        ),
        resolve(recipe.precision, next(loaded.model.parameters()).device),
        Original(loaded),
        score="rouge",
    )
    split = session.split
    session.examples([*split.forget, *split.retain])  # too long rows are refused before any work
    progress("asking the original model")
    recalls = rouge_recalls(session.model, session.prompt, split.forget)
    ranked = sum(bool(fact.options) for fact in split.forget)
    session.notes.append(
        f"Before unlearning the model's answers hold {100 * sum(recalls) / len(recalls):.0f} % of the "
        f"right ones (mean ROUGE-L recall of {len(recalls)} questions; {ranked} are ranked too)."
    )
    return session


def split_of(recipe: Recipe, data: rwku.Rwku) -> Split:
    """Return the sets of a run: at most `split.retain` and `split.heldout` questions on neighbours.

    No neighbour is in both. Of each further set at most `rwku.items` are asked.
    """
    seed, sizes = recipe.split.seed, recipe.split
    rng = random.Random(f"rwku split:{seed}")
    names = sorted({fact.entity or "" for fact in data.neighbours})
    rng.shuffle(names)
    away = set(names[: len(names) * sizes.heldout // max(1, sizes.heldout + sizes.retain)])
    heldout = some([f for f in data.neighbours if f.entity in away], sizes.heldout, rng)
    retain = some([f for f in data.neighbours if f.entity not in away], sizes.retain, rng)
    asked = len(data.forget) + len(retain) + len(heldout)
    return Split(
        seed=seed,
        forget=data.forget,
        retain=retain,
        heldout=heldout,
        others={name: some(facts, recipe.rwku.items, rng) for name, facts in data.others.items()},
        asked=asked,
        known=asked,
    )
