"""Differences between experiments: marks and lines."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.spec.diff import differences
from cnnbench.spec.loader import Loaded, load_experiment
from tests.support.golden import approved
from tests.support.paths import EXPERIMENTS


def load(name: str, *overrides: str) -> Loaded:
    return load_experiment(EXPERIMENTS / f"{name}.yaml", overrides)


def show(*words: str) -> str:
    done = CliRunner().invoke(app, ["show", *words], env={"COLUMNS": "80"}, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_an_experiment_is_not_different_from_itself_under_another_name() -> None:
    found = differences(load("standard"), load("standard", "name=other", "title=Other"))
    assert (found.marks, found.lines) == ({}, ())


def test_added_and_rewired_layers() -> None:
    found = differences(load("standard"), load("modified"))
    assert found.marks == dict.fromkeys(("conv1a", "pool1a", "flat1a", "concat"), "+") | {
        "drop2": "~",
        "dense2": ">",
    }
    assert found.lines == (
        "+ conv1a: conv 32 @ 10x10, relu",
        "+ pool1a: max_pool 5x5",
        "+ flat1a: flatten",
        "+ concat: concat",
        "~ drop2: inputs dense1 -> concat",
        "> dense2: resized, input 256 -> 544, parameters 2,570 -> 5,450",
        "parameters: 160,362 -> 166,474 (+3.8%)",
        "multiply-adds: 2,232,832 -> 3,390,912 (+51.9%)",
    )


def test_removed_layers() -> None:
    found = differences(load("modified"), load("standard"))
    assert found.marks == {"drop2": "~", "dense2": ">"}
    assert found.lines[2:6] == (
        "- conv1a: conv 32 @ 10x10, relu",
        "- pool1a: max_pool 5x5",
        "- flat1a: flatten",
        "- concat: concat",
    )


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (
            ["model.conv1.kernel=7", "model.conv1.activation=tanh"],
            ["~ conv1: kernel 5x5 -> 7x7, activation relu -> tanh"],
        ),
        (["model.conv1.use_bias=false"], ["~ conv1: use_bias true -> false"]),
        (
            ["model.conv1.init={name: normal, stddev: 0.02}"],
            ["~ conv1: init glorot_uniform -> {name: normal, stddev: 0.02}"],
        ),
        (
            ["model.params={sd: 0.02}", "model.conv1.bias_init={name: normal, stddev: $sd}"],
            ["~ conv1: bias_init zeros -> {name: normal, stddev: 0.02}"],
        ),
        (["model.conv1.padding=[1,1]"], ["~ conv1: padding valid -> 1x1"]),
        (["model.pool1={op: avg_pool, size: 2}"], ["~ pool1: max_pool 2x2 -> avg_pool 2x2"]),
        (["train.epochs=5", "seeds=2"], ["train.epochs: 30 -> 5", "seeds: [0] -> [0, 1]"]),
        (["dataset.pixel_scale=255.0"], ["dataset.pixel_scale: 256.0 -> 255.0"]),
        (["dataset.splits=null"], ["dataset.splits.train: 50000 -> null"]),
        (
            ["train.optimizer={name: rmsprop, learning_rate: 0.01}"],
            ["train.optimizer.name: sgd -> rmsprop"],
        ),
        (["train.schedule={name: step, every: 5}"], ["train.schedule.every: absent -> 5"]),
        (["train.clip.norm=1"], ["train.clip: null -> {norm: 1.0}"]),
        (
            [
                'train.groups=[{layers: "c*", learning_rate: {times: 2}},'
                " {layers: dense1, weight_decay: 0}]"
            ],
            [
                "train.groups: null -> [{layers: [c*], learning_rate: {times: 2.0}},"
                " {layers: [dense1], weight_decay: 0.0}]"
            ],
        ),
        (
            ["dataset.augment.mixup={}", "dataset.augment.random_flip=horizontal"],
            ["dataset.augment: null -> {random_flip: horizontal, mixup: {alpha: 0.2}}"],
        ),
        (
            ["dataset.normalize={mean: [0.1], std: 0.3}"],
            ["dataset.normalize: null -> {mean: [0.1], std: [0.3]}"],
        ),
    ],
)
def test_changes_are_reported_by_key(overrides: list[str], lines: list[str]) -> None:
    found = differences(load("standard"), load("standard", *overrides)).lines
    assert set(lines) <= set(found), found
    assert all(re.match(r"[~+>-] |[a-z_.-]+: ", line) for line in found)


def test_a_layer_resized_by_earlier_ones_is_marked() -> None:
    """Sizes by hand: 28 - 7 + 1 = 22, half of it 11, less 4 is 7, half of it 3; 9 x 32 = 288."""
    found = differences(load("standard"), load("standard", "model.conv1.kernel=7"))
    follow = ("pool1", "conv2", "pool2", "drop1", "dense1")
    assert found.marks == {"conv1": "~"} | dict.fromkeys(follow, ">")
    assert found.lines[1:7] == (
        "> pool1: resized, output 12x12x32 -> 11x11x32",
        "> conv2: resized, output 8x8x32 -> 7x7x32",
        "> pool2: resized, output 4x4x32 -> 3x3x32",
        "> drop1: resized, output 4x4x32 -> 3x3x32",
        "> dense1: resized, input 4x4x32 -> 3x3x32, parameters 131,328 -> 73,984",
        "parameters: 160,362 -> 103,786 (-35.3%)",
    )
    assert (9 * 32 + 1) * 256 == 73_984


def test_show_marks_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXPERIMENTS.parent)
    text = show("experiments/standard.yaml", "experiments/modified.yaml")
    assert text == approved("show_two.txt", text)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


def test_show_compares_each_with_the_first() -> None:
    paths = [str(EXPERIMENTS / f"{name}.yaml") for name in ("standard", "mlp", "standard")]
    text = show(*paths)
    assert text.count("Compared with Standard CNN:\n") == 2
    assert text.endswith("Compared with Standard CNN:\n  no differences\n\n")


def test_a_python_model_is_compared_by_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\ntask: classify\ndataset: {name: mnist_5k}\nmodel: {python: 'compared:Net'}\n"
    )
    (tmp_path / "compared.py").write_text(
        "from flax import nnx\n\n"
        "class Net(nnx.Module):\n"
        "    def __init__(self, rngs):\n"
        "        self.dense = nnx.Linear(784, 10, rngs=rngs)\n\n"
        "    def __call__(self, x):\n"
        "        return self.dense(x.reshape(len(x), -1))\n"
    )
    text = show(str(EXPERIMENTS / "standard.yaml"), str(path))
    assert "  model.python: null -> compared:Net\n" in text
    assert "  dataset.name: mnist -> mnist_5k\n" in text
