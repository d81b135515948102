"""Make the reports of the gallery anew: the models and files that its page names, then its commands.

    python docs/gallery.py DIR      # a quarter of an hour on two cores

A world is made and a model taught all of it (`benchmark: fictional`, and the same model). In a copy 24
facts of four people are hidden on purpose by training one map in its middle.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ssiuu.benchmarks import fictional_twins as made
from ssiuu.benchmarks.screening import as_text, known
from ssiuu.data.fact import Fact
from ssiuu.hiding import HIDING, Subject
from ssiuu.likelihood import Prompt
from ssiuu.models.load import cache_folder, load, save

DOCS = Path(__file__).parent
PEOPLE, ASKING = 4, 2  # whose facts are hidden, and who ask to be deleted
KEPT = 96
PAGES = {  # of the gallery, by where they come from
    "audit-hidden/report.html": "hidden-again.html",  # hidden.html is of another processor
    "audit/report.html": "deletion.html",
    "audit/certificate.html": "certificate.html",
    "compared/report.html": "compared.html",
}


def main(folder: Path) -> None:
    """Make what the commands name, carry them out, and keep their pages."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "hidden").exists():
        prepare(folder)
    for command in commands(DOCS / "gallery.md"):
        print(f"$ {command}", flush=True)
        words = [sys.executable, "-m", "ssiuu", *shlex.split(command)[1:]]
        if subprocess.run(words, cwd=folder, check=False).returncode not in (0, 3, 5):
            sys.exit(1)
    for page, name in PAGES.items():
        shutil.copy(folder / page, DOCS / "gallery" / name)


def prepare(folder: Path) -> None:
    """Write the model that knows all of the world, files of facts, and the model that hides some."""
    world = made.build_world()
    pools = made.designate(world.facts, 0)
    twins = made.train_twins(world, pools["forget"], cache_folder() / "fictional", progress=print)
    shutil.copytree(twins.full, folder / "full", dirs_exist_ok=True)
    loaded = load(str(folder / "full"))
    prompt = Prompt(loaded.tokenizer, "plain")
    knows = known(loaded.model, prompt, world.facts)
    gone = of_people([f for f in world.facts if f.id in pools["forget"]], knows, PEOPLE)
    keep = [f for f in world.facts if f.id in pools["retain"] & knows][:KEPT]
    asking = list(dict.fromkeys(f.entity for f in gone))[:ASKING]
    for name, facts in {
        "hide.jsonl": gone,
        "request.jsonl": [f for f in gone if f.entity in asking],
        "keep.jsonl": keep,
    }.items():
        write(folder / name, facts)
    subject = Subject(loaded.model, prompt, int(loaded.tokenizer.pad_token_id or 0), 256)
    texts = [[as_text(fact, 3, 0) for fact in facts] for facts in (gone, keep)]
    HIDING["middle-map"]().hide(subject, *texts, print)
    save(loaded.model, loaded.tokenizer, folder / "hidden", "24 facts hidden on purpose")


def of_people(facts: Sequence[Fact], knows: set[str], people: int) -> list[Fact]:
    """Return the facts of the first so many people all of whose facts the model knows."""
    names = list(dict.fromkeys(fact.entity for fact in facts if fact.entity))
    whole = [n for n in names if all(fact.id in knows for fact in facts if fact.entity == n)][:people]
    return [fact for fact in facts if fact.entity in whole]


def write(path: Path, facts: Iterable[Fact]) -> None:
    """Write facts as `ssiuu` reads them, a line each."""
    keys = {"question", "answer", "entity", "paraphrases", "distractors"}
    rows = (fact.model_dump(mode="json", include=keys) for fact in facts)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def commands(page: Path) -> list[str]:
    """Return the commands of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.startswith("    ssiuu ")]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
