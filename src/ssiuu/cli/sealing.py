"""What `audit` and `unlearn` share about their certificates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ssiuu.errors import ConfigError, unknown

if TYPE_CHECKING:
    from ssiuu.experiment.certify import Seal

FORMS = ("keyed", "salted")


def seal_of(
    sign: Path | None, form: str, key: Path | None, out: Path, reference: str | None = None
) -> Seal:
    """Return how a certificate is made; the signing key is read now, before any work.

    Raises:
        ConfigError: A key cannot be used, or the form is none.
    """
    if form not in FORMS:
        raise ConfigError(unknown("form", form, FORMS, "--fact-digests"))
    from ssiuu.certificate.signature import read_signer
    from ssiuu.redaction.keys import belongings, check_place

    if key is not None:
        check_place(key, out)
        belongings(key)  # says what is wrong with it, where it is there
    signer = None if sign is None else read_signer(sign, passphrase)
    from ssiuu.experiment.certify import Seal

    return Seal(form == "salted", key, signer, () if reference is None else (reference,))


def passphrase(prompt: str) -> str:
    """Ask for a passphrase on the terminal; without one nothing is asked."""
    import getpass
    import sys

    return getpass.getpass(prompt) if sys.stdin is not None and sys.stdin.isatty() else ""
