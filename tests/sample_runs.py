"""Made-up runs as folders on the disk, for what reads several of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssiuu.records.files import cell_folder, digest, keyed, write_record
from ssiuu.records.schema import RunRecord, Stage


def write_run(record: RunRecord, folder: Path) -> Path:
    """Write a run so that `load_run` reads the same."""
    stages: dict[str, str] = {}

    def put(name: str, stage: Stage | None) -> None:
        if stage is None:
            return
        key = digest(name, stage.model_dump(mode="json", exclude={"key"}))
        stages[keyed(name, key)] = key
        write_record(folder / keyed(name, key), stage.model_copy(update={"key": key}))

    put("original", record.original)
    put("planted", record.planted)
    for cell in record.cells:
        place = cell_folder(cell.method.label, cell.seed).as_posix()
        put(f"{place}/unlearn", cell.unlearning)
        put(f"{place}/evaluate", cell.evaluation)
        put(f"{place}/diagnose", cell.diagnosis)
        put(f"{place}/examine", cell.examination)
        for attack in cell.attacks:
            put(f"{place}/attack-{attack.name}-{attack.learning_rate}", attack)
    write_record(folder / "run.json", record.header.model_copy(update={"stages": stages}))
    return folder


def with_header(record: RunRecord, **changes: Any) -> RunRecord:
    """Return a run with another header."""
    return record.model_copy(update={"header": record.header.model_copy(update=changes)})


def driven(record: RunRecord, **settings: Any) -> RunRecord:
    """Return a run that drove unlearning otherwise."""
    unlearn = {**record.header.config["unlearn"], **settings}
    return with_header(record, config={**record.header.config, "unlearn": unlearn})


def only(record: RunRecord, *labels: str) -> RunRecord:
    """Return a run of these methods alone."""
    cells = [cell for cell in record.cells if cell.method.label in labels]
    methods = [cell.method for cell in cells]
    return with_header(record.model_copy(update={"cells": cells}), methods=methods)


def on_another(record: RunRecord, name: str = "fictional") -> RunRecord:
    """Return a run of another benchmark."""
    benchmark = record.header.benchmark.model_copy(update={"name": name, "fingerprint": "77" * 32})
    return with_header(record, benchmark=benchmark)
