"""The session of a TOFU experiment: its two models, given, from the cache or made here.

The model before unlearning is fine-tuned on the forget set and part of the retain set, the
never-learned control in the same way on that part alone. Where `tofu.model` names a model that was
fine-tuned on TOFU already, nothing is trained, and `tofu.reference` names the control.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import transformers

from ssiuu.benchmarks import tofu
from ssiuu.errors import ConfigError, OutputError
from ssiuu.experiment.prompting import choose_prompt
from ssiuu.experiment.recipe import Recipe, TofuConfig
from ssiuu.experiment.session import Original, Session
from ssiuu.likelihood import Prompt, PromptStyle, encode
from ssiuu.models.load import Loaded, cache_folder, load, load_checkpoint_weights, save
from ssiuu.models.precision import resolve
from ssiuu.models.sources import find, require_cache
from ssiuu.records.schema import BenchmarkInfo, FactText, Split
from ssiuu.training.finetune import finetune

Progress = Callable[[str], None]


def open_tofu(recipe: Recipe, progress: Progress) -> Session:
    """Read the data and load the fine-tuned model; both models are made where the cache has none.

    Raises:
        InputError: Model, data or the cache folder cannot be used.
        DivergedError: A loss of the fine-tuning is not finite.
        Interrupted: Ctrl-C; the same command continues.
    """
    config = recipe.tofu
    data = tofu.load(config.path, config.split, recipe.evaluate.options)
    learned = data.retain[: config.retain]
    split = split_of(config, data, recipe.split.seed)
    never: Path | None = None
    if config.model is None:
        progress(f"loading {recipe.model}")
        start = load(str(recipe.model), recipe.base)
        name, source, original = start.info.name, start.info.source, Original(start)
        note = f"fine-tuned here on {config.split} and {len(learned)} retain questions of TOFU"
        notes = [note, start.info.note]
        full = _tuned(recipe, start, original, [*data.forget, *learned], progress)
        never = _tuned(recipe, start, original, learned, progress)
        del start, original
        loaded = load(str(full))
    else:
        progress(f"loading {config.model}")
        loaded = load(config.model, recipe.base)
        name, source = loaded.info.name, loaded.info.source
        notes = ["given as fine-tuned on TOFU: nothing was trained here", loaded.info.note]
    named = {"name": name, "source": source, "note": "; ".join(part for part in notes if part)}
    session = Session(
        recipe,
        replace(loaded, info=loaded.info.model_copy(update=named)),
        _prompt(recipe, loaded, progress),
        split,
        BenchmarkInfo(
            name="tofu",
            version=tofu.VERSION,
            fingerprint=data.fingerprint,
            facts=len(data.forget) + len(data.retain),
            note=f"{config.split}: authors who do not exist",
        ),
        resolve(recipe.precision, next(loaded.model.parameters()).device),
        Original(loaded),
        never_learned=never,
        mismatched=tofu.mismatched_rouge(data.forget, recipe.split.seed),
        ends=True,
        score="sentences",
        non_members=data.non_members,
        lacking=data.lacking,
    )
    if config.model is not None:
        _refer(session, progress)
    session.rows([*split.forget, *split.retain])  # too long rows are refused before any work
    return session


def _refer(session: Session, progress: Progress) -> None:
    """Take the given control, where there is one and it fits the model.

    Raises:
        ModelError: It cannot be loaded or is of another architecture.
    """
    given, style = session.recipe.tofu.reference, session.prompt.name
    session.notes.append(f"Asked in the form {style!r}, which must be the one of the fine-tuning.")
    if given is None:
        session.notes.append(
            "tofu.reference is not given, the model fine-tuned on the retain set alone: forget quality "
            "and PrivLeak, which compare with it, are not scored."
        )
        return
    progress(f"loading {given}")
    folder, tokenizer = find(given).folder, session.loaded.tokenizer
    session.notes += load_checkpoint_weights(session.model, folder, session.recipe.base, tokenizer)
    session.original.restore()
    session.never_learned = folder


def _prompt(recipe: Recipe, loaded: Loaded, progress: Progress) -> Prompt:
    """Return the form of the questions: of a model fine-tuned elsewhere the form usual there."""
    elsewhere: PromptStyle = "chat" if loaded.tokenizer.chat_template else "plain"
    suits = "qa" if recipe.tofu.model is None else elsewhere
    return choose_prompt(recipe, loaded.tokenizer, progress, suits)


def split_of(config: TofuConfig, data: tofu.Tofu, seed: int) -> Split:
    """Return the sets of a run.

    Held out are `heldout` of the retain questions the model is fine-tuned on, whole authors first;
    the retain loss sees the others. Retain questions beyond `items` are only trained on.

    Raises:
        ConfigError: Nothing is left for the retain loss.
    """
    learned = data.retain[: config.retain]
    scored = [fact for fact in learned if fact.perturbed]
    if config.heldout >= len(scored):
        raise ConfigError(
            f"tofu.heldout: must be below the {len(scored)} retain questions that can be scored, "
            f"got {config.heldout}. Lower it or raise tofu.retain."
        )
    rng = random.Random(f"tofu:{seed}")
    authors = list(dict.fromkeys(fact.entity for fact in scored))
    rng.shuffle(authors)
    by_author = sorted(scored, key=lambda fact: authors.index(fact.entity))
    heldout = by_author[: config.heldout]
    asked = {fact.id for fact in some(by_author[config.heldout :], config.items, rng)}
    away = {fact.id for fact in heldout}
    retain = [
        fact if fact.id in asked else fact.model_copy(update={"scored": False})
        for fact in learned
        if fact.id not in away
    ]
    return Split(
        seed=seed,
        forget=data.forget,
        retain=retain,
        heldout=some(heldout, config.items, rng),
        others={name: some(facts, config.items, rng) for name, facts in data.others.items()},
        asked=len(data.forget) + len(learned),
        known=len(data.forget) + len(learned),
    )


def some(facts: list[FactText], count: int | None, rng: random.Random) -> list[FactText]:
    """Return `count` facts drawn at random, or all where there are no more or no count is given."""
    return facts if count is None or count >= len(facts) else rng.sample(facts, count)


def _tuned(
    recipe: Recipe,
    start: Loaded,
    original: Original,
    facts: Sequence[FactText],
    progress: Progress,
) -> Path:
    """Return the folder of the model fine-tuned on these facts; its name is made of all it is from."""
    config, seed = recipe.tofu, recipe.split.seed
    precision = resolve(recipe.precision, next(start.model.parameters()).device)
    rate = config.learning_rate
    context = int(getattr(start.model.config, "max_position_embeddings", None) or 1 << 20)
    prompt = _prompt(recipe, start, lambda _: None)
    # An answer ends with the end token, so that it can be stopped at.
    examples = [encode(prompt, f.id, f.question, f.answer, context, end=True) for f in facts]
    made_of = [
        [start.info.fingerprint, torch.__version__, transformers.__version__, precision],
        [config.epochs, rate, config.batch_size, seed],
        [[e.prompt, e.answer] for e in examples],
    ]
    digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
    folder = cache_folder() / "tofu" / digest
    if (folder / "config.json").exists():
        return folder
    require_cache()
    name = f"fine-tuning on {len(facts)} questions"
    original.restore()
    finetune(
        start.model,
        examples,
        config.epochs,
        rate,
        config.batch_size,
        seed,
        precision,
        int(start.tokenizer.pad_token_id or 0),
        folder.with_name(f"{digest}.unfinished"),
        lambda text: progress(f"{name}: {text}"),
    )
    try:
        save(start.model, start.tokenizer, folder, note=start.info.note)
    except OutputError:
        if not (folder / "config.json").exists():  # otherwise another process was faster
            raise
    return folder
