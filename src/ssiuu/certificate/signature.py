"""Sign a statement with an Ed25519 key, and check that: a DSSE envelope around it.

    signer = read_signer(Path("~/.ssh/id_ed25519").expanduser())
    envelope = sealed(canonical(statement), signer)
    statement = opened(envelope, public=read_public(Path("id_ed25519.pub")))

Sources: DSSE v1.0.2 (envelope and pre-authentication encoding, PAE), as in-toto uses it; RFC 8032.
Departures: one signature; `keyid` is the fingerprint that `ssh-keygen -l` prints.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ssiuu.errors import ConfigError, InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PAYLOAD: Final = "application/vnd.in-toto+json"
PASSPHRASE: Final = "SSIUU_SIGN_PASSPHRASE"
_ARMOUR = b"-----BEGIN"


class SignatureError(InputError):
    """A signature is missing, or not of this key, or not of this content."""


def pae(kind: str, body: bytes) -> bytes:
    """Return what is signed: the kind and the content, each behind its length."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(body), body)


def sealed(body: bytes, signer: Ed25519PrivateKey) -> dict[str, Any]:
    """Return the envelope of a statement, signed."""
    signature = signer.sign(pae(PAYLOAD, body))
    signatures = [{"keyid": fingerprint(signer.public_key()), "sig": _coded(signature)}]
    return {"payload": _coded(body), "payloadType": PAYLOAD, "signatures": signatures}


def opened(envelope: Mapping[str, Any]) -> bytes:
    """Return what an envelope holds; its signature is not looked at.

    Raises:
        ValueError: It is no envelope of a statement.
    """
    if set(envelope) != {"payload", "payloadType", "signatures"}:
        raise ValueError("no envelope")
    if envelope["payloadType"] != PAYLOAD or not isinstance(envelope["payload"], str):
        raise ValueError("an envelope of something else")
    return _decoded(envelope["payload"])


def check(envelope: Mapping[str, Any], public: Ed25519PublicKey) -> None:
    """Check that this key signed what an envelope holds.

    Raises:
        SignatureError: It did not.
    """
    from cryptography.exceptions import InvalidSignature

    name = fingerprint(public)
    stated, signature = _only(envelope)
    if stated != name:
        raise SignatureError(f"it is signed by the key {stated}, and the key given is {name}")
    try:
        public.verify(signature, pae(PAYLOAD, opened(envelope)))
    except InvalidSignature as error:
        raise SignatureError(f"the signature is not one of the key {name} on this content") from error


def signed_by(envelope: Mapping[str, Any]) -> str:
    """Return the name of the key that an envelope says it is signed by, unchecked.

    Raises:
        SignatureError: Its signature was taken out, or cannot be read.
    """
    return _only(envelope)[0]


def _only(envelope: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return the one signature of an envelope, with the name of its key.

    Raises:
        SignatureError: There is none, there are several, or it cannot be read.
    """
    try:
        (one,) = envelope["signatures"]
        if set(one) != {"keyid", "sig"} or not isinstance(one["keyid"], str):
            raise ValueError
        return one["keyid"], _decoded(one["sig"])
    except (ValueError, TypeError, KeyError) as error:
        raise SignatureError("its signature cannot be read") from error


def fingerprint(public: Ed25519PublicKey) -> str:
    """Return the name of a key, as OpenSSH prints it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    line = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def read_signer(path: Path, ask: Callable[[str], str] | None = None) -> Ed25519PrivateKey:
    """Read a private key: of OpenSSH, or PEM.

    Args:
        path: Its file.
        ask: Asked for the passphrase where the key has one and SSIUU_SIGN_PASSPHRASE is not set.

    Raises:
        ConfigError: It is none, of another kind, for others to read, or the passphrase is wrong.
    """
    _needed("--sign")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    content = _content(path, "--sign")
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(f"--sign {path}: the key can be read by others: chmod 600 {path}.")
    if _ARMOUR not in content or b"PRIVATE KEY" not in content:
        raise ConfigError(f"--sign {path} holds no private key: give an Ed25519 key, OpenSSH's or PEM.")
    key = _private(path, content, ask)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"--sign {path} is of another kind: an Ed25519 key is wanted (ssh-keygen -t ed25519)."
        )
    return key


def _private(path: Path, content: bytes, ask: Callable[[str], str] | None) -> Any:
    """Return a private key of any kind; a passphrase is asked for where the key has one."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import (
        load_pem_private_key,
        load_ssh_private_key,
    )

    load = load_ssh_private_key if b"OPENSSH" in content else load_pem_private_key
    try:
        try:
            return load(content, password=None)
        except TypeError:  # it has a passphrase
            said = os.environ.get(PASSPHRASE) or (ask(f"passphrase of {path}: ") if ask else "")
            if not said:
                raise ConfigError(
                    f"--sign {path} has a passphrase: set {PASSPHRASE}, or type it where it is asked."
                ) from None
            return load(content, password=said.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"--sign {path} cannot be read as a private key: it is damaged, or the passphrase is wrong."
        ) from error


def read_public(path: Path) -> Ed25519PublicKey:
    """Read a public key: of OpenSSH, or PEM.

    Raises:
        ConfigError: It is none, or of another kind.
    """
    _needed("--key")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

    content = _content(path, "--key").strip()
    if b"PRIVATE KEY" in content:
        raise ConfigError(f"--key {path} is a private key: a signature is checked with the public one.")
    try:
        load = load_pem_public_key if content.startswith(_ARMOUR) else load_ssh_public_key
        key = load(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"--key {path} is no public key: give an Ed25519 one.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"--key {path} is of another kind: an Ed25519 key is wanted.")
    return key


def _needed(option: str) -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{option} needs the package cryptography: pip install 'ssiuu[sign]'."
        ) from error


def _content(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be read: {error.strerror or error}.") from error


def _coded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _decoded(text: str) -> bytes:
    """Return what base64 holds, of which there is one spelling only.

    Raises:
        ValueError: It is none, or spelled otherwise.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("no base64") from error
    if _coded(content) != text:
        raise ValueError("base64 with bits that nobody reads")
    return content
