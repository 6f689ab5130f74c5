"""A job array on a real SLURM of one machine: submitted, finished and merged."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from cnnbench.runs.folder import read_run
from tests.runner.batches.test_batches import SPEC, numbers
from tests.runner.test_processes import TINY, curve, num_epochs, trained_here

pytestmark = pytest.mark.slow
DAEMONS = ("munged", "slurmctld", "slurmd")
CONF = """\
ClusterName=tiny
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={at}/munge.sock
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool
SlurmctldLogFile={at}/ctld.log
SlurmdLogFile={at}/d.log
SlurmctldPidFile={at}/ctld.pid
SlurmdPidFile={at}/d.pid
SlurmctldPort={port}
SlurmdPort={other}
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=500 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of a SLURM whose daemons end with the test."""
    found = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in DAEMONS}
    if missing := [name for name, path in found.items() if path is None]:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian's slurm-wlm and munge)")
    if os.geteuid() != 0:
        pytest.skip("slurmd needs root")
    at = tmp_path / "slurm"
    for name in ("state", "spool"):
        (at / name).mkdir(parents=True)
    key, conf = at / "munge.key", at / "slurm.conf"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    conf.write_text(CONF.format(host=host, at=at, port=free_port(), other=free_port()))
    munge = [f"--key-file={key}", f"--socket={at}/munge.sock", f"--pid-file={at}/m.pid"]
    munge += [f"--log-file={at}/m.log", f"--seed-file={at}/m.seed", "--force", "--foreground"]
    env = {**os.environ, "SLURM_CONF": str(conf)}
    commands = [[found["munged"], *munge]]
    commands += [[found[name], "-D", "-f", str(conf)] for name in DAEMONS[1:]]
    daemons = []
    try:
        for command in commands:
            daemons.append(subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL))  # type: ignore[arg-type]
            time.sleep(1)
        wait_for("idle", ["sinfo", "-h", "-o", "%T"], env)
        yield env
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def wait_for(wanted: str, command: list[str], env: dict[str, str], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip() == wanted:
            return
        time.sleep(0.5)
    pytest.fail(f"{command}: {done.stdout} {done.stderr}, not {wanted!r}")


Cnnbench = Callable[..., str]


@pytest.fixture
def cnnbench(slurm: dict[str, str], tmp_path: Path) -> Cnnbench:
    """Runs the command in a folder with an experiment."""
    (tmp_path / "a.yaml").write_text(SPEC.format(name="a", rate=0.01))

    def start(*words: str) -> str:
        line = [sys.executable, "-m", "cnnbench", *words]
        done = subprocess.run(
            line, cwd=tmp_path, env=slurm, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return start


def test_an_array_is_finished_and_merged(
    slurm: dict[str, str], cnnbench: Cnnbench, tmp_path: Path
) -> None:
    cnnbench("run", "a.yaml", "--engine", "plain", "--on", "slurm:2")
    wait_for("", ["squeue", "-h"], slurm, 150)
    runs = [read_run(path) for path in sorted((tmp_path / "results" / "a").iterdir())]
    assert sorted(seed for run in runs for seed in run.record.seeds) == [0, 1, 2]
    assert len(runs) == 2
    cnnbench("merge", *(run.record.run_id for run in runs))
    newest = max((tmp_path / "results" / "a").iterdir())
    assert read_run(newest).record.seeds == (0, 1, 2)


def until(found: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, found
        time.sleep(0.05)


def training_in(folder: Path) -> list[int]:
    """Processes of the training that an array task in a folder has started."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (place / "cmdline").read_bytes()
            if (place / "cwd").readlink() == folder and b"--shard" in command:
                found.append(int(place.name))
    return found


def tasks_in(folder: Path) -> dict[int, int]:
    """Processes that `srun` has started in a folder, by their number."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            number = re.search(rb"SLURM_PROCID=(\d+)", (place / "environ").read_bytes())
            command = (place / "cmdline").read_bytes()
            if number and (place / "cwd").readlink() == folder and b"cnnbench" in command:
                found[int(number[1])] = int(place.name)
    return found


@pytest.mark.parametrize(("number", "other"), [(2, 4), (4, 2)])
def test_srun_trains_one_network_in_tasks_of_which_one_is_killed(
    number: int, other: int, slurm: dict[str, str], tmp_path: Path
) -> None:
    """The others end, and the run is resumed by another number of tasks."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    words = ("tiny.yaml", "--epochs", "30", "--engine", "direct", "train.batch_size=64")

    def srun(number: int, *words: str) -> "subprocess.Popen[str]":
        line = ["srun", "--overcommit", f"--ntasks={number}", sys.executable, "-m", "cnnbench"]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*line, "run", *words], cwd=tmp_path, env=slurm, **pipes)

    process = srun(number, *words, "--results-dir", "r")
    until(lambda: num_epochs(tmp_path / "r") >= 2)
    found = tasks_in(tmp_path)
    assert sorted(found) == list(range(number))
    os.kill(found[number - 1], signal.SIGKILL)
    out, _ = process.communicate(timeout=600)
    assert process.returncode, out
    until(lambda: not tasks_in(tmp_path))
    (path,) = (tmp_path / "r" / "tiny").iterdir()
    again = srun(other, "--resume", str(path))
    out, _ = again.communicate(timeout=600)
    assert again.returncode == 0, out
    run = read_run(path)
    assert len(run.record.resumed_at) == 1
    one = trained_here(tmp_path, epochs=30, overrides={"train.batch_size": 64})
    assert curve(run) == pytest.approx(curve(one), rel=1e-2)


def test_a_task_at_its_time_limit_is_requeued_and_goes_on(
    slurm: dict[str, str], cnnbench: Cnnbench, tmp_path: Path
) -> None:
    """SLURM warns the task of the limit, starts it again, and it goes on from its last checkpoint.

    The training is paused until the warning, so that the test does not depend on its speed.
    """
    words = ("run", "a.yaml", "--engine", "plain", "--seeds", "2", "--epochs", "40")
    cnnbench(*words, "--results-dir", "whole")
    cnnbench(*words, "--on", "slurm:1", "--sbatch", "--time=60")
    runs = tmp_path / "results" / "a"

    def lines() -> list[str]:
        found = (file.read_text().splitlines() for file in runs.glob("*/epochs.jsonl"))
        return list(chain.from_iterable(found))

    until(lambda: len(lines()) > 2)
    (training,) = training_in(tmp_path)
    os.kill(training, signal.SIGSTOP)
    # A minute to two from now, which is less than the two minutes before which SLURM warns.
    spent = subprocess.check_output(["squeue", "-h", "-o", "%M"], env=slurm, text=True)
    control = ["scontrol", "update", "JobId=1_1"]
    limit = f"TimeLimit={int(spent.split(':')[0]) + 2}"
    subprocess.run([*control, limit], env=slurm, check=True)
    log = tmp_path / "results" / ".slurm" / "1_1.txt"
    until(lambda: "The time limit is near." in log.read_text())
    os.kill(training, signal.SIGCONT)
    wait_for("PENDING", ["squeue", "-h", "-o", "%T"], slurm, 60)
    before = lines()
    assert 2 < len(before) < 80
    # SLURM waits for two minutes before it starts the task again. In the second in which it ended
    # the task, slurmd would reject it: "Job credential revoked".
    subprocess.run([*control, "TimeLimit=60", "StartTime=now+5seconds"], env=slurm, check=True)
    wait_for("", ["squeue", "-h"], slurm, 150)
    # A stop between the line of an epoch and its checkpoint trains that epoch again.
    (known,) = re.findall(r"resuming after (\d+) of 80 epochs", log.read_text())
    assert len(before) - 1 <= int(known) <= len(before)
    assert [lines()[: int(known)], len(lines())] == [before[: int(known)], 80]
    (path,), (whole,) = runs.iterdir(), (tmp_path / "whole" / "a").iterdir()
    found = read_run(path)
    assert len(found.record.resumed_at) == 1
    assert numbers(found) == numbers(read_run(whole))
