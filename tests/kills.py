"""Commands that are killed (SIGKILL) at a point or at any time, begun again, and held against a whole one.

    bench = Bench.build(folder, model, tokenizer, ["run"])
    bench.events["run"]                 # what happens to files in a whole run, in order
    bench.killed("run", place, 12)      # once more, killed at the 12th; then the same command again

A point is right before or right after a file is saved, given its name or removed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ssiuu.models.load import save
from ssiuu.records.digest import unseal
from word_facts import write_facts

FORK = multiprocessing.get_context("fork")
LIMIT = 300.0  # seconds that a command may take on a busy machine
# What is another one each time.
TIMES = {"seconds", "peak_memory_mb", "created", "sha256"}
CERTIFIED = "certificate.json"  # it holds times, and digests under a key that is new each time
QUICK = [
    *("prompt=plain", "precision=fp32", "attacks.harmful={fractions: [0.5], learning_rates: [1e-3]}"),
    *("attacks.benign={rows: 2, tokens: 2}", "attacks.reads=[1]", "examine.steps=[]"),
]


@dataclass
class Bench:
    """A tiny model, four facts, and the commands on them; each is run whole once."""

    folder: Path
    whole: dict[str, dict[str, Any]] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    events: dict[str, list[str]] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)

    @classmethod
    def build(cls, folder: Path, model: Any, tokenizer: Any, names: Sequence[str]) -> Bench:
        """Make model and facts, and run these commands once; a report needs a run, an audit an unlearn."""
        save(model, tokenizer, folder / "model")
        write_facts(folder, forget=range(2), retain=range(8, 10))
        bench = cls(folder)
        here, words = os.getcwd(), sys.argv
        # Here, so that the processes that are forked have everything imported.
        _command(bench.commands["run"], folder, None, None)
        shutil.rmtree(folder / "out")
        os.chdir(here)
        sys.argv = words
        gc.freeze()  # nor has every one of them to go through what is there
        for name in names:
            place = folder / "whole" / name
            bench.prepare(name, place)
            begin = time.monotonic()
            bench.codes[name] = bench.carry_out(name, place, log=folder / f"{name}.log")
            bench.spent[name] = time.monotonic() - begin
            bench.events[name] = (folder / f"{name}.log").read_text().splitlines()
            bench.whole[name] = contents(place)
        return bench

    @cached_property
    def commands(self) -> Mapping[str, list[str]]:
        """The commands by name; they write into the folder that they are called in."""
        model, given = str(self.folder / "model"), ["--forget", str(self.folder / "forget.jsonl")]
        given += ["--retain", str(self.folder / "retain.jsonl")]
        own = ["benchmark=own", f"model={model}", "force=true"]
        own += [f"{name}={self.folder / name}.jsonl" for name in ("forget", "retain")]
        steps = "unlearn={max_steps: 2, check_every: 1, learning_rate: 1e-3}"
        short = "unlearn={max_steps: 2, check_every: 1}"
        trained = ["--method", "gd", "--force", "--keep-anyway"]
        return {
            "run": ["run", "--out", "out", *_sets(*own, "methods=[none,gd]", steps, *QUICK)],
            "unlearn": [
                *("unlearn", "--model", model, *given, "--out", "out", *trained),
                *_sets(steps, *QUICK[:2]),
            ],
            "search": [
                *("unlearn", "--model", model, *given, "--out", "out", *trained),
                *_sets(short, *QUICK[:2]),
            ],
            "audit": [
                *("audit", "--before", model, "--after", str(self.folder / "whole/unlearn/out")),
                *(*given, "--out", "out", "--force", *_sets(*QUICK)),
            ],
            "report": ["report", "out"],
        }

    def prepare(self, name: str, place: Path) -> None:
        """Make the folder that a command is called in; a report is one of the whole run."""
        place.mkdir(parents=True)
        if name == "report":
            shutil.copytree(self.folder / "whole" / "run" / "out", place / "out")
            for page in (*place.glob("out/*.html"), *place.glob("out/*.csv")):
                page.unlink()

    def carry_out(
        self,
        name: str,
        place: Path,
        kill_at: int | None = None,
        after: float = 0,
        log: Path | None = None,
    ) -> int:
        """Carry a command out in a process of its own; return its exit code.

        Args:
            name: Of the command.
            place: Where it is called.
            kill_at: The point at which it is killed, from 1 on.
            after: Seconds after which it is killed, if not 0.
            log: Where its points are written, a line each.
        """
        process = FORK.Process(target=_child, args=(self.commands[name], place, kill_at, log))
        process.start()
        if after:
            process.join(after)
            process.kill()
        process.join(LIMIT)
        if process.is_alive():
            process.kill()
            raise AssertionError(f"{name} is not done within {LIMIT} s")
        assert process.exitcode is not None
        return process.exitcode

    def killed(self, name: str, place: Path, kill_at: int | None = None, after: float = 0) -> str:
        """Kill a command, call it again, and say what is not as it would be; empty where all is."""
        self.prepare(name, place)
        code = self.carry_out(name, place, kill_at, after)
        if kill_at is not None and code != -signal.SIGKILL:
            return f"it was to be killed at {kill_at} and ended with {code}"
        if code == -signal.SIGKILL and (code := self.again(name, place)) != self.codes[name]:
            return f"called again, it ended with {code}:\n{(place / 'told').read_text()[-2000:]}"
        return differences(self.whole[name], contents(place))

    def again(self, name: str, place: Path) -> int:
        """Call a command once more; one whose checkpoint is finished refuses to, and only tidies up."""
        finished = name in ("unlearn", "search") and (place / "out" / "unlearn.json").exists()
        code = self.carry_out(name, place)
        return self.codes[name] if finished and code == 2 else code


def _sets(*lines: str) -> list[str]:
    return [word for line in lines for word in ("--set", line)]


def _child(words: list[str], place: Path, kill_at: int | None, log: Path | None) -> None:
    """Be the command."""
    os._exit(_command(words, place, kill_at, log))


def _command(words: list[str], place: Path, kill_at: int | None, log: Path | None) -> int:
    """Carry a command out in this process and return its exit code."""
    from ssiuu.cli import main

    os.chdir(place)
    sys.argv = ["ssiuu", *words]
    code = 0
    with (
        open("told", "w") as told,
        contextlib.redirect_stdout(told),
        contextlib.redirect_stderr(told),
        _points(kill_at, log),
    ):
        try:
            main.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
            code = 99
    return code


@contextlib.contextmanager
def _points(kill_at: int | None, log: Path | None) -> Any:
    """Count what is done to files, before and after each, and kill this process at a count."""
    import torch
    from transformers import PreTrainedModel

    from ssiuu import report
    from ssiuu.benchmarks import instructions, texts
    from ssiuu.evaluation import score
    from ssiuu.experiment import drive, trials
    from ssiuu.experiment import run as running
    from ssiuu.models import precision, weights
    from ssiuu.report import figures
    from ssiuu.training import loop

    torch.set_num_threads(1)
    passed = 0

    def point(what: str) -> None:
        nonlocal passed
        passed += 1
        if log is not None:
            with log.open("a") as lines:
                lines.write(f"{what}\n")
        if passed == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def told(name: str, act: Callable[..., Any], which: int) -> Callable[..., Any]:
        def wrapped(*given: Any, **named: Any) -> Any:
            path = os.fspath(given[which]) if len(given) > which else ""
            mine = (
                isinstance(path, str) and not path.startswith(("/dev", "/proc")) and "told" not in path
            )
            if mine:
                point(f"before {name} {Path(path).name}")
            done = act(*given, **named)
            if mine:
                point(f"after {name} {Path(path).name}")
            return done

        return wrapped

    with contextlib.ExitStack() as stack:
        for owner, name, which in (
            (os, "replace", 1),
            (os, "unlink", 0),
            (shutil, "move", 1),
            (shutil, "rmtree", 0),
            (weights, "save_file", 1),
            (PreTrainedModel, "save_pretrained", 1),
        ):
            stack.enter_context(patch.object(owner, name, told(name, getattr(owner, name), which)))
        few_texts, few_rows = texts.measured()[:3], instructions.measured()[:3]
        stack.enter_context(patch.object(texts, "measured", lambda: few_texts))
        stack.enter_context(patch.object(instructions, "measured", lambda: few_rows))
        stack.enter_context(patch.object(loop, "SAVE_EVERY", 0.0))
        stack.enter_context(patch.object(score, "FREE_MARGIN", 2))
        stack.enter_context(patch.object(report, "STALE", 0.0))
        for module in (running, drive, trials, precision):
            stack.enter_context(patch.object(module, "release_memory", lambda: None))
        stack.enter_context(patch.object(figures, "figures", lambda *_: []))
        yield


def contents(place: Path) -> dict[str, Any]:
    """Return what a folder holds but for times, by path: records as values, other files as bytes."""
    found: dict[str, Any] = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.name in ("told", ".lock") or path.name.endswith(".lock") or path.is_dir():
            continue
        if path.name == CERTIFIED or path.name.endswith(".digest-key"):
            found[name] = path.stat().st_size > 100
        elif path.suffix == ".json":
            found[name] = _timeless(json.loads(unseal(path.read_bytes())))
        elif path.suffix == ".html":
            found[name] = path.stat().st_size > 1000
        else:
            found[name] = path.read_bytes()
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(part) for key, part in value.items() if key not in TIMES}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Say in which files two folders differ; empty where they do not."""
    missing, more = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    told = {"missing": missing, "not to be there": more, "another content": other}
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in told.items() if names)
