"""Planted controls that were examined once are used again, over runs and audits.

They depend on the model as it was, the facts and the settings, and not on the model that is judged. So
their examination lies in the user's cache as well, a file for all that decides it, which only the user
can read. There is no text of a fact in it: facts are named by digests that nobody can make who does not
have all facts and the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ssiuu.errors import InputError, OutputError
from ssiuu.experiment.examine import Examiner
from ssiuu.models.load import cache_folder
from ssiuu.records.files import digest, read_record, write_record
from ssiuu.records.schema import Examination


def planted(examiner: Examiner, key: str, kept: Path | None = None) -> Examination:
    """Return the examination of planted controls; made where it is not in the cache.

    Args:
        examiner: Makes it; without `examine.reuse` the cache is left alone.
        key: Digest of all that decides it.
        kept: See `Examiner.plant`.
    """
    if not examiner.config.reuse:
        return examiner.plant(kept, key)
    place, names = _file(key), {id: digest(key, id) for id in examiner.plantable}
    if found := _cached(place, {name: id for id, name in names.items()}):
        examiner.progress(f"planted controls: as examined before ({place})")
        return found
    made = examiner.plant(kept, key)
    renamed = _renamed(made, names).model_copy(update={"key": place.stem})
    try:
        write_record(place, renamed, private=True)
    except OutputError as error:
        examiner.progress(f"planted controls: not kept for another time: {error}")
    return made


def _file(key: str) -> Path:
    return cache_folder() / "planted" / f"{digest('planted', key)}.json"


def _cached(place: Path, ids: Mapping[str, str]) -> Examination | None:
    """Return what a file holds, by the facts' ids; None where it is not there or not to be used."""
    try:
        found = read_record(place, Examination)
    except InputError:
        return None  # of another version, or damaged: it is made again
    if (
        found is None
        or found.key != place.stem
        or not {*found.facts, *found.hidden, *found.left} <= {*ids}
    ):
        return None
    return _renamed(found, ids)


def _renamed(found: Examination, names: Mapping[str, str]) -> Examination:
    parts = {name: getattr(found, name) for name in ("facts", "hidden", "left")}
    return found.model_copy(
        update={part: {names[id]: value for id, value in held.items()} for part, held in parts.items()}
    )
