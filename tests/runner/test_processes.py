"""Several processes that train one network together: real ones, with gloo between them."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

import cnnbench
from cnnbench.errors import UsageError
from cnnbench.executors.processes import ProcessGroup, group_of
from cnnbench.runner.processes import launch
from cnnbench.runner.processes.launch import shares, watched
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import RunResult
from cnnbench.training.strategy import Strategy, spread
from tests.support.paths import ROOT

TINY = """\
name: tiny
task: classify
dataset: {name: mnist_5k, train_examples: 250, splits: {validation: 100, test: 100}}
model:
  layers:
    conv1: {op: conv, filters: 4, kernel: 5, stride: 3, use_bias: false}
    norm1: {op: batch_norm}
    relu1: {op: activation, activation: relu}
    drop1: {op: dropout, rate: 0.5}
    dense1: {op: dense, units: 10}
train: {epochs: 2, batch_size: 60, optimizer: {name: adam, learning_rate: 0.01}}
seeds: [0]
"""


DENSE = {"op": "dense", "units": 10}
CONV = {"op": "conv", "filters": 4, "kernel": 5, "stride": 3}
RECIPES: dict[str, dict[str, Any]] = {
    "normed": {
        "layers": {"conv": CONV | {"use_bias": False}, "norm": {"op": "batch_norm"},
                   "tanh": {"op": "activation", "activation": "tanh"},
                   "hidden": {"op": "dense", "units": 8, "use_bias": False},
                   "norm2": {"op": "batch_norm"}, "dense": DENSE},
        "train": {"optimizer": "adamw", "schedule": {"name": "cosine", "warmup_epochs": 0.5},
                  "clip": {"norm": 0.5}, "ema": {"decay": 0.8}, "restore_best": "loss"},
    },
    "mixed": {
        "layers": {"conv": CONV | {"activation": "tanh"}, "drop": {"op": "dropout", "rate": 0.4},
                   "dense": DENSE},
        "augment": {"random_translation": {"pixels": 2}, "random_flip": "horizontal", "mixup": {}},
        "train": {"optimizer": "muon", "schedule": "one_cycle", "drop_last": False,
                  "label_smoothing": 0.1, "clip": {"value": 0.01}},
    },
    "short": {
        "layers": {"conv": CONV | {"activation": "tanh"}, "dense": DENSE},
        "augment": {"random_erasing": {}, "cutmix": {}},
        "train": {"precision": "bfloat16", "optimizer": "lion", "schedule": "linear"},
    },
    "sampled": {
        "task": "reconstruct",
        "layers": {"mean": DENSE | {"inputs": "input"}, "spread": DENSE | {"inputs": "input"},
                   "sample": {"op": "sample", "inputs": ["mean", "spread"], "kl_weight": 0.01},
                   "decode": {"op": "dense", "units": 784, "activation": "sigmoid"},
                   "image": {"op": "reshape", "shape": [28, 28, 1]}},
        "train": {"optimizer": "adam", "early_stopping": {"patience": 1, "min_delta": 0.5}},
    },
}  # fmt: skip


def written(folder: Path, name: str, recipe: dict[str, Any]) -> str:
    """The file of a recipe, of three steps and an incomplete one per epoch."""
    splits = {"validation": 100, "test": 100}
    dataset = {"name": "mnist_5k", "train_examples": 200, "splits": splits}
    experiment = {
        "name": name,
        "task": recipe.get("task", "classify"),
        "dataset": dataset | {"augment": recipe.get("augment")},
        "model": {"layers": recipe["layers"]},
        "train": {"epochs": 3, "batch_size": 60} | recipe["train"],
        "seeds": [0, 1],
    }
    (folder / f"{name}.yaml").write_text(json.dumps(experiment), "utf-8")
    return f"{name}.yaml"


def start(folder: Path, *words: str, **variables: str) -> "subprocess.Popen[str]":
    """Starts a command line in a folder with the experiment."""
    (folder / "tiny.yaml").write_text(TINY, "utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "cnnbench", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def trained(folder: Path, *words: str) -> RunResult:
    """The run of a command line."""
    process = start(folder, "run", "tiny.yaml", "--quiet", "--results-dir", "r", *words)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    return read_run(list_runs(folder / "r").entries[-1].path)


def trained_here(folder: Path, **options: Any) -> RunResult:
    """The run of the experiment in this process."""
    (run,) = cnnbench.run(
        folder / "tiny.yaml",
        engine="direct",
        results_dir=folder / "here",
        progress=False,
        **options,
    )
    assert run.path
    return read_run(run.path)


def curve(run: RunResult) -> list[float]:
    """All losses and metrics of a run."""
    return [
        value
        for epoch in run.epochs
        for value in (epoch.train_loss, epoch.validation_loss or 0.0, *epoch.metrics.values())
    ]


# The part of each process: a message of the first, a meeting, and a sum over all devices.
MEMBER = """
import sys
from cnnbench.executors import processes
place, address = int(sys.argv[1]), sys.argv[2]
processes.join(processes.ProcessGroup(2, place, address, "test"), print)
import jax
from jax.sharding import PartitionSpec
from cnnbench.system.devices import make_mesh, pick_devices, spans_processes
devices = pick_devices("cpu")
mesh, everywhere = make_mesh(devices), PartitionSpec()
options = dict(mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False)
total = jax.jit(jax.shard_map(lambda x: jax.lax.psum(x, "batch"), **options))
said = processes.shared(lambda: f"from {place}")
processes.meet()
same = int(jax.device_get(total(jax.numpy.ones((), int)))) == len(devices)
print(processes.num_processes(), processes.leads(), said, spans_processes(mesh), same)
processes.leave()
"""


def test_processes_exchange_messages_and_sums():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    group = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(place), address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for place in range(2)
    ]
    said = [member.communicate(timeout=600) for member in group]
    assert [out for out, _ in said] == [
        f"2 {leads} from 0 True True\n" for leads in (True, False)
    ], said


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path):
    two = trained(tmp_path, "--engine", "direct", "--processes", "2")
    assert two.record.engine
    assert two.record.engine.num_devices == two.record.environment.num_devices >= 2
    assert curve(two) == pytest.approx(curve(trained_here(tmp_path)), rel=1e-5)
    assert two.record.environment.num_processes == 2
    assert len(list((tmp_path / "r" / "tiny").iterdir())) == 1


@pytest.mark.slow
def test_recipes_are_the_same_in_two_processes(tmp_path):
    files = [written(tmp_path, name, recipe) for name, recipe in RECIPES.items()]
    for number in ("1", "2"):
        words = ("--engine", "direct", "--quiet", "--results-dir", number, "--processes", number)
        process = start(tmp_path, "run", *files, *words)
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, out + err
    for name, recipe in RECIPES.items():
        one, two = (
            read_run(path) for number in "12" for path in (tmp_path / number / name).iterdir()
        )
        assert [run.record.environment.num_processes for run in (one, two)] == [1, 2]
        error = 1e-2 if "precision" in recipe["train"] else 1e-4
        assert losses(two) == pytest.approx(losses(one), rel=error), name


def losses(run: RunResult) -> list[float]:
    """Losses of all epochs, and of the test images."""
    epochs = [(epoch.train_loss, epoch.validation_loss or 0.0) for epoch in run.epochs]
    assert run.summary
    return [*chain.from_iterable(epochs), *(seed.test["loss"] for seed in run.summary.seeds)]


@pytest.mark.slow
def test_a_mistake_is_printed_once(tmp_path):
    process = start(tmp_path, "run", "tiny.yaml", "train.batch_size=61", "--processes", "2")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    message = "train.batch_size: 61 images have no equal shares for 2 devices; write 60, or train"
    assert err.count(message) == 1
    assert "Gloo" not in out + err


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "number", "other"), [(0, 2, 4), (1, 2, 4), (3, 4, 2)])
def test_a_killed_process_ends_all_and_the_run_is_resumed_by_another_number(
    tmp_path, victim, number, other
):
    words = ("--epochs", "30", "--engine", "direct", "checkpoint.every=1")
    whole = trained(tmp_path, *words, "--processes", "2")
    own = ("--processes", str(number), "--results-dir", "k")
    process = start(tmp_path, "run", "tiny.yaml", *words, *own)
    children = started(tmp_path / "k", process.pid)
    os.kill(children[victim], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (137 if victim == 0 else 1)
    assert f"process {victim} of {number} was killed (SIGKILL)" in err
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    (stopped,) = list_runs(tmp_path / "k").entries
    again = start(tmp_path, "run", "--resume", str(stopped.path), "--processes", str(other))
    out, err = again.communicate(timeout=240)
    assert again.returncode == 0, out + err
    resumed = read_run(stopped.path)
    assert curve(resumed) == pytest.approx(curve(whole), rel=1e-2)
    assert resumed.record.resumed_with[-1]["num_devices"] == str(other)


def num_epochs(results: Path) -> int:
    """Number of epochs of the runs in a folder of results."""
    files = results.glob("tiny/*/epochs.jsonl")
    return sum(file.read_text("utf-8").count("\n") for file in files)


def started(results: Path, pid: int) -> list[int]:
    """The processes that a command has launched, once its run has two epochs."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if num_epochs(results) >= 2:
            listed = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
            return [int(word) for word in listed.split()]
        time.sleep(0.1)
    raise AssertionError("no epoch within two minutes")


@pytest.mark.slow
def test_processes_find_each_other_by_the_variables_of_a_launcher(tmp_path):
    variables = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
    variables |= {"SLURM_NTASKS": "2"}
    tasks = [
        start(
            tmp_path,
            *("run", "tiny.yaml", "--engine", "direct", "--results-dir", "r"),
            **variables,
            SLURM_PROCID=str(place),
            SLURM_LOCALID=str(place),
        )
        for place in range(2)
    ]
    outputs = [task.communicate(timeout=240) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], outputs
    assert "Accuracy" in outputs[0][0]
    assert outputs[1] == ("", "")
    (run,) = list_runs(tmp_path / "r").entries
    assert run.record.environment.num_processes == 2


def test_processes_do_not_go_with_workers(tmp_path):
    process = start(tmp_path, "run", "tiny.yaml", "--processes", "2", "--on", "local")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    message = "--processes: trains one seed on several processes, and --on several seeds at a time"
    assert err == f"{message}; remove one of them.\n"


SLURM = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}
OWN = {"CNNBENCH_COORDINATOR": "n1:99", "CNNBENCH_NUM_PROCESSES": "3", "CNNBENCH_PROCESS_ID": "2"}
JAX = {"JAX_COORDINATOR_ADDRESS": "n1:9", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
OMPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
}


@pytest.mark.parametrize(
    ("environ", "group"),
    [
        ({}, None),
        (SLURM, ProcessGroup(2, 1, "", "SLURM_NTASKS=2")),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({name: SLURM[name] for name in ("SLURM_NTASKS", "SLURM_PROCID")}, None),  # no srun
        (OMPI, ProcessGroup(4, 3, "", "OMPI_COMM_WORLD_SIZE=4")),
        (OWN, ProcessGroup(3, 2, "n1:99", "CNNBENCH_COORDINATOR=n1:99")),
        (JAX, ProcessGroup(2, 0, "n1:9", "JAX_COORDINATOR_ADDRESS=n1:9")),
        (JAX | SLURM, ProcessGroup(2, 0, "n1:9", "JAX_COORDINATOR_ADDRESS=n1:9")),
    ],
)
def test_environment_variables_describe_a_group(environ, group):
    assert group_of(environ) == group


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"CNNBENCH_COORDINATOR": "n1:99", "CNNBENCH_PROCESS_ID": "0"},
            "CNNBENCH_COORDINATOR is set, but CNNBENCH_NUM_PROCESSES is not; set it, or unset"
            " CNNBENCH_COORDINATOR.",
        ),
        (
            OWN | {"CNNBENCH_PROCESS_ID": "two"},
            "CNNBENCH_PROCESS_ID='two' is not a whole number; correct or unset it.",
        ),
        (
            OWN | {"CNNBENCH_PROCESS_ID": "3"},
            "CNNBENCH_COORDINATOR=n1:99: process 3 is not one of 3 processes; number them from 0"
            " to 2.",
        ),
        (
            OWN | {"CNNBENCH_COORDINATOR": "n1"},
            "CNNBENCH_COORDINATOR=n1: no port; write HOST:PORT of process 0.",
        ),
    ],
)
def test_impossible_variables_are_refused(environ, message):
    with pytest.raises(UsageError) as error:
        group_of(environ)
    assert str(error.value) == message


def test_cores_are_disjoint_if_there_are_enough():
    assert shares([0, 2, 4, 6, 8], 2) == [[0, 2], [4, 6]]
    assert shares([3, 5], 3) == [[3], [5], [3]]


def test_only_strategies_with_all_devices_are_left():
    fast, few, plain = (
        Strategy("fast", 10, 4, 1),
        Strategy("direct", 30, 2, 1),
        Strategy("plain", None, 1, 1),
    )
    assert spread((fast, few, plain), 60, 4) == (fast, Strategy("plain", None, 4, 1))


@pytest.mark.parametrize(
    ("leader", "code", "told"),
    [
        ("import time; time.sleep(60)", 1, True),  # waits for the other one in a sum
        ("raise SystemExit(1)", 1, True),  # fails since the other one is gone
        ("raise SystemExit(3)", 3, False),  # has made the same mistake, and said so
    ],
)
def test_what_a_process_said_that_failed_alone_is_told(leader, code, told, monkeypatch):
    waits = "60" in leader
    if waits:  # the others end by themselves, however slowly they start
        monkeypatch.setattr(launch, "PATIENCE_S", 1.0)
    monkeypatch.setattr(sys, "argv", ["cnnbench", "run", "a"])
    other = "import sys; sys.stderr.write('first\\nno memory\\n'); sys.exit(3)"
    with tempfile.TemporaryFile() as said:
        lost = subprocess.Popen([sys.executable, "-c", other], stderr=said)
        lost.wait()
        first = f"import time; time.sleep(0.3); {leader}"
        group = [subprocess.Popen([sys.executable, "-c", first]), lost]
        notes: list[str] = []
        found = watched(group, [said], notes.append)
    assert notes[0].startswith("process 1 of 2 ended with exit code 3")
    assert notes[1:] == (["    first", "    no memory"] if told else [])
    assert found == (128 + signal.SIGTERM if waits else code)


def test_a_leader_that_ends_before_anyone_looks_does_not_hide_who_was_killed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cnnbench", "run", "a"])
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with tempfile.TemporaryFile() as nothing:
        group = [
            subprocess.Popen([sys.executable, "-c", each])
            for each in ("raise SystemExit(1)", "raise SystemExit(1)", code)
        ]
        for each in group:
            each.wait()
        notes: list[str] = []
        assert watched(group, [nothing, nothing], notes.append) == 1
    assert notes == ["process 2 of 3 was killed (SIGKILL)"]
