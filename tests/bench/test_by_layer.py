"""Time by layer: attribution of a profile to layers, the roofline, and what is printed."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cnnbench.bench.by_layer import (
    ByLayer,
    LayerTime,
    Roofline,
    busy_seconds,
    measure_by_layer,
    moved_bytes,
    weight_bytes,
)
from cnnbench.bench.by_layer_report import json_by_layer, markdown_by_layer, terminal_by_layer
from cnnbench.bench.frameworks import initial_weights
from cnnbench.bench.scheduler import BenchTask
from cnnbench.cli.app import app
from cnnbench.data.splits import Split
from cnnbench.graph.flops import layer_flops, training_flops
from cnnbench.spec.loader import load_experiment
from cnnbench.system.host import num_cpus

PROGRAM = """
%body (x: f32[8]) -> f32[8] {
  %fusion.3 = f32[8,2]{1,0} fusion(%x), kind=kLoop, metadata={op_name="jit(f)/jvp(layer.a.0.fc)/mul"}
}
  %while.1 = (s32[], f32[8,2]{1,0}) while(%t), body=%body, metadata={op_name="jit(f)/while"}
  %dot.1 = f32[8,2]{1,0} dot(%a, %b), metadata={op_name="jit(f)/transpose(jvp(layer.out))/dot"}
  ROOT %tuple.5 = (f32[8]{0}, f32[]) custom-call(%a), metadata={op_name="jit(f)/layer.out/call"}
  %copy.2 = f32[8]{0} copy(%a)
"""  # noqa: E501


def test_events_are_those_of_the_layers_that_their_instructions_come_from() -> None:
    events = [("dot.1", 1.0), ("dot.1", 2.0), ("tuple.5", 5.0), ("copy.2", 7.0), ("fusion.3", 4.0)]
    ignored = [("while.1", 100.0), ("ThunkExecutor::Execute", 100.0), ("end: dot.1", 100.0)]
    found = busy_seconds([*events, *ignored], PROGRAM, {"a.0.fc": ("a.0.fc", "a.1.fc")})
    assert found == {"out": (5, 3), "": (7, 0), "a.0.fc": (2, 0), "a.1.fc": (2, 0)}


SPEC = """\
name: tiny
title: Tiny CNN
task: classify
dataset: {name: mnist_5k}
model:
  layers:
    conv1: {op: conv, filters: 4, kernel: 5, stride: 3, padding: valid}
    norm: {op: batch_norm}
    act: {op: activation, activation: relu}
    drop: {op: dropout, rate: 0.5}
    dense: {op: dense, units: 10}
train: {batch_size: 20}
"""


@pytest.fixture
def task(tmp_path: Path) -> BenchTask:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPEC)
    loaded = load_experiment(path)
    assert loaded.plan is not None
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 28, 28, 1), np.uint8)
    split = Split(images, np.arange(40, dtype=np.int32) % 10)
    return BenchTask(loaded, split, split, "random images", initial_weights(loaded.plan, 0))


def test_a_step_is_the_sum_of_its_layers(task: BenchTask) -> None:
    found = measure_by_layer(task, "fast")
    assert [layer.name for layer in found.layers] == ["conv1", "norm", "act", "drop", "dense"]
    total = sum(layer.seconds for layer in found.layers) + found.rest_s
    assert total == pytest.approx(found.step_s)
    times = {layer.name: layer for layer in found.layers}
    assert min(times["conv1"].forward_s, times["conv1"].backward_s) > 0
    assert min(times["dense"].forward_s, times["dense"].backward_s, found.rest_s) > 0
    assert 0 < found.busy <= 1
    assert found.batch_size == 20
    assert found.roofline.peak_flops > 1e8
    assert found.roofline.bandwidth > 1e7


def test_flops_and_bytes_are_those_counted_by_hand(task: BenchTask) -> None:
    assert task.loaded.plan is not None
    work = {each.node.name: each for each in layer_flops(task.loaded.plan)}
    assert work["conv1"].flops == 2 * 2 * 8 * 8 * 4 * 25  # no gradient of the image
    assert work["dense"].flops == 3 * 2 * 256 * 10
    assert sum(each.flops for each in work.values()) == training_flops(task.loaded.plan)
    conv, dense = work["conv1"].node, work["dense"].node
    assert moved_bytes(conv, gradient=False) == 4 * (784 + 256 + 784 + 256)
    assert moved_bytes(dense, gradient=True) == 4 * (256 + 10 + 256 + 10 + 256)
    assert (weight_bytes(conv), weight_bytes(dense)) == (4 * (100 + 4), 4 * (2560 + 10))


ROOFLINE = Roofline(peak_flops=100e9, bandwidth=10e9)
FOUND = ByLayer(
    "Tiny CNN",
    "mnist_5k",
    500,
    "fast, micro-batch 10, 2 devices",
    0.04,
    0.05,
    (
        LayerTime("conv1", "conv 32 @ 5x5, relu", 0.006, 0.0105, 800_000_000, 20_000_000),
        LayerTime("pool1", "max_pool 2x2", 0.0, 0.0025, 0, 30_000_000),
        LayerTime("dense1", "dense 10", 0.0004, 0.0006, 7_680_000, 1_600_000),
    ),
    0.02,
    ROOFLINE,
    0.93,
)
SHOWN = """\
Tiny CNN: a step of 500 images of mnist_5k, engine fast, micro-batch 10, 2
devices

Layer   Operation            Fwd ms  Bwd ms  Share  Peak  FLOP/B  Bound by
──────────────────────────────────────────────────────────────────────────
conv1   conv 32 @ 5x5, relu    6.00    10.5    41%   48%    40.0  products
pool1   max_pool 2x2              0    2.50   6.2%                  memory
dense1  dense 10              0.400   0.600   2.5%  7.7%     4.8    memory
other                          20.0            50%
step                           26.4    13.6   100%   20%

Fwd, Bwd: milliseconds of the forward and the backward pass in a step as
profiled, scaled to a step without the profiler (with it, a step takes 1.25x as
long).
Operations ran in 93% of the cores' time; the rest is divided among all rows in
proportion, so that they add up to a step.
other: loss, optimizer, augmentation and copies.
Peak: FLOPs of the products, relative to 100 GFLOP/s, measured by a large matrix
product.
FLOP/B: FLOPs per byte of minimum memory traffic. Below 10, memory (10.0 GB/s)
is the limit, above it the products.
XLA fuses layers: a pool or an activation may be counted with its neighbor.
"""


def test_what_the_terminal_shows() -> None:
    console = Console(width=80, file=None, record=True, quiet=False, no_color=True)
    with console.capture() as captured:
        console.print(terminal_by_layer(FOUND))
    lines = [line.rstrip() for line in captured.get().strip().split("\n")]
    assert "\n".join(lines) + "\n" == SHOWN


def test_more_than_the_peak_is_explained() -> None:
    """800 MFLOP in 5 ms are 160 GFLOP/s."""
    quick = replace(FOUND.layers[0], forward_s=0.002, backward_s=0.003)
    text = markdown_by_layer(replace(FOUND, layers=(quick,)))
    assert "| 160% |" in text
    assert "matrix product. Above 100%: Winograd needs fewer than counted." in text
    assert "Winograd" not in markdown_by_layer(FOUND)


def test_markdown_has_the_same_rows() -> None:
    text = markdown_by_layer(FOUND)
    assert "| conv1 | conv 32 @ 5x5, relu | 6.00 | 10.5 | 41% | 48% | 40.0 | products |" in text
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")] == [
        "| Layer",
        "| conv1",
        "| pool1",
        "| dense1",
        "| other",
        "| step",
    ]


def test_json_has_derived_values() -> None:
    (network,) = json.loads(json_by_layer([FOUND]))["networks"]
    conv = network["layers"][0]
    assert conv["share"] == pytest.approx(0.0165 / 0.04)
    assert conv["peak_share"] == pytest.approx(0.8e9 / 0.0165 / 100e9)
    assert (conv["bound_by"], conv["flops_per_byte"]) == ("products", 40.0)
    assert network["roofline"] == {"peak_flops": 100e9, "bandwidth": 10e9}


@pytest.mark.slow
def test_the_command_measures_on_all_cores(tmp_path: Path) -> None:
    """As `run` trains: in a process of its own, where nothing has started JAX before."""
    (tmp_path / "tiny.yaml").write_text(SPEC)
    words = ["bench", "tiny.yaml", "--by-layer", "--engine", "fast", "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "cnnbench", *words],
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (network,) = json.loads(done.stdout)["networks"]
    cores = min(2, num_cpus())  # of 20 images, in rows of 10
    assert network["strategy"] == f"fast, micro-batch 10{', 2 devices' if cores > 1 else ''}"


def test_other_frameworks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPEC)
    done = CliRunner().invoke(app, ["bench", str(path), "--by-layer", "--against", "torch"])
    assert done.exit_code == 2
    message = "--against: cannot be combined with --by-layer, which measures cnnbench alone"
    assert f"{message}; remove one of them." in " ".join(done.output.split())
