"""Ctrl-C and SIGTERM in every kind of training: what is said, what goes on, what is left running.

Real command lines are interrupted as a certain epoch is written, by the process that writes it: as
Ctrl-C in a terminal to its whole process group, as `kill` to the first process alone. The command
that is printed then has to train what is missing, with the numbers of an uninterrupted one.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cnnbench.executors.cores import available_cores
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import Status
from tests.runner.test_distributed import numbers
from tests.support.environments import without
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow
PATIENCE_S = 600.0  # a busy machine is slow; a test that hangs fails all the same
MOST_LOST = 2  # epochs without a checkpoint: the one being written by each of two workers
MARK = "CNNBENCH_TEST_MARK"
AGAIN = re.compile(r"^interrupted; (?:resume|continue) with: (.*)$", re.MULTILINE)
SPEC = """\
name: {name}
title: Net {name}
task: classify
dataset: {{name: mnist_5k, train_examples: 60, splits: {{validation: 40, test: 40}}}}
model:
  layers:
    hidden: {{op: dense, units: {units}, use_bias: false}}
    norm1: {{op: batch_norm}}
    relu1: {{op: activation, activation: relu}}
    drop1: {{op: dropout, rate: 0.5}}
    out: {{op: dense, units: 10}}
train: {{epochs: 4, batch_size: 20, optimizer: {{name: adam, learning_rate: 0.01}}}}
seeds: 2
"""
UNITS = {"a": 8, "b": 6, "c": 8}

# Interrupts its process group or session leader as the N-th epoch is written, then waits until the
# signal has arrived: no training is too short for it.
HOOK = """\
import os, signal, sys, time

written = 0


def watch(event, args):
    global written
    if event == "open" and str(args[0]).endswith("epochs.jsonl") and args[2] & os.O_APPEND:
        written += 1
        if written == int(os.environ["STOP_AT"]):
            stop(signal.Signals[os.environ["STOP_BY"]], os.getsid(0))


def stop(number, first):
    from cnnbench.system.signals import Stopped, raise_if_stopped

    (os.killpg if number == signal.SIGINT else os.kill)(first, number)
    while True:
        try:
            raise_if_stopped()
        except Stopped:
            return
        time.sleep(0.01)


if "STOP_AT" in os.environ:
    sys.addaudithook(watch)
"""


@dataclass(frozen=True)
class Kind:
    """A kind of training.

    Args:
      at: the epoch that is being written, of all in the order of writing.
      words: the command line.
      first: a command line before it.
    """

    at: int
    words: tuple[str, ...]
    first: tuple[str, ...] = ()


ARMS = ("run", "a.yaml", "b.yaml")
SWEEP = ("run", "a.yaml", "train.optimizer.learning_rate=0.001,0.1")
RACE = ("run", "a.yaml", "train.optimizer.learning_rate=0.0001,0.3", "--seeds", "8", "--race")
TUNE = ("--tune", "learning_rate=x1:x5", "--tune-seeds", "1")
WORKERS = f"{min(2, len(available_cores()))}"
KINDS = {
    "plain": Kind(3, ("run", "a.yaml")),
    "arms": Kind(6, ARMS),
    "sweep": Kind(11, SWEEP),
    "sweep on local": Kind(6, (*SWEEP, "--on", f"local:{WORKERS}")),
    "race": Kind(44, RACE),
    "tune": Kind(6, ("run", "a.yaml", *TUNE)),
    "verdict of tune": Kind(11, ("run", "a.yaml", *TUNE)),
    "until decided": Kind(18, ("run", "a.yaml", "c.yaml", "--until-decided", "--max-seeds", "5")),
    "over": Kind(21, (*ARMS, "--over", "train_examples=40,60")),
    "shard": Kind(6, (*ARMS, "--shard", "1/2")),
    "more seeds": Kind(2, ("run", "--resume", "a", "--seeds", "3"), ("run", "a.yaml")),
    "confirm": Kind(6, ("confirm", "--seeds", "2"), SWEEP),
    "on local": Kind(6, (*ARMS, "--on", f"local:{WORKERS}")),
    "on ray": Kind(6, (*ARMS, "--on", f"ray:{WORKERS}")),
    "processes": Kind(3, ("run", "a.yaml", "--processes", "2")),
}
ENDS = ((signal.SIGINT, 130), (signal.SIGTERM, 143))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    """What an uninterrupted command of a kind has trained."""

    @cache
    def trained(name: str) -> list[Any]:
        folder = tmp_path_factory.mktemp("whole")
        begin(folder, KINDS[name])
        assert command(folder, KINDS[name].words)[0] == 0, said(folder)
        return results(folder)

    return trained


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """The value of a variable that all processes of a command inherit; at the end all are gone."""
    yield str(tmp_path)
    for pid in marked(str(tmp_path)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("number", "code"), ENDS, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("name", KINDS)
def test_an_interrupted_training_is_continued_by_the_command_that_it_prints(
    name: str,
    number: signal.Signals,
    code: int,
    whole: Callable[[str], list[Any]],
    mark: str,
    tmp_path: Path,
) -> None:
    if name == "on ray":
        pytest.importorskip("ray", reason="needs the extra 'ray'")
    expected, kind = whole(name), KINDS[name]
    begin(tmp_path, kind)
    stop = {"STOP_AT": str(kind.at), "STOP_BY": number.name, MARK: mark}
    ended, _ = command(tmp_path, kind.words, **stop)
    assert ended == code, said(tmp_path)
    assert all_end(mark), said(tmp_path)
    before = lines(tmp_path)
    (again,) = AGAIN.findall(said(tmp_path))
    program, *words = shlex.split(again)
    assert program == "cnnbench"
    ended, _ = command(tmp_path, words, **{MARK: mark})
    assert ended == 0, said(tmp_path)
    assert all_end(mark)
    assert results(tmp_path) == expected
    assert len(before - lines(tmp_path)) <= MOST_LOST  # others are not trained again


def begin(folder: Path, kind: Kind) -> None:
    """Writes the experiments, and trains what the command builds on."""
    for name, units in UNITS.items():
        (folder / f"{name}.yaml").write_text(SPEC.format(name=name, units=units), "utf-8")
    hooks = folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(HOOK, "utf-8")
    if kind.first:
        assert command(folder, kind.first)[0] == 0, said(folder)


def command(folder: Path, words: Sequence[str], **variables: str) -> tuple[int, str]:
    """Runs a command line in a session of its own; returns the exit code and the output."""
    path = os.pathsep.join((str(folder / "hooks"), str(ROOT)))
    variables |= {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    with (folder / "out").open("w+") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "cnnbench", *words],
            cwd=folder,
            env=without("COVERAGE_", "RAY_") | variables,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        code = process.wait(PATIENCE_S)
        out.seek(0)
        return code, out.read()


def said(folder: Path) -> str:
    """What the last command wrote to standard error."""
    return (folder / "err").read_text("utf-8")


def results(folder: Path) -> list[Any]:
    """The numbers of all runs; all are finished."""
    entries = list_runs(folder / "results").entries
    assert {entry.record.status for entry in entries} == {Status.FINISHED}
    runs = [read_run(entry.path) for entry in entries]
    found = [(run.record.name, run.record.title, run.record.seeds, numbers(run)) for run in runs]
    return sorted(found, key=repr)


def lines(folder: Path) -> set[str]:
    """All epochs, with the times at which they were trained."""
    files = (folder / "results").glob("*/*/epochs.jsonl")
    return {line for file in files for line in file.read_text("utf-8").splitlines()}


def all_end(mark: str) -> bool:
    """True if no process of a command is left, after the time that the system takes."""
    until = time.monotonic() + PATIENCE_S / 10
    while marked(mark) and time.monotonic() < until:
        time.sleep(0.05)
    return not marked(mark)


def marked(mark: str) -> list[int]:
    """The processes that have inherited a mark; those that have ended have no environment."""
    found, wanted = [], f"{MARK}={mark}\0".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in path.read_bytes():
                found.append(int(path.parent.name))
    return found
