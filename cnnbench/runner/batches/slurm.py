"""SLURM job arrays: one script, submitted at once; each task trains a shard of the seeds."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnbench.errors import UsageError, quoted
from cnnbench.system import commands
from cnnbench.system.files import write_atomic

_ARRAY = ("--array", "-a")
SIGNAL_S = 120  # before the time limit: enough for a checkpoint
_SCRIPT = r"""#!/bin/bash
# {count} tasks; each trains its shard of the seeds and continues from its last checkpoint if SLURM
# requeues it, so submitting this file again trains only missing seeds.
#SBATCH --job-name={name}
#SBATCH --array=1-{count}
#SBATCH --output={log}
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@{signal_s}
{options}
cd {folder} || exit 1
task=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
started={logs}/.started-$task
touch "$started"
again() {{  # SLURM sends USR1 before the time limit: save the state and requeue
    echo "The time limit is near."
    kill -TERM "$child"
    wait "$child"
    code=$?
    [ $code -le 128 ] && exit $code  # it exited on its own
    if ! find {results} -maxdepth 5 -name '*.safetensors' -newer "$started" | grep -q .; then
        echo "Not requeued: no checkpoint was written; submit with a longer --time."
    elif scontrol requeue "$task"; then
        exit 0
    else
        echo "Not requeued: see above; submit the command again to continue."
    fi
    exit $code
}}
trap again USR1
trap : TERM  # SLURM sends it to the training, too
trap 'rm -f "$started"' EXIT
{command} --shard "$SLURM_ARRAY_TASK_ID/{count}" --needed &
child=$!
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done  # a signal ended the first wait
exit $code
"""


@dataclass(frozen=True, slots=True)
class JobArray:
    """A job array.

    Args:
      script: its script for `sbatch`.
      count: number of tasks.
      logs: folder of the output of the tasks.
    """

    script: str
    count: int
    logs: Path


def parse_slurm(on: str) -> int | None:
    """Number of array tasks of `--on slurm:N`; None for one per seed.

    Raises:
      UsageError: N is not a positive integer.

    >>> parse_slurm("slurm"), parse_slurm("slurm:12")
    (None, 12)
    """
    match = re.fullmatch(r"slurm(?::([1-9][0-9]{0,5}))?", on)
    if not match:
        message = f"--on: {quoted(on)} is not slurm or slurm:N with a positive N"
        raise UsageError(f"{message}; write slurm for one array task per seed.")
    return int(match[1]) if match[1] else None


def make_array(
    words: Sequence[str], names: Sequence[str], count: int, options: str, results_dir: Path
) -> JobArray:
    """Makes the script of a job array.

    Args:
      words: the command line, without `--on` and `--sbatch`.
      names: names of the experiments.
      count: number of tasks.
      options: options of sbatch, such as `--time=2:00:00 --gres=gpu:1`.
      results_dir: results folder, visible to all nodes.

    Raises:
      UsageError: a word of `options` is neither an option nor its value.
    """
    logs = results_dir / ".slurm"
    log = (Path.cwd() / logs / "%A_%a.txt").as_posix()
    lines = [f"#SBATCH {option}" for option in split_options(options)]
    script = _SCRIPT.format(
        name=f"cnnbench-{'-'.join(names)}"[:100],
        count=count,
        log=_directive(log),
        signal_s=_signal_s(options),
        options="\n".join(lines),
        folder=commands.command_line([str(Path.cwd())]),
        results=commands.command_line([str(results_dir)]),
        logs=commands.command_line([str(logs)]),
        command=commands.command_line([sys.executable, "-m", "cnnbench", *words[1:]]),
    )
    return JobArray(script, count, logs)


def _signal_s(options: str) -> int:
    """Seconds before the time limit at which SLURM signals a task: at most a quarter of it.

    SLURM checks time limits every half minute, so it may be 30 s more.

    >>> _signal_s("--time=2:00:00"), _signal_s("-t 1"), _signal_s("")
    (120, 15, 120)
    """
    match = re.search(r"(?:--time[= ]|-t *)([0-9:-]+)", options)
    limit = _limit_s(match[1]) if match else None
    return min(SIGNAL_S, limit // 4) if limit else SIGNAL_S


def _limit_s(text: str) -> int | None:
    """A time limit of SLURM in seconds; None if it is not one.

    >>> [_limit_s(text) for text in ("5", "0:30", "1:00:00", "1-12", "1-0:30", "1:2:3:4")]
    [300, 30, 3600, 129600, 88200, None]
    """
    if not re.fullmatch(r"([0-9]+-)?[0-9]+(:[0-9]+){0,2}", text):
        return None
    days, dash, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    hours = sum(part * unit for part, unit in zip(parts, units, strict=False))
    return hours + 86400 * int(days or 0)


def split_options(text: str) -> list[str]:
    """Splits options of sbatch, each with its value.

    Raises:
      UsageError: a word is not an option, or the job array sets the option itself.

    >>> split_options("--time=2:00:00 -p gpu --exclusive")
    ['--time=2:00:00', '-p gpu', '--exclusive']
    """
    found: list[str] = []
    for word in text.split():
        if word.startswith("-"):
            found.append(word)
        elif found and re.fullmatch(r"-[A-Za-z]|--[a-z-]+", found[-1]):
            found[-1] += f" {word}"
        else:
            message = f"--sbatch: {quoted(word)} is not an option of sbatch"
            raise UsageError(f"{message}; write, for example, '--time=2:00:00 --gres=gpu:1'.")
    for option in found:
        name = re.split(r"[= ]", option)[0]
        if name in {*_ARRAY, "--signal", "--wrap"}:
            remedy = "set the number of tasks with --on slurm:N" if name in _ARRAY else "remove it"
            raise UsageError(f"--sbatch: {name} is set by cnnbench; {remedy}.")
    return found


def submit(array: JobArray) -> str:
    """Writes the script next to the logs and submits it.

    Returns:
      The job ID.

    Raises:
      UsageError: sbatch is missing or rejects the script; the message has the reason.
      StoreError: the script cannot be written.
    """
    from cnnbench.runs.folder import disk

    if shutil.which("sbatch") is None:
        message = "--on slurm: 'sbatch' is not on PATH, so this is not a login node of SLURM"
        raise UsageError(f"{message}; print the script with --dry-run, or use --on local.")
    script = array.logs / "array.sh"
    with disk(script, "write"):
        array.logs.mkdir(parents=True, exist_ok=True)
        write_atomic(script, array.script.encode(errors="surrogateescape"))
    done = subprocess.run(
        ["sbatch", "--parsable", os.fspath(script)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UsageError(f"--on slurm: sbatch rejects {script}: {reason[-1]}")
    return done.stdout.strip().partition(";")[0]


def _directive(value: str) -> str:
    """Quotes a value of an #SBATCH line if it has spaces."""
    return f'"{value}"' if " " in value else value
