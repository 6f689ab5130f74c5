"""The GPU benchmark on a CPU with a tiny network: numbers, files and budget."""

import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu
from benchmarks.gpu_worker import WARM_UP, Answerer, TrainingSetup
from cnnbench.errors import UsageError
from tests.support.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.sh"
BATCH = 20
SPEC = """\
name: tiny
task: classify
dataset: {name: mnist, pixel_scale: 256}
model:
  layers:
    conv1: {op: conv, filters: 4, kernel: 5, stride: 3, activation: relu}
    pool1: {op: max_pool, size: 2}
    dense1: {op: dense, units: 10}
train: {optimizer: {name: sgd, learning_rate: 0.05}}
"""
SHOW = """\
import json
from benchmarks.gpu import NETWORKS
from benchmarks.gpu_worker import TrainingSetup

for name in NETWORKS:
    loaded = TrainingSetup(name, "cnnbench", "bfloat16", 10, 64).load("train.optimizer=adam")
    experiment, nodes = loaded.experiment, loaded.plan.nodes
    print(experiment.digest(), [(node.name, node.inputs, node.layout) for node in nodes])
    print(experiment.model_dump(mode="json"), experiment.train.optimizer.model_dump())
"""


@pytest.fixture
def network(tmp_path: Path) -> str:
    (tmp_path / "tiny.yaml").write_text(SPEC)
    return str(tmp_path / "tiny")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The folder shared by both processes."""
    folder = tmp_path / "shared"
    folder.mkdir()
    images, labels = gpu.generated(7 * BATCH)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    return folder


def test_generated_images_are_never_zero() -> None:
    images, labels = gpu.generated(500)
    assert (images.shape, images.dtype, labels.dtype) == ((500, 28, 28, 1), np.uint8, np.int32)
    assert images.min() > 0
    assert set(labels.tolist()) == set(range(10))


def test_experiments_are_read_the_same_without_pydantic() -> None:
    """With the pydantic substitute first on the path of one process."""
    found = []
    for extra in ([], [ROOT / "benchmarks" / "bare"]):
        path = os.pathsep.join(map(str, [ROOT, *extra]))
        command = [sys.executable, "-c", f"import pydantic\nprint(pydantic.__file__)\n{SHOW}"]
        environment = os.environ | {"PYTHONPATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(done.stdout.splitlines())
    (real, *want), (stand_in, *have) = found
    assert Path(stand_in) == ROOT / "benchmarks" / "bare" / "pydantic.py"
    assert Path(real) != Path(stand_in)
    assert have == want
    assert len(want) == 2 * len(gpu.NETWORKS)


@pytest.mark.parametrize(
    ("variant", "precision"),
    [
        ("torch-eager-nchw", "float32"),
        ("torch-eager-channels_last", "bfloat16"),
        ("torch-vmap", "float32"),
        ("torch-vmap", "bfloat16"),
    ],
)
def test_pytorch_does_the_same_work(variant, precision, network, shared) -> None:
    """From our weights on our batches, with two parallel seeds, it has our losses."""
    pytest.importorskip("torch")
    from benchmarks import gpu_jax, gpu_torch

    theirs = gpu_torch.TorchTrainers(shared)
    training = TrainingSetup(network, "cnnbench", precision, 2, BATCH)
    with closing(gpu_jax.JaxTrainers(shared)) as ours:
        ours.weights(network, 2)
        own = ours.start(training)
    other = theirs.start(replace(training, variant=variant))
    assert own["epoch_steps"] == other["epoch_steps"] == 5
    tolerance = 1e-5 if precision == "float32" else 1e-2
    assert other["first_epoch"]["steps"] == 5 - WARM_UP
    assert other["first_epoch"]["loss"] == pytest.approx(own["first_epoch"]["loss"], rel=tolerance)
    more = theirs.train(replace(training, variant=variant), 2)
    assert more["steps"] == 2
    assert more["loss"] < other["first_epoch"]["loss"]


def test_cuda_graphs_need_a_gpu(network, shared) -> None:
    pytest.importorskip("torch")
    from benchmarks import gpu_jax, gpu_torch

    with closing(gpu_jax.JaxTrainers(shared)) as ours:
        ours.weights(network, 1)
    trainers = Answerer(gpu_torch.TorchTrainers(shared))
    training = dict.fromkeys(("network", "variant", "precision", "seeds", "batch"))
    training |= {"network": network, "variant": "torch-graphs-nchw", "seeds": 1, "batch": BATCH}
    request = {"do": "start", "training": training | {"precision": "float32"}}
    with pytest.raises(UsageError, match="CUDA graphs need a GPU"):
        trainers.answer(request)


def test_errors_of_xla_or_cuda_are_answered() -> None:
    class Broken:
        def facts(self) -> Any:
            raise RuntimeError("\nCUDA error: out of memory\nmore")

    with pytest.raises(UsageError, match=r"^RuntimeError: CUDA error: out of memory$"):
        Answerer(Broken()).answer({"do": "facts"})


@pytest.mark.slow
def test_the_whole_script_on_a_cpu(network, tmp_path) -> None:
    """Its JSON is valid at every moment, so it may be killed at any time."""
    out = tmp_path / "out"
    sizes = ["--images", str(7 * BATCH), "--batch", str(BATCH), "--seeds", "2", "--turn", "0.01"]
    command = ["bash", SCRIPT, "--cpu", "--no-torch", "--budget", "120", "--networks", network]
    process = subprocess.Popen(
        [*command, *sizes], env=os.environ | {"OUT": str(out), "PYTHON": sys.executable}
    )
    seen = set()
    while process.poll() is None:
        for file in out.glob("gpu-*.json"):
            seen.add(len(json.loads(file.read_text())["races"]))
    assert process.returncode == 0
    assert len(seen) > 1
    (file,) = out.glob("gpu-*.json")
    found = json.loads(file.read_text())
    assert found["finished"]
    assert found["facts"]["jax"]["device_kind"] == "cpu"
    (check,) = found["checks"]
    assert all(own["holds"] for own in check["differences"].values())
    assert check["differences"]["float32"]["gradient"] == 0  # the same device
    assert 0 < check["differences"]["bfloat16"]["gradient"] < 0.1
    entries = [entry for race in found["races"] for entry in race["entries"]]
    ours = [entry for entry in entries if entry["variant"] == "cnnbench"]
    assert ours[0]["outcome"] == "measured"
    assert len(ours[0]["epoch_s"]) >= gpu.FEWEST_ROUNDS
    assert {e["reason"] for e in entries} - {"out of time"} == {"", "PyTorch is not installed"}
    text = file.with_suffix(".md").read_text()
    assert "## tiny, float32, 1 seed(s)" in text
    assert "FAILED" not in text


def test_missing_packages_are_named(tmp_path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # -S: no installed packages
    bare.chmod(0o755)
    environment = os.environ | {"PYTHON": str(bare)}
    done = subprocess.run(
        ["bash", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    message = "jax is missing: install it, or set WHEELS to a folder with its wheel\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_the_most_important_races_come_first() -> None:
    pytest.importorskip("torch")
    from benchmarks.gpu_torch import VARIANTS

    found = list(gpu.races(gpu.NETWORKS, 10))
    number = len(gpu.NETWORKS)
    assert [race.network for race in found[:number]] == list(gpu.NETWORKS)
    assert {(race.precision, race.seeds) for race in found[:number]} == {("float32", 1)}
    assert all(race.variants[0] == "cnnbench" for race in found)
    missing = {"torch-compile-nchw", "torch-compile-graphs-nchw"}  # channels_last was faster
    assert {name for race in found for name in race.variants[1:]} == set(VARIANTS) - missing
