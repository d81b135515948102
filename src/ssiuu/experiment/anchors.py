"""The texts and instructions that the second retain term holds a model to.

None of them is among those that the divergence is measured on.
"""

from __future__ import annotations

import random

from ssiuu.benchmarks import instructions, texts
from ssiuu.likelihood import Example, Prompt

ROWS = 48  # of each kind: a run of forty steps draws about as many
TOKENS = 32  # of a text
ANSWER = 16  # of an instruction's answer
MEASURED = 100  # instructions that the divergence is measured on


def anchors(prompt: Prompt, context: int, seed: int) -> list[Example]:
    """Return texts, predicted from their first token on, and instructions with their answers.

    Args:
        prompt: How an instruction becomes a question.
        context: Longest sequence of the model, tokens.
        seed: Which instructions.
    """
    made = []
    for text in texts.anchor()[:ROWS]:
        ids = prompt.sentence(text.text)[: min(TOKENS + 1, context)]
        made.append(Example(f"text:{text.id}", ids[:1], ids[1:]))
    measured = {row.instruction for row in instructions.brief(MEASURED)}
    rows = [row for row in instructions.load() if row.instruction not in measured]
    for number, row in enumerate(random.Random(f"anchors:{seed}").sample(rows, min(ROWS, len(rows)))):
        joint = prompt.joint(row.instruction, [row.output])
        if len(joint.prompt) + ANSWER <= context:
            made.append(Example(f"text:instruction:{number}", joint.prompt, joint.answers[0][:ANSWER]))
    return [example for example in made if example.answer]
