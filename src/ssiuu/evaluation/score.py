"""Score a model on short answers: ranking in every phrasing, answer log-probability, free answer."""

from __future__ import annotations

from collections.abc import Sequence

from ssiuu.causal import CausalLM
from ssiuu.evaluation.ask import Asked, Question, ask
from ssiuu.evaluation.first import decide, decides_alone
from ssiuu.evaluation.match import holds
from ssiuu.evaluation.rouge import rouge_recall
from ssiuu.likelihood import Prompt
from ssiuu.records.schema import FactScore, FactText

# Tokens a free answer may be longer than the right one.
FREE_MARGIN = 16  # "The capital of Italy is Rome."


def score_facts(
    model: CausalLM,
    prompt: Prompt,
    facts: Sequence[FactText],
    paraphrases: bool = True,
    free: bool = True,
    other: Prompt | None = None,
) -> dict[str, FactScore]:
    """Score facts in one pass; keys are fact ids.

    Args:
        model: The model, in evaluation mode.
        prompt: How questions become tokens.
        facts: With their options, the answer first; no options: ranking is left unscored.
        paraphrases: Ask every paraphrase, multi-hop and same-answer question too.
        free: Write a free answer to the base question.
        other: Another form to ask the base question in as well.
    """
    apart = decides_alone()
    questions: list[Question] = []
    beside: list[Question] = []  # of which only the decision is kept
    bases: list[Question] = []
    others: list[Question] = []
    for fact in facts:
        options = fact.options or [fact.answer]
        bases.append(_base(prompt, fact, free))
        questions.append(bases[-1])
        if other is not None:
            others.append(_base(other, fact, free))
            questions.append(others[-1])
        if paraphrases:
            probes = (*fact.multi_hop, *fact.same_answer)
            asked = [(text, options) for text in fact.paraphrases]
            asked += [(probe.question, probe.options or [probe.answer]) for probe in probes]
            (beside if apart else questions).extend(Question.of(prompt.joint(*row)) for row in asked)
    answers = iter(ask(model, prompt, questions))
    decided = iter(decide(model, beside)) if apart else (answer.first for answer in answers)
    scores = {}
    for i, fact in enumerate(facts):
        score = _score(prompt, fact, bases[i], next(answers))
        if other is not None:
            again = _score(other, fact, others[i], next(answers))
            otherwise = {"form": again.correct, "text": again.free_text, "free": again.free_correct}
            score = score.model_copy(update={f"other_{key}": value for key, value in otherwise.items()})
        if paraphrases:
            kinds = ("paraphrases", "multi_hop", "same_answer")
            ranked = {kind: [next(decided) for _ in getattr(fact, kind)] for kind in kinds}
            score = score.model_copy(update=ranked)
        scores[fact.id] = score
    return scores


def _base(prompt: Prompt, fact: FactText, free: bool) -> Question:
    joint = prompt.joint(fact.question, fact.options or [fact.answer])
    question = Question.of(joint)
    return question.free(prompt, joint, FREE_MARGIN) if free else question


def _score(prompt: Prompt, fact: FactText, base: Question, asked: Asked) -> FactScore:
    text = prompt.text(asked.free, base.ending) if base.generate else None
    return FactScore(
        correct=asked.first,
        logprob=asked.logprob,
        tokens=asked.tokens,
        free_text=text,
        free_correct=holds(fact.answer, text) if text is not None else None,
        rouge=rouge_recall(fact.answer, text) if text is not None else None,
    )
