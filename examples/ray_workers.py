"""Workers of one run as Ray tasks, each with a GPU. Not run by this project: written after Ray's docs.

python examples/ray_workers.py recipe.yaml /shared/runs/first 16
"""

from __future__ import annotations

import subprocess
import sys

import ray

recipe, out, count = sys.argv[1:]


@ray.remote(num_gpus=1, max_retries=-1)
def work(name: str) -> int:
    """Be a worker; one that dies is started again, and its stage goes on or was taken over."""
    return subprocess.run(
        ["ssiuu", "run", recipe, "--out", out, "--worker", name], check=True
    ).returncode


ray.init()
ray.get([work.remote(f"ray{n}") for n in range(int(count))])
subprocess.run(["ssiuu", "report", out], check=True)
