"""The verdict: erased, hidden, not removed or undecided, from the record alone. Imports no torch.

The rules and their thresholds are explained in docs/verdict.md. They rest on behaviour (what the
model answers after unlearning and after each attack), never on the method's name. "Erased" means:
the attacks of this run did not bring it back. It is evidence, not proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ssiuu.analysis.scale import level, mean
from ssiuu.records.schema import Attack, Cell, Evaluation, FactScore, Verdict
from ssiuu.statistics import Interval, wilson

# A fact is "back" when an attack that did not train on it restores this share of the lost
# log-probability of its answer *and* ranks it first again (where ranking is scored).
RETURNED = 0.5
# It is "gone" when every attack restores less than this share.
GONE = 0.25
# Log-probability (nats) an answer must have lost for "removed" where it is still ranked first, which
# among three options happens by luck, or where ranking is not scored.
LOST = 1.0


def accuracy(scores: Iterable[FactScore]) -> float | None:
    """Return the share ranked first on the base question, over the facts that were scored."""
    return mean(score.correct for score in scores)


def way_back(before: float, after: float, attacked: float) -> float | None:
    """Return the share of a lost log-probability that an attack restored; None if none was lost."""
    lost = before - after
    return (attacked - after) / lost if lost > 0 else None


def common_pool(attacks: Iterable[Attack]) -> set[str]:
    """Return the facts that every attack was scored on and none trained on."""
    attacks = list(attacks)
    if not attacks:
        return set()
    pool = set.intersection(*(set(attack.pool) for attack in attacks))
    return pool - {fact for attack in attacks for fact in attack.trained}


def ranking(attacks: Iterable[Attack]) -> list[Attack]:
    """Return the attacks whose readings say whether the answer is ranked first.

    Others are shown beside the verdict: chance and the original score are no measure for them.
    """
    return [attack for attack in attacks if attack.scored in ("written", "ranking")]


def attack_accuracy(attack: Attack, read: int, pool: Iterable[str]) -> float | None:
    """Return the accuracy over `pool` at the read with this index; None if nothing is scored."""
    return level(attack, read, pool)


def fact_verdict(before: FactScore, after: FactScore, attacks: Iterable[Attack], fact: str) -> Verdict:
    """Judge one fact (rules F1-F4 in docs/verdict.md).

    Args:
        before: The fact under the original model.
        after: The fact under the unlearned model.
        attacks: The attacks of the cell; those that trained on this fact are left out.
        fact: The fact's id.
    """
    return judge(fact_evidence(before, after, attacks, fact))


class FactEvidence(NamedTuple):
    """What the rules look at.

    `removed`: F1 does not hold. `first`: the answer is still ranked first in at least half of the
    phrasings. `lost`: log-probability the answer lost, nats. `back`: the largest share of it that an
    attack restored with the answer ranked first (or not scored). `most`: the largest share in any
    reading. None: no attack that left this fact out was read, or nothing was lost.
    """

    removed: bool
    first: bool
    lost: float
    back: float | None
    most: float | None


def fact_evidence(
    before: FactScore, after: FactScore, attacks: Iterable[Attack], fact: str
) -> FactEvidence:
    """Return what decides about one fact; arguments as for `fact_verdict`."""
    asked = [after.correct, *after.paraphrases]
    scored = [bool(answer) for answer in asked if answer is not None]
    lost = before.logprob - after.logprob
    first = bool(scored) and sum(scored) * 2 >= len(scored)
    rarer = lost >= LOST and after.free_correct is not True
    shares: list[tuple[float, bool]] = []
    for attack in ranking(attacks):
        if fact in attack.trained or fact not in attack.reads[-1].facts:
            continue
        for reading in (read.facts[fact] for read in attack.reads[1:]):
            share = way_back(before.logprob, after.logprob, reading.logprob)
            if share is not None:
                shares.append((share, reading.correct is not False))
    return FactEvidence(
        removed=rarer or (bool(scored) and not first),
        first=first,
        lost=lost,
        back=max((share for share, first in shares if first), default=None),
        most=max((share for share, _ in shares), default=None),
    )


def judge(found: FactEvidence, returned: float = RETURNED, gone: float = GONE) -> Verdict:
    """Return the verdict under these thresholds."""
    if not found.removed:
        return "not removed"
    if found.back is not None and found.back >= returned:
        return "hidden"
    if found.most is not None and found.most < gone and not found.first:
        return "erased"
    return "undecided"


def strongest(cell: Cell) -> tuple[Attack, int, float] | None:
    """Return the attack, the read and the accuracy of the highest level over the common pool."""
    pool = common_pool(cell.attacks)
    best = None
    for attack in ranking(cell.attacks):
        for index in range(1, len(attack.reads)):
            level = attack_accuracy(attack, index, pool)
            if level is not None and (best is None or level > best[2]):
                best = (attack, index, level)
    return best


def level_interval(cell: Cell) -> Interval | None:
    """Return the strongest attack's level with an interval widened for the number of curves."""
    best = strongest(cell)
    if best is None:
        return None
    attack, index, level = best
    facts = attack.reads[index].facts
    pool = [i for i in common_pool(cell.attacks) if facts[i].correct is not None]
    return wilson(round(level * len(pool)), len(pool), looks=len(ranking(cell.attacks)))


def still_known(evaluation: Evaluation) -> Interval:
    """Return the forget score after unlearning with its 95 % interval."""
    scored = [s.correct for s in evaluation.forget.values() if s.correct is not None]
    return wilson(sum(scored), len(scored))


def cell_verdict(
    original: Evaluation | None, cell: Cell, chance: float | None, reference: float | None = None
) -> Verdict:
    """Judge one unlearned model (rules M1-M4 in docs/verdict.md).

    Args:
        original: Scores of the model before unlearning.
        cell: Everything measured for the unlearned model.
        chance: Accuracy of guessing; None where ranking is not scored.
        reference: Level of a never-learned control after the same attacks, instead of chance.
    """
    if original is None or cell.evaluation is None:
        return "undecided"
    before = accuracy(original.forget.values())
    after = accuracy(cell.evaluation.forget.values())
    if before is None or after is None or chance is None:
        return _by_majority(original, cell)
    floor = chance if reference is None else reference
    if still_known(cell.evaluation).low > chance:
        return "not removed"
    interval = level_interval(cell)
    if interval is None:
        return "undecided"
    if interval.low > floor:
        return "hidden"
    if interval.high < (before + floor) / 2:
        return "erased"
    return "undecided"


def _by_majority(original: Evaluation, cell: Cell) -> Verdict:
    """Judge a model whose facts have no options: the verdict of more than half of its facts."""
    verdicts = list(fact_verdicts(original, cell).values())
    for verdict in set(verdicts):
        if verdicts.count(verdict) * 2 > len(verdicts):
            return verdict
    return "undecided"


def fact_verdicts(original: Evaluation, cell: Cell) -> Mapping[str, Verdict]:
    """Judge every forget fact of a cell."""
    if cell.evaluation is None:
        return {}
    return {
        fact: fact_verdict(original.forget[fact], after, cell.attacks, fact)
        for fact, after in cell.evaluation.forget.items()
    }


def reference_level(cells: Iterable[Cell], seed: int) -> float | None:
    """Return the never-learned control's level after its strongest attack; None without one."""
    for cell in cells:
        if cell.method.name == "never-learned" and cell.seed == seed:
            best = strongest(cell)
            return best[2] if best else None
    return None
