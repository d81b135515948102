"""What README and docs tell people to type is executed: page by page, every command in its order.

A page has a folder of its own, and in it what its commands name, under those very names: the examples,
the recipes, a model and facts of the reader's, files of benchmarks.

pytest tests/cli/test_docs_run.py            a small model is called smollm2-135m; with fewer steps
pytest -m slow tests/cli/test_docs_run.py    the model itself, half an hour: only runs are shortened
"""

# ruff: noqa: F811 - a fixture is imported
from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from test_commands import moved, place, ssiuu  # noqa: F401 - two are fixtures
from test_docs import PAGES, ROOT, blocks, inline

from people_files import write_faithun
from sample_record import sample_record
from sample_runs import only, with_header, write_run
from small_llama import small
from ssiuu.analysis.columns import verdict
from ssiuu.models.load import save
from ssiuu.records.files import load_run, read_record
from ssiuu.records.schema import Teaching, Unlearning
from tofu_folder import write_tofu

# What cannot be executed here, by how it begins, and why.
NEVER = {
    "ssiuu request": "their rounds are carried out in tests/e2e/test_requests.py",
    "ssiuu view": "it serves until it is ended: tests/unit/test_live.py",
    "ssiuu push": "a stand-in of the hub is in tests/unit/test_publish.py",
    "ssiuu doctor --hub": "the hub is asked in tests/unit/test_place.py",
    "ssiuu run RECIPE --set evaluate.utility=true": "its public tasks come from the hub, by lm-eval",
    "ssiuu verify audit/certificate.json --model forgotten --facts": "keys and signatures: test_certificate.py",
    "ssiuu calibrate --out rehearsal": "full and twin are the reader's; test_calibrate.py has a taught world",
}
# What cannot be as it stands, and is with the small model in the place of its own.
ONLY_SHORT = {
    "ssiuu run paper-faithun": "its model is gated on the hub and takes a GPU",
    "ssiuu run tofu-small --set tofu.path=FOLDER --set tofu.model=FULL": "FULL is the reader's",
    "ssiuu audit --before FULL": "FULL is the reader's, and so is UNLEARNED",
}
ATTACKS = [
    "attacks.reads=[1]",
    "examine.steps=[]",
    "attacks.harmful={fractions: [0.3], learning_rates: [1e-4]}",
    "attacks.benign.learning_rates=[]",
]
RUN = [*ATTACKS, "unlearn.max_steps=1", "unlearn.threshold=0"]
TOFU = "tofu={epochs: 1, retain: 12, heldout: 4, items: 2}"
ONE = ["methods=[gd]", "diagnose=false"]
FEW = "methods=[gd, ssiuu+projection]"
SIZES = ["split={forget: 4, retain: 4, heldout: 4}"]
WORLD = [*SIZES, "fictional={people: 24, steps: 12}"]
TRIED = "tune={trials: 1, space: {gd: {learning_rate: [1e-3, 2e-3]}}}"
FEWER = ["attacks.filler.learning_rates=[]", "attacks.seeds=[0]", "attacks.spaces=[full]"]
ON_CPU = "device=cpu"  # what a page runs on an accelerator, where there is none
# Further settings of a command that holds these words; the first that fits.
SHORTER: dict[str, list[str]] = {
    "--out runs/second": [*RUN, *WORLD, "methods=[none, simnpo]", "seeds=[0]"],
    "cluster.yaml": [*RUN, *WORLD, "methods=[none, gd]", "seeds=[0]"],
    "--out gpu": ["unlearn.learning_rate=1e-2", ON_CPU],
    "--after gpu": [*ATTACKS, ON_CPU],
    "device=cuda": [ON_CPU],
    "ssiuu run strong": [*RUN, *WORLD, *FEWER, FEW, "attacks.samples=[1]"],
    "benchmark=fictional": [*RUN, *WORLD, FEW],
    "tofu.model=FULL": [*RUN, TOFU, "methods=[gd]", "attacks.membership=false"],
    "ssiuu run rivals-real": [*RUN, *SIZES, *ONE],
    "ssiuu run rivals": [*RUN, *WORLD, *ONE, TRIED],
    "ssiuu run matrix": [*RUN, *WORLD, *ONE, "attacks.filler.learning_rates=[]"],
    "--out longer": [*RUN, *SIZES, *ONE],
    "ssiuu run tofu-small": [*RUN, TOFU, "methods=[gd]"],
    "benchmark=tofu": [*ATTACKS, TOFU, "attacks.membership=false"],
    "ssiuu run paper-faithun": [*RUN, "model=smollm2-135m", "seeds=[0]", FEW],
    "paper.yaml": RUN,
    "ssiuu run": [*RUN, *SIZES],
    "ssiuu audit": ATTACKS,
    "ssiuu unlearn --model my-model": ["unlearn.learning_rate=1e-2"],  # searched in test_commands.py
    "ssiuu": [],
}


class Line(NamedTuple):
    """A command as it is typed, and its page."""

    page: Path
    text: str

    @property
    def words(self) -> list[str]:
        """What comes behind `ssiuu`, whatever starts it."""
        return shlex.split(self.text.partition("ssiuu ")[2])

    @property
    def out(self) -> str | None:
        """The folder that it writes."""
        words = self.words
        if "--out" in words:
            return words[words.index("--out") + 1]
        return "ssiuu-run" if words[0] == "run" else None

    def begins(self, among: dict[str, str]) -> bool:
        return any(self.text.startswith(beginning) for beginning in among)


def lines(page: Path) -> list[Line]:
    """Return every whole command in the blocks of a page."""
    typed = [
        shlex.join(shlex.split(line, comments=True))
        for block in blocks(page, "", "bash", "sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith(("ssiuu ", "torchrun ")) and " ..." not in line
    ]
    return [Line(page, text) for text in typed]


def having(left_out: dict[str, str]) -> dict[Path, list[Line]]:
    """Return the commands of every page that has some, without those that begin so."""
    found = {page: [line for line in lines(page) if not line.begins(left_out)] for page in PAGES}
    return {page: typed for page, typed in found.items() if typed}


LONG = {"methods.md", "tofu.md", "gguf.md", "compare.md", "a-cluster.md"}
NO_SLURM = ["--launch", "cluster=local"]  # what submitit makes of it: tests/e2e/test_slurm.py
TYPED, ITSELF = having(NEVER), having(NEVER | ONLY_SHORT)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which `smollm2-135m` is a small model."""
    cache = tmp_path_factory.mktemp("cache")
    texts = [path.read_text() for path in sorted((ROOT / "docs" / "examples").glob("*.jsonl"))]
    save(*small(texts), cache / "models" / "smollm2-135m")
    return cache


@pytest.fixture
def folder(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with what pages name."""
    for name in ("docs/examples", "recipes"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copytree(place / "model", tmp_path / "my-model")
    for name in ("forget.jsonl", "retain.jsonl"):
        shutil.copy(place / name, tmp_path)
    write_tofu(tmp_path / "FOLDER")
    write_faithun(tmp_path).rename(tmp_path / "FILE")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def named(page: Path) -> None:
    """Write the files that a page shows: blocks of YAML that begin with their name."""
    for block in blocks(page, "yaml"):
        if title := re.match(r"# (\w+\.yaml)\b", block):
            Path(title[1]).write_text(block)


def shortened(line: Line) -> list[str]:
    """Return the words of a command with further settings."""
    settings = next(more for part, more in SHORTER.items() if part in line.text)
    more = NO_SLURM if "--launcher slurm" in line.text else []
    return [*line.words, *more, *(word for setting in settings for word in ("--set", setting))]


def check(line: Line, done: Any) -> None:
    """Hold a command to its exit code, what it prints and what it writes."""
    said, out = f"{line.page.name}: {line.text}\n{done.stdout}\n{done.stderr}", Path(line.out or ".")
    command, code = line.words[0], 0
    if "--keep-anyway" in line.words and done.returncode == 4:
        assert "forgotten at a cost" in done.stdout and (out / "model.safetensors").exists(), said
        return
    assert done.returncode in (0, 3), said
    if "matrix" in line.text:
        assert "Every method on everything" in (out / "compare.html").read_text(), said
        for name in ("fictional", "worldfacts"):
            assert all(cell.attacks for cell in load_run(out / name).cells[:1]), said
    elif command in ("run", "audit"):
        record = load_run(out)
        page = out / "report.html"
        assert "--worker" in line.words or page.stat().st_size > 10_000, said
        assert record.original is not None and record.cells, said
        if command == "audit":
            cell = next(c for c in record.cells if c.method.label == "after")
            assert cell.attacks
            code = 3 if verdict(record, cell) == "not removed" else 0
    elif command == "unlearn":
        record = read_record(out / "unlearn.json", Unlearning)
        assert record.outcome is not None and record.outcome.state == "forgotten", said
        assert (out / "model.safetensors").exists(), said
    elif command == "teach":
        taught = read_record(out / "teach.json", Teaching)
        assert taught.learned and (out / "model.safetensors").exists(), said
    elif "--facts" in line.words and command == "export":
        assert Path("task/facts.yaml").exists() and Path("customers/README.md").exists(), said
    elif "--inspect" in line.words:
        assert len(json.loads(next(Path("logs").glob("*.json")).read_text())["samples"]) > 2, said
    elif command == "export":
        assert "read back" in done.stdout and Path("deployed.gguf").stat().st_size > 10_000, said
    elif command in ("redact", "purge", "verify"):
        told = {"redact": "audit", "purge": "audit", "verify": "valid: "}
        assert told[command] in done.stdout, said
        if "--yes" in line.words:
            assert not Path("audit.digest-key").exists() and not Path("audit/run.json").exists(), said
    elif command == "compare":
        written = Path(line.out).read_text() if line.out else done.stdout
        told = {"--append": "lines appended", "--check": " 0 to object to", "": "recovery"}
        assert next(words for flag, words in told.items() if flag in line.text) in written, said
    elif command in ("check", "watch", "report"):
        told = {"check": "estimate: about", "watch": ", done", "report": "report.html"}
        assert told[command] in done.stdout, said
    elif command == "list":
        assert '"quick"' in done.stdout, said
    else:
        assert "known" in done.stdout, said
    assert done.returncode == code, said


def made_before(page: Path) -> None:
    """Make what a page takes for granted: it begins with an audit, or reads one."""
    if page.name == "privacy.md":
        shutil.copytree("my-model", "forgotten")
    if page.name == "inputs.md":
        write_run(with_header(only(sample_record(), "none", "gd"), kind="audit"), Path("audit"))


def carried_out(line: Line, words: list[str], before: dict[str, tuple[Any, Path]]) -> Any:
    """Run a command; one that was run before, with the same around it, is taken from there.

    It may have been written into another folder, or meant for an accelerator.
    """
    same = line.text.replace(f"--out {line.out}", "--out")
    for device in ("cpu", "cuda"):
        same = same.replace(f" --set device={device}", "")
    if same not in before:
        done = launched(line, words) if line.text.startswith("torchrun ") else ssiuu(*words)
        before[same] = done, Path.cwd() / (line.out or "")
        return done
    done, written = before[same]
    if line.out:
        (shutil.copytree if written.is_dir() else shutil.copy)(written, line.out)
    return done


def launched(line: Line, words: list[str]) -> Any:
    """Run a command as several processes."""
    start = shlex.split(line.text.partition("-m ssiuu ")[0])[1:]
    typed = [sys.executable, "-m", "torch.distributed.run", *start, "-m", "ssiuu", *words]
    return subprocess.run(typed, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def before() -> dict[str, tuple[Any, Path]]:
    return {}


@pytest.fixture
def hastened(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory is given back."""
    for stage in ("run", "drive"):
        monkeypatch.setattr(f"ssiuu.experiment.{stage}.release_memory", lambda: None)


@pytest.mark.usefixtures("undrawn", "hastened", "folder")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.name in LONG else [], id=page.name)
        for page in TYPED
    ],
)
def test_every_command_of_a_page_is_carried_out(
    page: Path,
    stand_in: Path,
    before: dict[str, tuple[Any, Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSIUU_CACHE", str(stand_in))
    for name in ("FULL", "RETAIN", "UNLEARNED"):
        shutil.copytree(stand_in / "models" / "smollm2-135m", name)
    made_before(page)
    named(page)
    for line in TYPED[page]:
        check(line, carried_out(line, shortened(line), before))


def test_what_is_left_out_stands_on_some_page() -> None:
    every = [line for page in PAGES for line in lines(page)]
    for beginning in NEVER | ONLY_SHORT:
        assert any(line.text.startswith(beginning) for line in every), beginning


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", ITSELF, ids=lambda page: page.name)
def test_every_command_of_a_page_is_carried_out_with_the_model_itself(page: Path) -> None:
    """Runs are shortened here too: as they stand those of the README alone take two hours."""
    made_before(page)
    named(page)
    for line in ITSELF[page]:
        words = shortened(line) if line.words[0] == "run" else line.words
        check(line, ssiuu(*words))


# --- the table of the README ---------------------------------------------------------------------

USAGE = [text for text in inline(ROOT / "README.md") if re.match(r"ssiuu [a-z]+ ", text)]
STANDS_FOR = {
    **{"M": "my-model", "M2": "after", "M3": "attacked", "MODEL": "my-model"},
    **{"F": "forget.jsonl", "RECIPE": "recipes/quick.yaml"},
}
# [--set key=value], runs side by side and files for llama.cpp: carried out above, by whole commands;
# calibrating takes minutes and has tests, and so have certificates and what is taken out of a folder.
IDLE = (
    *("ssiuu run ", "ssiuu calibrate ", "ssiuu compare ", "ssiuu export "),
    *("ssiuu verify ", "ssiuu redact ", "ssiuu purge ", "ssiuu view ", "ssiuu push "),
)


def spelled(usage: str) -> list[str]:
    """Return the commands that a line of the table stands for: with and without [], each of a|b."""
    without = re.sub(r" \[[^]]*\]", "", usage)
    whole = re.sub(r"[][]", "", usage)
    found = []
    for text in dict.fromkeys([without, whole]):
        (choice,) = [word for word in text.split() if "|" in word] or [""]
        found += [text.replace(choice, one) for one in choice.split("|")] if choice else [text]
    return found


@pytest.mark.usefixtures("undrawn", "hastened", "folder")
def test_the_commands_of_the_readmes_table_are_carried_out(moved: list[Path]) -> None:
    for path in moved:
        shutil.copytree(path, path.name)
    wanted = [text for text in USAGE if not text.startswith(IDLE)]
    assert len(wanted) == 8
    written = ""
    for text in (text for usage in wanted for text in spelled(usage)):
        command = text.split()[1]
        if command in ("teach", "diagnose"):
            written = f"out-{len(text)}"
        places = {**STANDS_FOR, "DIR": written}
        done = ssiuu(*(places.get(word, word) for word in text.split()[1:]))
        assert done.returncode == 0 and done.stdout, (text, done.stderr)
        if command == "diagnose":
            assert any(cell.diagnosis for cell in load_run(Path(written)).cells)
            assert (Path(written) / "report.html").exists()
