"""Issue the certificate of an audit, or of an unlearned checkpoint: whose files, which facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssiuu.attacks import ATTACKS
from ssiuu.benchmarks.base import Progress
from ssiuu.certificate.facts import FactDigests
from ssiuu.certificate.files import digests, model_files
from ssiuu.certificate.schema import Role
from ssiuu.certificate.statement import Checkpoint, Issue, of_audit, of_unlearning
from ssiuu.certificate.write import write
from ssiuu.data.columns import given_columns
from ssiuu.data.read import read_facts
from ssiuu.errors import ModelError
from ssiuu.experiment.provenance import versions
from ssiuu.models.adapter import base_folder
from ssiuu.models.files import Source, is_adapter
from ssiuu.models.folder import source_of
from ssiuu.models.sources import find
from ssiuu.records.files import now
from ssiuu.records.schema import ModelInfo, RunRecord, Unlearning
from ssiuu.redaction.keys import check_place, default_place, digest_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class Seal:
    """How a certificate is made.

    Attributes:
        salted: Facts by salted digests, which need no key to be checked.
        key: File of the key of the others; None: beside the folder.
        signer: Signs it.
        references: What the requests are called by whoever keeps them.
    """

    salted: bool = False
    key: Path | None = None
    signer: Ed25519PrivateKey | None = None
    references: tuple[str, ...] = ()

    def facts(self, out: Path) -> FactDigests:
        """Return what makes the digests of facts.

        Raises:
            InputError: The key cannot be used.
        """
        if self.salted:
            return FactDigests()
        place = self.key or default_place(out)
        check_place(place, out)
        return FactDigests(digest_key(place))


def certify_audit(
    record: RunRecord,
    before: str,
    after: Path,
    out: Path,
    base: str | None = None,
    seal: Seal | None = None,
    progress: Progress = lambda _: None,
    judged: Source | None = None,
) -> Path:
    """Write the certificate of an audit into its folder and return it.

    Args:
        record: Of the audit, with its texts.
        before: The model before: short name, folder or hub name.
        after: Folder of the model after, or its GGUF file.
        out: The audit's folder.
        base: The model that an adapter belongs to, where one was given.
        seal: How it is made.
        progress: Told of files that are read.
        judged: What the model after held before it was judged.

    Raises:
        ModelError: A model is not what was judged.
        InputError: A file cannot be read, or the key cannot be used.
    """
    seal = seal or Seal()
    revision = record.header.config.get("revision")
    place, info = find(before, revision).folder, record.header.model
    found = tuple(_checkpoints(place, after, base, info, progress))
    read = source_of(place, base)
    if info.source != "object" and read.fingerprint != info.fingerprint:
        raise ModelError(
            f"{before} is not what was judged: it was changed or replaced since. Nothing is certified: "
            "put back what was there, or judge what is there now."
        )
    for source in (read, judged):
        if source is not None:
            source.check()
    issue = Issue(found, seal.facts(out), now(), versions(), tuple(ATTACKS), seal.references)
    return write(of_audit(record, issue), out, seal.signer)


def certify_unlearning(
    record: Unlearning,
    model: str,
    forget: str,
    retain: str | None,
    out: Path,
    columns: str | None = None,
    base: str | None = None,
    seal: Seal | None = None,
    progress: Progress = lambda _: None,
    written: Path | None = None,
    revision: str | None = None,
) -> Path:
    """Write the certificate of an unlearned checkpoint into its folder and return it.

    Args:
        record: Of the run.
        model: The model before.
        forget: The facts that were to go: a file, or a name on the hub.
        retain: Those to keep, or "none".
        out: The checkpoint.
        written: Where its files are before they get that name.
        revision: Of the model before, on the hub.
        columns: Which columns of the facts were read.
        base: The model that an adapter belongs to, where one was given.
        seal: How it is made.
        progress: Told of files that are read.

    Raises:
        InputError: A file cannot be read, or the key cannot be used.
    """
    seal, named = seal or Seal(), given_columns(columns)
    facts = {fact.id: fact for fact in read_facts(forget, "--forget", named)}
    kept = 0 if retain in (None, "none") else len(read_facts(str(retain), "--retain", named))
    folder = written or out
    found = tuple(_checkpoints(find(model, revision).folder, folder, base, None, progress))
    issue = Issue(found, seal.facts(out), now(), versions(), references=seal.references)
    return write(of_unlearning(record, issue, facts, kept, issue.issued), folder, seal.signer)


def _checkpoints(
    before: Path, after: Path, base: str | None, info: ModelInfo | None, progress: Progress
) -> Iterator[Checkpoint]:
    """Yield the models of a certificate; the base of an adapter too, where it is none of the two."""
    folders: dict[Role, Path] = {"before": before, "after": after}
    for folder in (before, after):
        if folder.is_dir() and is_adapter(folder):
            under = base_folder(folder, base)
            if under.resolve() not in (before.resolve(), after.resolve()):
                folders["base"] = under
    for role, folder in folders.items():
        size = sum(path.stat().st_size for path in model_files(folder).values())
        yield Checkpoint(role, digests(folder, progress), size, info if role == "before" else None)
