"""A checkpoint on the hub: what is uploaded is named file by file, and no record of facts is among it.

plan = planned(Path("forgotten"))
plan.files, plan.kept_back          # what goes, and what stays here
upload(plan, "me/forgotten")        # private, unless it is to be public
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from ssiuu.errors import ConfigError, InputError, ModelError, OutputError, WithheldError
from ssiuu.hub import first_line
from ssiuu.models.adapter import STATED
from ssiuu.models.sources import HUB_NAME
from ssiuu.records.files import read_record
from ssiuu.records.schema import Unlearning
from ssiuu.report.card import CARD

# All that loading a model needs, and its card; whatever else lies in a folder stays there.
WANTED: Final = (
    *(CARD, "LICENSE*", "config.json", "generation_config.json", "chat_template.jinja"),
    *("*.safetensors", "*.safetensors.index.json", "adapter_config.json"),
    *("tokenizer*.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt"),
)


@dataclass(frozen=True)
class Upload:
    """What is to be uploaded: the folder, the names of its files that go, and of those that stay."""

    folder: Path
    files: Sequence[str]
    kept_back: Sequence[str]


def planned(folder: Path, anyway: bool = False) -> Upload:
    """Return what of a checkpoint goes to the hub.

    Args:
        folder: Of the checkpoint or the adapter.
        anyway: Also where its record says that the facts are not forgotten.

    Raises:
        InputError: It is no checkpoint with a card, or names a place on this machine.
        WithheldError: Its record says that the facts are not forgotten, or at a cost; or its card does
            not say so.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    files = [name for name in names if any(fnmatchcase(name, one) for one in WANTED)]
    if not any(name.endswith(".safetensors") for name in files):
        raise ModelError(f"{folder} holds no weights: name the folder of a checkpoint or an adapter.")
    if CARD not in files:
        raise ModelError(
            f"{folder} has no card ({CARD}), and none goes to the hub without: ssiuu unlearn writes it."
        )
    _check_base(folder)
    _check_outcome(folder, anyway)
    return Upload(folder, files, [name for name in names if name not in files])


def _check_outcome(folder: Path, anyway: bool) -> None:
    """Refuse what is not forgotten, unless it is wanted so and its card tells whoever downloads it."""
    record = read_record(folder / "unlearn.json", Unlearning)
    state = record.outcome.state if record is not None and record.outcome is not None else "forgotten"
    if state == "forgotten":
        return
    if not anyway:
        raise WithheldError(
            f"{folder} is not uploaded: its record says {state!r}. ssiuu push --anyway, or ssiuu "
            "unlearn --push-anyway, uploads it nonetheless."
        )
    if state not in (folder / CARD).read_text(encoding="utf-8"):
        raise WithheldError(
            f"{folder} is not uploaded: its record says {state!r} and its card ({CARD}) does not. "
            "Whoever downloads it has to know: write it there."
        )


def _check_base(folder: Path) -> None:
    """Refuse an adapter whose base is a folder here: its place is nobody's business, and no use."""
    file = folder / "adapter_config.json"
    stated = str(json.loads(file.read_text()).get(STATED) or "") if file.is_file() else ""
    if stated and not HUB_NAME.fullmatch(stated):
        raise ModelError(
            f"{file} names a folder of this machine as its base: set {STATED} to the base's name on "
            "the hub."
        )


def check(repository: str) -> None:
    """Refuse a repository that cannot be uploaded to, before any work.

    Raises:
        ConfigError: The name is none, or there is no token.
    """
    from huggingface_hub import constants, get_token

    if not HUB_NAME.fullmatch(repository) or "/" not in repository:
        raise ConfigError(f"a repository is named OWNER/NAME, got {repository!r}.")
    if constants.HF_HUB_OFFLINE:
        raise ConfigError("HF_HUB_OFFLINE is set, and nothing can be uploaded: unset it.")
    if not get_token():
        raise ConfigError("there is no token for the hub: set HF_TOKEN, or run hf auth login.")


def upload(plan: Upload, repository: str, public: bool = False) -> str:
    """Upload what was planned, making the repository where it is not there; return its address.

    Raises:
        ConfigError: There is no token, or the name is none.
        OutputError: The hub refuses it, or cannot be reached.
    """
    from huggingface_hub import HfApi

    check(repository)
    api: Any = HfApi()
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=plan.folder,
            allow_patterns=list(plan.files),
            commit_message="A model made to forget, by ssiuu",
        )
    except InputError:
        raise
    except Exception as error:  # the client raises many unrelated kinds
        raise OutputError(f"{repository} could not be uploaded to: {first_line(error)}.") from error
    return str(done.repo_url)
