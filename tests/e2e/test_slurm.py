"""Jobs as Slurm gets them, without Slurm: what is handed to sbatch, and a job that is preempted and queued
again by what stands in it. sbatch, srun and scontrol are scripts of a line.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import submitit

from sample_record import sample_record
from ssiuu.experiment import slurm
from ssiuu.records.files import HEADER, write_record

SBATCH = """#!/bin/sh
cp "$1" "$(dirname "$0")/submitted.sh"
echo "Submitted batch job 4711"
"""
# The options end where the command begins.
SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do
  case "$1" in --unbuffered) shift;; *) shift 2;; esac
done
exec "$@"
"""
SCONTROL = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/scontrol.txt"
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put what a cluster has before all else; return the folder that it writes down its orders in."""
    place = tmp_path / "bin"
    place.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return place


def submitted(cluster: Path, tmp_path: Path, words: list[str], workers: int, **settings: Any) -> str:
    """Submit workers, and return the script that sbatch got."""
    jobs = slurm.submit(words, workers, tmp_path / "run.jobs", settings)
    assert [job.job_id for job in jobs] == [f"4711_{n}" for n in range(workers)]
    return (cluster / "submitted.sh").read_text()


def test_sbatch_gets_time_requeueing_a_signal_an_array_and_the_environment(
    cluster: Path, tmp_path: Path
) -> None:
    settings = slurm.read(["slurm_partition=gpu", "gpus_per_node=1", "timeout_min=240"])
    script = submitted(cluster, tmp_path, ["run", "r.yaml", "--out", "runs/a"], 64, **settings)
    flags = {line.removeprefix("#SBATCH ") for line in script.splitlines() if "#SBATCH" in line}
    assert {"--job-name=ssiuu", "--time=240", "--partition=gpu", "--gpus-per-node=1"} <= flags
    assert {"--array=0-63%64", "--requeue", "--signal=USR2@90", "--open-mode=append"} <= flags
    # sbatch hands on the environment that it is called in unless it is told otherwise.
    assert not any(flag.startswith("--export") for flag in flags)
    logs = tmp_path / "run.jobs"
    assert f"--error={logs}/%A_%a_0_log.err" in flags and f"--output={logs}/%A_%a_0_log.out" in flags
    assert "export SUBMITIT_EXECUTOR=slurm" in script.splitlines()
    command = script.splitlines()[-1]
    assert command.startswith("srun ") and f"{shlex.quote(sys.executable)} -u -m submitit" in command
    names = sorted(path.name for path in logs.iterdir() if path.name.endswith("_submitted.pkl"))
    assert len(names) == 64
    job = submitit.core.utils.DelayedSubmission.load(logs / "4711_7_submitted.pkl")
    assert job.function.words == ("run", "r.yaml", "--out", "runs/a", "--worker", "j8")
    # A job that reaches its time is queued again, however often.
    assert job._timeout_countdown >= 1000 and job._timeout_min == 240


def test_settings_that_the_user_gives_come_first(cluster: Path, tmp_path: Path) -> None:
    given = slurm.read(["name=mine", "slurm_max_num_timeout=2", "slurm_signal_delay_s=300"])
    script = submitted(cluster, tmp_path, ["run"], 2, **given)
    assert "#SBATCH --job-name=mine" in script and "#SBATCH --signal=USR2@300" in script
    job = submitit.core.utils.DelayedSubmission.load(tmp_path / "run.jobs/4711_0_submitted.pkl")
    assert job._timeout_countdown == 2


@pytest.mark.slow
def test_a_job_that_is_preempted_is_queued_again_and_goes_on(cluster: Path, tmp_path: Path) -> None:
    """The worker is `ssiuu watch`, which ends when the run is over: so it waits until then."""
    run, record = tmp_path / "run", sample_record()
    stages = {"cells/gd-s0/evaluate-00000000.json": "0" * 64}
    write_record(run / HEADER, record.header.model_copy(update={"stages": stages}))
    submitted(cluster, tmp_path, ["watch", str(run)], 2, timeout_min=60)
    # What a worker is called by is no option of watch: it is taken off where the job is made.
    pickled = tmp_path / "run.jobs/4711_0_submitted.pkl"
    job = submitit.core.utils.DelayedSubmission.load(pickled)
    job.function = slurm.Job(("watch", str(run)))
    job.dump(pickled)
    told = {"SLURM_JOB_ID": "4712", "SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "0"}
    told |= {"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    told |= {"SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "here"}

    def begin() -> subprocess.Popen[bytes]:
        words = ["sh", str(cluster / "submitted.sh")]
        return subprocess.Popen(words, env=os.environ | told, start_new_session=True)

    first, until = begin(), time.monotonic() + 60
    while not any("ssiuu watch" in command for command in step_of(first).values()):
        assert time.monotonic() < until and first.poll() is None
        time.sleep(0.1)
    for pid in step_of(first):
        os.kill(pid, signal.SIGUSR2)
    assert first.wait(60) != 0
    assert (cluster / "scontrol.txt").read_text() == "requeue 4711_0\n"
    for pid in step_of(first):
        os.kill(pid, signal.SIGKILL)  # what Slurm does to what is left of a step
    again = begin()
    done = run / next(iter(stages))
    done.parent.mkdir(parents=True)
    done.write_text('{"seconds": 1.0}')
    assert again.wait(120) == 0
    result = submitit.core.utils.pickle_load(tmp_path / "run.jobs/4711_0_0_result.pkl")
    assert result == ("success", 0)


def step_of(job: subprocess.Popen[bytes]) -> dict[int, str]:
    """Return the processes of a job's step, which Slurm signals, and not the script that began it."""
    listed = subprocess.run(["ps", "-eo", "pgid,pid,args"], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()[1:]]
    return {int(pid): args for pgid, pid, args in rows if int(pgid) == job.pid != int(pid)}
