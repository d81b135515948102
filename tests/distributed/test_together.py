"""Several processes lead to what a single one does: methods, their forms, adapters, odd sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from distributed.table import EVERY, FEW, REFUSED, Case

CASES = Path(__file__).with_name("cases.py")
CLOSE = {"float64": 1e-9, "float32": 1e-4}


def together(folder: Path, cases: dict[str, Case], processes: int, replicate: int = 1) -> Any:
    """Run cases in a single process and in several; return how far they are apart."""
    given, out = folder / "cases.json", folder / "apart.json"
    given.write_text(json.dumps(cases))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={processes}", str(CASES), str(out), str(given)),
        ],
        env=os.environ | {"REPLICATE": str(replicate), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr[-3000:]
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


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_every_method_and_form(processes: int, tmp_path: Path) -> None:
    check(together(tmp_path, EVERY, processes), EVERY)


@pytest.mark.slow
def test_two_copies_over_two_processes_each(tmp_path: Path) -> None:
    check(together(tmp_path, FEW, 4, replicate=2), FEW)
