"""Short answers whose written form counts in every set, as RWKU has it; attacks are read by ranking."""

from __future__ import annotations

from ssiuu.analysis.scores.rouge import RougeColumns
from ssiuu.evaluation.scores.ranking import Ranking


class Rouge(RougeColumns, Ranking):
    """Scored as in ranking; reports take the ROUGE-L recalls of all sets from the written answers."""
