"""Utility by lm-eval: a module with its real signature and result shape stands in for it."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest

from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError
from ssiuu.evaluation import utility
from ssiuu.experiment.recipe import resolve
from ssiuu.records.schema import TaskScore

SUBJECTS = [f"mmlu_subject_{number}" for number in range(57)]
ACCURACIES = {"mmlu": 0.25, "gsm8k": 0.5, "hellaswag": 0.75, "arc_challenge": 0.125, "winogrande": 1.0}
METRICS = {
    "mmlu": {"acc,none": 0.25},
    "gsm8k": {"exact_match,strict-match": 0.5, "exact_match,flexible-extract": 0.9},
    "hellaswag": {"acc,none": 0.1, "acc_norm,none": 0.75},
    "arc_challenge": {"acc,none": 0.1, "acc_norm,none": 0.125},
    "winogrande": {"acc,none": 1.0},
}


class Wrapped:
    """Stands in for HFLM; the first four names as in lm_eval 0.4.13."""

    def __init__(
        self,
        pretrained: Any,
        backend: str = "default",
        tokenizer: Any = None,
        batch_size: int | str | None = 1,
    ) -> None:
        assert not isinstance(pretrained, str)
        self.pretrained, self.tokenizer, self.backend = pretrained, tokenizer, backend


def simple_evaluate(
    model: Any,
    model_args: Any = None,
    tasks: list[str] | None = None,
    num_fewshot: int | None = None,
    batch_size: int | None = None,
    limit: float | None = None,
    bootstrap_iters: int = 100000,
    log_samples: bool = True,
    random_seed: int | None = 0,
    numpy_random_seed: int | None = 1234,
    torch_random_seed: int | None = 1234,
    fewshot_random_seed: int | None = 1234,
) -> dict[str, Any]:
    """Return what the package documents (lm_eval.result_schema.EvalResults)."""
    assert tasks
    leaves = [leaf for name in tasks for leaf in (SUBJECTS if name == "mmlu" else [name])]
    results = {
        name: {"name": name, "alias": name, "sample_len": 0, **METRICS.get(name, {"acc,none": 0.0})}
        for name in dict.fromkeys([*tasks, *leaves])
    }
    return {
        "results": results,
        "groups": {name: results[name] for name in tasks if name == "mmlu"},
        "group_subtasks": {"mmlu": ["mmlu_stem"], "mmlu_stem": SUBJECTS},
        "configs": {},
        "versions": {},
        "n-shot": {},
        "higher_is_better": {},
        "n-samples": {name: {"original": 9999, "effective": limit} for name in leaves},
        "config": {"model": type(model).__name__},
    }


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The stand-in, importable under the real names."""
    top, models, hf = (ModuleType(f"lm_eval{tail}") for tail in ("", ".models", ".models.huggingface"))
    for module in (top, models, hf):
        module.__spec__ = ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    top.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    hf.HFLM = Wrapped  # type: ignore[attr-defined]
    return top


def test_the_model_in_memory_is_asked_and_the_results_are_read(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def evaluate(**given: Any) -> dict[str, Any]:
        calls.append(given)
        return simple_evaluate(**given)

    monkeypatch.setattr(harness, "simple_evaluate", evaluate)
    model, tokenizer = Mock(spec=CausalLM), object()
    scores = utility.measure(model, tokenizer)
    assert {name: score.accuracy for name, score in scores.items()} == ACCURACIES
    # lm-eval limits every one of MMLU's 57 subjects, so 500 items are not to be had.
    assert scores.pop("mmlu").items == 57 * 9
    assert {score.items for score in scores.values()} == {500}
    assert sorted(call["limit"] for call in calls) == [9, 500]
    assert all(call["model"].pretrained is model for call in calls)
    assert all(call["model"].tokenizer is tokenizer for call in calls)
    assert {call[f"{kind}random_seed"] for call in calls for kind in ("", "numpy_", "torch_")} == {None}


def test_a_missing_package_is_refused_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utility.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'ssiuu\[lm-eval\]'"):
        resolve(None, ["evaluate.utility=true"])
    with pytest.raises(ConfigError, match="lm-eval"):
        utility.measure(Mock(spec=CausalLM), object())


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_unreachable_hub_is_named_and_other_errors_are_not_hidden(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    def fail(**given: Any) -> dict[str, Any]:
        error = ConnectionError("Couldn't reach 'cais/mmlu' on the Hub")
        if wrapped:
            raise RuntimeError("loading failed") from error
        raise error

    monkeypatch.setattr(harness, "simple_evaluate", fail)
    with pytest.raises(ConfigError, match=r"evaluate\.utility: mmlu cannot be had from the hub"):
        utility.measure(Mock(spec=CausalLM), object())

    def broken(**given: Any) -> dict[str, Any]:
        raise ZeroDivisionError

    monkeypatch.setattr(harness, "simple_evaluate", broken)
    with pytest.raises(ZeroDivisionError):
        utility.measure(Mock(spec=CausalLM), object())


def test_a_result_without_the_metric_is_an_error_not_a_zero() -> None:
    found = simple_evaluate(None, tasks=["winogrande"], limit=500)
    assert utility.parse(found, "winogrande") == TaskScore(accuracy=1.0, items=500)
    del found["results"]["winogrande"]["acc,none"]
    with pytest.raises(KeyError):
        utility.parse(found, "winogrande")
