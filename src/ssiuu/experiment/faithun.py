"""The session of a FaithUn experiment: the official splits, whatever the model knows."""

from __future__ import annotations

from collections.abc import Callable

from ssiuu.benchmarks import faithun
from ssiuu.benchmarks.screening import as_text, others_alone
from ssiuu.experiment.prompting import choose_prompt
from ssiuu.experiment.recipe import Recipe
from ssiuu.experiment.session import Original, Session
from ssiuu.models.load import load
from ssiuu.models.precision import resolve
from ssiuu.records.schema import BenchmarkInfo, Split


def open_faithun(recipe: Recipe, progress: Callable[[str], None]) -> Session:
    """Read the data and load the model.

    Raises:
        InputError: Model or data cannot be used.
    """
    config, seed = recipe.faithun, recipe.split.seed
    data = faithun.load(config.path, config.splits)
    sets = {**data.sets, "heldout": data.sets["heldout"][: config.heldout]}
    texts = {
        name: [as_text(fact, recipe.evaluate.options, seed) for fact in facts]
        for name, facts in sets.items()
    }
    total = sum(map(len, texts.values()))
    split = Split(
        seed=seed,
        forget=others_alone(texts["forget"]),
        retain=texts["retain"],
        heldout=texts["heldout"],
        asked=total,
        known=total,
    )
    progress(f"loading {recipe.model}")
    loaded = load(str(recipe.model), recipe.base)
    session = Session(
        recipe,
        loaded,
        choose_prompt(recipe, loaded.tokenizer, progress),
        split,
        BenchmarkInfo(
            name="faithun",
            version=faithun.VERSION,
            fingerprint=data.fingerprint,
            facts=data.clusters,
            note="official splits; not screened",
        ),
        resolve(recipe.precision, next(loaded.model.parameters()).device),
        Original(loaded),
    )
    session.examples([*split.forget, *split.retain])  # too long rows are refused before any work
    return session
