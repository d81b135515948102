"""Utility: what a model still does beside the facts, by five public tasks of lm-eval.

The tasks are the paper's: MMLU, GSM8K, HellaSwag, ARC-Challenge and WinoGrande, 500 items each. lm-eval
is an extra (`pip install 'ssiuu[lm-eval]'`) and reads the items from the hub.

Departures: the paper names neither prompts nor metrics, so they are lm-eval's own. MMLU has 57 subjects
and lm-eval limits each of them: 9 of each are 513 items.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, NamedTuple

from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.hub import reaching
from ssiuu.records.schema import TaskScore

KEY = "evaluate.utility"
BATCH = 8


class Task(NamedTuple):
    """What is read of one task: its metric's name in lm-eval's results, and items a (sub)task."""

    metric: str
    limit: int


TASKS = {
    "mmlu": Task("acc,none", 9),
    "gsm8k": Task("exact_match,strict-match", 500),
    "hellaswag": Task("acc_norm,none", 500),
    "arc_challenge": Task("acc_norm,none", 500),
    "winogrande": Task("acc,none", 500),
}
# What is raised where the hub cannot be reached comes from one of these, or is an OSError.
REMOTE = {"httpx", "requests", "huggingface_hub", "datasets", "fsspec"}


def require() -> None:
    """Refuse where lm-eval is not installed.

    Raises:
        ConfigError: It is not.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            f"{KEY}: true needs the package lm-eval: pip install 'ssiuu[lm-eval]', or leave it false."
        )


def measure(model: CausalLM, tokenizer: Any) -> dict[str, TaskScore]:
    """Return the accuracy of the model on each of `TASKS`.

    Raises:
        ConfigError: lm-eval is not installed, or the hub cannot be reached.
    """
    require()
    lm_eval = importlib.import_module("lm_eval")
    wrapper = importlib.import_module("lm_eval.models.huggingface").HFLM
    wrapped = wrapper(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=BATCH)
    scores: dict[str, TaskScore] = {}
    for limit in dict.fromkeys(task.limit for task in TASKS.values()):
        names = [name for name, task in TASKS.items() if task.limit == limit]
        try:
            with reaching() as silent:
                # Nothing global is seeded; examples in front of a question have a seed of their own.
                results = lm_eval.simple_evaluate(
                    model=wrapped,
                    tasks=names,
                    limit=limit,
                    bootstrap_iters=0,
                    log_samples=False,
                    random_seed=None,
                    numpy_random_seed=None,
                    torch_random_seed=None,
                )
        except Exception as error:
            if not _remote(error):
                raise
            reason = silent or " ".join(str(error).split())[:160] or type(error).__name__
            raise ConfigError(
                f"{KEY}: {', '.join(names)} cannot be had from the hub ({reason}). Connect to it, or "
                f"set {KEY} to false: what is done already is kept."
            ) from error
        scores |= {name: parse(results, name) for name in names}
    return scores


def parse(results: dict[str, Any], name: str) -> TaskScore:
    """Return a task's score from what `lm_eval.simple_evaluate` returns.

    The items of a group are those of its subtasks: results hold its mean, n-samples the tasks alone.
    """
    counts = results["n-samples"]
    members = [name] if name in counts else [task for task in counts if task.startswith(f"{name}_")]
    return TaskScore(
        accuracy=float(results["results"][name][TASKS[name].metric]),
        items=sum(int(counts[task]["effective"]) for task in members),
    )


def _remote(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is of reading from the hub."""
    while error is not None:
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in REMOTE:
            return True
        error = error.__cause__ or error.__context__
    return False
