"""A certificate: what it holds, how it is signed, and that every change of anything is found."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from golden_records import audit_record
from known_facts import ssiuu
from sample_record import pinned
from ssiuu.certificate.canonical import canonical, parsed
from ssiuu.certificate.check import UnreadableError, check_signature, read_certificate
from ssiuu.certificate.facts import FactDigests
from ssiuu.certificate.files import digests
from ssiuu.certificate.page import _in_one
from ssiuu.certificate.signature import SignatureError, pae, read_public
from ssiuu.certificate.statement import Checkpoint, Issue, of_audit
from ssiuu.certificate.write import write
from ssiuu.errors import ModelError
from ssiuu.experiment.certify import Seal, certify_audit
from ssiuu.models.folder import model_fingerprint, source_of
from ssiuu.redaction.keys import digest_key

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
RECORD = audit_record()


@pytest.mark.parametrize(
    ("value", "written"),
    [  # RFC 8785, appendix B, and 3.2.3
        (0.0, "0"),
        (-0.0, "0"),
        (5e-324, "5e-324"),
        (-1.7976931348623157e308, "-1.7976931348623157e+308"),
        (9007199254740991, "9007199254740991"),
        (295147905179352830000.0, "295147905179352830000"),
        (9.999999999999997e22, "9.999999999999997e+22"),
        (1e23, "1e+23"),
        (999999999999999900000.0, "999999999999999900000"),
        (1e21, "1e+21"),
        (0.000001, "0.000001"),
        (9.999999999999997e-7, "9.999999999999997e-7"),
        (333333333.3333333, "333333333.3333333"),
        (1424953923781206.2, "1424953923781206.2"),
        (4.5, "4.5"),
        (2e-3, "0.002"),
        ([56, {"d": True, "10": None, "1": []}], '[56,{"1":[],"10":null,"d":true}]'),
        ('€$\u000f\nA\'B"\\\\"/', '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'),
        ({"\ufb33": 1, "\U0001f600": 2, "\r": 3}, '{"\\r":3,"\U0001f600":2,"\ufb33":1}'),
    ],
)
def test_canonical_json_is_that_of_the_rfc(value: object, written: str) -> None:
    assert canonical(value).decode() == written
    assert parsed(written.encode()) == value


@pytest.mark.parametrize("text", ['{"a": 1}', '{"b":1,"a":2}', "1.0", '{"a":1,"a":1}', "NaN", "1\n\n"])
def test_what_is_not_canonical_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parsed(text.encode())


@pytest.mark.parametrize("value", [float("nan"), 2**53, "\ud800", {1: 2}, {1, 2}])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        canonical(value)


def test_what_is_signed_is_that_of_the_standard() -> None:
    """DSSE v1.0.2, the example of its protocol."""
    signed = pae("http://example.com/HelloWorld", b"hello world")
    assert signed == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


class Place:
    """A certificate of two small checkpoints, with what it is checked against."""

    def __init__(self, folder: Path, signed: bool = True, salted: bool = False) -> None:
        self.folder, self.key = folder, folder / "audit.digest-key"
        for role in ("before", "after"):
            (folder / role / "more").mkdir(parents=True)
            (folder / role / "model.safetensors").write_bytes(os.urandom(4096))
            (folder / role / "config.json").write_text(f'{{"role": "{role}"}}')
            (folder / role / "more" / "vocab.txt").write_text("a b c")
            (folder / role / "unlearn.json").write_text("{}")
        rows = [
            {"question": f.question, "answer": f.answer, "paraphrases": f.paraphrases}
            for f in RECORD.header.split.forget
        ]
        self.facts = folder / "facts.jsonl"
        self.facts.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.signer = folder / "id_ed25519"
        form = PrivateFormat.OpenSSH, NoEncryption()
        self.signer.write_bytes(SIGNER.private_bytes(Encoding.PEM, *form))
        self.signer.chmod(0o600)
        self.public = folder / "id_ed25519.pub"
        public = SIGNER.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        self.public.write_bytes(public + b" somebody@somewhere\n")
        made = FactDigests(salt="ab" * 16) if salted else FactDigests(digest_key(self.key))
        checkpoints = [
            Checkpoint(role, digests(folder / role), 5000, RECORD.header.model)
            for role in ("before", "after")
        ]
        issue = Issue(
            checkpoints, made, "2026-11-25T00:00:00Z", {"ssiuu": "0"}, ("harmful", "few-shot")
        )
        with pinned():
            statement = of_audit(RECORD, issue)
        self.certificate = write(statement, folder, SIGNER if signed else None)

    def verify(self, *words: object, facts: bool = True) -> subprocess.CompletedProcess[str]:
        given: list[object] = ["--model", self.folder / "after", "--before", self.folder / "before"]
        given += ["--facts", self.facts] if facts else []
        given += ["--digest-key", self.key] if facts and self.key.exists() else []
        return ssiuu("verify", self.certificate, *given, *words)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_a_certificate_is_valid_of_what_it_is_of(place: Place) -> None:
    done = place.verify("--key", place.public)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("valid: ")
    alone = ssiuu("verify", place.certificate, "--model", place.folder / "after")
    assert alone.returncode == 0 and "not checked: give --key" in alone.stdout
    assert "'before' was not checked" in alone.stdout and "give --facts" in alone.stdout


def test_one_bit_of_the_checkpoint(place: Place) -> None:
    flip(place.folder / "after" / "model.safetensors", 8 * 2000 + 3)
    done = place.verify()
    assert done.returncode == 8 and "model.safetensors in " in done.stderr
    assert "(after) is another file" in done.stderr and done.stderr.count("error") == 1


def test_one_bit_of_the_certificate(place: Place) -> None:
    """Any of them: it is unreadable, or its signature is bad, and never valid."""
    whole, kinds, public = place.certificate.read_bytes(), set(), read_public(place.public)
    for bit in (*range(0, 8 * len(whole), 1999), *range(8 * (len(whole) - 260), 8 * len(whole), 23)):
        flip(place.certificate, bit)
        with pytest.raises((UnreadableError, SignatureError), match=r"certificate\.json") as told:
            check_signature(read_certificate(place.certificate), public)
        kinds.add(told.type)
        place.certificate.write_bytes(whole)
    assert kinds == {UnreadableError, SignatureError}
    flip(place.certificate, 8 * 500)
    assert place.verify("--key", place.public).returncode == 9
    place.certificate.write_bytes(whole)
    flip(place.certificate, 8 * (len(whole) - 30) + 1)
    assert place.verify("--key", place.public).returncode in (9, 10)


def test_one_bit_of_an_unsigned_certificate(tmp_path: Path) -> None:
    place = Place(tmp_path, signed=False)
    assert "not signed" in place.verify().stdout
    whole = place.certificate.read_bytes()
    for bit in range(0, 8 * len(whole), 2003):
        flip(place.certificate, bit)
        with pytest.raises(UnreadableError):
            read_certificate(place.certificate)
        place.certificate.write_bytes(whole)


def test_one_bit_of_the_facts(place: Place) -> None:
    where = place.facts.read_bytes().index(b"Ada Brandt")
    flip(place.facts, 8 * where + 1)
    done = place.verify()
    assert done.returncode == 8, done.stdout
    assert "the fact facts:1 is not among those of the certificate" in done.stderr
    assert "1 of the 12 facts of the certificate are missing" in done.stderr
    assert "Brandt" not in done.stderr  # no fact is printed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: (model / "config.json").unlink(), "config.json is missing in "),
        (lambda model: (model / "more" / "extra.bin").write_text("x"), "more/extra.bin in "),
        (lambda model: (model / "model.safetensors").write_bytes(b""), "model.safetensors in "),
        (lambda model: (model / "config.json").rename(model / "other.json"), "other.json in "),
        (lambda model: shutil.rmtree(model / "more"), "more/vocab.txt is missing in "),
    ],
)
def test_files_that_are_missing_or_more(
    place: Place, change: Callable[[Path], object], said: str
) -> None:
    change(place.folder / "after")
    done = place.verify()
    assert done.returncode == 8 and said in done.stderr


def test_what_ssiuu_writes_beside_a_model_may_change(place: Place) -> None:
    (place.folder / "after" / "unlearn.json").write_text("redacted")
    (place.folder / "after" / "certificate.html").write_text("page")
    (place.folder / "after" / ".cache").mkdir()
    (place.folder / "after" / ".cache" / "lock").write_text("")
    assert place.verify().returncode == 0


def test_the_models_are_not_taken_for_one_another(place: Place) -> None:
    done = place.verify("--model", place.folder / "before")
    assert done.returncode == 8 and "config.json" in done.stderr


def test_who_signed_it(place: Place, tmp_path: Path) -> None:
    other = tmp_path / "other.pub"
    key = Ed25519PrivateKey.generate().public_key()
    other.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    done = place.verify("--key", other)
    assert done.returncode == 10 and "is signed by the key SHA256:" in done.stderr
    pem = tmp_path / "pub.pem"
    mine = SIGNER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    pem.write_bytes(mine)
    assert place.verify("--key", pem).returncode == 0
    # Somebody else puts the name of the right key on it.
    envelope = json.loads(place.certificate.read_bytes())
    body = pae(envelope["payloadType"], canonical({}))
    envelope["signatures"][0]["sig"] = base64.b64encode(
        Ed25519PrivateKey.generate().sign(body)
    ).decode()
    place.certificate.write_bytes(canonical(envelope))
    done = place.verify("--key", pem)
    assert done.returncode == 10 and "not one of the key" in done.stderr
    # A signature that was taken out is missed without a key, too.
    for signatures in ([], None, [{"keyid": "SHA256:x", "sig": 1}], [1]):
        place.certificate.write_bytes(canonical({**envelope, "signatures": signatures}))
        assert place.verify().returncode == place.verify("--key", pem).returncode == 10
    unsigned = Place(tmp_path / "unsigned", signed=False)
    assert unsigned.verify("--key", pem).returncode == 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--key", "none.pub"], "--key none.pub cannot be read"),
        (["--base", "."], "the certificate is of no such model"),
        (["--model", "nowhere"], "there is no model nowhere"),
        (["--facts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--digest-key", "nowhere"], "the key nowhere cannot be read"),
    ],
)
def test_what_cannot_be_checked_is_misuse(place: Place, words: list[str], said: str) -> None:
    done = place.verify(*words)
    assert done.returncode == 2 and said in done.stderr


def test_nothing_is_certified_of_models_that_were_not_judged(place: Place, tmp_path: Path) -> None:
    before, after, out = place.folder / "before", place.folder / "after", tmp_path / "audit"
    out.mkdir()
    seal, judged = Seal(salted=True), source_of(after)
    with pytest.raises(ModelError, match=r"before is not what was judged.*Nothing is certified"):
        certify_audit(RECORD, str(before), after, out, None, seal)
    model = RECORD.header.model.model_copy(update={"fingerprint": model_fingerprint(before)})
    record = RECORD.model_copy(update={"header": RECORD.header.model_copy(update={"model": model})})
    certify_audit(record, str(before), after, out, None, seal, judged=judged)
    for path in out.iterdir():
        path.unlink()
    flip(after / "model.safetensors", 9)
    with pytest.raises(
        ModelError, match=r"after.model.safetensors is not what the model was read from"
    ):
        certify_audit(record, str(before), after, out, None, seal, judged=judged)
    assert not [*out.iterdir()]


def test_no_file_is_read_twice(
    tmp_path: Path, make_model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What loading a model has read for its fingerprint is not read again for a certificate."""
    from ssiuu.models.load import model_fingerprint, save
    from ssiuu.records import hashes

    folder = tmp_path / "model"
    save(make_model(), tokenizer, folder)
    model_fingerprint(folder)
    opened, real = [], Path.open

    def watched(self: Path, *given: Any, **more: Any) -> Any:
        opened.append(self.name)
        return real(self, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", watched)
        found = digests(folder)
    assert "model.safetensors" in found and not {"model.safetensors", "config.json"} & {*opened}
    for name, digest in found.items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    flip(folder / "config.json", 9)
    assert hashes.sha256_of(folder / "config.json") != found["config.json"]


def test_digests_under_a_key_need_it_and_salted_ones_do_not(place: Place, tmp_path: Path) -> None:
    words = ["verify", place.certificate, "--model", place.folder / "after", "--facts", place.facts]
    done = ssiuu(*words)
    assert done.returncode == 2 and "--digest-key FILE" in done.stderr
    wrong = tmp_path / "wrong.digest-key"
    digest_key(wrong)
    assert ssiuu(*words, "--digest-key", wrong).returncode == 2
    salted = Place(tmp_path / "salted", salted=True)
    assert not salted.key.exists() and salted.verify("--key", salted.public).returncode == 0
    (tmp_path / "salted" / "facts.jsonl").write_text('{"question": "Who?", "answer": "She."}\n')
    assert salted.verify().returncode == 8


def test_signing_keys_of_every_kind_and_those_that_are_none(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssiuu.certificate.signature import PASSPHRASE, fingerprint, read_signer
    from ssiuu.errors import ConfigError

    name = fingerprint(SIGNER.public_key())
    secret = BestAvailableEncryption(b"a secret")
    forms = [
        ("ssh", PrivateFormat.OpenSSH, NoEncryption()),
        ("pem", PrivateFormat.PKCS8, NoEncryption()),
        ("locked", PrivateFormat.PKCS8, secret),
        ("locked-ssh", PrivateFormat.OpenSSH, secret),
    ]
    for kind, form, locked in forms:
        path = tmp_path / kind
        path.write_bytes(SIGNER.private_bytes(Encoding.PEM, form, locked))
        with pytest.raises(ConfigError, match="can be read by others: chmod 600"):
            path.chmod(0o644)
            read_signer(path)
        path.chmod(0o600)
        assert fingerprint(read_signer(path, lambda _: "a secret").public_key()) == name
    with pytest.raises(ConfigError, match=f"has a passphrase: set {PASSPHRASE}"):
        read_signer(tmp_path / "locked")
    with pytest.raises(ConfigError, match="the passphrase is wrong"):
        read_signer(tmp_path / "locked", lambda _: "another")
    monkeypatch.setenv(PASSPHRASE, "a secret")
    assert fingerprint(read_signer(tmp_path / "locked").public_key()) == name
    place.public.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no private key"):
        read_signer(place.public)
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    other = generate_private_key(SECP256R1())
    path = tmp_path / "ecdsa"
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="of another kind: an Ed25519 key is wanted"):
        read_signer(path)
    done = place.verify("--key", place.signer)
    assert done.returncode == 2 and "is a private key" in done.stderr


def test_it_holds_no_text_no_path_and_no_command(place: Place) -> None:
    payload = base64.b64decode(json.loads(place.certificate.read_bytes())["payload"]).decode()
    page = (place.folder / "certificate.html").read_text()
    header = RECORD.header
    texts = [t for f in header.split.forget for t in (f.question, f.answer, *f.paraphrases, f.entity)]
    for text in (*texts, header.command, str(place.folder)):
        assert text and text not in payload and text not in page
    told = json.loads(payload)
    assert told["_type"] == "https://in-toto.io/Statement/v1" and len(told["subject"]) == 6
    said = told["predicate"]
    assert said["errors"]["promised"] == 0.05 and said["errors"]["planted"]
    assert "attack few-shot" in said["not_tried"] and said["not_shown"] and said["tried"]
    assert len(said["facts"]["forget"]) == 12 and {f["verdict"] for f in said["facts"]["forget"]}
    assert "<li>attack few-shot</li>" in page and "unattacked" not in page
    assert _in_one(["attack a", "a look", "attack b"]) == ["a look", "the attacks a, b"]
    assert "<script" not in page and "script-src" not in page and "default-src &#39;none&#39;" in page
