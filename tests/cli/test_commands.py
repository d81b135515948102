"""The command line on a tiny model: the whole way, and every bad input with its message."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import teach

RECIPES = Path(__file__).parents[2] / "recipes"
ROWS = [
    {"question": f"Where was {name} born?", "answer": town, "entity": name}
    for name, town in zip(
        ["Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal"],
        ["Ulm", "Pau", "Ely", "Ayr", "Lod", "Zug", "Nis", "Bar"],
        strict=True,
    )
]


def ssiuu(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command in this process: a new one would import torch every time."""
    from ssiuu.cli.main import main

    out, err, code, argv = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = ["ssiuu", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    finally:
        sys.argv = argv
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and two files of facts."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from ssiuu.benchmarks.fictional_twins import TwinConfig, train_tokenizer
    from ssiuu.benchmarks.fictional_world import build_world
    from ssiuu.models.load import save

    folder = tmp_path_factory.mktemp("cli")
    tokenizer = train_tokenizer(build_world(12), TwinConfig())
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
        )
    )
    kept = [
        {"question": f"What does {name} eat?", "answer": dish, "entity": name}
        for name, dish in zip(
            ["Ivy", "Jo", "Kit", "Lou"], ["rice", "soup", "figs", "stew"], strict=True
        )
    ]
    teach(model, tokenizer, [*ROWS, *kept])  # what is not known is refused
    save(model, tokenizer, folder / "model")
    lines(folder / "forget.jsonl", ROWS[:6])
    lines(folder / "retain.jsonl", kept)
    return folder


def test_unlearn_then_audit(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "forgotten"
    done = ssiuu(
        "unlearn",
        "--model",
        place / "model",
        "--forget",
        place / "forget.jsonl",
        "--retain",
        place / "retain.jsonl",
        "--out",
        out,
        "--reference",
        "2026-014",
    )
    assert done.returncode == 0, done.stdout + done.stderr  # the default, at a rate it found itself
    assert "forgotten" in done.stdout and "reached" in done.stdout and "KL text" in done.stdout
    assert AutoModelForCausalLM.from_pretrained(out).config.hidden_size == 32
    assert f"{out / 'unlearn.json'} holds the facts" in done.stdout
    program, *printed = shlex.split(done.stdout.splitlines()[-1])
    assert program == "ssiuu" and printed[0] == "audit"  # what it printed is what is run here
    audit = ssiuu(*printed, "--set", "attacks.reads=[1,2]")
    for folder in (out, tmp_path / "forgotten-audit"):
        certificate = json.loads((folder / "certificate.json").read_text())
        assert certificate["predicate"]["references"] == ["2026-014"]
    assert audit.returncode in (0, 3, 5), audit.stderr
    assert (tmp_path / "forgotten-audit" / "report.html").stat().st_size > 10_000
    open_to_others = [p for p in (tmp_path / "forgotten-audit").glob("*.*") if p.stat().st_mode & 0o077]
    assert [p.name for p in open_to_others] in ([], [".lock"])  # facts stand in all others
    table = json.loads(ssiuu("report", tmp_path / "forgotten-audit", "--json").stdout)
    row = next(r for r in table["rows"] if r["method"] == "after")
    assert audit.returncode == {"not removed": 3, "hidden": 5}.get(row["verdict"], 0)
    wanted = {"forget", "retain", "harmful_0.1", "harmful_0.3", "benign", "d_plus_100", "d_minus_100"}
    assert wanted <= row.keys() and row["d_plus_100"] is not None and row["benign"] is not None
    again = ssiuu(
        "unlearn",
        "--model",
        place / "model",
        "--forget",
        place / "forget.jsonl",
        "--retain",
        "none",
        "--out",
        out,
    )
    assert again.returncode == 2 and "not an empty folder" in again.stderr


@pytest.fixture(scope="module")
def moved(place: Path) -> list[Path]:
    """Two checkpoints near the tiny model, as if unlearned and then attacked."""
    from ssiuu.models.load import load, save

    loaded, folders = load(str(place / "model")), []
    for name in ("after", "attacked"):
        torch.manual_seed(len(folders))
        with torch.no_grad():
            for parameter in loaded.model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        save(loaded.model, loaded.tokenizer, place / name)
        folders.append(place / name)
    return folders


def test_diagnose_looks_inside_and_attacks_nothing(
    place: Path, moved: list[Path], tmp_path: Path
) -> None:
    import ssiuu as package

    after, attacked = moved
    out = tmp_path / "diagnosis"
    words = ["diagnose", "--before", place / "model", "--after", after, "--out", out]
    words += ["--forget", place / "forget.jsonl", "--retain", place / "retain.jsonl"]
    done = ssiuu(*words, "--attacked", attacked, "--set", "attacks.prompts=true")
    assert done.returncode == 0, done.stderr
    record = package.load_run(out)
    cell = next(c for c in record.cells if c.method.label == "after")
    assert record.header.kind == "audit" and cell.attacks == []
    assert cell.diagnosis is not None and cell.diagnosis.evidence is not None
    evidence, stability = cell.diagnosis.evidence, cell.stability
    assert evidence.causal is not None and evidence.attributions is not None
    assert stability is not None and stability.facts == 6 and "(attacked)" in stability.attack
    assert stability.lowest is not None and stability.lowest.pearson["unlearned-attacked"] is not None
    assert record.header.config["attacked"] == str(attacked)
    assert (out / "report.html").stat().st_size > 10_000
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    given = (str(place / "model"), after, str(place / "forget.jsonl"), out)
    again = package.diagnose_models(*given, str(place / "retain.jsonl"), attacked)
    assert again.cells == record.cells
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.json")} == before


def test_what_diagnose_cannot_compare(place: Path, moved: list[Path], tmp_path: Path) -> None:
    from ssiuu.models.load import load, save

    loaded = load(str(place / "model"))
    del loaded.model.model.layers[1]
    loaded.model.config.num_hidden_layers = 1
    save(loaded.model, loaded.tokenizer, tmp_path / "shorter")

    def refused(**change: object) -> str:
        given = {
            "before": place / "model",
            "after": moved[0],
            "forget": place / "forget.jsonl",
            "out": tmp_path / "out",
        }
        given |= change
        words = [w for key, value in given.items() for w in (f"--{key}", value)]
        done = ssiuu("diagnose", *words, "--force")  # a model that lost a layer knows nothing
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    assert f"--after {tmp_path / 'none'} is not a folder" in refused(after=tmp_path / "none")
    assert "--attacked" in refused(attacked=tmp_path / "none")
    assert "missing.jsonl" in refused(forget=tmp_path / "missing.jsonl")
    assert "another architecture" in refused(after=tmp_path / "shorter")
    assert "another architecture" in refused(attacked=tmp_path / "shorter")
    assert "layers.1" in refused(before=tmp_path / "shorter")
    assert not list(tmp_path.glob("out/*.json"))


def bad(place: Path, tmp_path: Path, **change: object) -> subprocess.CompletedProcess[str]:
    given = {
        "model": place / "model",
        "forget": place / "forget.jsonl",
        "retain": "none",
        "out": tmp_path / "out",
        "method": "gd",
    } | change
    words = [w for key, value in given.items() if value is not None for w in (f"--{key}", value)]
    done = ssiuu("unlearn", *words)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    return done


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "Q?"}], "answer"),
        ([{"question": "Q?", "answer": "  "}], "answer"),
        ([ROWS[0], ROWS[0]], "line"),
        ([ROWS[0], ROWS[0] | {"answer": "Rome"}], "Rome"),
        ([ROWS[0] | {"anser": "x"}], "anser"),
        ([{"question": "long " * 400, "answer": "x"}], "context"),
    ],
)
def test_bad_facts(place: Path, tmp_path: Path, rows: list[dict[str, object]], said: str) -> None:
    assert said in bad(place, tmp_path, forget=lines(tmp_path / "bad.jsonl", rows)).stderr


def test_other_bad_input(place: Path, tmp_path: Path) -> None:
    assert "missing.jsonl" in bad(place, tmp_path, forget=tmp_path / "missing.jsonl").stderr
    (tmp_path / "latin.jsonl").write_bytes('{"question": "é?", "answer": "é"}'.encode("latin-1"))
    assert "UTF-8" in bad(place, tmp_path, forget=tmp_path / "latin.jsonl").stderr
    assert "at is" not in (said := bad(place, tmp_path, retain=None).stderr) and "--retain none" in said
    assert "are the same file" in bad(place, tmp_path, retain=place / "forget.jsonl").stderr
    assert "Did you mean 'npo'" in bad(place, tmp_path, method="npoo").stderr
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text('{"model_type": "llama"}')
    assert "no weights" in bad(place, tmp_path, model=tmp_path / "pickled").stderr
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    assert "pickles only" in bad(place, tmp_path, model=tmp_path / "pickled").stderr


def test_bad_recipes(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("unlearn:\n  learning_rat: 1e-4\n")
    done = ssiuu("check", recipe)
    assert done.returncode == 2 and "learning_rate" in done.stderr and "recipe.yaml" in done.stderr
    other = tmp_path / "full"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    done = ssiuu("run", "--out", other)
    assert done.returncode == 2 and "holds no run" in done.stderr


def test_check_tells_where_values_come_from() -> None:
    done = ssiuu("check", "--set", "unlearn.max_steps=7")
    assert done.returncode == 0 and "estimate" in done.stdout
    lines = done.stdout.splitlines()
    assert any("unlearn.max_steps" in line and "--set" in line for line in lines)
    assert all(len(line) <= 80 for line in lines if line.endswith(" default") and "[" not in line)


def test_help_is_instant_and_lists_all_commands() -> None:
    done = ssiuu("--help")
    assert all(
        word in done.stdout
        for word in ("run", "unlearn", "audit", "diagnose", "report", "list", "check")
    )
    code = "import sys, ssiuu, ssiuu.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_told(option: str) -> None:
    import ssiuu as package

    assert ssiuu(option).stdout == f"ssiuu {package.__version__}\n"


@pytest.mark.parametrize(
    "words", [[], ["run"], ["unlearn"], ["audit"], ["report"], ["list"], ["check"]]
)
def test_h_is_help_everywhere(words: list[str]) -> None:
    short, long = ssiuu(*words, "-h"), ssiuu(*words, "--help")
    assert short.returncode == long.returncode == 0
    assert short.stdout == long.stdout and "Usage" in short.stdout


@pytest.mark.parametrize("words", [["run", "--out", ""], ["run", "--out="], ["unlearn", "--model", ""]])
def test_an_option_without_a_value_is_no_folder(words: list[str]) -> None:
    done = ssiuu(*words)
    assert done.returncode == 2 and f"{words[1].rstrip('=')} has no value" in done.stderr


def test_a_terminal_without_unicode_is_shown_what_it_can_show(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ssiuu.cli", "report", str(tmp_path / "Köln ★")]
    plain = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(command, env=plain, capture_output=True)
    assert (
        done.returncode == 2 and b"K\\xf6ln \\u2605" in done.stderr and b"Traceback" not in done.stderr
    )


@pytest.mark.parametrize("words", ["list recipes", "--version"])
def test_a_reader_that_goes_away_is_no_error(words: str) -> None:
    code = f"{shlex.quote(sys.executable)} -m ssiuu.cli {words} | exec true"
    done = subprocess.run(code, shell=True, capture_output=True)
    assert done.stderr == b""


def test_a_full_disk_under_the_output_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "ssiuu.cli", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1 and done.stderr.startswith(b"error: ") and b"Trace" not in done.stderr


@pytest.mark.parametrize("out", [".", "../here/", "link"])
def test_a_checkpoint_may_go_into_the_empty_folder_one_is_in(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "link").symlink_to(here)
    monkeypatch.chdir(tmp_path if out == "link" else here)
    before = here.stat().st_ino
    files = ["--forget", place / "forget.jsonl", "--retain", place / "retain.jsonl"]
    done = ssiuu(
        *("unlearn", "--model", place / "model", *files, "--method", "gd", "--out", out),
        *("--set", "unlearn.max_steps=1", "--set", "unlearn.learning_rate=1e-4", "--keep-anyway"),
    )
    assert done.returncode == 3, done.stderr
    assert here.stat().st_ino == before and AutoModelForCausalLM.from_pretrained(here)
    assert not [path for path in (*here.iterdir(), *tmp_path.iterdir()) if path.name.startswith(".")]
    file = tmp_path / "file"
    file.write_text("kept")
    again = ssiuu("unlearn", "--model", place / "model", *files, "--out", file)
    assert (
        again.returncode == 2 and "not an empty folder" in again.stderr and file.read_text() == "kept"
    )


def test_an_audit_of_what_is_still_there_has_an_exit_code_of_its_own(
    place: Path, tmp_path: Path
) -> None:
    words = ["audit", "--before", place / "model", "--after", place / "model", "--out", tmp_path / "a"]
    words += ["--forget", place / "forget.jsonl", "--retain", place / "retain.jsonl"]
    for setting in (
        "attacks.harmful.fractions=[]",
        "attacks.benign.learning_rates=[]",
        "diagnose=false",
    ):
        words += ["--set", setting]
    done = ssiuu(*words)
    assert done.returncode == 3 and "not removed" in done.stdout, done.stdout + done.stderr
    begun, named, _ = done.stderr.partition("estimate: about")  # before what takes long
    assert named and "evaluating" not in begun and "examining" not in begun, done.stderr
    few = "examine={steps: [1], seeds: [0], planted: 0, learning_rates: [1e-3]}"
    done = ssiuu(*words, "--thorough", "--set", few)
    begun, named, _ = done.stderr.partition("estimate: about")
    assert done.returncode == 3 and named and "examining" not in begun, done.stderr
    assert json.loads((tmp_path / "a" / "run.json").read_text())["config"]["examine"]["thorough"]


def test_a_thorough_run_is_asked_for_by_its_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssiuu.errors import DataError
    from ssiuu.experiment.recipe import THOROUGH, Recipe

    def run(recipe: Recipe, *rest: object, **more: object) -> None:
        assert recipe.examine.thorough and recipe.examine.steps == THOROUGH["examine.steps"]
        raise DataError("that was all")

    monkeypatch.setattr("ssiuu.experiment.run.run", run)
    done = ssiuu("run", "--thorough")
    assert done.returncode == 2 and "that was all" in done.stderr


@pytest.mark.parametrize(
    ("method", "settings", "code", "said"),
    [
        ("gd", ["unlearn.learning_rate=1e-6", "unlearn.max_steps=2"], 3, "not forgotten"),
        ("gd", ["unlearn.max_steps=1"], 3, "not reached"),
        ("ga", ["unlearn.learning_rate=3e-2", "unlearn.max_steps=8"], 4, "--min-retain"),
    ],
)
def test_what_is_not_forgotten_or_costs_too_much_leaves_no_checkpoint(
    place: Path, tmp_path: Path, method: str, settings: list[str], code: int, said: str
) -> None:
    """And an exit code of its own; --keep-anyway writes it with the same code."""
    out = tmp_path / "out"
    words = ["unlearn", "--model", place / "model", "--forget", place / "forget.jsonl"]
    words += ["--retain", place / "retain.jsonl", "--out", out, "--method", method]
    for setting in settings:
        words += ["--set", setting]
    done = ssiuu(*words)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout and "no checkpoint was written" in done.stdout
    assert not out.exists() and [path.name for path in tmp_path.iterdir()] == ["out.unlearn.json"]
    kept = ssiuu(*words, "--keep-anyway")
    assert kept.returncode == code and AutoModelForCausalLM.from_pretrained(out)
    record = json.loads((out / "unlearn.json").read_text())
    assert record["outcome"]["state"] == {3: "not forgotten", 4: "forgotten at a cost"}[code]


def test_ctrl_c_says_that_the_same_command_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssiuu.training.interrupt import Interrupted

    def stop(*given: object) -> None:
        raise Interrupted

    monkeypatch.setattr("ssiuu.experiment.matrix.resolve_all", stop)
    done = ssiuu("check")
    assert done.returncode == 130
    assert "the same command continues" in done.stderr


def test_an_adapter_alone_is_saved_on_request(place: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    out = tmp_path / "adapter"
    words = ["unlearn", "--model", place / "model", "--forget", place / "forget.jsonl"]
    words += ["--retain", place / "retain.jsonl", "--out", out, "--method", "gd"]
    settings = ["unlearn.max_steps=2", "unlearn.lora.rank=2", "unlearn.lora.merge=false"]
    for setting in (*settings, "unlearn.learning_rate=1e-4"):
        words += ["--set", setting]
    done = ssiuu(*words, "--keep-anyway")
    assert done.returncode == 3, done.stderr
    assert not (out / "model.safetensors").exists()
    assert (out / "adapter_model.safetensors").stat().st_mode & 0o444 == 0o444
    base = AutoModelForCausalLM.from_pretrained(place / "model")
    assert PeftModel.from_pretrained(base, out).peft_config["default"].r == 2


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_opens_with_its_command(recipe: Path) -> None:
    done = ssiuu("check", recipe)
    assert done.returncode == 0, done.stderr
    assert "estimate:" in done.stdout
    assert f"ssiuu run {recipe.stem}" in recipe.read_text()


def test_the_quick_recipe_is_the_embedded_default() -> None:
    from ssiuu.experiment.recipe import resolve

    assert resolve(RECIPES / "quick.yaml", [])[0] == resolve(None, [])[0]


@pytest.mark.parametrize(("name", "strength"), [("paper-faithun", 1e-3), ("paper-tofu", 1e-4)])
def test_the_paper_recipes_hold_the_papers_settings(name: str, strength: float) -> None:
    from ssiuu.experiment.recipe import resolve

    recipe = resolve(RECIPES / f"{name}.yaml", [])[0]
    methods = {method.label: method.options for method in recipe.made()}
    assert list(methods) == ["none", "ga", "gd", "dpo", "npo", "rmu", "klue", "ssiuu"]
    assert methods["ssiuu"]["lambda"] == strength
    assert recipe.protocol == "paper" and len(recipe.seeds) == 3
    assert recipe.attacks.harmful.fractions == [0.1, 0.3]
    assert recipe.attacks.harmful.learning_rates == [1e-5, 5e-6, 1e-6]
    assert recipe.attacks.benign.rows == 1000
    assert recipe.attacks.benign.learning_rates == [1e-5, 1e-6, 1e-7]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("attacks.shots=[64]", "attacks.shots: 64 examples are wanted"),
        ("attacks.harmful.fractions=[0.99]", "attacks.harmful.fractions: 0.99 of"),
        ("attacks.benign.source=nowhere.jsonl", "nowhere.jsonl"),
    ],
)
def test_an_attack_that_cannot_be_is_refused_before_anything_is_run(
    place: Path, tmp_path: Path, setting: str, told: str
) -> None:
    out = tmp_path / "run"
    words = ["run", "--out", out, "--set", "benchmark=own", "--set", f"model={place / 'model'}"]
    for name in ("forget", "retain"):
        words += ["--set", f"{name}={place / f'{name}.jsonl'}"]
    words += ["--set", "tune={trials: 1, space: {gd: {learning_rate: [1e-4, 1e-3]}}}"]
    done = ssiuu(*words, "--set", "methods=[gd]", "--set", setting)
    assert done.returncode == 2 and told in done.stderr
    assert [path.name for path in out.iterdir()] == [".lock"]


def test_a_method_that_does_not_fit_is_refused_before_anything_is_run(
    place: Path, tmp_path: Path
) -> None:
    for method, told in (
        ("{name: rmu, layer: 9}", "rmu.layer: must be below 2"),
        ("{name: rmu, layer: 1}", "rmu.update"),
    ):
        done = ssiuu(
            *("run", "--out", tmp_path / "run", "--set", "benchmark=own"),
            *("--set", f"model={place / 'model'}", "--set", f"forget={place / 'forget.jsonl'}"),
            *("--set", "retain=none", "--set", f"methods=[gd, {method}]"),
        )
        assert done.returncode == 2 and told in done.stderr, done.stderr
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_the_list_of_methods_names_source_and_knobs() -> None:
    from ssiuu.methods import METHODS, make

    told = ssiuu("list", "methods").stdout
    for name in METHODS:
        assert make(name).source in told
    for text in ("beta = 0.1", "lambda = 0.001", "+projection", "gate", "rhoNUMBER"):
        assert text in told


def test_the_sites_of_a_model_are_listed_with_their_outputs(place: Path) -> None:
    told = ssiuu("list", "sites", place / "model")
    assert told.returncode == 0
    rows = [line.split() for line in told.stdout.splitlines()]
    assert rows[0] == ["layer", "module", "width", "path", "outputs"]
    assert rows[1] == ["0", "q", "32", "model.layers.0.self_attn.q_proj", "0:32"]
    assert "512 neurons in 14 sites." in told.stdout
    assert "no site" not in told.stdout


def test_sites_of_no_model_are_refused() -> None:
    assert ssiuu("list", "sites").returncode == 2
    for words, said in (
        (("list", "atacks"), "list: unknown kind 'atacks'. Did you mean 'attacks'?"),
        (
            ("report", place, "--format", "latx"),
            "--format: unknown format 'latx'. Did you mean 'latex'?",
        ),
    ):
        done = ssiuu(*words)
        assert done.returncode == 2 and done.stderr.startswith(f"error: {said}")
        assert len(done.stderr.splitlines()) == 1
    assert "which model?" in ssiuu("list", "sites").stderr
    assert "takes nothing more, got 'x'" in ssiuu("list", "methods", "x").stderr
