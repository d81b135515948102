"""What Windows lacks is asked for by nothing that it needs: modules, flags and calls of POSIX alone."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ssiuu
from known_facts import make_place
from sample_record import sample_record
from sample_runs import only, write_run
from ssiuu.errors import OutputError
from ssiuu.experiment.folder import locked
from ssiuu.models.sources import cache_folder
from ssiuu.records.lock import open_lock, take

SOURCE = Path(ssiuu.__file__).parent
POSIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix", "nis", "crypt"}

# What a platform has not, of what Linux has: modules; what `os` and `signal` hold; whether /proc is there.
LACKS = {
    "win32": {
        "modules": sorted(POSIX - {"posix"}),
        "os": [
            *(
                "getuid",
                "geteuid",
                "getgid",
                "getegid",
                "O_NOFOLLOW",
                "O_CLOEXEC",
                "O_NONBLOCK",
                "O_SYNC",
            ),
            *(
                "O_DIRECTORY",
                "O_DSYNC",
                "fchmod",
                "fchown",
                "chown",
                "lchown",
                "fork",
                "killpg",
                "getpgid",
            ),
            *("setsid", "getloadavg", "uname", "statvfs", "fstatvfs", "sysconf", "sched_getaffinity"),
            *("mkfifo", "mknod", "sync", "fdatasync", "posix_fallocate", "posix_fadvise", "sendfile"),
            *(
                "pread",
                "pwrite",
                "register_at_fork",
                "WNOHANG",
                "geteuid",
                "nice",
                "memfd_create",
                "fchdir",
            ),
        ],
        "signal": [
            *("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGCHLD", "SIGQUIT"),
            *(
                "SIGTSTP",
                "SIGCONT",
                "SIGSTOP",
                "setitimer",
                "alarm",
                "pthread_sigmask",
                "sigwait",
                "pause",
            ),
        ],
        "name": "nt",
    },
    "darwin": {
        "modules": [],
        "os": [
            *("sched_getaffinity", "posix_fallocate", "posix_fadvise", "fdatasync", "memfd_create"),
            *(
                "O_DIRECT",
                "eventfd",
                "copy_file_range",
                "splice",
                "pidfd_open",
                "getrandom",
            ),
        ],
        "signal": ["SIGRTMIN", "SIGRTMAX", "SIGPWR", "SIGSTKFLT", "sigtimedwait", "sigwaitinfo"],
        "name": "posix",
    },
}
# The standard library and torch ask for the system's own modules while they are imported, so those come
# first; then what the platform has not is taken away, and ssiuu is told that it is there. Only pathlib
# and shutil still know better: they would make paths, and ask for what this system does not have.
WITHOUT = """
import sys
import asyncio, importlib.metadata, multiprocessing, pathlib, shutil, signal, sqlite3, subprocess
import platform, tempfile, types, uuid
import filelock, jinja2, matplotlib.figure, numpy, os, platformdirs, psutil, pydantic, ruamel.yaml
import rich.console, rich.live, rich.progress, scipy.stats, typer, typer.rich_utils
if "torch" in sys.argv:
    import accelerate, huggingface_hub, peft, safetensors.torch, tokenizers, torch, transformers
    import torch._dynamo, torch.distributed
    from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, Trainer
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
known = types.ModuleType("os")
known.__dict__.update(vars(os))
for name in LACKS["modules"]:
    sys.modules[name] = None
for module, lacking in ((os, LACKS["os"]), (signal, LACKS["signal"])):
    for name in lacking:
        delattr(module, name) if hasattr(module, name) else None
pathlib.os = shutil.os = known
os.name, sys.platform = LACKS["name"], PLATFORM
ours = pathlib.Path.open
def no_proc(path, *given, **more):
    if str(path).startswith("/proc/"):
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return ours(path, *given, **more)
pathlib.Path.open = no_proc
platform.libc_ver = lambda *_: ("", "")
if os.name == "nt":  # what psutil tells there of a process
    told = types.SimpleNamespace(peak_wset=3e8, rss=3e8)
    psutil.Process.memory_info = lambda process: told
assert not any(name.split(".")[0] == "ssiuu" for name in sys.modules)
"""
MAIN = """
from ssiuu.cli.main import main
def said(*words):
    sys.argv = ["ssiuu", *words]
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    return 0
"""


def elsewhere(platform: str, code: str, *args: str, folder: Path | None = None) -> str:
    """Return what Python says to some code where a platform's lacks are."""
    set_up = f"LACKS, PLATFORM = {LACKS[platform]!r}, {platform!r}\n"
    command = [sys.executable, "-c", set_up + WITHOUT + MAIN + code, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=folder)
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


@pytest.mark.parametrize("platform", ["win32", pytest.param("darwin", marks=pytest.mark.slow)])
def test_commands_that_need_no_torch_work_there(platform: str, tmp_path: Path) -> None:
    run = write_run(only(sample_record(), "npo"), tmp_path / "run")
    code = f"""
assert said("report", {str(run)!r}) == said("report", {str(run)!r}, "--json") == 0
assert said("list", "recipes") == 0
assert said("report", "nowhere", "--json") == said("nonsense", "--json") == 2
"""
    assert "quick" in elsewhere(platform, code, folder=tmp_path)
    assert (run / "report.html").stat().st_size > 50_000


@pytest.mark.slow
@pytest.mark.parametrize("platform", LACKS)
def test_every_module_is_imported_there(platform: str) -> None:
    code = """
import importlib, pkgutil
import ssiuu
names = [module.name for module in pkgutil.walk_packages(ssiuu.__path__, "ssiuu.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names), ssiuu.run.__name__, ssiuu.audit.__name__)
"""
    count, *names = elsewhere(platform, code, "torch").split()
    assert int(count) > 250 and names == ["run", "audit"]


SHORT = [
    *("unlearn.max_steps=2", "unlearn.threshold=0", "attacks.reads=[1]", "examine.steps=[]"),
    *("attacks.harmful={fractions: [0.3], learning_rates: [1e-4]}", "attacks.benign.learning_rates=[]"),
]


@pytest.mark.slow
@pytest.mark.parametrize("platform", LACKS)
def test_a_deletion_a_run_and_a_request_work_there(platform: str, tmp_path: Path) -> None:
    """On a model made up here: asked, unlearned, audited, a run that is begun again, a ledger."""
    make_place(tmp_path)
    (tmp_path / "ångström-request.jsonl").rename(tmp_path / "forget.jsonl")
    facts = ["--forget", "forget.jsonl", "--retain", "retain.jsonl"]
    sets = [word for setting in SHORT for word in ("--set", setting)]
    own = ["benchmark=own", "model=model", "forget=forget.jsonl", "retain=retain.jsonl"]
    own += ["methods=[none, gd]", "diagnose=false"]
    run = ["run", "--out", "run", *sets, *(word for one in own for word in ("--set", one))]
    code = f"""
sets, facts, run = {sets!r}, {facts!r}, {run!r}
assert said("list", "methods") == said("list", "settings") == 0
assert said("init", "recipe.yaml") == said("check", "recipe.yaml") == said("check") == 0
assert said("doctor") in (0, 11)
assert said("ask", "--model", "model", "--facts", "forget.jsonl") == 0
words = ["unlearn", "--model", "model", *facts, "--out", "gone", "--keep-anyway"]
assert said(*words, "--set", "unlearn.learning_rate=1e-3", "--set", "unlearn.max_steps=4") in (0, 3, 4)
assert said("audit", "--before", "model", "--after", "gone", *facts, "--out", "audit", *sets) in (0, 3, 5)
assert said("verify", "audit/certificate.json", "--model", "gone") == 0
assert said(*run) == said(*run) == 0
assert said("request", "open", "ledger", "--model", "model", "--retain", "retain.jsonl") == 0
assert said("request", "add", "ledger", "--forget", "forget.jsonl", "--reference", "1") == 0
assert said("request", "list", "ledger") == 0
assert said("redact", "audit") == said("purge", "audit", "--yes") == 0
"""
    assert "4 known" in elsewhere(platform, code, "torch", folder=tmp_path)
    for file in ("gone/model.safetensors", "run/report.html", "gone/certificate.json"):
        assert (tmp_path / file).stat().st_size > 1000, file


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
