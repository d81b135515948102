"""What an examination has read so far, in a file: interrupted, the same one goes on behind it.

    kept = Kept(path, key, model)
    found = kept.of("related 0.0001") or kept.add("related 0.0001", attack())
    remove(path)    # once the record is written

A thorough examination trains its attackers for hours, each from the weights that are examined, and
nothing of an attacker is left but what was read. Between two saves lies a minute at least.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from ssiuu.causal import CausalLM
from ssiuu.errors import DivergedError, InputError
from ssiuu.models import shards
from ssiuu.models.load import weights_digest
from ssiuu.records.files import read_record, write_record
from ssiuu.records.schema import PlaceReading, Unfinished

SUFFIX = ".unfinished.json"
SAVE_EVERY = 60.0  # seconds


class Kept:
    """Readings of one examination by who attacked, those of an earlier process among them.

    `notes`: of the examination; restored in place.
    """

    def __init__(self, path: Path | None, key: str, model: CausalLM) -> None:
        """Take up what is in the file, where it is of this examination and of these weights.

        Args:
            path: The file; None, or of several processes, nothing is kept.
            key: Of all that decides the examination.
            model: Examined; whenever something is added it has the same weights again.
        """
        self.path, self.key, self.model = path if shards.world() == 1 else None, key, model
        self.found: dict[str, list[PlaceReading]] = {}
        self.notes: list[str] = []
        self._weights: str | None = None
        self._saved = time.monotonic()
        if self.path is None or not self.path.exists():
            return
        with suppress(InputError):  # damaged, or of another version: it is read again
            before = read_record(self.path, Unfinished)
            self._weights = weights_digest(model)
            if before is not None and (before.key, before.weights) == (key, self._weights):
                self.found, self.notes = before.readings, before.notes

    def of(self, name: str) -> list[PlaceReading] | None:
        """Return what was read along an attacker; None where that is not there."""
        return self.found.get(name)

    def add(self, name: str, readings: list[PlaceReading]) -> list[PlaceReading]:
        """Keep what was read along an attacker, and return it."""
        self.found[name] = readings
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save()
        return readings

    def save(self) -> None:
        """Write the file; what is not finite is not kept."""
        if self.path is None or not self.found:
            return
        self._weights = self._weights or weights_digest(self.model)
        now = Unfinished(key=self.key, weights=self._weights, readings=self.found, notes=self.notes)
        with suppress(DivergedError):
            write_record(self.path, now)
        self._saved = time.monotonic()


def beside(path: Path) -> Path:
    """Return where the readings of an examination are kept until its record is there."""
    return path.with_suffix(SUFFIX)


def remove(path: Path) -> None:
    """Remove what was kept of an examination whose record is written, and under other settings."""
    if shards.rank() == 0:
        for file in path.parent.glob(f"{path.name.partition('-')[0]}-*{SUFFIX}"):
            file.unlink(missing_ok=True)
