"""What becomes of every string of a record when it is redacted.

A string that no rule names gives way to a digest, so that a field that is new is closed until somebody
opens it here. Fields of a fixed choice of words (Literal) hold no text and stay.
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

# text: a digest. id, entity: one that keeps its place in the order. sentence: ssiuu's own words, with
# digests for what they quote. key: the digest of a stage. keep: stays.
Rule = Literal["text", "id", "entity", "sentence", "key", "form", "model", "config", "source", "keep"]

VALUES: Final[dict[str, Rule]] = {
    **dict.fromkeys(
        ("FactText.id", "AttackCurve.trained", "AttackCurve.pool", "Teaching.absent"), "id"
    ),
    "FactText.entity": "entity",
    **dict.fromkeys(
        (
            *("Knowledge.why", "ModelInfo.note", "ModelKnowledge.notes", "Teaching.notes"),
            *("MethodInfo.description", "StepLog.lost", "Attempt.note", "Outcome.reasons"),
            *("Unlearning.notes", "Stability.attack", "Stability.note", "AttackRead.label"),
            *("Trace.lacks", "Examination.left", "Examination.notes", "AttackCurve.note"),
            *("Failure.reason", "BenchmarkInfo.note", "RunHeader.notes"),
        ),
        "sentence",
    ),
    **dict.fromkeys(("BenchmarkInfo.fingerprint", "RunHeader.stages"), "key"),
    "Attempts.key": "key",
    **dict.fromkeys(
        (
            *(
                "ModelKnowledge.asked",
                "Unlearning.prompt",
                "RunHeader.prompt",
                "RunHeader.other_prompt",
            ),
            *("ModelKnowledge.form", "Teaching.form", "Teaching.asked"),
        ),
        "form",
    ),
    "ModelInfo.name": "model",
    **dict.fromkeys(("RunHeader.config", "MethodInfo.hyperparameters", "Trial.values"), "config"),
    "RunHeader.sources": "source",
    **dict.fromkeys(
        (
            *("ModelInfo.source", "ModelInfo.fingerprint", "ModelInfo.dtype"),
            *("MethodInfo.label", "MethodInfo.name", "MethodInfo.parts", "MethodInfo.plugins"),
            *("Divergence.text_version", "Unlearning.stop_score", "ReturnedNeuron.module"),
            *("Place.name", "Examination.hidden", "AttackCurve.name", "AttackCurve.kind"),
            *("AttackCurve.axis", "AttackCurve.axis_label", "BenchmarkInfo.name"),
            *("BenchmarkInfo.version", "RunHeader.created", "RunHeader.protocol", "RunHeader.versions"),
            *("RunHeader.machine", "RunHeader.score", "RunHeader.plugins"),
            *("RunHeader.redacted", "Unlearning.redacted", "Teaching.redacted"),
            "ModelKnowledge.redacted",
        ),
        "keep",
    ),
}
# Of the keys of mappings, from the outer one to the inner; those of "config" stay.
KEYS: Final[dict[str, tuple[Rule, ...]]] = {
    **dict.fromkeys(
        (
            *("Evaluation.forget", "Evaluation.retain", "Evaluation.heldout", "Evaluation.unrelated"),
            *(
                "ModelKnowledge.knowledge",
                "Teaching.knowledge",
                "Influence.facts",
                "Influence.facts_net",
            ),
            *("Depth.facts", "AttackRead.facts", "Examination.facts", "Examination.hidden"),
            "Examination.left",
        ),
        ("id",),
    ),
    **dict.fromkeys(
        ("Evaluation.others", "RunHeader.knowledge", "Unlearning.knowledge"), ("keep", "id")
    ),
    "RunHeader.stages": ("key",),
    "Influence.relations": ("text",),
    **dict.fromkeys(
        (
            *("Split.others", "Evaluation.utility", "StepLog.told", "Unlearning.budget"),
            *("Influence.map_plus", "Influence.map_minus", "Attributions.histogram"),
            *("Attributions.pearson", "Attributions.spearman", "AttackCurve.values"),
            *("MethodInfo.plugins", "RunHeader.versions", "RunHeader.machine", "RunHeader.sources"),
            "RunHeader.plugins",
        ),
        ("keep",),
    ),
}
# Settings whose values are words of ours; those of all others are digests.
SETTINGS: Final = frozenset(
    {
        *("attribution", "benchmark", "corpus", "methods", "name", "optimiser", "precision", "prompt"),
        *("protocol", "schedule", "scores", "spaces", "split"),
    }
)
WORDS: Final = frozenset({"none", "auto", "built-in", "given in memory", "default", "--set"})


def of_value(owner: str, name: str, field: FieldInfo) -> Rule:
    """Return the rule of a field's strings."""
    if name == "key" and owner not in ("Attempts",):
        return "key"  # of every stage
    return VALUES.get(f"{owner}.{name}", "text" if free(field.annotation) else "keep")


def of_keys(owner: str, name: str, field: FieldInfo) -> tuple[Rule, ...]:
    """Return the rules of the keys of a field that is a mapping, from the outer to the inner."""
    return KEYS.get(f"{owner}.{name}", ("text" if free_keys(field.annotation) else "keep",) * 2)


def free(annotation: Any) -> bool:
    """Whether a type leaves room for a text of any words among its values."""
    if annotation is str or annotation is Any:
        return True
    if get_origin(annotation) is Literal:
        return False
    parts = get_args(annotation)
    return any(free(part) for part in (parts[1:] if get_origin(annotation) is dict else parts))


def free_keys(annotation: Any) -> bool:
    """Whether a type is of a mapping, or holds one, whose keys may be any text."""
    parts = get_args(annotation)
    if get_origin(annotation) is dict and parts[0] is str:
        return True
    return any(free_keys(part) for part in parts if get_origin(annotation) is not Literal)
