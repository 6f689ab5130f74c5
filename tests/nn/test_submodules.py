"""Submodules of Python models: capture, data flow, counts and display."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from typer.testing import CliRunner, Result

import cnnbench
from cnnbench.cli.app import app
from cnnbench.nn.submodules import captured, outline
from cnnbench.report.layer_table import outline_table
from cnnbench.report.plots.diagram import outline_diagram
from cnnbench.training.state import num_params, split_network

# Flax would rather have us sow inside of nnx.capture, which older versions lack.
pytestmark = pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
SHAPE = (8, 8, 1)


class Block(nnx.Module):
    """A depthwise and a pointwise convolution."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs) -> None:
        self.depth = nnx.Conv(
            channels, channels, (3, 3), feature_group_count=channels, use_bias=False, rngs=rngs
        )
        self.point = nnx.Conv(channels, channels, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.point(nnx.relu(self.depth(x)))


class Net(nnx.Module):
    """Blocks around which their inputs are passed."""

    def __init__(self, channels: int = 4, *, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(1, channels, (3, 3), strides=2, rngs=rngs)
        self.blocks = nnx.List([Block(channels, rngs=rngs) for _ in range(2)])
        self.scale = nnx.Param(jnp.ones(channels))
        self.head = nnx.Linear(channels, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        self.sow(nnx.Intermediate, "features", x)
        return self.head((x * self.scale.get_value()).mean((1, 2)))


def made(make: Any, **args: Any) -> Any:
    model = make(**args, rngs=nnx.Rngs(0))
    model.eval()
    return model


def test_shapes_wiring_parameters_and_cost() -> None:
    found = outline(Net, {"channels": 4}, SHAPE, (3,))
    pixels = 4 * 4
    assert [(p.name, p.inputs, p.shape, p.num_params, p.multiply_adds) for p in found.parts] == [
        ("stem", ("input",), (4, 4, 4), 4 * 9 + 4, pixels * 4 * 9),
        ("blocks.0.depth", ("stem",), (4, 4, 4), 4 * 9, pixels * 4 * 9),
        ("blocks.0.point", ("blocks.0.depth",), (4, 4, 4), 16 + 4, pixels * 16),
        ("blocks.1.depth", ("stem", "blocks.0.point"), (4, 4, 4), 4 * 9, pixels * 4 * 9),
        ("blocks.1.point", ("blocks.1.depth",), (4, 4, 4), 16 + 4, pixels * 16),
        ("head", ("stem", "blocks.0.point", "blocks.1.point"), (3,), 12 + 3, 12),
    ]
    assert [p.operation for p in found.parts[:3]] == [
        "Conv 3x3x1x4",
        "Conv 3x3x1x4, 4 groups",
        "Conv 1x1x4x4",
    ]
    assert found.num_params == num_params(split_network(made(Net)).params)
    assert (found.output_shape, found.output_inputs) == ((3,), ("head",))
    assert found.multiply_adds == sum(p.multiply_adds for p in found.parts)


class Products(nnx.Module):
    """Products inside of a loop, a compiled function and a module called twice."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(64, 64, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.dense(self.dense(x.reshape(len(x), -1)))
        x, _ = jax.lax.scan(
            lambda carry, _: (jnp.tanh(carry @ jnp.ones((64, 64))), None), x, length=3
        )
        result: jax.Array = jax.jit(lambda y: y @ jnp.ones((64, 5)))(x)
        return result


def test_a_depthwise_convolution_costs_the_same_by_shifted_products() -> None:
    def make(*, rngs: nnx.Rngs, **options: Any) -> nnx.Module:
        return nnx.Conv(
            4, 8, (3, 2), strides=2, feature_group_count=4, use_bias=False, rngs=rngs, **options
        )

    class Net(nnx.Module):
        def __init__(self, *, rngs: nnx.Rngs, **options: Any) -> None:
            self.first = make(rngs=rngs, **options)
            self.second = nnx.Conv(8, 2, (1, 1), rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.second(self.first(x))

    shifted = {"conv_general_dilated": cnnbench.depthwise}
    one, other = (outline(Net, options, (9, 7, 4), (5, 4, 2)) for options in ({}, shifted))
    assert [part.multiply_adds for part in one.parts] == [5 * 4 * 8 * 3 * 2, 5 * 4 * 8 * 2]
    assert (one.num_slow, other.num_slow) == (1, 0)
    assert replace(one, num_slow=0) == other


@pytest.mark.parametrize(
    ("channels", "kernel", "groups", "slow"),
    [
        (4, (5, 5), 4, 3),
        (4, (7, 7), 4, 3),
        (4, (11, 11), 4, 3),
        (4, (13, 13), 4, 0),
        (4, (1, 1), 4, 0),
        (4, (3, 3), 2, 0),
        (1, (3, 3), 1, 0),
    ],
)
def test_slow_convolutions_are_found_inside_of_loops_and_functions(
    channels: int, kernel: tuple[int, int], groups: int, slow: int
) -> None:
    class Net(nnx.Module):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            options: Any = {"feature_group_count": groups, "rngs": rngs}
            self.conv = nnx.Conv(channels, channels, kernel, **options)

        def __call__(self, x: jax.Array) -> jax.Array:
            x, _ = lax.scan(lambda y, _: (self.conv(y), None), x, length=2)
            result: jax.Array = jax.jit(self.conv)(self.conv(x))
            return result

    assert outline(Net, {}, (8, 8, channels), (8, 8, channels)).num_slow == slow


def test_a_module_that_returns_its_input_reads_it() -> None:
    """Such as dropout in evaluation."""

    class Net(nnx.Module):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            self.first, self.last = (nnx.Dropout(0.5, rngs=rngs) for _ in range(2))
            self.one, self.other = (nnx.Linear(64, 64, rngs=rngs) for _ in range(2))

        def __call__(self, x: jax.Array) -> jax.Array:
            x = self.first(x.reshape(len(x), -1))
            x = self.first(self.one(x))
            return self.last(x + self.other(x))

    found = outline(Net, {}, SHAPE, (64,))
    assert [(part.name, part.inputs) for part in found.parts] == [
        ("first", ("input",)),
        ("one", ("first",)),
        ("first#2", ("one",)),
        ("other", ("first#2",)),
        ("last", ("first#2", "other")),
    ]
    assert found.output_inputs == ("last",)


def test_a_module_that_is_called_twice_and_products_outside_of_modules() -> None:
    found = outline(Products, {}, SHAPE, (5,))
    assert [(p.name, p.inputs, p.num_params, p.multiply_adds) for p in found.parts] == [
        ("dense", ("input",), 64 * 64 + 64, 64 * 64),
        ("dense#2", ("dense",), 0, 64 * 64),
    ]
    assert found.multiply_adds == (2 + 3) * 64 * 64 + 64 * 5
    assert (found.output_shape, found.output_inputs) == ((5,), ("dense#2",))


class Twice(nnx.Linear):
    """Calls the inherited method."""

    def __call__(self, inputs: jax.Array, *args: Any) -> jax.Array:
        return 2 * super().__call__(inputs, *args)


class Shared(nnx.Module):
    """One module under two names, and one of a subclass."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.one = nnx.Linear(64, 64, rngs=rngs)
        self.same = self.one
        self.twice = Twice(64, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        result: jax.Array = self.twice(self.same(x.reshape(len(x), -1)))
        return result


def test_a_module_under_two_names_is_one_and_an_inherited_call_is_one() -> None:
    found = outline(Shared, {}, SHAPE, (2,))
    assert [p.name for p in found.parts] == ["one", "twice"]
    assert found.num_params == sum(p.num_params for p in found.parts)


def test_captured_values_are_those_of_the_calls() -> None:
    model = made(Net)
    images = jax.random.uniform(jax.random.key(0), (5, *SHAPE))
    call = nnx.Conv.__call__
    result, values = captured(model, images)
    assert nnx.Conv.__call__ is call
    assert list(values) == [
        "stem",
        "blocks.0.depth",
        "blocks.0.point",
        "blocks.0",
        "blocks.1.depth",
        "blocks.1.point",
        "blocks.1",
        "head",
        "features",
    ]
    x = model.stem(images)
    np.testing.assert_array_equal(values["stem"], x)
    np.testing.assert_array_equal(values["blocks.0.depth"], model.blocks[0].depth(x))
    y = x + model.blocks[0](x)
    np.testing.assert_array_equal(values["features"], y + model.blocks[1](y))
    np.testing.assert_array_equal(values["head"], result)
    # Also when compiled, and in the same order.
    again = jax.jit(lambda images: captured(made(Net), images)[1])(images)
    assert list(again) == list(values)
    for name, value in again.items():
        np.testing.assert_allclose(value, values[name], rtol=1e-5, atol=1e-6)


def scanned(call: Any, x: jax.Array) -> Any:
    rows = x.transpose(1, 0, 2)
    return lax.scan(lambda h, row: (nnx.relu(call(h) + row), None), jnp.zeros_like(x[:, 0]), rows)[
        0
    ]


@pytest.mark.parametrize(
    ("cost", "transformed"),
    [
        (8 * 64, scanned),
        (8 * 64, lambda call, x: jax.vmap(call, 1, 1)(x).sum(1)),
        (64, lambda call, x: jax.checkpoint(lambda x: nnx.relu(call(x)))(x.sum(1))),
        (64, lambda call, x: jax.jit(call)(x.sum(1))),
    ],
)
def test_calls_inside_of_a_transformation_belong_to_the_caller(cost: int, transformed: Any) -> None:
    class Net(nnx.Module):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            self.cell = nnx.Linear(8, 8, rngs=rngs)
            self.head = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.head(transformed(self.cell, x[..., 0]))

    found = outline(Net, {}, SHAPE, (3,))
    assert [(part.name, part.inputs) for part in found.parts] == [("head", ("input",))]
    assert (found.num_params, found.multiply_adds) == (72 + 27, cost + 24)
    images = jax.random.uniform(jax.random.key(0), (5, *SHAPE))
    result, values = jax.jit(lambda images: captured(made(Net), images))(images)
    assert list(values) == ["head"]
    np.testing.assert_allclose(values["head"], result)


def test_classes_are_as_they_were_after_an_error() -> None:
    call = nnx.Conv.__call__
    with pytest.raises(ValueError, match="feature dimension"):
        captured(made(Net), jnp.zeros((1, 8, 8, 3)))
    assert nnx.Conv.__call__ is call


def test_the_diagram_has_the_wiring() -> None:
    drawn = outline_diagram(outline(Net, {}, SHAPE, (3,)))
    assert [block.name for block in drawn.blocks][:2] == ["input", "stem"]
    edges = {(source, node.name) for node in drawn.nodes for source in node.inputs}
    assert {("stem", "blocks.1.depth"), ("blocks.1.point", "head")} <= edges


def test_submodules_named_input_and_output_are_not_the_image_and_the_result() -> None:
    class Net(nnx.Module):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            self.input, self.output = (nnx.Linear(64, 64, rngs=rngs) for _ in range(2))

        def __call__(self, x: jax.Array) -> jax.Array:
            x = self.input(x.reshape(len(x), -1))
            return x + self.output(x)

    found = outline(Net, {}, SHAPE, (64,))
    assert [(p.name, p.inputs) for p in found.parts] == [
        ("input", ("(input)",)),
        ("output", ("input",)),
    ]
    drawn = outline_diagram(found)
    assert [(block.name, block.inputs) for block in drawn.blocks] == [
        ("(input)", ()),
        ("input", ("(input)",)),
        ("output", ("input",)),
        ("(output)", ("input", "output")),
    ]
    first = outline_table(found, "").table.columns[0]
    assert list(first.cells) == ["(input)", "input", "output"]


# The command line.

MODULE = """\
from flax import nnx

class Net(nnx.Module):
    def __init__(self, units=10, *, rngs):
        self.conv = nnx.Conv(1, 3, (5, 5), strides=4, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dense = nnx.Linear(7 * 7 * 3, units, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        self.sow(nnx.Intermediate, "tokens", x.reshape(len(x), 49, 3))
        return self.dense(x.reshape(x.shape[0], -1))
"""
SPEC = """\
name: own
title: My own
task: classify
dataset: {name: mnist_5k, train_examples: 200, splits: {validation: 50, test: 60}}
model: {python: "shown_net:Net"}
train: {epochs: 1, batch_size: 100}
"""


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    Path("shown_net.py").write_text(MODULE)
    Path("own.yaml").write_text(SPEC)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), prog_name="cnnbench", catch_exceptions=False)


SHOWN = """\
My own (shown_net:Net)

 Layer  Operation      Inputs  Output  Params       MACs
 ──────────────────────────────────────────────────────────────
 input                        28x28x1
 conv   Conv 5x5x1x3   input    7x7x3          78      3,675
 norm   BatchNorm      conv     7x7x3           6
 dense  Linear 147x10  norm        10       1,480      1,470

 total                                      1,564      5,145
Images: 200 of 4,000 training, 50 validation and 60 test
"""


def words_of(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


@pytest.mark.usefixtures("_here")
def test_show_prints_the_submodules() -> None:
    done = invoke("show", "own.yaml", "--diagram", "own.md")
    assert done.exit_code == 0
    plain = re.sub("─+", "", done.stdout)
    assert words_of(plain) == words_of(re.sub("─+", "", SHOWN))
    assert "<b>norm</b> BatchNorm<br>7x7x3" in Path("own.md").read_text()
    assert invoke("show", "own.yaml", "--diagram", "own.png").exit_code == 0
    assert Path("own.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_here")
def test_show_imports_nothing_from_elsewhere_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("elsewhere").mkdir()
    Path("shown_net.py").rename("elsewhere/shown_stray.py")
    Path("own.yaml").write_text(SPEC.replace("shown_net", "shown_stray"))
    monkeypatch.syspath_prepend("elsewhere")
    done = invoke("show", "own.yaml")
    found = Path("elsewhere/shown_stray.py").resolve()
    assert done.exit_code == 0
    assert " ".join(done.stdout.split()) == (
        "My own: shown_stray:Net Submodules are not shown: own.yaml:5:17: model.python:"
        " 'shown_stray' is neither"
        f" installed nor in the folder of the file ({found}); add --allow-python if you trust it."
        " Images: 200 of 4,000 training, 50 validation and 60 test"
    )
    done = invoke("show", "own.yaml", "--diagram", "own.md")
    assert (done.exit_code, done.stderr) == (
        2,
        "--diagram: shown_stray:Net was not imported; check it, then add --allow-python.\n",
    )
    for option in ("--allow-python", "--run"):
        assert "Linear 147x10" in invoke("show", "own.yaml", option).stdout


@pytest.mark.usefixtures("_here")
def test_show_reports_a_wrong_output() -> None:
    done = invoke("show", "own.yaml", "model.args={units: 7}")
    assert (done.exit_code, done.stderr) == (
        2,
        "own.yaml:5:17: model.python: the output has shape 7, but must have shape 10; change the"
        " return value of the class.\n",
    )


@pytest.mark.usefixtures("_here")
def test_a_model_that_sows_is_trained_and_inspected() -> None:
    done = invoke("run", "own.yaml", "--quiet", "train.epochs=2")
    assert done.exit_code == 0, done.stderr
    done = invoke("inspect", "own")
    assert [line.split()[0] for line in done.stdout.splitlines()[4:8]] == [
        "conv",
        "norm",
        "dense",
        "tokens",
    ]
    done = invoke("inspect", "own", "--layer", "tokens", "--image", "3", "-o", "tokens.png")
    assert done.exit_code == 0, done.stderr
    assert re.search(r"\(\d\) at \d+ ", done.stdout)
    assert invoke("inspect", "own", "--layer", "conv", "-o", "conv.svg").exit_code == 0
    done = invoke("inspect", "own", "--layer", "convv")
    (run,) = Path("results/own").iterdir()
    assert (done.exit_code, done.stderr) == (
        2,
        f"{run}: there is no layer 'convv' (did you mean 'conv'?); write conv, norm, dense or"
        " tokens.\n",
    )
