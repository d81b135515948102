"""Is the right answer ranked first among its options?"""

from __future__ import annotations

from ssiuu.analysis.score import ScoreColumns


class RankingColumns(ScoreColumns):
    """The columns that every run has, and no more."""

    name = "ranking"
    summary = "accuracy: is the answer the most probable of its options"
