"""Several runs in one folder, and their comparison, are redacted under one key and purged together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from golden_records import audit_record
from known_facts import leaks, ssiuu
from sample_record import pinned
from sample_runs import write_run
from ssiuu.analysis.across import grounds
from ssiuu.errors import ConfigError
from ssiuu.records.files import load_run
from ssiuu.redaction.keys import default_place
from ssiuu.redaction.several import planned_several, purge_several, redact_several, runs_in
from ssiuu.report.compare_page import COMPARISON, render_comparison

FACTS = [
    text
    for fact in audit_record().header.split.forget
    for text in (fact.question, fact.answer)
    if len(text) > 4
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("several") / "matrix"
    with pinned():
        for name in ("own", "own-2"):
            write_run(audit_record(), out / name)
        found = grounds({name: load_run(out / name) for name in ("own", "own-2")})
        (out / COMPARISON).write_text(render_comparison(found))
    return out


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "matrix"))


def test_no_byte_of_a_redacted_folder_holds_a_fact_and_no_key_lies_in_it(folder: Path) -> None:
    assert leaks(folder, FACTS)
    with pinned():
        done = ssiuu("redact", folder)
        assert done.returncode == 0 and done.stdout.count("redacted: ") == 2, done.stderr
        assert leaks(folder, FACTS) == [] and list(folder.rglob("*.digest-key")) == []
        keys = {load_run(folder / name).header.redacted for name in ("own", "own-2")}
        assert len(keys) == 1 and default_place(folder).exists()  # so that they still compare
        assert all(already.already for _, already in redact_several(folder))
    with pytest.raises(ConfigError, match="whoever gets that folder could try texts"):
        redact_several(folder, folder / "key")


def test_purge_leaves_the_pages_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    with pinned():
        told = ssiuu("purge", folder)
        assert told.returncode == 0 and "nothing was removed" in told.stdout and leaks(folder, FACTS)
        done = ssiuu("purge", folder, "--yes")
        assert done.returncode == 0 and leaks(folder, FACTS) == [], done.stderr
        assert not default_place(folder).exists()
        names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix != ".csv"}
        assert names - {"own/.lock", "own-2/.lock"} == {
            *("own", "own/report.html", "own-2", "own-2/report.html", COMPARISON)
        }
        assert ssiuu("purge", folder).returncode == 2


def test_purge_goes_on_where_it_ended(folder: Path, tmp_path: Path) -> None:
    """The key goes last: it says what lies elsewhere."""
    with pinned():
        plans = planned_several(folder, tmp_path)
        purge_several(folder, plans[:1])
        assert default_place(folder).exists()
        purge_several(folder, planned_several(folder, tmp_path))
    assert leaks(folder, FACTS) == [] and not default_place(folder).exists()


def test_a_folder_that_holds_something_else_is_none_of_runs(folder: Path) -> None:
    assert [run.name for run in runs_in(folder)] == ["own", "own-2"]
    assert runs_in(folder / "own") == [] and runs_in(folder / "nowhere") == []
    (folder / "elsewhere").symlink_to(folder / "own")
    assert runs_in(folder) == []
    (folder / "elsewhere").unlink()
    (folder / "mine.txt").write_text("notes")
    assert runs_in(folder) == [] and ssiuu("redact", folder).returncode == 2
