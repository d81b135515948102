"""What reports must know of a score, in one class a score: its columns, and how attacks are read by it.

    class Perplexity(ScoreColumns):
        name = "perplexity"
        summary = "..."

        def columns(self, others): return [Column("forget_perplexity", ...)]

A record names its score (`RunHeader.score`), and every output finds its columns by that name. How a
model is scored needs torch and is written in a class that derives from this one (`ssiuu.evaluation`);
a package adds one class for both, by the entry-point group `ssiuu.scores`. To keep reports fast, such a
module imports torch inside the methods that need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ssiuu.analysis.column import Column
from ssiuu.analysis.scale import FREE, RANKING, Scale
from ssiuu.records.schema import AttackCurve, Cell, RunRecord


class ScoreColumns:
    """A score as reports see it; what is given here is right for one that ranks options.

    Attributes:
        name: As it stands in the record.
        summary: What it is, in one line.
        scale: What models are judged on, and attacks that read by the run's score.
        forget: Key of the column that is to fall.
        kept: Key of the column that is to stay.
        told: What its columns are, where the page is to say how they changed; empty: it is not.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    scale: ClassVar[Scale] = RANKING
    forget: ClassVar[str] = "forget"
    kept: ClassVar[str] = "heldout"
    told: ClassVar[str] = ""

    def columns(self, others: Sequence[str]) -> list[Column]:
        """Return its columns beside those that every run has.

        Args:
            others: Names of the run's further sets.
        """
        return []

    def scale_of(self, attack: AttackCurve) -> Scale:
        """Return the scale that an attack's readings are on."""
        return {"free": FREE, "ranking": RANKING}.get(attack.scored, self.scale)

    def guessing(self, record: RunRecord, cell: Cell) -> float | None:
        """Return the accuracy of guessing; None where nothing is ranked."""
        return record.header.chance

    def notes(self, record: RunRecord) -> dict[str, str]:
        """Return what a reader must know of its columns, by their group."""
        return {}
