"""What an evaluation costs: ours beside a plain loop, interleaved in one process.

    python perf/evaluate.py --json --path data/tofu [--model smollm2-135m] [--rows 40] [--rounds 1]

Scores of TOFU's forget05: probability, truth ratio, extraction strength, exact memorisation, loss,
Min-K, Min-K++, written answers. The plain loop does what evaluation suites commonly do: a separate
padded forward pass for every metric with the logits of every position, every wrong answer with its
question again, and answers written in batches of 32 up to 200 tokens or until the last one ends.
Prints medians in seconds, their ratios, and by score the largest difference of the two, and of each to
the plain loop in float64 on the first rows; written answers are compared as far as both go.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from clock import now, on_device
from torch import Tensor

from ssiuu.benchmarks import tofu_rows
from ssiuu.evaluation.scores.sentences import write_answers
from ssiuu.evaluation.sequence import score_sequences
from ssiuu.likelihood import Example, Prompt
from ssiuu.models.load import load
from ssiuu.models.precision import keep_memory
from ssiuu.records.schema import FactText
from ssiuu.statistics.tofu import probability, truth_ratio

BATCH = 32
LIMIT = 200  # tokens of a written answer in the plain loop
EXACT = 8  # rows
SHARE = 0.4  # of the tokens, the least likely ones, in Min-K
Scores = dict[str, list[float]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", default=None, help="folder with TOFU's files; the hub if left out")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    on_device(parser)
    args = parser.parse_args()
    keep_memory()
    loaded = load(args.model, placement=args.device)
    model, prompt = loaded.model.eval(), Prompt(loaded.tokenizer, "qa")
    facts = tofu_rows.load(args.path, "forget05", 3).forget[: args.rows]
    parts = {
        "ours_scores": our_scores,
        "plain_scores": plain_scores,
        "ours_answers": write_answers,
        "plain_answers": plain_answers,
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    found: dict[str, Any] = {}
    for _ in range(args.rounds):
        for name, part in parts.items():
            start = now(model.device)
            found[name] = part(model, prompt, facts)
            times[name].append(now(model.device) - start)
    result: dict[str, Any] = {f"{n}_seconds": round(statistics.median(t), 2) for n, t in times.items()}
    for part in ("scores", "answers"):
        ratio = result[f"plain_{part}_seconds"] / result[f"ours_{part}_seconds"]
        result[f"plain_{part}_over_ours"] = round(ratio, 2)
    sums = [
        sum(result[f"{way}_{p}_seconds"] for p in ("scores", "answers")) for way in ("plain", "ours")
    ]
    result["plain_over_ours"] = round(sums[0] / sums[1], 2)
    ours, plain = found["ours_scores"], found["plain_scores"]
    result["largest_difference"] = _furthest(ours, plain)
    exact = plain_scores(model.double(), prompt, facts[:EXACT])
    result["error"] = {"ours": _furthest(ours, exact), "plain": _furthest(plain, exact)}
    pairs = zip(found["ours_answers"], found["plain_answers"], strict=True)
    result["different_answers"] = sum(not _agree(a, b) for a, b in pairs)
    result |= {key: value for key, value in vars(args).items() if key not in ("json", "path")}
    result["device"] = args.device.described
    print(json.dumps(result, indent=None if args.json else 1))


def our_scores(model: Any, prompt: Prompt, facts: Sequence[FactText]) -> Scores:
    """Score every answer from one reading."""
    answers = [[f.answer, f.paraphrased_answer or f.answer, *f.perturbed] for f in facts]
    examples = [_example(prompt, f, a) for f, texts in zip(facts, answers, strict=True) for a in texts]
    read = iter(score_sequences(model, examples, moments=True))
    scores: Scores = {name: [] for name in NAMES}
    for texts in answers:
        right, reworded, *wrong = (next(read) for _ in texts)
        assert right.mean is not None and right.std is not None
        values = (
            probability(right.per_token),
            truth_ratio(reworded.per_token, [w.per_token for w in wrong]),
            right.extraction_strength,
            right.exact_memorisation,
            -right.per_token,
            _lowest(right.logprobs),
            _lowest((right.logprobs - right.mean) / right.std),
        )
        for name, value in zip(NAMES, values, strict=True):
            scores[name].append(float(value))
    return scores


NAMES = ("probability", "truth_ratio", "strength", "memorisation", "loss", "min_k", "min_k_plus")


def plain_scores(model: Any, prompt: Prompt, facts: Sequence[FactText]) -> Scores:
    """Score every metric by passes of its own."""
    right = [f.answer for f in facts]
    means = [float(t.mean()) for t, _ in _forward(model, prompt, facts, right)]
    reworded = _means(model, prompt, facts, [f.paraphrased_answer or f.answer for f in facts])
    wrong = [
        _means(model, prompt, facts, [f.perturbed[n] for f in facts])
        for n in range(len(facts[0].perturbed))
    ]
    strengths, shares, k, kk = [], [], [], []
    for tokens, logits in _forward(model, prompt, facts, right):  # extraction strength
        hits = [bool(h) for h in logits[0].argmax(-1) == logits[1]]
        miss = max((i + 1 for i, hit in enumerate(hits) if not hit), default=0)
        strengths.append(1 - miss / len(tokens))
    for _, logits in _forward(model, prompt, facts, right):  # exact memorisation
        shares.append(float((logits[0].argmax(-1) == logits[1]).float().mean()))
    losses = [-float(t.mean()) for t, _ in _forward(model, prompt, facts, right)]
    for tokens, _ in _forward(model, prompt, facts, right):
        k.append(_lowest(tokens))
    for tokens, logits in _forward(model, prompt, facts, right):
        every = logits[0].log_softmax(-1)
        mean = (every.exp() * every).sum(-1)
        spread = ((every.exp() * every.square()).sum(-1) - mean.square()).sqrt()
        kk.append(_lowest((tokens - mean) / spread))
    ratios = [truth_ratio(r, list(w)) for r, w in zip(reworded, zip(*wrong, strict=True), strict=True)]
    columns = ([probability(m) for m in means], ratios, strengths, shares, losses, k, kk)
    return dict(zip(NAMES, columns, strict=True))


@torch.no_grad()
def plain_answers(model: Any, prompt: Prompt, facts: Sequence[FactText]) -> list[str]:
    """Write answers in the order of the facts."""
    texts = []
    for start in range(0, len(facts), BATCH):
        asked = [prompt.question(f.question) for f in facts[start : start + BATCH]]
        ids, mask = (tensor.to(model.device) for tensor in _padded(asked, left=True))
        written = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=LIMIT,
            do_sample=False,
            pad_token_id=prompt.tokenizer.eos_token_id,
        )
        texts += [prompt.text(row[ids.shape[1] :].tolist()) for row in written]
    return texts


def _furthest(some: Scores, others: Scores) -> dict[str, float]:
    """Return the largest difference of every score, over the rows that both have."""
    return {
        name: float(f"{max(abs(a - b) for a, b in zip(some[name], others[name], strict=False)):.1e}")
        for name in NAMES
    }


def _means(model: Any, prompt: Prompt, facts: Sequence[FactText], answers: list[str]) -> list[float]:
    return [float(tokens.mean()) for tokens, _ in _forward(model, prompt, facts, answers)]


@torch.no_grad()
def _forward(
    model: Any, prompt: Prompt, facts: Sequence[FactText], answers: list[str]
) -> list[tuple[Tensor, tuple[Tensor, Tensor]]]:
    """Return log p of every answer token, with its logits and ids, from padded rows."""
    examples = [_example(prompt, f, a) for f, a in zip(facts, answers, strict=True)]
    found = []
    for start in range(0, len(examples), BATCH):
        chunk = examples[start : start + BATCH]
        padded = _padded([e.prompt + e.answer for e in chunk], left=False)
        ids, mask = (tensor.to(model.device) for tensor in padded)
        logits = model(input_ids=ids, attention_mask=mask).logits
        every = logits.log_softmax(-1)
        for row, e in enumerate(chunk):
            place = slice(len(e.prompt) - 1, len(e.prompt) + len(e.answer) - 1)
            answer = torch.tensor(e.answer, device=model.device)
            tokens = every[row, place].gather(-1, answer[:, None])[:, 0]
            found.append((tokens, (logits[row, place].clone(), answer)))
    return found


def _padded(rows: list[list[int]], left: bool) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids, mask = (torch.zeros((len(rows), width), dtype=torch.long) for _ in range(2))
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return ids, mask


def _example(prompt: Prompt, fact: FactText, answer: str) -> Example:
    return Example(fact.id, prompt.question(fact.question), prompt.answer(answer))


def _lowest(values: Tensor) -> float:
    """Return the negative mean of the lowest share."""
    count = max(1, int(SHARE * len(values)))
    return -float(values.sort().values[:count].mean())


def _agree(one: str, other: str) -> bool:
    """Whether one text is the other, or its beginning."""
    return one.startswith(other) or other.startswith(one)


if __name__ == "__main__":
    main()
