"""Several processes lead to what a single one does: methods, their forms, adapters, odd sizes."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ssiuu.errors import DataError
from ssiuu.models import shards

sys.path.insert(0, str(Path(__file__).parents[1]))

from distributed.cases import compare
from distributed.forked import Forked
from distributed.table import EVERY, FEW, REFUSED, Case

CLOSE = {"float64": 1e-9, "float32": 1e-4}


def together(folder: Path, cases: dict[str, Case], processes: int, replicate: int = 1) -> Any:
    """Run cases in a single process and in several; return how far they are apart."""
    out = folder / "apart.json"
    begun = Forked(folder, processes, partial(compare, out, cases, replicate))
    assert begun.done(3000) == 0, begun.told()[-3000:] + begun.told(1)[-3000:]
    return json.loads(out.read_text())


def check(found: Any, cases: dict[str, Case]) -> None:
    far = {}
    for name, case in cases.items():
        if "refused" in found[name]:
            continue
        close = CLOSE[case.get("dtype", "float64")]
        worst = max(found[name]["apart"], found[name]["told"])
        if not worst <= close:
            far[name] = worst
    assert not far


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    found = together(tmp_path, FEW, 2)
    check(found, FEW)
    assert {name for name in found if "refused" in found[name]} == REFUSED
    assert all(found[name]["refused"].count("\n") == 0 for name in REFUSED)


def _dealing() -> int:
    """Deal work out as one of two processes."""
    shards.join()

    def failing(number: int) -> int:
        if number == 3:
            raise DataError(f"{number} cannot be read")
        return number

    assert shards.dealt(range(5), lambda n: (n, shards.rank())) == [(n, n % 2) for n in range(5)]
    with pytest.raises(DataError, match="3 cannot be read"):
        shards.dealt(range(5), failing)
    assert shards.dealt(range(1), lambda n: shards.dealt(range(n + 2), failing)) == [[0, 1]]
    assert shards.dealt([], failing) == []
    assert [*shards.in_turns(range(5), lambda n: (n, shards.rank()))] == [(n, n % 2) for n in range(5)]
    assert shards.by_turns(shards.rank) == shards.rank()
    with pytest.raises(DataError, match="3 cannot be read"):
        shards.by_turns(lambda: failing(2 + shards.rank()))
    shards.end()
    return 0


def test_what_is_dealt_out_comes_back_in_order(tmp_path: Path) -> None:
    begun = Forked(tmp_path, 2, _dealing)
    assert begun.done() == 0, begun.told() + begun.told(1)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_every_method_and_form(processes: int, tmp_path: Path) -> None:
    check(together(tmp_path, EVERY, processes), EVERY)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_models_that_stay_in_shards(processes: int, tmp_path: Path) -> None:
    """Methods, forms and adapters, of a model that is never whole."""
    cases = {name: {**case, "divided": True} for name, case in FEW.items()}
    check(together(tmp_path, cases, processes), cases)


@pytest.mark.slow
@pytest.mark.parametrize("divided", [False, True])
def test_two_copies_over_two_processes_each(divided: bool, tmp_path: Path) -> None:
    cases = {name: {**case, "divided": divided} for name, case in FEW.items()}
    check(together(tmp_path, cases, 4, replicate=2), cases)
