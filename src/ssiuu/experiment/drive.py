"""How an experiment drives a method: its settings, its name in the record, one unlearning run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssiuu.errors import ConfigError
from ssiuu.experiment.session import Session
from ssiuu.methods import Method
from ssiuu.models.lora import Lora, adapted, check_rank, held_maps
from ssiuu.models.precision import release_memory
from ssiuu.records.schema import FactText, MethodInfo, Unlearning
from ssiuu.training.optimiser import RATES
from ssiuu.training.prepare import Asked
from ssiuu.training.step import Step
from ssiuu.training.together import check_together
from ssiuu.training.unlearn import Settings, check_adapters, check_numbers, unlearn_examples


def info_of(method: Method) -> MethodInfo:
    """Return how a method stands in the record."""
    return MethodInfo(
        label=method.label,
        name=method.name,
        origin=method.whose,
        description=method.description,
        hyperparameters=method.options,
        parts=[part.name for part in method.all],
        plugins=method.plugins(),
    )


def settings_of(session: Session, method: Method, seed: int, threshold: float) -> Settings:
    """Return how a method is driven in this experiment."""
    config = session.recipe.unlearn
    optimiser = method.optimiser or config.optimiser
    own = method.objective
    usual = own.rate if own.rate and optimiser == own.optimiser else RATES[optimiser]
    rate = config.learning_rate if optimiser == config.optimiser else usual
    return Settings(
        learning_rate=method.learning_rate or rate,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        max_steps=config.max_steps,
        check_every=config.check_every,
        threshold=threshold,
        weight_decay=config.weight_decay,
        warmup=config.warmup,
        schedule=config.schedule,
        optimiser=optimiser,
        max_grad_norm=config.max_grad_norm,
        accumulate=config.accumulate,
        seed=seed,
        precision=session.precision,
        lora=None
        if config.lora.rank is None
        else Lora(
            config.lora.rank,
            config.lora.alpha,
            tuple(config.lora.targets),
            config.lora.attribution,
            seed,
            base="nf4" if "nf4" in (config.lora.base, session.recipe.dtype) else None,
        ),
    )


def check_method(session: Session, method: Method) -> None:
    """Refuse a method that does not fit the model, before any work.

    Raises:
        ConfigError: It names a layer, parameters or neurons that the model does not have, or needs
            answers where texts are forgotten.
    """
    if session.corpus is not None and method.objective.replaces:
        raise ConfigError(
            f"method {method.label!r} puts another answer in the place of the one to forget, and "
            f"benchmark {session.recipe.benchmark!r} forgets texts, which answer nothing: take one "
            "that makes the text itself unlikely, as gd, npo or ssiuu."
        )
    for part in method.all:
        part.check(session.model)
    driven = settings_of(session, method, 0, 0.0)
    check_adapters(method, driven.lora)
    check_numbers(session.model, method)
    check_together(session.model, method, driven.lora, driven.optimiser)
    if driven.lora is not None:
        check_rank(session.model, driven.lora)
        held_maps(session.model, driven.lora)
    if not method.has_gradient:
        return
    plain = None if driven.lora is None else replace(driven.lora, base=None)
    with adapted(session.model, plain):
        Step(
            *(session.model, method, 1.0),
            weight_decay=driven.weight_decay,
            optimiser=driven.optimiser,
        ).close()


def unlearn_here(
    session: Session,
    method: Method,
    seed: int,
    state: Path,
    progress: Callable[[str], None],
    adapter: Path | None = None,
    retain: Sequence[FactText] | None = None,
    change: Mapping[str, Any] | None = None,
    asked: Asked | None = None,
) -> Unlearning:
    """Unlearn the session's facts in its model, in place.

    Args:
        session: Holds model and facts.
        method: What to optimise.
        seed: Of the order of the rows, and of adapters.
        state: Where to keep the state of an unfinished run.
        progress: Told about every step.
        adapter: Folder for the adapter, where one is trained.
        retain: Facts to keep, in place of all those of the session.
        change: Fields of `Settings` that differ from the session's, for a search.
        asked: What an earlier attempt of it asked the model before; see `prepare_parts`.

    Raises:
        ConfigError: A projection is wanted and there is nothing to take directions from.
    """
    stop, threshold = session.stop_rule()
    settings = replace(settings_of(session, method, seed, threshold), **(change or {}))
    if settings.growth != 1:  # a range test asks how far it is, at any cost
        stop = replace(stop, budget=None)
    retain_rows = session.rows(session.split.retain if retain is None else retain)
    record = unlearn_examples(
        session.model,
        method,
        info_of(method),
        session.forget_rows(method),
        retain_rows,
        settings,
        stop,
        session.pad,
        state,
        progress,
        shared=retain_rows or session.benign(),
        refusals=session.refusals(method),
        adapter=adapter,
        texts=session.texts_for(method),
        asked=asked,
    )
    release_memory()  # the optimiser's, before the original weights are read beside the model's
    return record.model_copy(
        update={"distance": session.original.distance(), "prompt": session.prompt.description}
    )
