"""A PEFT adapter as a model: its weights merged into those of its base, in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from ssiuu.errors import ModelError
from ssiuu.hub import first_line
from ssiuu.models import nf4
from ssiuu.models.checks import SHOWN, check_finite
from ssiuu.models.files import ADAPTER, ADAPTER_CONFIG, PICKLES, read_json, tensors_of
from ssiuu.models.quiet import quiet
from ssiuu.models.sources import HUB_NAME, MODELS, find

STATED: Final = "base_model_name_or_path"


def base_folder(folder: Path, base: str | None) -> Path:
    """Return the folder of the model that an adapter belongs to.

    Args:
        folder: The adapter's.
        base: Folder or name, if the user gave one; else what the adapter states is taken, a path
            also as seen from the adapter's folder.

    Raises:
        ModelError: It states none, or one that is not to be had.
    """
    if base is not None:
        return find(base).folder
    path = folder / ADAPTER_CONFIG
    stated = read_json(path).get(STATED)
    remedy = "Give the model it was trained on: --base (base: in a recipe)."
    if not isinstance(stated, str) or not stated:
        raise ModelError(f"{path} does not state a base. {remedy}")
    if stated in MODELS or Path(stated).is_dir():
        return find(stated).folder
    if (folder / stated).is_dir():
        return folder / stated
    if not HUB_NAME.fullmatch(stated):
        raise ModelError(f"{path} states {stated!r} as its base, and there is no such folder. {remedy}")
    try:
        return find(stated).folder
    except ModelError as error:
        raise ModelError(f"{path} states a base that is not to be had: {error} {remedy}") from error


def merge(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Merge an adapter into a model, in place, and return the model.

    Raises:
        ModelError: The adapter is broken, does not fit, or is of a kind that cannot be merged.
    """
    nf4.muted()  # peft imports it where it is there
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    weights = _read(folder)
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # an unknown kind, or values that another version knows
        raise ModelError(f"{folder / ADAPTER_CONFIG} is not valid: {first_line(error)}.") from error
    _check_kind(folder, config)
    config.inference_mode = True
    try:
        with quiet():
            wrapped = PeftModel(model, config)
            wanted = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    except Exception as error:  # targets that the model lacks, and whatever else a kind wants
        raise ModelError(f"{folder} does not fit its base: {first_line(error)}.") from error
    _check_fit(folder, weights, wanted, {name for name, _ in wrapped.named_parameters()})
    try:
        with quiet():
            set_peft_model_state_dict(wrapped, weights)
            merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    except Exception as error:
        raise ModelError(f"{folder} cannot be merged into its base: {first_line(error)}.") from error
    for parameter in merged.parameters():
        parameter.requires_grad_(True)
    merged.eval()
    return merged


def _read(folder: Path) -> dict[str, Tensor]:
    path = folder / ADAPTER
    if not path.is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        beside = f", only pickles ({', '.join(pickles)}), which can run code" if pickles else ""
        raise ModelError(f"{folder} has no {ADAPTER}{beside}. Save the adapter as safetensors.")
    tensors_of([path])
    weights: dict[str, Tensor] = load_file(path)
    check_finite(str(path), weights.items())
    return weights


def _check_kind(folder: Path, config: Any) -> None:
    """Refuse what is no change of a language model's weights."""
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    task = getattr(config.task_type, "value", config.task_type)
    if task not in {None, "CAUSAL_LM"}:
        raise ModelError(f"{folder} is an adapter for {task}, and a causal language model is wanted.")
    if config.is_prompt_learning or getattr(config, "alora_invocation_tokens", None):
        what = kind if config.is_prompt_learning else f"{kind} that is invoked by tokens"
        raise ModelError(
            f"{folder} is an adapter of kind {what}, which is no change of the weights that could be "
            "merged into them. LoRA and its relatives can."
        )


def _check_fit(
    folder: Path, weights: dict[str, Tensor], wanted: dict[str, Tensor], known: set[str]
) -> None:
    """Refuse adapters that lack a tensor, bring one that nothing takes, or one of another shape.

    Weights of the base itself (an embedding, a bias) may come with an adapter; they replace it.
    """
    problems = []
    if missing := sorted(wanted.keys() - weights.keys()):
        problems.append(f"{len(missing)} missing ({', '.join(missing[:SHOWN])})")
    if unexpected := sorted(weights.keys() - wanted.keys() - known):
        problems.append(f"{len(unexpected)} unexpected ({', '.join(unexpected[:SHOWN])})")
    for name in sorted(weights.keys() & wanted.keys()):
        if weights[name].shape != wanted[name].shape:
            shapes = f"{tuple(weights[name].shape)}, and {tuple(wanted[name].shape)} is wanted"
            problems.append(f"{name} has shape {shapes}")
    if problems:
        raise ModelError(f"{folder} does not fit its base: {'; '.join(problems[:SHOWN])}.")
