"""ssiuu: make a language model forget facts, then find out whether they were erased or hidden.

import ssiuu

result = ssiuu.unlearn(model, tokenizer, forget, retain)        # a model in memory, rows
ssiuu.audit(before, model, forget, tokenizer=tokenizer).to_dataframe()

ssiuu.unlearn_model("smollm2-135m", "forget.jsonl", "forgotten", retain="retain.jsonl")
record = ssiuu.audit_models("smollm2-135m", "forgotten", "forget.jsonl", "audit")
ssiuu.write_report(record, "audit")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssiuu.analysis.rows import rows
    from ssiuu.attacks.base import Attack
    from ssiuu.benchmarks.base import Benchmark
    from ssiuu.evaluation.scores.base import Score
    from ssiuu.experiment.asking import ask_model
    from ssiuu.experiment.objects import audit, unlearn
    from ssiuu.experiment.recipe import resolve
    from ssiuu.experiment.run import run
    from ssiuu.experiment.teaching import teach_model
    from ssiuu.experiment.unlearn import audit_models, diagnose_models, unlearn_model
    from ssiuu.methods.base import Objective, RetainTerm, Transform
    from ssiuu.records.files import load_run
    from ssiuu.report import write_report
    from ssiuu.training.trainer import SsiuuTerm, SsiuuTrainer

__version__ = "0.1.0"

_PLACES = {
    "Attack": "ssiuu.attacks.base",
    "Benchmark": "ssiuu.benchmarks.base",
    "Objective": "ssiuu.methods.base",
    "RetainTerm": "ssiuu.methods.base",
    "Score": "ssiuu.evaluation.scores.base",
    "Transform": "ssiuu.methods.base",
    "SsiuuTerm": "ssiuu.training.trainer",
    "SsiuuTrainer": "ssiuu.training.trainer",
    "audit": "ssiuu.experiment.objects",
    "unlearn": "ssiuu.experiment.objects",
    "ask_model": "ssiuu.experiment.asking",
    "resolve": "ssiuu.experiment.recipe",
    "run": "ssiuu.experiment.run",
    "audit_models": "ssiuu.experiment.unlearn",
    "diagnose_models": "ssiuu.experiment.unlearn",
    "teach_model": "ssiuu.experiment.teaching",
    "unlearn_model": "ssiuu.experiment.unlearn",
    "load_run": "ssiuu.records.files",
    "write_report": "ssiuu.report",
    "rows": "ssiuu.analysis.rows",
}
__all__ = [
    "Attack",
    "Benchmark",
    "Objective",
    "RetainTerm",
    "Score",
    "SsiuuTerm",
    "SsiuuTrainer",
    "Transform",
    "ask_model",
    "audit",
    "audit_models",
    "diagnose_models",
    "load_run",
    "resolve",
    "rows",
    "run",
    "teach_model",
    "unlearn",
    "unlearn_model",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for and no more, so that `import ssiuu` is instant."""
    if name not in _PLACES:
        raise AttributeError(f"module 'ssiuu' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
