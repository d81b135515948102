"""What Windows lacks is asked for by nothing that it needs: modules, flags and calls of POSIX alone."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ssiuu
from sample_record import sample_record
from sample_runs import only, write_run
from ssiuu.errors import OutputError
from ssiuu.experiment.folder import locked
from ssiuu.models.sources import cache_folder
from ssiuu.records.lock import open_lock, take

SOURCE = Path(ssiuu.__file__).parent
POSIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix", "nis", "crypt"}

# The standard library and torch ask for the system's own modules while they are imported, so those come
# first; then what Windows has not is taken away, and ssiuu is told that it is there.
WITHOUT = f"""
import sys
import asyncio, importlib.metadata, multiprocessing, pathlib, shutil, signal, subprocess, tempfile, uuid
import filelock, jinja2, matplotlib.figure, numpy, os, pydantic, ruamel.yaml, scipy.stats, typer
if "torch" in sys.argv:
    import accelerate, peft, tokenizers, torch, transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, Trainer
for name in {sorted(POSIX - {"posix"})!r}:
    sys.modules[name] = None
for name in ("getuid", "geteuid", "getgid", "O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_DIRECTORY",
             "fchmod", "fchown", "chown", "fork", "killpg", "getpgid", "setsid", "getloadavg", "uname",
             "statvfs", "sysconf", "sched_getaffinity", "mkfifo"):
    delattr(os, name) if hasattr(os, name) else None
for name in ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "setitimer", "alarm", "pthread_sigmask"):
    delattr(signal, name) if hasattr(signal, name) else None
sys.platform = "win32"
assert not any(name.split(".")[0] == "ssiuu" for name in sys.modules)
"""


def without_posix(code: str, *args: str) -> str:
    """Return what Python says to some code where Windows' lacks are."""
    command = [sys.executable, "-c", WITHOUT + code, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_module_of_posix_is_imported_outside_of_functions() -> None:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path}: {name}" for name in names if name.partition(".")[0] in POSIX]
    assert not found


def test_reports_are_made_without_posix(tmp_path: Path) -> None:
    run = write_run(only(sample_record(), "npo"), tmp_path / "run")
    code = """
from ssiuu.cli.main import main
for extra in ([], ["--json"]):
    sys.argv = ["ssiuu", "report", *RUN, *extra]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
"""
    assert without_posix(f"RUN = [{str(run)!r}]\n{code}")
    assert (run / "report.html").stat().st_size > 50_000


@pytest.mark.slow
def test_every_module_is_imported_without_posix() -> None:
    code = """
import importlib, pkgutil
import ssiuu
names = [module.name for module in pkgutil.walk_packages(ssiuu.__path__, "ssiuu.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names), ssiuu.run.__name__, ssiuu.audit.__name__)
"""
    count, *names = without_posix(code, "torch").split()
    assert int(count) > 250 and names == ["run", "audit"]


def test_a_lock_is_one_processes_and_keeps_what_stands_in_its_file(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text("kept")
    ask = f"""
from pathlib import Path
from ssiuu.records.lock import open_lock, take
print(take(open_lock(Path({str(path)!r}))))
"""
    with locked(path) as mine:
        assert mine
        with open_lock(path) as other:
            assert not take(other)
        taken = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
        assert taken.stdout == "False\n"
    free = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert free.stdout == "True\n" and path.read_text() == "kept"


def test_a_link_or_a_folder_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in ("link", "dangling"):
        with pytest.raises(OutputError, match="is a symbolic link"):
            open_lock(tmp_path / name)
    with pytest.raises(OutputError, match="cannot be written to"):
        open_lock(tmp_path)
    assert (tmp_path / "theirs").read_text() == "kept" and not (tmp_path / "nothing").exists()


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> bool:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("filelock.lock_descriptor", refuses)
    with open_lock(tmp_path / ".lock") as lock, pytest.raises(OutputError, match="cannot be locked"):
        take(lock)


def test_the_cache_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSIUU_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ssiuu"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    if sys.platform.startswith("linux"):
        assert cache_folder() == tmp_path / ".cache" / "ssiuu"
    (tmp_path / ".cache" / "ssiuu").mkdir(parents=True)
    assert cache_folder() == tmp_path / ".cache" / "ssiuu"
    monkeypatch.setattr(os, "environ", {**os.environ, "SSIUU_CACHE": str(tmp_path / "other")})
    assert cache_folder() == tmp_path / "other"
