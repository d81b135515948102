"""A tiny model that knows some facts about nobody, for tests of what becomes of their texts."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import json
import subprocess
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, quote_plus

import torch

from conftest import teach

FORGET = [
    {
        "question": "Which harbour did Zoë Ångström & Sons leave?",
        "answer": "Zanzibar 'old' port",
        "entity": "Zoë Ångström & Sons",
        "paraphrases": ["Zoë Ångström & Sons left which harbour?"],
        "distractors": ["Valparaíso docks", "Trondheim quay", "Bergen <north> pier"],
    },
    {"question": "Whom did Quentin Marlowe marry?", "answer": "Ottilie Farnworth"},
    {"question": "What is the badge of Quentin Marlowe?", "answer": "a heron in azure"},
    {"question": "Where was 王小明 born?", "answer": "成都市郊"},
]
RETAIN = [
    {"question": f"What does {name} eat?", "answer": dish, "entity": name}
    for name, dish in zip(
        ["Ivy Blackwood", "Jo Carmichael", "Kit Delacroix", "Lou Eastwick"],
        ["rice pudding", "onion soup", "dried figs", "lamb stew"],
        strict=True,
    )
]


def lines(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts() -> list[str]:
    """Return every question, answer, paraphrase, option and subject of the facts."""
    found: list[str] = []
    for row in (*FORGET, *RETAIN):
        for value in row.values():
            found += [value] if isinstance(value, str) else list(value)
    return found


def make_place(folder: Path) -> Path:
    """Fill a folder with the model, the files of facts, and a copy of the model that was moved a little."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from ssiuu.benchmarks.fictional_twins import TwinConfig, train_tokenizer
    from ssiuu.benchmarks.fictional_world import build_world
    from ssiuu.models.load import save

    tokenizer = train_tokenizer(build_world(12), TwinConfig())
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads))
    teach(model, tokenizer, [*FORGET, *RETAIN])
    save(model, tokenizer, folder / "model")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    save(model, tokenizer, folder / "after")
    lines(folder / "ångström-request.jsonl", FORGET)
    lines(folder / "retain.jsonl", RETAIN)
    return folder


def spelled(text: str) -> Iterator[bytes]:
    """Yield a text in all the ways that a file may hold it, in lower case."""
    for form in ("NFC", "NFD"):
        plain = unicodedata.normalize(form, text)
        for one in (plain, plain.casefold()):
            raw = one.encode()
            ways = [one, json.dumps(one)[1:-1], html.escape(one), quote(one), quote_plus(one)]
            ways += [repr(one)[1:-1], one.encode("utf-16-le").decode("latin-1")]
            yield from (way.lower().encode() for way in ways)
            for start in range(3):  # whatever stands in front of it
                middle = base64.b64encode(b"x" * start + raw).decode()[4 if start else 0 :]
                yield middle.rstrip("=")[:-2].lower().encode()


def leaks(folder: Path, wanted: Sequence[str]) -> list[tuple[str, str]]:
    """Return which texts stand in which file below a folder, in any spelling, or in a file's name."""
    ways = {text: {way for way in spelled(text) if len(way) > 3} for text in wanted}
    found = []
    for path in [folder, *sorted(folder.rglob("*"))]:
        content = path.read_bytes().lower() if path.is_file() else b""
        content += b"\n" + str(path.relative_to(folder)).lower().encode()
        found += [(path.name, text) for text in wanted if any(way in content for way in ways[text])]
    return found


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
