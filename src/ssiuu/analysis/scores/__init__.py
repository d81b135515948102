"""The scores, one a file, found by the name in a record."""

from __future__ import annotations

from ssiuu.analysis.score import ScoreColumns
from ssiuu.analysis.scores.choices import ChoiceColumns
from ssiuu.analysis.scores.open_unlearning import OpenUnlearningColumns
from ssiuu.analysis.scores.ranking import RankingColumns
from ssiuu.analysis.scores.rouge import RougeColumns
from ssiuu.analysis.scores.sentences import SentenceColumns
from ssiuu.analysis.scores.texts import TextColumns
from ssiuu.plugins import Registry
from ssiuu.records.schema import RunRecord

BUILT_IN: tuple[type[ScoreColumns], ...] = (
    RankingColumns,
    SentenceColumns,
    RougeColumns,
    TextColumns,
    ChoiceColumns,
    OpenUnlearningColumns,
)
SCORES: Registry[ScoreColumns] = Registry("score", "ssiuu.scores", ScoreColumns, BUILT_IN)


def score_of(record: RunRecord) -> ScoreColumns:
    """Return the score of a run.

    Raises:
        ConfigError: It is of a package that is not installed here.
    """
    name = record.header.score
    package = record.header.plugins.get(f"score {name}")
    return SCORES.get(name, f"in the record{f' (it is of {package})' if package else ''}")()
