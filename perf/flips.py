"""How many questions rank otherwise in bf16 or TF32: by these alone, and with near ties in fp32 again.

    python perf/flips.py --model taught --forget facts.jsonl [--retain more.jsonl] [--device cuda]
        [--precisions bf16 tf32]

Every fact, and every paraphrase of one, is a question with its options. Prints as JSON, for each
precision that the device has: how many of the questions are ranked otherwise than in fp32 by a reading
in that precision alone; how many by `evaluate.first`, which is to be none; the largest and the mean
difference of a margin, nats a token; and the seconds of both ways.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any, get_args

import torch

from ssiuu.errors import ConfigError
from ssiuu.evaluation.ask import Question, margins
from ssiuu.evaluation.first import First, check_first, decide, reading_first, rough_margins
from ssiuu.experiment.given import given_settings
from ssiuu.experiment.recipe import resolve
from ssiuu.experiment.session import Session, open_ground


def asked(session: Session) -> list[Question]:
    """Return every question of the facts of a session with its options, the right one first."""
    made = []
    for fact in (*session.split.forget, *session.split.retain):
        for words in (fact.question, *fact.paraphrases):
            joint = session.prompt.joint(words, fact.options)
            made.append(Question(joint.prompt, joint.answers))
    return [question for question in made if len(question.options) > 1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--forget", required=True)
    parser.add_argument("--retain", default="none")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--options", type=int, default=4)
    names = [name for name in get_args(First) if name != "fp32"]
    parser.add_argument("--precisions", nargs="+", default=names, choices=names)
    given = parser.parse_args()
    named, rows = given_settings(given.model, given.forget, given.retain)
    recipe, _ = resolve(None, [*named, f"device={given.device}", f"evaluate.options={given.options}"])
    session = open_ground(recipe, lambda _: None, rows)
    model, questions = session.model, asked(session)
    exact, seconds = timed(model, lambda: margins(model, questions))
    wanted = [margin > 0 for margin in exact]
    told: dict[str, Any] = {"device": recipe.placement.described, "questions": len(questions)}
    told["fp32"] = {"right": sum(wanted), "seconds": seconds}
    for name in given.precisions:
        try:
            check_first(name, model)
        except ConfigError as error:
            told[name] = str(error)
            continue
        with reading_first(name):
            rough, alone = timed(model, lambda: rough_margins(model, questions))
            found, both = timed(model, lambda: decide(model, questions))
        differ = sum(f != w for f, w in zip(found, wanted, strict=True))
        apart = [abs(a - b) for a, b in zip(rough, exact, strict=True)]
        told[name] = {
            "ranked otherwise, alone": sum((m > 0) != w for m, w in zip(rough, wanted, strict=True)),
            "ranked otherwise, near ties in fp32": differ,
            "margins differ by at most": max(apart, default=0.0),
            "and in the mean": sum(apart) / max(1, len(apart)),
            "seconds, alone": alone,
            "seconds, near ties in fp32": both,
        }
    print(json.dumps(told, indent=1))


@torch.no_grad()
def timed(model: Any, work: Any) -> tuple[Any, float]:
    """Return what work comes to, and how long it took; kernels are loaded by a pass before."""
    work()
    start = time.perf_counter()
    found = work()
    if model.device.type != "cpu":
        torch.get_device_module(model.device).synchronize()
    return found, round(time.perf_counter() - start, 3)


if __name__ == "__main__":
    main()
