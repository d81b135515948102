"""Everything runs on a device that is not the processor, and nothing mixes the two.

The device is pretended (`pretend.py`): it is the processor under another name, so every number must
be the processor's, and whatever combines it with a tensor that was left behind is an error. On a
machine that has one, SSIUU_TEST_DEVICE=cuda takes a real one (`make test-gpu`).

    pytest tests/device                # some methods, an attack, asking
    pytest tests/device -m slow        # all methods and commands
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CASES = Path(__file__).with_name("cases.py")
DEVICE = os.environ.get("SSIUU_TEST_DEVICE", "pretend")
CLOSE = 1e-4 if DEVICE == "pretend" else 1e-2  # a GPU sums in another order, and signs may turn
FEW = ["default", "ssiuu", "gate", "mask", "projection", "rmu", "cir", "repselect", "lora effective"]
MORE = [
    "random",
    "task-vector",
    "gu",
    "klue",
    "mcu",
    "rmu-mcu",
    "collapse",
    "repselect-steps",
    "fisher",
]
MORE += ["sam", "rosu", "apart", "neuron", "dpo", "undo", "layered", "lora", "micro-batches"]


def run(names: list[str]) -> dict[str, Any]:
    """Run cases in a process of its own: a device that is registered stays so."""
    done = subprocess.run(
        # What is raised within a hook of a backward pass ends the process, and a trace says where.
        [sys.executable, "-X", "faulthandler", str(CASES), DEVICE, *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def few() -> dict[str, Any]:
    """The results of the default cases."""
    return run([*(f"steps/{name}" for name in FEW), "attack/full", "ask", "first/tf32", "late"])


@pytest.mark.parametrize(
    "name", [*(f"steps/{name}" for name in FEW), "attack/full", "ask", "first/tf32"]
)
def test_the_numbers_are_those_of_the_processor(few: dict[str, Any], name: str) -> None:
    assert few[name]["error"] == "" and few[name]["numbers"] > 2
    assert few[name]["apart"] < CLOSE


def test_what_was_left_on_the_processor_is_caught(few: dict[str, Any]) -> None:
    assert "same device" in few["late"]["error"]


@pytest.mark.slow
def test_every_method_and_command() -> None:
    names = [f"steps/{name}" for name in MORE]
    commands = ["teach", "unlearn", "audit", "diagnose", "audit strong", "audit inside"]
    found = run([*names, "attack/lora-all", *commands])
    assert {name: case["error"] for name, case in found.items() if case["error"]} == {}
    assert {name: case["apart"] for name, case in found.items() if case["apart"] >= CLOSE} == {}
