"""Workers as jobs of a cluster: one job array by submitit, over one folder that all machines see.

A job that is preempted or reaches its time is queued again (submitit's checkpoint), and is a worker
like any other when it comes back: what it was at goes on from the state that it has kept, or was taken
over by another one.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ssiuu.errors import ConfigError, SsiuuError, show

CLUSTER: Final = "cluster"  # of the settings: slurm; local or debug, to try it without one
# What submitit and clusters do otherwise: a job that reaches its time is given up after the third time,
# and one that is preempted is not queued again where the cluster's default says so.
TIMES: Final = 1000
AGAIN: Final[Mapping[str, Any]] = {"slurm_additional_parameters": {"requeue": True}}


@dataclass(frozen=True)
class Job:
    """What one job carries out: the command of a worker."""

    words: tuple[str, ...]

    def __call__(self) -> int:
        """Be the worker; the job's log has what it says."""
        command = [sys.executable, "-m", "ssiuu", *self.words]
        return subprocess.run(command, check=True, preexec_fn=_deaf).returncode

    def checkpoint(self) -> Any:
        """Return what is queued in the place of a job that is preempted: the same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _deaf() -> None:
    """Leave the signals that a job is told of its end by to submitit: a worker would end at once."""
    for name in ("SIGUSR1", "SIGUSR2"):
        number: Any = getattr(signal, name)  # only where there are clusters
        signal.signal(number, signal.SIG_IGN)


def read(settings: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a launcher, given as key=value.

    Raises:
        ConfigError: One is not.
    """
    found: dict[str, Any] = {}
    for text in settings:
        key, given, value = text.partition("=")
        if not (key and given and value):
            raise ConfigError(f"--launch {show(text)} is not KEY=VALUE.")
        found[key] = int(value) if value.isdecimal() else value
    return found


def submit(words: Sequence[str], workers: int, logs: Path, settings: Mapping[str, Any]) -> list[Any]:
    """Submit workers as one job array; return submitit's jobs.

    Args:
        words: Of the command that one carries out.
        workers: How many.
        logs: Folder of their logs, which all machines see.
        settings: Of the jobs, by submitit's names (timeout_min, slurm_partition, ...).

    Raises:
        ConfigError: submitit or the cluster is not there, or does not know a setting.
    """
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(
            "--launcher slurm needs submitit, which is not installed: pip install 'ssiuu[slurm]'."
        ) from error
    own = dict(settings)
    cluster = own.pop(CLUSTER, "slurm")
    try:
        times = own.pop("slurm_max_num_timeout", TIMES)
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster, slurm_max_num_timeout=times)
        executor.update_parameters(**{"name": "ssiuu", **AGAIN, **own})
        with executor.batch():
            jobs = [
                executor.submit(Job((*words, "--worker", f"j{number}")))
                for number in range(1, workers + 1)
            ]
    except (RuntimeError, ValueError, TypeError, NameError, OSError) as error:
        raise ConfigError(f"--launcher slurm: {' '.join(str(error).split())}") from error
    return jobs


def wait(jobs: Sequence[Any], look: Callable[[], Any]) -> None:
    """Wait for all jobs to end, and look meanwhile.

    Raises:
        SsiuuError: One has failed; what it says stands in its log.
    """
    while not all(job.done() for job in jobs):
        look()
    failed = [job for job in jobs if job.exception() is not None]
    if failed:
        raise SsiuuError(f"{len(failed)} of {len(jobs)} jobs failed; see {failed[0].paths.stderr}.")
