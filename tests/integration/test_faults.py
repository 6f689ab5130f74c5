"""Whatever interrupts a run, its files stay readable, and resuming gives the same numbers.

Real processes are killed (SIGKILL) at random moments and at every call of the file layer, and calls
of that layer are made to fail. All metrics, all weights and the summary are compared bit for bit
with an uninterrupted run; only times may differ.
"""

import errno
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cnnbench.runs.codec import decode_summary
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import read_run
from cnnbench.runs.verify import check_run
from cnnbench.spec.loader import load_experiment
from cnnbench.system.locks import hold
from tests.support.environments import without
from tests.support.paths import ROOT

TINY = """\
name: tiny
task: classify
dataset: {name: mnist_5k, train_examples: 300, splits: {validation: 100, test: 100}}
model:
  layers:
    hidden: {op: dense, units: 8, use_bias: false}
    norm1: {op: batch_norm}
    relu1: {op: activation, activation: relu}
    drop1: {op: dropout, rate: 0.5}
    dense1: {op: dense, units: 10}
train: {epochs: 2, batch_size: 100, optimizer: {name: adam, learning_rate: 0.01}}
seeds: [0, 1]
"""
TIMES = ("train_s", "eval_s", "samples_per_s", "compile_s")


class Server:
    """Run command lines in forked children that share compiled programs on disk."""

    def __init__(self, cache: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fault_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=without("XLA_FLAGS") | {"CNNBENCH_CACHE_DIR": str(cache)},  # users' settings
        )

        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout

    def __call__(self, folder: Path, *args: str, **how: Any) -> dict[str, Any]:
        (answer,) = self.together([{"args": list(args), "cwd": str(folder), **how}])
        return answer

    def together(self, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run command lines concurrently."""
        self._in.write(json.dumps(tasks) + "\n")
        self._in.flush()
        answers: list[dict[str, Any]] = json.loads(self._out.readline())
        return answers

    def close(self) -> None:
        self._in.close()
        self.process.wait()
        self._out.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    found = Server(tmp_path_factory.mktemp("cache"))
    yield found
    found.close()


def begin(folder: Path, spec: str = TINY) -> Path:
    (folder / "tiny.yaml").write_text(spec)
    return folder


RUN = ("run", "tiny.yaml", "--engine", "direct", "--quiet")
AGAIN = (*RUN, "--needed")


def only_run(folder: Path) -> Path:
    """The finished run; a process killed before it wrote `run.json` leaves another folder."""
    runs = sorted((folder / "results" / "tiny").iterdir())
    (path,) = [run for run in runs if (run / "run.json").exists()]
    return path


def numbers(run: Path) -> dict[str, Any]:
    """Everything that has to be bit-identical."""
    lines = [json.loads(line) for line in (run / "epochs.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    return {
        "epochs": [{k: v for k, v in line.items() if k not in TIMES} for line in lines],
        "seeds": [{k: v for k, v in seed.items() if k not in TIMES} for seed in summary["seeds"]],
        "weights": {f.name: f.read_bytes() for f in sorted((run / "weights").iterdir())},
    }


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run."""

    numbers: dict[str, Any]
    calls: list[str]
    seconds: float


@pytest.fixture(scope="module")
def reference(tmp_path_factory, server):
    for _ in range(2):  # the second run does not compile
        folder = begin(tmp_path_factory.mktemp("reference"))
        start = time.monotonic()
        done = server(folder, *RUN)
        seconds = time.monotonic() - start
        assert done["code"] == 0, done["stderr"]
    return Reference(numbers(only_run(folder)), done["calls"], seconds)


def check_readable(folder: Path) -> None:
    """No results file is half written, whenever a process was killed."""
    for record in (folder / "results").glob("tiny/*/run.json"):
        read_run(record.parent)
        assert (record.parent / "resolved.yaml").exists(), "it could not be resumed"
        assert (record.parent / "spec.yaml").exists()


@pytest.mark.slow
def test_killed_at_25_random_moments(server, reference, tmp_path):
    """Each process resumes the previous one's run, and is killed in turn."""
    moments, kills, attempts = random.Random(5), 0, 0
    while kills < 25:
        attempts += 1
        folder = tmp_path / str(attempts)
        folder.mkdir()
        begin(folder)
        while True:
            after = moments.uniform(0.0, reference.seconds) if kills < 25 else None
            done = server(folder, *AGAIN, kill_after=after)
            check_readable(folder)
            if done["code"] != -signal.SIGKILL:
                break
            kills += 1
        assert done["code"] == 0, done["stderr"]
        assert numbers(only_run(folder)) == reference.numbers


def boundaries(calls: list[str], number: int = 8) -> list[int]:
    """Call numbers to test, from the first to the last: a sample of them, or all."""
    if os.environ.get("CNNBENCH_TEST_ALL"):
        return list(range(1, len(calls) + 1))
    return [1 + round(place * (len(calls) - 1) / (number - 1)) for place in range(number)]


@pytest.mark.slow
def test_killed_at_every_call_of_the_file_layer(server, reference, tmp_path):
    for place in boundaries(reference.calls):
        folder = tmp_path / str(place)
        folder.mkdir()
        done = server(begin(folder), *RUN, kill=place)
        assert done["code"] == -signal.SIGKILL, (place, done)
        check_readable(folder)
        done = server(folder, *AGAIN)
        assert done["code"] == 0, (place, reference.calls[place - 1], done["stderr"])
        assert numbers(only_run(folder)) == reference.numbers, reference.calls[place - 1]


@pytest.mark.slow
def test_every_call_of_the_file_layer_may_fail(server, reference, tmp_path):
    codes = itertools.cycle([errno.ENOSPC, errno.EIO, errno.EROFS])
    for place, code in zip(boundaries(reference.calls), codes, strict=False):
        call = reference.calls[place - 1]
        folder = tmp_path / str(place)
        folder.mkdir()
        done = server(begin(folder), *RUN, fail=[place, code])
        assert done["code"] == 1, (call, done)
        (line,) = done["stderr"].splitlines()
        assert re.fullmatch(r"results/tiny\S*: cannot \w+: [^;]+; [^;]+\.", line), (call, line)
        check_readable(folder)
        done = server(folder, *AGAIN)
        assert done["code"] == 0, (call, done["stderr"])
        assert numbers(only_run(folder)) == reference.numbers, call


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.sampled(1)
def test_a_signal_marks_the_run_and_prints_how_to_resume(server, reference, tmp_path, number, code):
    place = last_epoch(reference.calls)
    done = server(begin(tmp_path), *RUN, signals=[[place, number]])
    run = only_run(tmp_path)
    assert done["code"] == code, done["stderr"]
    assert done["stderr"].splitlines() == [
        f"interrupted; resume with: cnnbench run --resume {run.name}",
    ]
    assert read_run(run).record.status == "interrupted"
    assert not read_run(run).warnings  # the line being written is complete
    done = server(tmp_path, "run", "--resume", run.name, "--quiet")
    assert done["code"] == 0, done["stderr"]
    assert numbers(run) == reference.numbers


def test_a_second_signal_ends_at_once(server, reference, tmp_path):
    place = last_epoch(reference.calls)
    signals = [[place, signal.SIGINT], [place, signal.SIGTERM]]
    done = server(begin(tmp_path), *RUN, signals=signals)
    assert done["code"] == 143, done["stderr"]
    assert done["stderr"] == ""
    assert server(tmp_path, *AGAIN)["code"] == 0
    assert numbers(only_run(tmp_path)) == reference.numbers


def last_epoch(calls: list[str]) -> int:
    """Number of the call that writes the last line of the epochs."""
    return max(n for n, call in enumerate(calls, 1) if call == "write epochs.jsonl")


@pytest.fixture
def stopped(server, reference, tmp_path):
    """A run whose process was killed before the end of its last epoch."""
    server(begin(tmp_path), *RUN, kill=last_epoch(reference.calls))
    return only_run(tmp_path)


def test_a_truncated_last_line_is_reported_and_removed(server, stopped, reference, tmp_path):
    (warning,) = read_run(stopped).warnings
    assert warning.endswith(
        "ignored the last line, which is incomplete; the run was killed, or is writing it now."
    )
    done = server(tmp_path, "run", "--resume", str(stopped), "--quiet")
    assert done["code"] == 0
    assert [line.split(": ", 1)[1] for line in done["stderr"].splitlines()] == [
        "ignored the last line, which is incomplete; the run was killed, or is writing it now."
    ]
    assert numbers(stopped) == reference.numbers


def test_a_killed_run_is_listed_as_killed(server, stopped, tmp_path):
    (entry,) = list_runs(tmp_path / "results").entries
    assert entry.record.status == "running"
    assert entry.status == "killed"
    with hold(stopped) as mine:
        assert mine
        assert entry.status == "running"
    assert entry.status == "killed"


def test_two_processes_never_train_the_same_run(server, stopped, tmp_path):
    with hold(stopped):
        done = server(tmp_path, "run", "--resume", str(stopped), "--quiet")
    assert done["code"] == 1
    assert done["stderr"] == (
        f"{stopped}: another process is training this run; wait for it to end, or stop it.\n"
    )


def test_a_damaged_checkpoint_is_reported_and_not_used(server, stopped, reference, tmp_path):
    (file,) = (stopped / "checkpoints" / "seed-1").iterdir()
    file.write_bytes(file.read_bytes() + b"0")
    done = server(tmp_path, "run", "--resume", str(stopped), "--quiet")
    assert done["code"] == 0
    assert f"{file}: the SHA-256 does not match; " in done["stderr"]
    assert numbers(stopped) == reference.numbers


def test_another_experiment_is_refused(server, stopped, tmp_path):
    file = stopped / "resolved.yaml"
    file.write_text(file.read_text().replace("units: 8", "units: 9"))
    done = server(tmp_path, "run", "--resume", str(stopped), "--quiet")
    assert done["code"] == 1
    assert done["stderr"] == (
        f"{stopped}: {file} has changed since the run was started; restore it, or start a new"
        " run.\n"
    )


@pytest.mark.parametrize("every", [0, 2])
@pytest.mark.sampled(1)
def test_fewer_checkpoints_give_the_same_result(server, reference, tmp_path, every):
    spec = TINY + f"checkpoint: {{every: {every}, keep: 2}}\n"
    done = server(begin(tmp_path, spec), *RUN, kill=last_epoch(reference.calls) - 14)
    assert done["code"] == -signal.SIGKILL
    assert server(tmp_path, *AGAIN)["code"] == 0
    assert numbers(only_run(tmp_path)) == reference.numbers


def test_finished_runs_are_not_trained_again(server, tmp_path):
    assert server(begin(tmp_path), *RUN)["code"] == 0
    run = only_run(tmp_path)
    before = (run / "run.json").read_bytes()
    done = server(tmp_path, *AGAIN)
    assert (done["code"], done["calls"]) == (0, [])
    path = run.relative_to(tmp_path)
    assert done["stderr"] == f"{path} is already finished; nothing to train\n"
    assert (run / "run.json").read_bytes() == before
    done = server(tmp_path, *AGAIN, "train.epochs=1")  # another experiment
    assert done["code"] == 0
    assert len(list(run.parent.iterdir())) == 2


def test_a_finished_run_keeps_its_last_checkpoints(server, tmp_path):
    spec = TINY + "checkpoint: {keep: 2}\n"
    assert server(begin(tmp_path, spec), *RUN)["code"] == 0
    kept = sorted((only_run(tmp_path) / "checkpoints").glob("*/*"))
    assert [f"{file.parent.name}/{file.name}" for file in kept] == [
        "seed-0/epoch-2.safetensors",
        "seed-1/epoch-2.safetensors",
    ]
    assert check_run(only_run(tmp_path)) == []


def test_a_schedule_over_all_epochs_deletes_its_checkpoints(server, tmp_path):
    assert server(begin(tmp_path), *RUN, "train.schedule=cosine")["code"] == 0
    assert not (only_run(tmp_path) / "checkpoints").exists()
    assert check_run(only_run(tmp_path)) == []


# More epochs.

LONGER = 4  # epochs


@pytest.fixture(scope="module")
def longer(tmp_path_factory, server):
    """The numbers of a run with more epochs from the start."""
    folder = begin(tmp_path_factory.mktemp("longer"))
    done = server(folder, *RUN, "--epochs", str(LONGER))
    assert done["code"] == 0, done["stderr"]
    return numbers(only_run(folder))


@pytest.fixture(scope="module")
def shorter(tmp_path_factory, server):
    """The results of a finished run with fewer epochs, to be copied."""
    folder = begin(tmp_path_factory.mktemp("shorter"))
    assert server(folder, *RUN)["code"] == 0
    return folder


def copied(shorter: Path, folder: Path) -> Path:
    shutil.copytree(shorter, folder, dirs_exist_ok=True)
    return only_run(folder)


def extend(server: Server, run: Path, **how: Any) -> dict[str, Any]:
    words = ("run", "--resume", run.name, "--epochs", str(LONGER), "--quiet")
    done: dict[str, Any] = server(run.parents[2], *words, **how)
    return done


def test_an_extended_run_equals_a_run_with_more_epochs(server, shorter, longer, tmp_path):
    run = copied(shorter, tmp_path)
    old = read_run(run)
    done = extend(server, run)
    place = run.relative_to(tmp_path)
    assert (done["code"], done["stderr"]) == (0, f"{place}: extended from 2 to 4 epochs\n")
    assert numbers(run) == longer
    found = read_run(run)
    assert (found.record.status, found.record.epochs) == ("finished", 4)
    (extension,) = found.record.extended
    assert (extension.epochs, extension.command[:3]) == (2, ("cnnbench", "run", "--resume"))
    assert found.record.resumed_at == (extension.at,)
    content = (run / "summary-epoch-2.json").read_bytes()
    assert decode_summary(content, "") == old.summary
    assert "|     4 |" in (run / "table.md").read_text()
    assert load_experiment(run / "resolved.yaml").experiment.train.epochs == 4
    assert check_run(run) == []
    needed = server(tmp_path, *AGAIN, "--epochs", "4")
    assert needed["stderr"] == f"{place} is already finished; nothing to train\n"
    assert server(tmp_path, *AGAIN)["stderr"] == ""  # the run of two epochs no longer exists
    assert len(list(run.parent.iterdir())) == 2


@pytest.mark.slow
def test_a_run_is_extended_twice(server, shorter, longer, tmp_path):
    run = copied(shorter, tmp_path)
    for epochs in ("3", "4"):
        words = ["run", "--resume", "tiny", f"train.epochs={epochs}", "--quiet"]
        assert server(tmp_path, *words)["code"] == 0
    assert numbers(run) == longer
    assert [extension.epochs for extension in read_run(run).record.extended] == [2, 3]
    assert (run / "summary-epoch-2.json").exists()
    assert (run / "summary-epoch-3.json").exists()
    assert check_run(run) == []


@pytest.mark.slow
def test_an_extension_is_killed_at_calls_of_the_file_layer(server, shorter, longer, tmp_path):
    for folder in ("first", "whole"):  # the second run does not compile
        calls = extend(server, copied(shorter, tmp_path / folder))["calls"]
    names = ("replace .resolved.yaml", "replace summary.json", "replace .seed-0.safetensors")
    places = [next(n for n, call in enumerate(calls, 1) if call.startswith(x)) for x in names]
    for place in boundaries(calls, 0) or [*places, len(calls)]:
        run = copied(shorter, tmp_path / str(place))
        done = extend(server, run, kill=place)
        assert done["code"] == -signal.SIGKILL, (place, done)
        check_readable(tmp_path / str(place))
        assert check_run(run) == [], calls[place - 1]
        words = [] if read_run(run).record.extended else ["--epochs", str(LONGER)]
        done = server(tmp_path / str(place), "run", "--resume", run.name, "--quiet", *words)
        assert done["code"] == 0, (place, calls[place - 1], done["stderr"])
        assert numbers(run) == longer, calls[place - 1]
        assert len(read_run(run).record.extended) == 1
        assert check_run(run) == []


def test_an_interrupted_run_is_extended(server, stopped, longer, tmp_path):
    done = extend(server, stopped)
    assert done["code"] == 0
    assert numbers(stopped) == longer
    assert not list(stopped.glob("summary-*"))
    assert check_run(stopped) == []


FROM_SCRATCH = "train from scratch with: cnnbench run tiny.yaml --engine direct --quiet"


@pytest.mark.parametrize(
    ("words", "epochs", "message"),
    [
        (
            [],
            "1",
            "--epochs: {run} is already trained for 2 epochs, not 1; write 3 or more, or "
            + f"{FROM_SCRATCH} train.epochs=1.\n",
        ),
        (
            ["train.schedule=cosine"],
            "4",
            "--epochs: the learning rates of the schedule 'cosine' in {run} depend on the total"
            " number of epochs, so its first 2 epochs would differ in a run of 4; "
            + f"{FROM_SCRATCH} train.schedule=cosine train.epochs=4.\n",
        ),
        (
            ["checkpoint.every=0"],
            "4",
            "{run}: cannot extend: no usable checkpoint of seed 0, 1 (older versions deleted them,"
            " and 'checkpoint.every: 0' writes none); "
            + f"{FROM_SCRATCH} checkpoint.every=0 train.epochs=4.\n",
        ),
        ([], "0", "command line: train.epochs: 0 is too small; use 1 or more.\n"),
    ],
)
@pytest.mark.sampled(1)
def test_a_run_that_cannot_be_extended_is_unchanged(server, tmp_path, words, epochs, message):
    assert server(begin(tmp_path), *RUN, *words)["code"] == 0
    run = only_run(tmp_path)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    done = server(tmp_path, "run", "--resume", run.name, "--epochs", epochs, "--quiet")
    assert done["stderr"] == message.format(run=run.relative_to(tmp_path))
    assert done["code"] in {1, 2}
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


MODEL = """\
from flax import nnx

class Net(nnx.Module):
    def __init__(self, *, rngs):
        self.dense = nnx.Linear(784, 10, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.drop(x.reshape(len(x), -1)))
"""


@pytest.mark.slow
def test_a_python_model_is_resumed_from_its_copy(server, tmp_path):
    head, tail = TINY.split("model:\n", maxsplit=1)[0], TINY[TINY.index("train:") :]
    spec = f"{head}model: {{python: 'my_net:Net'}}\n{tail}"
    for folder in ("compiled", "whole", "stopped"):
        (tmp_path / folder).mkdir()
        (begin(tmp_path / folder, spec) / "my_net.py").write_text(MODEL)
    for folder in ("compiled", "whole"):
        done = server(tmp_path / folder, *RUN)
        assert done["code"] == 0, done["stderr"]
    place = last_epoch(done["calls"])
    assert server(tmp_path / "stopped", *RUN, kill=place)["code"] == -signal.SIGKILL
    (tmp_path / "stopped" / "my_net.py").unlink()
    run = only_run(tmp_path / "stopped")
    done = server(tmp_path / "stopped", "run", "--resume", "tiny", "--quiet")
    assert done["code"] == 0, done["stderr"]
    assert numbers(run) == numbers(only_run(tmp_path / "whole"))


def test_python_models_in_the_working_directory_need_permission(server, tmp_path):
    head, tail = TINY.split("model:\n", maxsplit=1)[0], TINY[TINY.index("train:") :]
    (tmp_path / "specs").mkdir()
    begin(tmp_path / "specs", f"{head}model: {{python: 'my_net:Net'}}\n{tail}")
    (tmp_path / "my_net.py").write_text(MODEL)
    words = ["run", "specs/tiny.yaml", "train.epochs=1", "seeds=1", "--quiet"]
    done = server(tmp_path, *words, path=str(tmp_path))
    assert done["code"] == 2
    assert done["stderr"] == (
        "specs/tiny.yaml:4:17: model.python: 'my_net' is neither installed nor in the"
        f" folder of the file ({tmp_path}/my_net.py); add --allow-python if you trust it.\n"
    )
    done = server(tmp_path, *words, "--allow-python", path=str(tmp_path))
    assert done["code"] == 0, done["stderr"]


def test_a_network_that_cannot_fit_is_refused_before_compilation(server, tmp_path):
    large = "conv1: {op: conv, filters: 4000, kernel: 5,"
    folder = begin(tmp_path, TINY.replace("hidden: {op: dense, units: 8,", large))
    words = ["run", "tiny.yaml", "--quiet", "--engine", "plain", "train.batch_size=300"]
    done = server(folder, *words, memory=3 << 30)
    assert done["code"] == 1
    assert re.fullmatch(
        r"training needs at least [\d.]+ GiB, but only 3\.00 GiB are free: conv1 \(100,000"
        r" parameters, 24x24x4000 per image\), .*; write train\.batch_size=\d+ or less\.\n",
        done["stderr"],
    )
