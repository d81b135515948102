"""What must hold of somebody else's model before anything is said of it; each fault one sentence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.auto.tokenization_auto import (
    TOKENIZER_MAPPING_NAMES,
    tokenizer_class_from_name,
)

from ssiuu.causal import CausalLM
from ssiuu.errors import ModelError
from ssiuu.hub import first_line
from ssiuu.models.files import Stored, read_json
from ssiuu.models.quiet import quiet

SHOWN: Final = 4  # names of tensors in a message
# What a wrapper puts before every name -> who does that, and how to save without it.
WRAPPERS: Final[dict[str, str]] = {
    "_orig_mod": "torch.compile puts there: save the model inside, model._orig_mod.save_pretrained",
    "module": "DataParallel puts there: save the model inside, model.module.save_pretrained",
    "_fsdp_wrapped_module": "FSDP puts there: save a full state dict, or through accelerate",
    "base_model": "PEFT puts there: save model.merge_and_unload(), or give the adapter's folder",
}
QUANTISED: Final = re.compile(
    r"\.(qweight|qzeros|weight_packed|weight_scale(_inv)?|absmax|SCB|quant_map|quant_state\..*)$"
)
CONSTANTS: Final = re.compile(
    r"attn\.masked_bias$|attention\.masked_bias$|attn\.embed_positions$"
    r"|rotary_emb\.(inv_freq|cos_cached|sin_cached)$|(^|\.)position_ids$"
)
TRIFLES: Final = frozenset({"_name_or_path", "architectures", "dtype", "transformers_version"})
PADDED: Final = 0.02  # of the logits' deviation: rounding is far below, another text far above
PLACEHOLDER: Final = re.compile(r"image|audio|video|vision", re.IGNORECASE)
# Maps that write a block's result: at zero the block does nothing, as in layers that were put in or
# switched off. Anywhere else a map of zeros was never filled.
WRITES: Final = re.compile(r"(o_proj|out_proj|c_proj|dense|dense_4h_to_h|down_proj|fc2|fc_out|wo|w2)\b")


def read_config(folder: Path) -> Any:
    """Return the configuration of a folder that holds a causal language model in full precision.

    Raises:
        ModelError: There is none, it is broken, or of a model that cannot be worked on.
    """
    path = folder / "config.json"
    if not path.exists():
        raise ModelError(f"{folder} is not a model folder: there is no config.json in it.")
    written = read_json(path)
    kind = written.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ModelError(_unknown_kind(path, kind, "auto_map" in written))
    if method := _quantised(written):
        raise ModelError(
            f"{path}: the weights are quantised ({method}), and unlearning needs them in full "
            "precision. Give the checkpoint that this one was quantised from, or dequantise it."
        )
    if written.get("transformers_weights"):
        raise ModelError(
            f"{path}: transformers_weights names {written['transformers_weights']!r} as the weights. "
            "Only model.safetensors or what its index names is read: take the key out."
        )
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # every kind's configuration checks its values in its own way
        raise ModelError(f"{path} is not valid: {first_line(error)}.") from error
    # Logits alone are read; a model that gives more is slower, and with these it could not be saved.
    for extra in ("output_attentions", "output_hidden_states"):
        if getattr(config, extra, False):
            setattr(config, extra, False)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(_no_causal(path, kind, "an encoder-decoder model"))
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(_no_causal(path, kind, "not a causal language model"))
    return config


def check_savable(name: str, model: PreTrainedModel) -> None:
    """Refuse a model whose configuration could not be written once the work is done.

    Raises:
        ModelError: The library refuses it.
    """
    try:
        getattr(model.config, "validate", lambda: None)()
    except Exception as error:  # every kind's configuration checks its values in its own way
        reason = first_line(error.__cause__ or error)
        raise ModelError(f"{name}: its configuration could not be saved: {reason}.") from error


def check_stored(folder: Path, stored: Mapping[str, Stored]) -> None:
    """Refuse weights that are stored quantised without the configuration saying so.

    Raises:
        ModelError: Names or types of tensors are those of quantised weights.
    """
    strange = [
        f"{name} ({tensor.dtype})"
        for name, tensor in stored.items()
        if QUANTISED.search(name)
        or tensor.dtype.startswith(("F8_", "F6_", "F4"))
        or (name.endswith(".weight") and tensor.dtype in {"I8", "U8", "I4"})
    ]
    if strange:
        raise ModelError(
            f"{folder}: the weights are quantised ({_some(strange)}), and unlearning needs them in "
            "full precision. Give the checkpoint that this one was quantised from, or dequantise it."
        )


def check_fit(folder: Path, stored: Mapping[str, Stored], info: Mapping[str, Any], prefix: str) -> None:
    """Refuse weights that are not exactly those of the architecture.

    Args:
        folder: Named in the message.
        stored: The tensors in the files, by name.
        info: What transformers reports of loading; it leaves out what the architecture itself
            ignores or ties. Constants that earlier versions stored are no weights either.
        prefix: What transformers puts before the names of a body saved alone.

    Raises:
        ModelError: Tensors are missing, unexpected, of another shape, or there twice.
    """
    problems = []
    if missing := sorted(info["missing_keys"]):
        problems.append(f"{_count(missing, 'tensor')} missing ({_some(missing)})")
    unexpected = sorted(n for n in info["unexpected_keys"] if not _is_table(n, stored.get(n)))
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected ({_some(unexpected)})")
    if shapes := sorted(info["mismatched_keys"]):
        pairs = [f"{name}: {tuple(have)} stored, {tuple(want)} wanted" for name, have, want in shapes]
        problems.append(f"{len(shapes)} of another shape ({_some(pairs)})")
    if twice := sorted(name for name in stored if f"{prefix}.{name}" in stored):
        problems.append(f"{len(twice)} there twice, with and without {prefix!r} ({_some(twice)})")
    if info["error_msgs"]:
        problems.append(first_line(ValueError(info["error_msgs"][0])))
    if problems:
        raise ModelError(
            f"{folder}: the weights are not those of the model that config.json describes: "
            f"{'; '.join(problems)}.{_wrapper(unexpected)}{_headless(missing)}"
        )


def check_finite(what: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse tensors that hold a NaN or an infinity.

    Raises:
        ModelError: Named with the first of them.
    """
    broken = [
        name
        for name, tensor in tensors
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if broken:
        raise ModelError(
            f"{what}: {_count(broken, 'tensor')} not finite (NaN or infinity): {_some(broken)}."
        )


def check_filled(where: str, model: CausalLM) -> str:
    """Refuse a model with weights that were never filled; see `check_values`.

    Of what is in codes the weights were looked at when they were brought to them.
    """
    return check_values(where, ((n, p) for n, p in model.named_parameters() if p.is_floating_point()))


def check_values(where: str, weights: Iterable[tuple[str, Tensor]]) -> str:
    """Refuse weights that were never filled: a whole map or embedding of one value.

    Args:
        where: Named in the message.
        weights: By name; each is looked at once, as it comes.

    Returns:
        The blocks that are switched off by a map of zeros, for people; empty where there are none.

    Raises:
        ModelError: Named with the first of them.
    """
    alike = {name: weight for name, weight in weights if _constant(weight)}
    off = [name for name, weight in alike.items() if WRITES.search(name) and not weight.any()]
    if empty := [name for name in alike if name not in off]:
        raise ModelError(
            f"{where}: {_count(empty, 'weight')} one value throughout ({_some(empty)}), as if never "
            "filled. Copy or convert the model again."
        )
    return f"{_count(off, 'weight')} zero throughout ({_some(off)})" if off else ""


def _constant(weight: Tensor) -> bool:
    if weight.dim() < 2 or min(weight.shape[-2:]) < 2:
        return False
    first = weight.flatten()[0]
    # The last few first: there nearly every weight differs, and the rest need not be read.
    return bool((weight.flatten()[-8:] == first).all()) and bool((weight == first).all())


def check_tokenizer_class(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a tokenizer of a class that is not to be had: another one would be taken in its place.

    Raises:
        ModelError: The class is unknown, wants code of its own, or a package that is not here.
    """
    name = config.get("tokenizer_class")
    if name is None:
        return
    bare = str(name).removesuffix("Fast")
    kind = tokenizer_class_from_name(bare) or tokenizer_class_from_name(f"{bare}Fast")
    if lacking := getattr(kind, "_backends", ()):
        raise ModelError(f"{path}: tokenizer_class {name!r} needs pip install {' '.join(lacking)}.")
    if kind is not None:
        return
    if "auto_map" in config:
        raise ModelError(
            f"{path}: the tokenizer ({name}) needs Python code of its own (auto_map), which is never "
            "run. Give a model with a tokenizer.json of a class that transformers itself has."
        )
    known = {str(one).removesuffix("Fast") for one in TOKENIZER_MAPPING_NAMES.values()}
    near = difflib.get_close_matches(bare, sorted(known), n=1, cutoff=0.7)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise ModelError(
        f"{path}: tokenizer_class {name!r} is not known to this version of transformers. {hint}Where "
        "tokenizer.json is the whole tokenizer, write 'PreTrainedTokenizerFast'."
    )


def check_tokenizer(where: str, model: CausalLM, tokenizer: Any) -> None:
    """Refuse a tokenizer whose tokens the model has no embedding for, or that has no tokens.

    A placeholder of images or sounds beyond the embedding is let pass: text never becomes one.

    Raises:
        ModelError: Named with both sizes and the tokens.
    """
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) <= len(tokenizer.all_special_tokens):
        raise ModelError(f"{where}: the tokenizer has no vocabulary, only {len(vocabulary)} tokens.")
    unknown = getattr(tokenizer, "unk_token", None)
    if unknown is not None and str(unknown) not in vocabulary:  # the library would ask for it for ever
        raise ModelError(
            f"{where}: the tokenizer's token for what it does not know, {str(unknown)!r} (unk_token), "
            "is not in its vocabulary: take the key out of tokenizer_config.json, or correct it."
        )
    try:
        tokenizer("Who?")
    except Exception as error:  # whatever the library makes of a broken file
        raise ModelError(f"{where}: the tokenizer reads no text: {first_line(error)}.") from error
    rows = embedding_rows(model)
    special, used = set(tokenizer.all_special_ids), _used(tokenizer)
    beyond = [
        token
        for token, at in sorted(vocabulary.items(), key=lambda item: item[1])
        if at >= rows and (at not in special or at in used or not PLACEHOLDER.search(token))
    ]
    if beyond:
        raise ModelError(
            f"{where}: the tokenizer has {len(tokenizer)} tokens and the model's embedding {rows} "
            f"rows: {_some([repr(t) for t in beyond])} {'has' if len(beyond) == 1 else 'have'} none. "
            "Take the tokenizer that the model was trained with, or resize the embedding and train it."
        )


@torch.no_grad()
def check_causal(where: str, model: CausalLM) -> None:
    """Refuse a model whose predictions depend on what comes after them, such as an encoder.

    Raises:
        ModelError: It does, it cannot read text alone, or what it predicts is not finite or always the
            same.
    """
    rows = embedding_rows(model)
    ids = torch.arange(6).remainder(max(rows, 1)).repeat(2, 1)
    # Two texts that differ in their last token alone.
    ids[1, -1] = min(7, rows - 1)
    try:
        logits = model(input_ids=ids.to(model.device), use_cache=False).logits
    except Exception as error:  # an architecture that wants more than text
        raise ModelError(f"{where} cannot be run on text alone: {first_line(error)}.") from error
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(f"{where}: what the model predicts is not finite (NaN or infinity).")
    if torch.equal(logits[0, 0], logits[0, -1]):
        raise ModelError(
            f"{where}: what the model predicts does not depend on the text. Copy or convert it again."
        )
    one, two = logits[0, :-1], logits[1, :-1]
    if float((one - two).abs().max()) > 1e-4 * float(one.abs().max()):
        raise ModelError(
            f"{where} is not a causal language model: what it predicts of a word depends on later "
            f"words, as in an encoder ({type(model).__name__}). Give a model that writes text."
        )


@torch.no_grad()
def check_padding(where: str, model: CausalLM) -> None:
    """Refuse a model that reads padding as text: rows of different lengths are read together here.

    Raises:
        ModelError: It does, or it does not take padded rows or columns to keep at all.
    """
    ids = torch.arange(6).remainder(max(embedding_rows(model), 1))[None].to(model.device)
    # The same text by itself, and behind three tokens that are masked.
    padded = torch.cat([ids[:, :3], ids], 1)
    mask = torch.tensor([[0] * 3 + [1] * 6], device=ids.device)
    last = torch.tensor([-1], device=ids.device)
    try:
        alone, beside = (
            model(**inputs, use_cache=False, logits_to_keep=last).logits.float()
            for inputs in (
                {"input_ids": ids},
                {
                    "input_ids": padded,
                    "attention_mask": mask,
                    "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
                },
            )
        )
    except Exception as error:  # an older kind of model, or one of another kind
        raise ModelError(f"{where} cannot be run on padded rows: {first_line(error)}.") from error
    same = alone.shape == beside.shape and alone.shape[1] == 1
    if not same or float((alone - beside).abs().max()) > PADDED * float(alone.std()):
        raise ModelError(
            f"{where} reads padding as text ({type(model).__name__} does not heed attention_mask), "
            "so rows of different lengths cannot be read together. Such models are not supported."
        )


@torch.no_grad()
def check_same(folder: Path, model: CausalLM, other: CausalLM) -> None:
    """Refuse a checkpoint that makes something else of the same weights than the model before.

    Args:
        folder: Of the checkpoint.
        model: The model before, with the checkpoint's weights.
        other: The checkpoint's own model.

    Raises:
        ModelError: Named with what the two configurations differ in.
    """
    rows = min(embedding_rows(model), embedding_rows(other))
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 32
    ids = torch.arange(min(32, context)).mul(7).remainder(rows)[None]
    one, two = (
        m(input_ids=ids.to(m.device), use_cache=False).logits[..., :rows] for m in (model, other)
    )
    two = two.to(one.device)
    if float((one - two).abs().max()) <= 1e-3 * float(two.abs().max()):
        return
    ours, theirs = model.config.to_dict(), other.config.to_dict()
    apart = sorted(key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key])
    unlike = [f"{key}: {theirs[key]!r}, before {ours[key]!r}" for key in apart if key not in TRIFLES]
    raise ModelError(
        f"{folder} has another architecture than the model before: from the same weights it computes "
        f"something else ({_some(unlike) or 'the cause is not in config.json'}). Both must be of "
        "the same kind."
    )


def check_same_tokens(folder: Path, tokenizer: Any, theirs: Mapping[str, int]) -> None:
    """Refuse a checkpoint whose tokenizer gives tokens other numbers than that of the model before.

    Both are read with the one before, so such a model would seem to have lost all that it knows. What
    only one of the two has, such as a token to pad with, is let pass.

    Args:
        folder: Of the checkpoint, or its file, for messages.
        tokenizer: That of the model before.
        theirs: The number of every token of the checkpoint.

    Raises:
        ModelError: Named with how many tokens have other numbers, and one of them.
    """
    ours = tokenizer.get_vocab()
    names = {at: token for token, at in theirs.items()}
    moved = [t for t, at in ours.items() if theirs.get(t, at) != at or names.get(at, t) != t]
    if moved:
        first = min(moved, key=ours.__getitem__)
        raise ModelError(
            f"{folder} has another tokenizer than the model before: {len(moved)} of {len(ours)} tokens "
            f"there have other numbers here ({first!r} is {ours[first]} before, and "
            f"{theirs.get(first, 'missing')} after). What it says would be misread: both must have "
            "the same vocabulary."
        )


def embedding_rows(model: CausalLM) -> int:
    """Return how many tokens a model has an embedding for."""
    return int(model.get_input_embeddings().weight.shape[0])


def _used(tokenizer: Any) -> set[int | None]:
    """Return the special tokens that are put into texts: ends, padding, those of the chat template."""
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    template = str(tokenizer.chat_template or "")
    at = tokenizer.convert_tokens_to_ids
    return ends | {at(token) for token in tokenizer.all_special_tokens if token in template}


def _unknown_kind(path: Path, kind: object, own_code: bool) -> str:
    if own_code:
        return (
            f"{path}: the model ({kind}) needs Python code of its own (auto_map), which is never "
            "run. Only architectures that transformers itself has can be read."
        )
    if not isinstance(kind, str):
        return f"{path} does not say what the model is: model_type is missing."
    near = difflib.get_close_matches(kind, list(CONFIG_MAPPING), n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{path}: model_type {kind!r} is not known to this version of transformers.{hint}"


def _quantised(config: Mapping[str, Any]) -> str:
    """Return the method by which a configuration says its weights are quantised; empty if none."""
    for level in (config, config.get("text_config") or {}):
        for key in ("quantization_config", "compression_config"):
            if isinstance(level, Mapping) and (quantised := level.get(key)):
                method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
                return str(method or key)
    return ""


def _no_causal(path: Path, kind: str, what: str) -> str:
    return (
        f"{path}: {kind} is {what}, and only models that continue a text, one token after the "
        "other, can be unlearned or judged here."
    )


def _is_table(name: str, tensor: Stored | None) -> bool:
    """Whether a tensor is a mask or a table of positions, which older versions of models stored."""
    if name.endswith(".bias"):  # the mask of GPT-2 and its heirs, [1, 1, n, n]
        return tensor is not None and len(tensor.shape) == 4 and tensor.shape[:2] == (1, 1)
    return CONSTANTS.search(name) is not None


def _wrapper(unexpected: Collection[str]) -> str:
    """Say where the first word of the names comes from, where it is that of a known wrapper."""
    firsts = {name.partition(".")[0] for name in unexpected}
    for word, whose in WRAPPERS.items():
        if word in firsts:
            return f" Names begin with '{word}.', which {whose}."
    return ""


def _headless(missing: Collection[str]) -> str:
    """Say what may be meant where only the output layer is missing."""
    if len(missing) != 1 or not any(word in next(iter(missing)) for word in ("head", "embed_out")):
        return ""
    return " If the embedding is the output layer too, config.json must say tie_word_embeddings: true."


def _count(names: Collection[str], what: str) -> str:
    return f"1 {what} is" if len(names) == 1 else f"{len(names)} {what}s are"


def _some(names: list[str]) -> str:
    """Return the first few names, and that there are more."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
