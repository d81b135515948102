"""Score a model on answers of whole sentences, as TOFU does: every score of a fact from one pass.

A fact is asked with its right answer, that answer in other words, and wrong answers of the same
form; all share one reading of the question. Probability and truth ratios count the end token as one of
an answer's, everything else leaves it out. The formulas are in ssiuu.statistics.tofu.
Departures: an answer is written up to 32 tokens longer than the right one, not up to 200.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ssiuu.analysis.scores.sentences import SentenceColumns
from ssiuu.causal import CausalLM
from ssiuu.errors import DataError
from ssiuu.evaluation.ask import write
from ssiuu.evaluation.fluency import Fluency
from ssiuu.evaluation.match import holds
from ssiuu.evaluation.rouge import rouge_recall
from ssiuu.evaluation.scores.base import Score, Stop
from ssiuu.evaluation.sequence import SequenceScore, score_sequences
from ssiuu.likelihood import Ending, Example, Prompt
from ssiuu.likelihood.prompt import WHOLE_TURN
from ssiuu.records.schema import Evaluation, FactScore, FactText, Reading, Split
from ssiuu.statistics.tofu import (
    normalised_probability,
    probability,
    truth_ratio,
    truth_ratio_geometric,
)

ROTATIONS = 10  # wrong partners of each answer behind the stop threshold
MARGIN = 32  # tokens an answer may be longer than the right one: a name may come within a sentence


@dataclass(frozen=True)
class Conventions:
    """What published codes do differently where the definitions say the same.

    Attributes:
        epsilon: Added to denominators.
        tokens: Of a written answer, at most, to the end token whatever its lines; None: `MARGIN` more
            than the right one's, and as many lines.
        rouge: How a written answer is compared with the right one.
        least: Extraction strength of n tokens where not even the last is the likeliest: 1/n, not 0.
    """

    epsilon: float = 0.0
    tokens: int | None = None
    rouge: Callable[[str, str], float] = rouge_recall
    least: bool = False


OURS = Conventions()


class Sentences(Score, SentenceColumns):
    """TOFU's scores of whole sentences, among wrong sentences of the same form.

    Args:
        fluency: What judges the written answers to the forget set; None: nothing does.
    """

    conventions: ClassVar[Conventions] = OURS

    def __init__(self, fluency: Fluency | None = None) -> None:
        self.fluency = fluency

    def evaluate(self, model: CausalLM, prompt: Prompt, split: Split) -> Evaluation:
        """See `Score`; where there is a judge, it reads the answers to the forget set."""
        found = super().evaluate(model, prompt, split)
        if self.fluency is None:
            return found
        judged = self.fluency.probabilities([s.free_text or "" for s in found.forget.values()])
        forget = {
            fact: score.model_copy(update={"fluency": fluent})
            for (fact, score), fluent in zip(found.forget.items(), judged, strict=True)
        }
        return found.model_copy(update={"forget": forget})

    def score(
        self,
        model: CausalLM,
        prompt: Prompt,
        facts: Sequence[FactText],
        paraphrases: bool = False,
        free: bool = True,
        normalise: bool = False,
        other: Prompt | None = None,
    ) -> dict[str, FactScore]:
        """See `Score`; an answer is always written, and options are ranked after paraphrases."""
        kept = self.conventions
        return score_sentences(model, prompt, facts, paraphrases, normalise, other, kept)

    def read(self, model: CausalLM, prompt: Prompt, facts: Sequence[FactText]) -> dict[str, Reading]:
        """Read ranking, log-probability, and the ROUGE-L recall of the written answer."""
        scores = _sequences(model, prompt, [(f.question, f.options or [f.answer]) for f in facts])
        recalls = rouge_recalls(model, prompt, facts, self.conventions)
        last, readings = len(prompt.end), {}
        for fact, ended, recall in zip(facts, scores, recalls, strict=True):
            options = [option.without(last) for option in ended]
            logprob = options[0].logprob
            readings[fact.id] = Reading(correct=_first(options), logprob=logprob, rouge=recall)
        return readings

    def reading(self, fact: FactText, score: FactScore) -> Reading:
        """Return ranking, log-probability and ROUGE-L recall."""
        return Reading(correct=score.correct, logprob=score.logprob, rouge=score.rouge)

    def stop(self, model: CausalLM, prompt: Prompt, facts: Sequence[FactText], seed: int) -> Stop:
        """Return the mean ROUGE-L recall of the written answers."""

        def recall() -> float:
            recalls = rouge_recalls(model, prompt, facts, self.conventions)
            return sum(recalls) / len(recalls)

        return Stop("rouge", recall, mismatched_rouge(facts, seed, self.conventions.rouge))


def score_sentences(
    model: CausalLM,
    prompt: Prompt,
    facts: Sequence[FactText],
    paraphrases: bool = False,
    normalise: bool = False,
    other: Prompt | None = None,
    conventions: Conventions = OURS,
) -> dict[str, FactScore]:
    """Score facts that have perturbed answers; keys are fact ids.

    Args:
        model: The model, in evaluation mode.
        prompt: How questions become tokens.
        facts: With perturbed answers.
        paraphrases: Rank the options after every paraphrased question too.
        normalise: Take the probability over the right and the perturbed answers.
        other: Another form to ask the base question in as well: ranking and written answer.
        conventions: Of whose code.
    """
    judged = [
        (fact.question, [fact.answer, fact.paraphrased_answer or fact.answer, *fact.perturbed])
        for fact in facts
    ]
    ranked = [(fact.question, fact.options) for fact in facts]
    paraphrased = [(text, f.options) for f in facts for text in (f.paraphrases if paraphrases else ())]
    scores = _sequences(model, prompt, [*judged, *ranked, *paraphrased])
    texts = write_answers(model, prompt, facts, conventions)
    last, epsilon = len(prompt.end), conventions.epsilon
    firsts = [_first([option.without(last) for option in options]) for options in scores]
    rest = iter(firsts[2 * len(facts) :])
    fact_scores = {}
    for fact, answers, first, text in zip(facts, scores, firsts[len(facts) :], texts, strict=False):
        right, reworded, *wrong = (answer.per_token for answer in answers)
        answer = answers[0].without(last)
        fact_scores[fact.id] = FactScore(
            correct=first,
            paraphrases=[next(rest) for _ in (fact.paraphrases if paraphrases else ())],
            logprob=answer.logprob,
            tokens=answer.tokens,
            free_text=text,
            free_correct=holds(fact.answer, text),
            probability=normalised_probability(right, wrong, epsilon)
            if normalise
            else probability(right),
            reworded_probability=probability(reworded),
            wrong_probability=sum(map(probability, wrong)) / len(wrong),
            rouge=conventions.rouge(fact.answer, text),
            truth_ratio=truth_ratio(reworded, wrong),
            truth_ratio_geometric=truth_ratio_geometric(reworded, wrong, epsilon),
            extraction_strength=max(answer.extraction_strength, 1 / answer.tokens)
            if conventions.least
            else answer.extraction_strength,
            exact_memorisation=answer.exact_memorisation,
        )
    if other is not None:
        for id, again in _asked_otherwise(model, other, facts).items():
            fact_scores[id] = fact_scores[id].model_copy(update=again)
    return fact_scores


def _asked_otherwise(
    model: CausalLM, prompt: Prompt, facts: Sequence[FactText]
) -> dict[str, dict[str, bool | str | None]]:
    """Return what the base questions get in another form, by fact id."""
    last, answers = len(prompt.end), {}
    scores = _sequences(model, prompt, [(fact.question, fact.options) for fact in facts])
    for fact, ended, text in zip(facts, scores, write_answers(model, prompt, facts), strict=True):
        first = _first([option.without(last) for option in ended])
        correct = holds(fact.answer, text)
        answers[fact.id] = {"other_form": first, "other_text": text, "other_free": correct}
    return answers


def mismatched_rouge(
    facts: Sequence[FactText], seed: int, rouge: Callable[[str, str], float] = rouge_recall
) -> float:
    """Return the mean ROUGE-L (recall, or what is given) of answers against answers to other questions.

    This is where an answer that is right only in form stands, and where unlearning stops. The facts
    are put in a circle in an order drawn from the seed, and each answer meets those of the next
    few questions.

    Raises:
        DataError: There is only one fact.
    """
    if len(facts) < 2:
        raise DataError("a forget set of at least 2 questions is needed, to tell answers from others.")
    answers = [fact.answer for fact in facts]
    random.Random(f"mismatched:{seed}").shuffle(answers)
    shifts = range(1, min(ROTATIONS, len(answers) - 1) + 1)
    recalls = [
        rouge(answer, answers[(place + shift) % len(answers)])
        for shift in shifts
        for place, answer in enumerate(answers)
    ]
    return sum(recalls) / len(recalls)


def rouge_recalls(
    model: CausalLM, prompt: Prompt, facts: Sequence[FactText], conventions: Conventions = OURS
) -> list[float]:
    """Return the ROUGE-L recall of every written answer."""
    texts = write_answers(model, prompt, facts, conventions)
    return [conventions.rouge(fact.answer, text) for fact, text in zip(facts, texts, strict=True)]


def write_answers(
    model: CausalLM, prompt: Prompt, facts: Sequence[FactText], conventions: Conventions = OURS
) -> list[str]:
    """Return the greedy answer to every base question."""
    joints = [prompt.joint(fact.question, [fact.answer]) for fact in facts]
    endings = [prompt.ending(joint.answers[0]) for joint in joints]
    limits = [len(joint.answers[0]) + MARGIN for joint in joints]
    if conventions.tokens is not None:
        endings, limits = [Ending(WHOLE_TURN)] * len(facts), [conventions.tokens] * len(facts)
    written = write(model, prompt, [joint.alone for joint in joints], limits, endings=endings)
    return [prompt.text(ids, ending) for ids, ending in zip(written, endings, strict=True)]


def _sequences(
    model: CausalLM, prompt: Prompt, questions: Sequence[tuple[str, list[str]]]
) -> list[list[SequenceScore]]:
    """Score the answers of every question, each with its end token.

    The same answer to the same question is read only once.
    """
    pairs = list(dict.fromkeys((question, text) for question, texts in questions for text in texts))
    joints = [prompt.joint(question, [text]) for question, text in pairs]
    examples = [Example("", joint.prompt, joint.answers[0] + prompt.end) for joint in joints]
    scores = dict(zip(pairs, score_sequences(model, examples), strict=True))
    return [[scores[question, text] for text in texts] for question, texts in questions]


def _first(options: Sequence[SequenceScore]) -> bool | None:
    """Return whether the first option has the highest mean log-probability of a token."""
    if len(options) < 2:
        return None
    return options[0].per_token > max(option.per_token for option in options[1:])
