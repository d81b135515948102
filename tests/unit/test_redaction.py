"""What is redacted, what stays as it was, and that a process may end at any moment of it."""

from __future__ import annotations

import inspect
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from golden_records import audit_record, own_record
from known_facts import leaks, ssiuu
from sample_record import pinned
from sample_runs import with_header, write_run
from ssiuu.errors import ConfigError, InputError, OutputError
from ssiuu.records import schema
from ssiuu.records.files import NOT_THE_SAME, again, failure, load_run, read_stage, write_record
from ssiuu.records.schema import RunRecord
from ssiuu.redaction import folder as folders
from ssiuu.redaction.folder import redact
from ssiuu.redaction.keys import DigestKey, default_place, digest_key, read_key
from ssiuu.redaction.purge import planned, purge
from ssiuu.redaction.redactor import Redactor
from ssiuu.redaction.rules import KEYS, VALUES
from ssiuu.report.formats import data

pytestmark = pytest.mark.usefixtures("undrawn")

KEY = DigestKey(bytes(32))


@pytest.fixture(autouse=True)
def _judged_alike() -> Iterator[None]:
    with pinned():
        yield


def texts(record: RunRecord) -> list[str]:
    split, found = record.header.split, set()
    for fact in (*split.forget, *split.retain, *split.heldout, *split.unknown):
        found |= {fact.question, fact.answer, *fact.paraphrases, *fact.options}
        found |= {fact.entity or "", fact.relation or ""}
    return sorted(text for text in found if len(text) > 3)


def numbers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for part in value.values():
            yield from numbers(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from numbers(part)
    elif not isinstance(value, str):
        yield value


def test_rules_are_of_fields_that_there_are() -> None:
    records = [c for _, c in inspect.getmembers(schema, inspect.isclass)]
    fields = {
        f"{c.__name__}.{name}"
        for c in records
        if issubclass(c, schema.Record)
        for name in c.model_fields
    }
    assert {*VALUES, *KEYS} <= fields


@pytest.mark.parametrize("made", [pytest.param(own_record, marks=pytest.mark.slow), audit_record])
def test_texts_go_and_figures_stay(made: Any, tmp_path: Path) -> None:
    record, out = made(), tmp_path / "run"
    write_run(record, out)
    before = list(numbers(data(load_run(out))))
    wanted = [text for text in texts(record) if text not in ("Rome", "Lima")]
    assert leaks(out, wanted)
    done = redact(out)
    after = load_run(out)
    assert list(numbers(data(after))) == before and done.left == []
    assert leaks(out, wanted) == []
    assert [m.label for m in after.header.methods] == [m.label for m in record.header.methods]
    assert not {p.name for p in out.rglob("*")} & set(record.header.stages)
    assert redact(out).already


def redacted(record: RunRecord) -> RunRecord:
    return Redactor(KEY, [record]).record(record)


def test_a_note_that_quotes_a_fact_keeps_its_other_words() -> None:
    record = audit_record()
    fact = record.header.split.forget[0]
    notes = [
        f"diverged. The batch: {fact.id}, others. A lower learning_rate may help.",
        f"the answer {fact.answer!r} has 12 tokens",
        f"asked {fact.question} in full",
        "it says 'something that stands nowhere else' to 3 questions",
        "12 facts to forget were not known before",
        f"of {(fact.entity or '').upper()} nothing is known",
        "成都 is named",
    ]
    made = redacted(with_header(record, notes=notes)).header
    token = KEY.text
    assert made.notes[0] == (
        f"diverged. The batch: {token(fact.id)}, others. A lower learning_rate may help."
    )
    assert made.notes[1] == f"the answer {token(fact.answer)} has 12 tokens"
    assert made.notes[2].startswith("asked [") and made.notes[2].endswith("? in full")
    assert made.notes[3] == f"it says {token('something that stands nowhere else')} to 3 questions"
    assert made.notes[4] == notes[4]
    assert made.notes[5].startswith("of [") and made.notes[6] == token("成都 is named")


def test_settings_keep_figures_and_words_of_ours() -> None:
    config = {
        "forget": "mrs-smith.jsonl",
        "benchmark": "own",
        "methods": ["none", {"name": "dpo", "refusal": "About Mrs Smith I say nothing."}],
        "unlearn": {"learning_rate": 1e-5, "optimiser": "adamw"},
        "prompt_form": "Mrs Smith? {question}",
        "rwku": {"subjects": ["Mrs Smith"]},
        "retain": "none",
    }
    sources = {"forget": "--set", "unlearn.learning_rate": "mrs-smith.yaml"}
    record = with_header(audit_record(), config=config, sources=sources, command="ssiuu audit smith")
    header = redacted(record).header
    assert "mith" not in str(header.config) + str(header.sources) + header.command
    assert header.config["unlearn"] == {"learning_rate": 1e-5, "optimiser": "adamw"}
    assert header.config["methods"][0] == "none" and header.config["methods"][1]["name"] == "dpo"
    assert header.config["benchmark"] == "own" and header.config["retain"] == "none"
    assert header.sources["forget"] == "--set"


def test_a_digest_of_the_facts_without_a_key_is_none_that_stays() -> None:
    record = audit_record()
    header = redacted(record).header
    assert header.benchmark.fingerprint == KEY.digest("stage", record.header.benchmark.fingerprint)
    assert header.model.fingerprint == record.header.model.fingerprint


def test_what_stands_beside_a_stage_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that broke off, a repetition that gave other weights, weights and records of before."""
    monkeypatch.setattr(folders, "write_report", lambda *given: None)
    record, out = own_record(), tmp_path / "run"
    write_run(record, out)
    header = load_run(out).header
    name, key = next((p, k) for p, k in header.stages.items() if "/unlearn-" in p)
    cell, fact = (out / name).parent, header.split.forget[0]
    first = next(k for p, k in header.stages.items() if p.startswith(cell.relative_to(out).as_posix()))
    told = schema.Failure(key=first, reason=f"the loss is nan. The batch: {fact.id}. Lower it.")
    write_record(failure(cell, first), told)
    unlearning = read_stage(out / name, schema.Unlearning, key)
    assert unlearning is not None
    write_record(again(out / name), unlearning)
    (out / name).with_suffix(".safetensors").write_bytes(b"weights")
    (out / "run-0123abcd.json").write_text(fact.question)
    (cell / "evaluate-00000000.json").write_text(fact.question)
    done = redact(out)
    after = load_run(out)
    found = next(c for c in after.cells if c.failed)
    assert found.failed and found.failed.reason.startswith("the loss is nan. The batch: [")
    assert found.unlearning and NOT_THE_SAME in found.unlearning.notes
    moved = next(p for p in after.header.stages if Path(p).parent == Path(name).parent and "unl" in p)
    assert done.weights == [(out / moved).with_suffix(".safetensors")] and done.left == []
    assert not (out / "run-0123abcd.json").exists() and leaks(out, [fact.question]) == []


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit whose redacted files are written and have not taken their places."""
    out = tmp_path_factory.mktemp("staged") / "audit"
    with pinned(), pytest.MonkeyPatch.context() as patch:
        write_run(audit_record(), out)
        patch.setattr(folders, "_take_places", lambda folder: None)
        redact(out)
    return out


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != folders.LOCK)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_process_that_ends_on_the_way_is_gone_on_from(
    staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = default_place(staged)

    def copy(name: str) -> Path:
        return Path(shutil.copytree(staged, tmp_path / name / "audit"))

    whole = copy("whole")
    redact(whole, place)
    wanted, moved = content(whole), 0
    assert not (whole / folders.STAGED).exists() and "run.json" in wanted
    replace, unlink = os.replace, Path.unlink
    for end in range(200):
        cut, calls = copy(f"cut{end}"), 0

        def counted(real: Any, end: int = end) -> Any:
            def call(*given: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > end:
                    raise OSError(5, "as if it had ended")
                return real(*given, **more)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", counted(replace))
            patch.setattr(Path, "unlink", counted(unlink))
            try:
                redact(cut, place)
            except OutputError as error:
                assert "the same command goes on" in str(error).casefold()
                moved += 1
        if calls <= end:
            break
        if end == 5:
            refused = ssiuu("run", "--out", cut, "--set", "benchmark=fictional")
            assert refused.returncode == 2 and "redacted in part" in refused.stderr
        redact(cut, place)
        assert content(cut) == wanted, end
    assert moved > 12


def test_nobody_works_in_a_folder_meanwhile(staged: Path, tmp_path: Path) -> None:
    from ssiuu.records.lock import open_lock, take

    out = Path(shutil.copytree(staged, tmp_path / "audit"))
    with open_lock(next(out.glob("cells/*")) / folders.LOCK) as stream:
        assert take(stream)
        with pytest.raises(OutputError, match="another process is at work"):
            redact(out)


# --- the key ----------------------------------------


def test_a_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    place = tmp_path / "a.digest-key"
    key = digest_key(place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert read_key(place).text("Oslo") == key.text("Oslo") != KEY.text("Oslo")
    place.chmod(0o644)
    with pytest.raises(InputError, match="can be read by others: chmod 600"):
        digest_key(place)
    place.unlink()
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="cannot be read"):
        digest_key(place)
    place.unlink()
    place.write_text("{}")
    place.chmod(0o600)
    with pytest.raises(InputError, match="holds no key of digests"):
        digest_key(place)


def test_a_key_does_not_lie_in_what_is_handed_on(staged: Path) -> None:
    with pytest.raises(ConfigError, match="lies in"):
        redact(staged, staged / "key")
    done = ssiuu("redact", staged, "--digest-key", staged / "cells" / "key")
    assert done.returncode == 2 and "name a file elsewhere" in done.stderr


@pytest.mark.parametrize("what", ["nothing", "text.json"])
def test_what_is_no_record_is_told(tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    path.mkdir() if what == "nothing" else path.write_text("{}")
    done = ssiuu("redact", path)
    assert done.returncode == 2 and str(path) in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.digest-key"))


# --- purge ----------------------------------------


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An audit with all that may lie around it."""
    monkeypatch.setenv("SSIUU_CACHE", str(tmp_path / "cache"))
    out, request = tmp_path / "audit", tmp_path / "request.jsonl"
    request.write_text("the facts")
    record = audit_record()
    record = with_header(record, config={**record.header.config, "forget": str(request)})
    write_run(record, out)
    planted = folders.planted_names(load_run(out).header)
    assert len(planted) == 1
    (tmp_path / "cache" / "planted").mkdir(parents=True)
    (tmp_path / "cache" / "planted" / planted[0]).write_text("{}")
    (tmp_path / "cache" / "planted" / "another.json").write_text("{}")
    (out / "cells" / "after-s0" / "unlearn-12345678.safetensors").write_bytes(b"weights")
    (out / "cells" / "after-s0" / "attack-x-12345678.state.safetensors").write_bytes(b"state")
    (out / "mine.txt").write_text("a note")
    return out


@pytest.mark.parametrize(
    ("algorithm", "said"), [("sha256", "whoever guesses one"), ("hmac-sha256", "nobody can try")]
)
def test_what_a_certificate_that_stays_tells_is_said(
    audit: Path, algorithm: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (audit / "certificate.json").write_text(f'{{"facts":{{"algorithm":"{algorithm}"}}}}')
    assert any(said in line for line in planned(audit, audit.parent / "cache").left)
    monkeypatch.setattr(folders, "write_report", lambda *given: None)
    done = ssiuu("redact", audit)
    assert done.returncode == 0 and said in done.stdout and (audit / "certificate.json").exists()


def test_what_an_interrupted_examination_leaves_is_ours(tmp_path: Path) -> None:
    names = ["planted-01234567.unfinished.json", "cells/gd-s0/examine-01234567.unfinished.json"]
    (tmp_path / "cells/gd-s0").mkdir(parents=True)
    for name in (*names, "mine.unfinished.json"):
        (tmp_path / name).write_text("{}")
    assert sorted(str(path.relative_to(tmp_path)) for path in folders.plain(tmp_path)) == sorted(names)


def test_purge_tells_first_and_removes_nothing(audit: Path) -> None:
    before = content(audit.parent)
    done = ssiuu("purge", audit)
    assert done.returncode == 0 and "nothing was removed: --yes removes it" in done.stdout
    assert content(audit.parent) == before
    for said in ("run.json", "state.safetensors", "/planted/", "is your file of facts, and stays"):
        assert said in done.stdout
    assert "unlearn-12345678.safetensors is a model that was kept" in done.stdout
    assert "mine.txt is not of ssiuu, and stays" in done.stdout


def test_purge_leaves_the_redacted_report(audit: Path) -> None:
    done = ssiuu("purge", audit, "--yes")
    assert done.returncode == 0 and "removed\n" in done.stdout, done.stderr
    left = {"report.html", "figures.csv", "verdicts.csv", "mine.txt"}
    left |= {"cells/after-s0/unlearn-12345678.safetensors"}
    assert set(content(audit)) == left
    assert b"Redacted: a digest" in (audit / "report.html").read_bytes()
    assert leaks(audit, [t for t in texts(audit_record()) if t not in ("Rome", "Lima")]) == []
    assert not default_place(audit).exists() and (audit.parent / "request.jsonl").exists()
    assert [p.name for p in (audit.parent / "cache" / "planted").iterdir()] == ["another.json"]
    again = ssiuu("purge", audit)
    assert again.returncode == 2 and "holds nothing to purge" in again.stderr


def test_purge_removes_models_and_facts_where_that_is_said(audit: Path) -> None:
    redact(audit)  # what lies elsewhere is known from the key then
    done = ssiuu("purge", audit, "--yes", "--models", "--facts")
    assert done.returncode == 0, done.stderr
    assert set(content(audit)) == {"report.html", "figures.csv", "verdicts.csv", "mine.txt"}
    assert not (audit.parent / "request.jsonl").exists() and not (audit / "cells").exists()
    assert [p.name for p in (audit.parent / "cache" / "planted").iterdir()] == ["another.json"]


def test_purge_goes_on_where_it_ended(audit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    redact(audit)
    place = audit.parent / "cache"
    for end in range(40):
        real, calls = Path.unlink, 0

        def unlink(self: Path, missing_ok: bool = False, real: Any = real, end: int = end) -> None:
            nonlocal calls
            calls += 1
            if calls > end % 3 + 1:
                raise OSError(5, "as if it had ended", str(self))
            real(self, missing_ok=missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", unlink)
            try:
                purge(planned(audit, place))
            except OutputError as error:
                assert "The same command goes on" in str(error)
                continue
            break
    assert end > 3 and not default_place(audit).exists()
    assert not (audit / "run.json").exists() and (audit / "report.html").exists()


def test_purge_of_a_checkpoint_removes_what_lies_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / ".out.unfinished").mkdir()
    (tmp_path / ".out.unfinished" / "state.safetensors").write_bytes(b"state")
    (tmp_path / "out.unlearn.json").write_text("{}")
    (tmp_path / "other.unlearn.json").write_text("{}")
    assert ssiuu("purge", out, "--yes").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["other.unlearn.json"]
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"model")
    (out / "teach.json").write_text("{}")
    done = ssiuu("purge", out, "--yes")
    assert done.returncode == 0 and "what it knows is in its weights" in done.stdout
    assert [path.name for path in out.iterdir()] == ["model.safetensors"]
    assert ssiuu("purge", tmp_path / "nowhere").returncode == 2


def test_runs_under_one_key_still_compare() -> None:
    from ssiuu.analysis.across import grounds

    record = audit_record()
    other = Redactor(DigestKey(b"1" * 32), [record]).record(record)
    assert len(grounds({"first": redacted(record), "second": redacted(record)})) == 1
    assert len(grounds({"first": redacted(record), "second": other})) == 2
