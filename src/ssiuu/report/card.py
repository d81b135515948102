"""The model card saved with a checkpoint: what was done to it, what that led to, what is not known.

No fact stands in it, only how many there were. The licence is that of the model before, where its own
card names one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssiuu.config import read_yaml
from ssiuu.errors import SsiuuError
from ssiuu.records.schema import ModelInfo, Unlearning
from ssiuu.report.outcome import outcome

CARD = "README.md"
CARRIED = ("license", "license_name", "license_link", "language")
ADAPTER = """It is of use only on that model, and without it the facts are said as before:

```python
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("THIS")
```
"""
WARNINGS = {
    "not forgotten": "**This model still has facts that it was made to forget.** It did not reach the "
    "threshold that was set, and was kept all the same (`--keep-anyway`).",
    "forgotten at a cost": "**This model lost more than the facts that it was made to forget.** It "
    "passed a limit on what should stay, and was kept all the same (`--keep-anyway`).",
}
LIMITS = """## What is not known

- An answer that is not given any more may only be hidden: this card says nothing of that. An audit
  does: `ssiuu audit --before BEFORE --after THIS --forget FACTS --out audit`.
- What was measured is what stands above. Bias, safety and other abilities were not.
- Whoever has the model before still has the facts."""


def model_card(
    record: Unlearning,
    model: ModelInfo,
    hub: str,
    version: str,
    before: Mapping[str, Any],
    adapter: bool = False,
) -> str:
    """Return the card of a checkpoint as Markdown with a head in YAML.

    Args:
        record: How it was unlearned.
        model: The model before.
        hub: Its name on the hub; empty where it is a folder, whose place nobody else need know.
        version: Of ssiuu.
        before: What the card of the model before has in its head (`card_head`).
        adapter: It is saved as an adapter alone, which changes the model before where it is loaded.
    """
    from huggingface_hub import ModelCardData

    carried: dict[str, Any] = {key: before[key] for key in CARRIED if before.get(key)}
    base = hub or before.get("base_model")
    name = hub or Path(model.name).name
    result = record.outcome
    state = result.state if result is not None else "forgotten"
    data = ModelCardData(
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["machine-unlearning", "ssiuu", *(["not-forgotten"] if state in WARNINGS else [])],
        ignore_metadata_errors=True,
        **carried | ({"base_model": base} if base else {}),
    )
    facts = result.facts if result is not None else 0
    licence = carried.get("license")
    kind = "An adapter of" if adapter else "Made from"
    made = f"{state}:" if state in WARNINGS else "made to forget"
    return "\n".join(
        [
            f"---\n{data.to_yaml()}\n---",
            f"# {name}, {made} {facts} fact{'s' * (facts != 1)}\n",
            *([f"{WARNINGS[state]}\n"] if state in WARNINGS else []),
            f"{kind} `{name}` ({model.parameters:,} parameters) by ssiuu {version}, "
            f"method `{record.method.label}`: {record.method.description}.\n",
            *([f"Of the model before: {model.note}.\n"] if model.note else []),
            *([ADAPTER] if adapter else []),
            "## What it led to\n",
            *(f"- {line}" for line in outcome(record)),
            f"- {len(record.steps)} steps, seed {record.seed}; not audited when this was written\n",
            LIMITS,
            "\n## Licence\n",
            f"`{licence}`, as its card says of the model before."
            if licence
            else "That of the model before, whose files name none that could be carried over.",
            "",
        ]
    )


def card_head(file: Path) -> dict[str, Any]:
    """Return what a model's card has in its head; nothing where there is none to read."""
    try:
        _, head, _ = file.read_text(encoding="utf-8").split("---\n", 2)
        values = read_yaml(head, CARD)
    except (OSError, ValueError, SsiuuError):
        return {}
    return values if isinstance(values, dict) else {}
