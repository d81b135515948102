"""Short answers whose written form counts in every set, as RWKU has it; attacks are read by ranking."""

from __future__ import annotations

from ssiuu.evaluation.scores.ranking import Ranking


class Rouge(Ranking):
    """Scored as in ranking; reports take the ROUGE-L recalls of all sets from the written answers."""

    name = "rouge"
