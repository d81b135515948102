"""Where a script's model lies, and the time there.

On a processor core-seconds of this process, so that what else the machine does counts little; on an
accelerator seconds, once it has done all that it was given.
"""

from __future__ import annotations

import argparse
import time

import torch

from ssiuu.models.place import Placement


def on_device(parser: argparse.ArgumentParser) -> None:
    """Let a script be told where it runs."""
    told = "as a recipe's device: auto, cpu, cuda"
    parser.add_argument("--device", type=lambda name: Placement.of(name), default="auto", help=told)


def now(device: torch.device) -> float:
    """Return the time on a device."""
    if device.type == "cpu":
        return time.process_time()
    torch.get_device_module(device).synchronize()
    return time.perf_counter()
