"""`cnnbench gradcheck`: agreement, kinks, wrong backward passes, and the command line."""

import dataclasses
import importlib
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.errors import UsageError
from cnnbench.formatting import MISSING
from cnnbench.gradcheck import check as gradcheck
from cnnbench.gradcheck import finite_differences
from cnnbench.gradcheck.autodiff import Reference, by_layer
from cnnbench.gradcheck.backprop import ReferenceNetwork, feedforward, forward_and_backward
from cnnbench.gradcheck.check import (
    TOLERANCES,
    Agreement,
    GradCheck,
    LayerCheck,
    Quantity,
    Tolerances,
)
from cnnbench.gradcheck.finite_differences import MOST, SAMPLE, Landscape, Slopes, chosen
from cnnbench.gradcheck.losses import Objective
from cnnbench.gradcheck.report import gradcheck_table
from cnnbench.graph.plan import Plan
from cnnbench.layers import batch_norm, conv, correlation, dense, noise, pooling
from cnnbench.layers.base import Rule
from cnnbench.spec.loader import load_experiment
from cnnbench.training.losses import objective
from cnnbench.training.state import Arrays, TrainState
from cnnbench.training.step import gradients, make_rules
from tests.support.golden import approved
from tests.support.oracles import Array, make_plan
from tests.support.pages import documented, flat_keys
from tests.support.paths import EXPERIMENTS

PAGE = EXPERIMENTS.parent / "docs" / "explanation" / "gradient.md"
HEAD = "name: tiny\ntitle: Tiny\ntask: {task}\ndataset: {{name: mnist}}\nmodel:\n  layers:\n"
# Small, with every operation that has weights, ties, a branch and kinks.
LAYERS = """\
    conv: {op: conv, filters: 3, kernel: 5, stride: 3, activation: relu}
    pool: {op: max_pool, size: 2}
    norm: {op: batch_norm}
    drop: {op: dropout, rate: 0.5}
    up: {op: upscale, size: 2}
    side: {op: avg_pool, size: 2, stride: 1, inputs: conv}
    more: {op: conv, filters: 3, kernel: 2, padding: same, activation: leaky_relu}
    small: {op: avg_pool, size: 7, stride: 1}
    flat2: {op: flatten}
    flat: {op: flatten, inputs: up}
    both: {op: concat, inputs: [flat, flat2]}
    out: {op: dense, units: 10, inputs: both}
"""
TIED = """\
    conv: {op: conv, filters: 2, kernel: 7, stride: 7, activation: tanh}
    back: {op: conv_transpose, tie: conv, activation: sigmoid}
"""


def spec(folder: Path, layers: str, task: str = "classify", train: str = "") -> Path:
    path = folder / "tiny.yaml"
    path.write_text(HEAD.format(task=task) + layers + train)
    return path


def check(path: Path, dtype: Any = "float64", layer: str | None = None) -> GradCheck:
    return gradcheck.check_gradients(load_experiment(path), dtype, layer)


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, ["gradcheck", *words], catch_exceptions=False)


SLOW = {
    "autoencoder",
    "denoising",
    "untied",
    "vae",
    "vae_2d",
}  # Their operations are in the others too.


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else [])
        for path in sorted(EXPERIMENTS.glob("*.yaml"))
    ],
)
def test_shipped_experiments_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tolerances for the post's derivation: 1e-9 vs. `jax.grad`, 1e-6 vs. differences."""
    monkeypatch.setattr(finite_differences, "MOST", 4)  # fewer entries than a user's run
    monkeypatch.setattr(finite_differences, "SAMPLE", 2)
    found = check(EXPERIMENTS / f"{name}.yaml")
    assert (found.tolerances, found.doubtful) == (Tolerances(1e-9, 1e-6), 0)
    assert found.cost == pytest.approx(found.cost_by_jax, rel=1e-12)
    assert [layer.node.name for layer in found.layers if not layer.right] == []
    for layer in found.layers:
        assert layer.to_autodiff <= 1e-9
        assert layer.to_differences is not None
        assert layer.to_differences <= 1e-6
        assert layer.num_compared >= 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.sampled(2)
def test_other_layers_agree(tmp_path: Path, dtype: Any) -> None:
    found = check(spec(tmp_path, LAYERS), dtype)
    assert found.right
    assert all(layer.to_differences is not None for layer in found.layers)
    exact = max(layer.to_autodiff for layer in found.layers) < 1e-12
    assert exact == (dtype == "float64")


def test_shared_weights_are_moved_together(tmp_path: Path) -> None:
    layers = """\
    small: {op: avg_pool, size: 4}
    one: {op: conv, filters: 1, kernel: 3, padding: same, activation: tanh}
    two: {op: conv, filters: 1, kernel: 3, padding: same, activation: tanh, weights: one}
    out: {op: dense, units: 10}
"""
    found = check(spec(tmp_path, layers))
    assert found.right
    (one,) = (layer for layer in found.layers if layer.node.name == "one")
    assert one.to_differences is not None
    assert one.to_differences < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_label_smoothing_is_part_of_the_cost(tmp_path: Path, dtype: Any) -> None:
    layers = "    out: {op: dense, units: 10}\n"
    plain, smooth = (
        check(spec(tmp_path, layers, train=f"train: {{label_smoothing: {share}}}\n"), dtype)
        for share in (0, 0.5)
    )
    assert plain.right
    assert smooth.right
    assert smooth.cost == pytest.approx(smooth.cost_by_jax, rel=1e-5)
    assert abs(smooth.cost - plain.cost) > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_class_weights_are_part_of_the_cost(tmp_path: Path, dtype: Any) -> None:
    layers = "    out: {op: dense, units: 10}\n"
    plain, balanced, weighted = (
        check(spec(tmp_path, layers, train=f"train: {{class_weights: {weights}}}\n"), dtype)
        for weights in ("null", "balanced", [1, 2, 3, 4, 5, 6, 7, 8, 9, 1000])
    )
    assert weighted.right
    assert weighted.cost == pytest.approx(weighted.cost_by_jax, rel=1e-5)
    assert abs(weighted.cost - plain.cost) > 1e-3
    assert balanced.cost == plain.cost  # of random labels


@pytest.mark.parametrize("loss", ["mse", "mae", "binary_cross_entropy"])
def test_losses_of_reconstructions_agree(tmp_path: Path, loss: str) -> None:
    found = check(spec(tmp_path, TIED, "reconstruct", f"train: {{loss: {loss}}}\n"))
    assert found.loss == loss
    assert found.right
    conv, back = found.layers
    assert set(conv.shares) == {"conv", "back"}
    assert not back.shares
    assert [q.name for q in back.quantities] == ["delta", "bias"]


# Wrong backward passes are found, in the right layers.


def _to_the_smallest(rule: Rule) -> Rule:
    """The error is sent to the smallest value of a window instead."""
    return Rule(rule.forward, lambda delta, a: rule.backward(delta, -a), rule.gradient, rule.side)


def _without_statistics(rule: Rule) -> Rule:
    """As if mean and variance were constants."""
    return Rule(rule.forward, lambda delta, a: (delta / a.std(axis=(0, 1, 2)),), rule.gradient)


def _wrapped(original: Callable[..., Rule], change: Callable[[Rule], Rule]) -> Callable[..., Rule]:
    return lambda *args: change(original(*args))


BROKEN: dict[str, tuple[Any, str, Any, set[str]]] = {
    "kernel not rotated": (correlation, "rot180", lambda w: w, {"conv", "side"}),
    "kernel gradient rotated": (
        conv,
        "kernel_gradient",
        lambda *args: correlation.kernel_gradient(*args)[::-1, ::-1],
        {"conv", "more"},
    ),
    "pool's error to the smallest": (
        pooling,
        "max_pool_rule",
        _wrapped(pooling.max_pool_rule, _to_the_smallest),
        {"conv"},
    ),
    "statistics treated as constants": (
        batch_norm,
        "batch_norm_rule",
        _wrapped(batch_norm.batch_norm_rule, _without_statistics),
        {"pool", "conv"},
    ),
    "dropout without its mask": (
        noise,
        "dropout_rule",
        lambda kept, gain: Rule(lambda a: a * kept * gain, lambda delta, _: (delta,)),
        {"norm", "pool", "conv"},
    ),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_wrong_backward_pass_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    place, name, wrong, layers = BROKEN[mistake]
    monkeypatch.setattr(place, name, wrong)
    found = check(spec(tmp_path, LAYERS))
    assert {layer.node.name for layer in found.layers if not layer.right} == layers
    for layer in found.layers:
        if not layer.right:  # by both comparisons independently
            assert layer.to_autodiff > 1e-3
            assert layer.to_differences is not None
            assert layer.to_differences > 1e-3


@pytest.mark.parametrize("zero", ["zeros", "{name: constant, value: 0}"])
@pytest.mark.sampled(1)
def test_kernels_of_zeros_do_not_hide_a_wrong_backward_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero: str
) -> None:
    """As in the heads of ViTs; the derivatives of all layers above would be zero."""
    path = spec(tmp_path, LAYERS.replace("units: 10", f"units: 10, init: {zero}"))
    assert check(path).right
    monkeypatch.setattr(correlation, "rot180", lambda w: w)
    found = check(path)
    assert {layer.node.name for layer in found.layers if not layer.right} == {"conv", "side"}


def test_a_missing_use_of_a_tied_kernel_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgotten(rule: Rule) -> Rule:
        def gradient(delta: Array, a: Array) -> dict[str, Array]:
            own = rule.gradient(delta, a)
            return own | {"kernel": 0 * own["kernel"]}

        return Rule(rule.forward, rule.backward, gradient)

    monkeypatch.setattr(conv, "conv_transpose_rule", _wrapped(conv.conv_transpose_rule, forgotten))
    found = check(spec(tmp_path, TIED, "reconstruct"))
    assert [layer.right for layer in found.layers] == [False, True]
    wrong = [q.name for q in found.layers[0].quantities if q.to_autodiff > 1e-9]
    assert wrong == ["kernel"]


def test_exit_code_of_a_wrong_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = str(spec(tmp_path, LAYERS))
    done = invoke(path, "--float64")
    assert (done.exit_code, "All gradients agree." in done.stdout) == (0, True)
    monkeypatch.setattr(correlation, "rot180", lambda w: w)
    done = invoke(path, "--float64")
    assert done.exit_code == 3
    assert "The gradients disagree in conv, side.\n" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if "WRONG" in line] == [
        "conv",
        "side",
    ]
    assert max(map(len, done.stdout.splitlines())) <= 80
    done = invoke(path, "--format", "json", "--layer", "side")
    assert done.exit_code == 3
    (only,) = json.loads(done.stdout)
    assert (only["dtype"], only["right"], only["layers"][0]["layer"]) == ("float32", False, "side")


# Rounding: insufficient float32 precision is not a bug, and hides none.

# A second normalization removes the scale of the first, so that gradients cancel.
CANCELLING = """\
    pool: {op: avg_pool, size: 14, stride: 14}
    wide: {op: conv, filters: 2, kernel: 1, activation: linear}
    norm: {op: batch_norm, epsilon: 1.0e-9}
    small: {op: avg_pool, size: 2}
    norm2: {op: batch_norm, epsilon: 1.0e-9}
    out: {op: dense, units: 10}
"""


def test_insufficient_float32_precision_is_not_called_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = str(spec(tmp_path, CANCELLING))
    done = invoke(path)
    assert done.exit_code == 0
    text = " ".join(done.stdout.split())
    assert (
        "The gradients agree in float64; float32 has too little precision for wide, norm." in text
    )
    assert text.endswith("Run with --float64 to confirm.")
    verdicts = {
        line.split()[0]: line.split()[-1] for line in done.stdout.splitlines() if line.split()
    }
    assert (verdicts["wide"], verdicts["norm"], verdicts["out"]) == ("imprecise", "imprecise", "ok")
    done = invoke(path, "--format", "json", "--layer", "wide")
    (only,) = json.loads(done.stdout)
    assert (done.exit_code, only["right"], only["layers"][0]["right"]) == (0, True, True)
    assert only["layers"][0]["verdict"] == "imprecise"


@pytest.mark.parametrize("norm", ["batch_norm", "group_norm, groups: 4"])
@pytest.mark.sampled(1)
def test_channels_far_from_zero_are_not_called_wrong(norm: str, tmp_path: Path) -> None:
    """Their means are hundreds of standard deviations, and are sums of 2,304 values."""
    layers = f"""\
    conv1: {{op: conv, filters: 8, kernel: 5, activation: softplus}}
    norm: {{op: {norm}, epsilon: 1e-5}}
    pool: {{op: max_pool, size: 4}}
    out: {{op: dense, units: 10}}
"""
    loaded = load_experiment(spec(tmp_path, layers), ("dataset.pixel_scale=100000",))
    found = gradcheck.check_gradients(loaded, "float32")
    assert found.right, {layer.node.name: layer.verdict for layer in found.layers}


def test_insufficient_float64_precision_is_not_called_wrong(tmp_path: Path) -> None:
    """Errors of 4e-9 relative to a layer's scale, where float32 is wrong in every digit."""
    path = str(spec(tmp_path, CANCELLING))
    done = invoke(path, "seeds=[4]", "--float64")
    assert done.exit_code == 0
    assert " ".join(done.stdout.split()).endswith(
        "The gradients agree within rounding error; float64 is not precise enough for wide."
    )


def test_a_small_bug_is_found_despite_insufficient_float64_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A millionth of the smallest derivative that does not count as zero."""
    real, tiny = correlation.kernel_gradient, 1e-6 * gradcheck.NEGLIGIBLE
    monkeypatch.setattr(conv, "kernel_gradient", lambda *args: real(*args) + 3 * tiny)
    loaded = load_experiment(spec(tmp_path, CANCELLING), ("seeds=[4]",))
    found = gradcheck.check_gradients(loaded, "float64", "wide")
    assert [layer.verdict for layer in found.layers] == [Agreement.WRONG]


@pytest.mark.parametrize("size", [1e-1, 1e-3])
@pytest.mark.sampled(1)
def test_a_bug_is_found_despite_insufficient_float32_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: float
) -> None:
    """Even one smaller than the errors of float32."""
    real = correlation.kernel_gradient
    tiny = size * gradcheck.NEGLIGIBLE
    monkeypatch.setattr(conv, "kernel_gradient", lambda *args: real(*args) + 2 * tiny)
    found = check(spec(tmp_path, CANCELLING), "float32")
    verdicts = {layer.node.name: layer.verdict for layer in found.layers}
    assert (verdicts["wide"], verdicts["norm"]) == (Agreement.WRONG, Agreement.IMPRECISE)
    assert not found.right


@pytest.mark.parametrize("size", [1e-1, 1e-3])
@pytest.mark.sampled(1)
def test_a_bug_in_float32_only_is_not_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: float
) -> None:
    real = correlation.kernel_gradient

    def wrong(*args: Any) -> Array:
        gradient = real(*args)
        return gradient * (1 + size) if gradient.dtype == np.float32 else gradient

    monkeypatch.setattr(conv, "kernel_gradient", wrong)
    found = check(spec(tmp_path, LAYERS), "float32")
    wanted = dict.fromkeys(("conv", "more"), Agreement.WRONG)
    verdicts = {layer.node.name: layer.verdict for layer in found.layers}
    assert verdicts == dict.fromkeys(verdicts, Agreement.OK) | wanted


# Kinks: no false alarms, and skipped entries are counted.


VARIATIONAL = """\
    flat: {op: flatten}
    mean: {op: dense, units: 2, inputs: flat}
    spread: {op: dense, units: 2, inputs: flat}
    code: {op: sample, inputs: [mean, spread]}
    out: {op: dense, units: 784, activation: sigmoid}
    image: {op: reshape, shape: [28, 28, 1]}
"""


@pytest.mark.parametrize(
    ("layers", "scale", "first", "options"),
    [
        *(
            (VARIATIONAL, 0.01, "the first non-finite value is in layer 'code'", each)
            for each in ((), ("--float64",))
        ),
        (
            VARIATIONAL,
            0.02,
            "the first non-finite value is the KL divergence of layer 'code'",
            (),
        ),
        (
            "    out: {op: conv, filters: 1, kernel: 1}\n",
            1e-160,
            "the mse of layer 'out' overflows",
            ("--float64",),
        ),
    ],
)
def test_a_non_finite_loss_is_refused(
    tmp_path: Path, layers: str, scale: float, first: str, options: tuple[str, ...]
) -> None:
    path = str(spec(tmp_path, layers, "reconstruct"))
    done = invoke(path, f"dataset.pixel_scale={scale}", *options)
    assert (done.exit_code, done.stderr, done.stdout) == (
        2,
        f"tiny: the loss at the initial weights is inf: {first};"
        " raise dataset.pixel_scale, or add a batch_norm before it.\n",
        "",
    )


@pytest.mark.parametrize("normalize", ["auto", "{mean: [0.3], std: [0.1]}"])
def test_normalized_images(tmp_path: Path, normalize: str) -> None:
    loaded = load_experiment(
        spec(tmp_path, "    out: {op: dense, units: 10}\n"), [f"dataset.normalize={normalize}"]
    )
    found = gradcheck.check_gradients(loaded, "float64")
    assert [layer.verdict for layer in found.layers] == [Agreement.OK]


def test_a_loss_that_only_a_bug_makes_infinite_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def infinite(rule: Rule) -> Rule:
        return dataclasses.replace(rule, forward=lambda *a: rule.forward(*a) * np.inf)

    monkeypatch.setattr(dense, "dense_rule", _wrapped(dense.dense_rule, infinite))
    found = check(spec(tmp_path, "    out: {op: dense, units: 10}\n"))
    assert [layer.verdict for layer in found.layers] == [Agreement.WRONG]


def test_insufficient_float32_range_is_imprecise(tmp_path: Path) -> None:
    path = str(spec(tmp_path, VARIATIONAL, "reconstruct"))
    done = invoke(path, "dataset.pixel_scale=0.2")
    assert (done.exit_code, done.stderr) == (0, "")
    assert " ".join(done.stdout.split()).endswith(
        "The gradients agree in float64; float32 has too small a range for flat, spread."
        " Run with --float64 to confirm."
    )
    done = invoke(path, "dataset.pixel_scale=0.2", "--float64")
    assert (done.exit_code, done.stdout.strip().splitlines()[-1]) == (0, "All gradients agree.")


def test_a_bug_is_found_where_float32_overflows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubled(rule: Rule) -> Rule:
        return dataclasses.replace(
            rule, backward=lambda *a: tuple(2 * part for part in rule.backward(*a))
        )

    monkeypatch.setattr(dense, "dense_rule", _wrapped(dense.dense_rule, doubled))
    loaded = load_experiment(
        spec(tmp_path, VARIATIONAL, "reconstruct"), ("dataset.pixel_scale=0.2",)
    )
    found = gradcheck.check_gradients(loaded, "float32")
    assert found.overflows
    wrong = [layer.node.name for layer in found.layers if layer.verdict is Agreement.WRONG]
    assert wrong == ["flat", "mean", "code"]  # next to the divergence, spread's error is negligible


def landscape(layers: dict[str, Any], shape: tuple[int, ...], x: Array) -> Landscape:
    """A mean-square cost of a network with kernels of ones and no biases."""
    plan = make_plan(layers, (*x.shape[1:3], 1), shape)
    weights = {
        node.name: {k: np.ones(s) for k, s in node.layout.params.items()} for node in plan.nodes
    }
    network = squares(plan, weights, np.zeros((1, *shape)))
    return Landscape(network, x, feedforward(network, x), 1e-6)


def squares(plan: Plan, weights: Any, targets: Array) -> ReferenceNetwork:
    return ReferenceNetwork(plan, weights, {}, Objective("mse", targets))


def test_steps_are_reduced_until_they_cross_no_kink() -> None:
    x = np.array([1.0, -3e-4, 5e-6, 0.0]).reshape(1, 2, 2, 1)
    around = landscape({"relu": {"op": "activation", "activation": "relu"}}, (2, 2, 1), x)
    found = around.slopes("relu", "delta", np.ones((1, 2, 2, 1)), 0.5)
    assert found.entries.tolist() == [0, 1, 2]  # the last one is at its kink
    assert found.skipped == 1
    np.testing.assert_allclose(found.values, [0.5, 0, 2.5e-6], atol=1e-9)


def test_a_tie_of_a_max_pool_is_a_kink() -> None:
    x = np.array([2.0, 2.0, 1.0, 2.0 - 1e-4]).reshape(1, 2, 2, 1)
    layers = {
        "same": {"op": "activation", "activation": "linear"},
        "pool": {"op": "max_pool", "size": 2},
    }
    around = landscape(layers, (1, 1, 1), x)
    found = around.slopes("same", "delta", np.ones(x.shape), 4.0)
    assert found.entries.tolist() == [2, 3]
    assert found.skipped == 2
    np.testing.assert_allclose(found.values, [0, 0], atol=1e-9)


def test_high_curvature_is_skipped_or_uses_smaller_steps() -> None:
    plan = make_plan({"norm": {"op": "batch_norm", "epsilon": 1e-9}}, (1, 2, 1), (1, 2, 1))
    weights = {"norm": {"scale": np.ones(1), "bias": np.zeros(1)}}
    x = np.array([0.0, 1e-3]).reshape(1, 1, 2, 1)
    network = squares(plan, weights, np.array([3.0, 0.5]).reshape(1, 1, 2, 1))
    exact = forward_and_backward(network, x)[1]
    around = Landscape(network, x, feedforward(network, x), 1e-6)
    found = around.slopes("norm", "scale", np.ones(1), 1.0)
    np.testing.assert_allclose(found.values, exact.weights["norm"]["scale"], rtol=1e-6)


@pytest.mark.parametrize(
    ("counts", "found", "taken"), [([3, 1, 0], 0, 3), ([3, 2, 1, 2, 3, 4, 5, 6], 1, 8)]
)
def test_images_are_redrawn_if_rounding_crosses_a_kink(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    counts: list[int],
    found: int,
    taken: int,
) -> None:
    counted = iter([count for count in counts for _ in ("by hand", "by autodiff")])
    monkeypatch.setattr(gradcheck, "crossings", lambda *_: next(counted))
    draw, drawn = gradcheck._images, []

    def images(*args: Any) -> tuple[Array, Array]:
        drawn.append(draw(*args))
        return drawn[-1]

    monkeypatch.setattr(gradcheck, "_images", images)
    loaded = load_experiment(spec(tmp_path, TIED, "reconstruct"))
    assert loaded.plan is not None
    point = gradcheck.find_point(loaded, loaded.plan, "float32")
    assert (point.doubtful, len(drawn)) == (found, taken)
    best = drawn[counts.index(found)][0]
    np.testing.assert_array_equal(point.x, best)
    assert len({x.tobytes() for x, _ in drawn}) == taken


def test_small_arrays_are_checked_fully_and_others_sampled() -> None:
    assert chosen(np.zeros(MOST)).tolist() == list(range(MOST))
    large = np.zeros((50, 40))
    large[7, 7] = 1
    entries = chosen(large)
    assert 287 in entries  # the only nonzero entry
    assert SAMPLE <= entries.size <= 2 * SAMPLE
    assert entries.tolist() == chosen(large).tolist()


def test_nan_is_never_hidden() -> None:
    node = make_plan({"c": {"op": "flatten"}}, (2, 1, 1), (2,)).nodes[0]
    none = Slopes(np.zeros(0, int), np.zeros(0), 2)
    for bad, right in ((np.nan, False), (1.0, True)):
        hand, jaxs = np.array([1.0, bad]), np.ones(2)
        quantity = Quantity("delta", hand, jaxs, none, 1.0)
        layer = LayerCheck(node, (quantity,), {}, TOLERANCES["float64"])
        assert (layer.right, layer.to_differences, layer.skipped) == (right, None, 2)


def test_the_network_by_hand_is_the_one_that_trains(tmp_path: Path) -> None:
    """Gradients against those of a training step, with dropout and batch statistics."""
    loaded = load_experiment(spec(tmp_path, LAYERS))
    assert loaded.plan is not None
    reference = Reference(loaded.plan, objective(loaded.experiment), 0)
    parts = reference.parts
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), np.uint8)
    labels = np.array([3, 1, 4, 1], np.int32)
    state = TrainState(parts.params, parts.rest, None)
    rules = make_rules(loaded.experiment, None)
    arrays = Arrays(jnp.asarray(images), jnp.asarray(labels))
    step = jax.jit(lambda state, at: gradients(state, arrays, at, parts.training, rules)[0])
    trained = step(state, jnp.arange(4))
    x = images.astype(np.float32) / 256
    by_hand = forward_and_backward(
        ReferenceNetwork(
            loaded.plan,
            reference.initial(),
            reference.draws(4, "float32"),
            Objective("cross_entropy", labels),
        ),
        x,
    )[1]
    for layer, own in by_layer(trained).items():
        for name, value in own.items():
            near = 1e-4 * np.abs(value).max()
            np.testing.assert_allclose(by_hand.weights[layer][name], value, rtol=0, atol=near)


# The command line.


def test_the_close_view_of_a_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = invoke(str(spec(tmp_path, TIED, "reconstruct")), "--layer", "conv", "--float64")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "Tiny: backpropagation by hand (float64, 4 images)"
    words = [line.split() for line in lines]
    assert ["delta", "4x4x4x2"] in [w[:2] for w in words]
    assert ["kernel", "7x7x1x2"] in [w[:2] for w in words]
    assert any(line.startswith("  kernel[") and ", jax.grad " in line for line in lines)
    assert any("sum over these layers; norms: conv " in line for line in lines)
    assert "The gradients agree." in done.stdout
    assert max(map(len, lines)) <= 80


def conclusion(found: GradCheck) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(gradcheck_table(found))
    return " ".join(captured.get().split())


def test_doubtful_and_skipped_entries_are_reported(tmp_path: Path) -> None:
    found = check(spec(tmp_path, TIED, "reconstruct"))
    plain = conclusion(found)
    assert "Kinks" not in plain
    assert "Rounding" not in plain
    for dtype, hint in (
        ("float32", "use --float64"),
        ("float64", "try another seed, e.g. seeds=[1]"),
    ):
        doubtful = dataclasses.replace(found, doubtful=3, dtype=dtype)  # type: ignore[arg-type]
        wanted = "Rounding moves 3 units across a kink, so errors may be large"
        assert f"{wanted}; {hint} for a clear result." in conclusion(doubtful)
    none = Slopes(np.zeros(0, int), np.zeros(0), 2)
    first, *others = found.layers
    bare = tuple(dataclasses.replace(q, slopes=none) for q in first.quantities)
    layers = (dataclasses.replace(first, quantities=bare), *others)
    lost = conclusion(dataclasses.replace(found, layers=layers))
    assert "Entries Kinks Verdict" in lost
    assert (
        f"{MISSING}: no central difference could be computed; only jax.grad was compared." in lost
    )


def test_the_layer_is_looked_up_in_all_files_before_any_computation(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    paths = [str(spec(tmp_path, TIED, "reconstruct")), str(spec(other, LAYERS))]
    done = invoke(*paths, "--layer", "back")
    assert (done.exit_code, done.stdout) == (2, "")


def test_json_has_every_array(tmp_path: Path) -> None:
    path = str(spec(tmp_path, TIED, "reconstruct"))
    done = invoke(path, path, "train.loss=mae", "--float64", "--format", "json")
    assert done.exit_code == 0
    one, other = json.loads(done.stdout)
    assert one == other
    assert (one["title"], one["loss"], one["images"], one["right"]) == ("Tiny", "mae", 4, True)
    assert one["bars"] == {"autodiff": 1e-9, "differences": 1e-6}
    conv, back = one["layers"]
    assert [g["of"] for g in conv["gradients"]] == ["delta", "kernel", "bias"]
    assert conv["gradients"][1]["shape"] == [7, 7, 1, 2]
    assert set(conv["shares"]) == {"conv", "back"}
    assert (back["op"], back["shares"]) == ("conv_transpose", {})
    keys = {re.sub(r"(shares)\..*", r"\1.LAYER", key) for key in flat_keys(one)}
    assert documented("json.md", "`gradcheck`") == keys - {"layers[].shares"}


def test_the_worked_example_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke("--show")
    assert done.exit_code == 0
    assert done.stdout == approved("gradcheck_show.txt", done.stdout)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (),
            "no experiment given; specify a file, or a built-in one such as standard.",
        ),
        (
            ("SPEC", "--layer", "con"),
            "--layer: tiny has no layer 'con' (did you mean 'conv'?); write conv or back.",
        ),
        (("SPEC", "--show"), "--show: takes no other option or argument; remove them."),
        (
            ("--show", "--layer", "conv"),
            "--show: takes no other option or argument; remove them.",
        ),
        (("--show", "--float64"), "--show: takes no other option or argument; remove them."),
        (
            ("--show", "--format", "json"),
            "--show: takes no other option or argument; remove them.",
        ),
    ],
)
def test_rejected_command_lines(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    path = str(spec(tmp_path, TIED, "reconstruct"))
    done = invoke(*(path if word == "SPEC" else word for word in words))
    assert (done.exit_code, done.stderr) == (2, f"{message}\n")


def test_a_python_model_has_no_layers(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\ntask: classify\ndataset: {name: mnist}\nmodel: {python: own:Net}\n")
    with pytest.raises(UsageError) as error:
        check(path)
    assert str(error.value) == (
        "own: gradient checks need a graph of layers, and 'own:Net' is a Python model; write"
        " model.layers."
    )


# The page.


def equations() -> list[tuple[str, list[str], list[str]]]:
    """Rows of the page's table of equations: equation, functions, tests."""
    row = r"^\| (\(\w+\)) \| (`.+`) \| (`.+`) \|$"
    found = re.findall(row, PAGE.read_text(), re.MULTILINE)
    return [(number, *(re.findall(r"`([\w.]+)`", c) for c in cells)) for number, *cells in found]


def test_every_numbered_equation_has_its_code_and_its_test() -> None:
    tags = [f"({tag})" for tag in re.findall(r"\\tag\{(\w+)\}", PAGE.read_text())]
    assert len(set(tags)) == len(tags)
    assert sorted(number for number, _, _ in equations()) == sorted(tags)
    for number, places, tests in equations():
        for place in places:
            module, _, name = place.rpartition(".")
            function = getattr(importlib.import_module(f"cnnbench.{module}"), name)
            assert number in function.__doc__, f"{place} does not name {number}"
        for test in tests:
            module, _, name = test.rpartition(".")
            assert hasattr(importlib.import_module(f"tests.{module}"), name), test


def test_every_loose_index_names_tests_that_exist() -> None:
    page = PAGE.read_text()
    bullets = page[page.index("## Corrections") : page.index("## Backward passes")].split("\n- **")
    for bullet in bullets[1:]:
        names = re.findall(r"`(test_\w+)`", bullet)
        assert names or "[the tests of\n  these equations, below]" in bullet, bullet
        for name in names:
            assert hasattr(importlib.import_module("tests.gradcheck.test_backprop"), name), name


def test_figures_match_the_script() -> None:
    script = PAGE.parents[1] / "make_gradient_figures.py"
    found = importlib.util.spec_from_file_location("make_gradient_figures", script)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    for name, draw in module.FIGURES.items():
        drawn = draw()
        assert (module.FOLDER / name).read_text(encoding="utf-8") == drawn, f"run: python {script}"
        ElementTree.fromstring(drawn)
        assert f"images/{name}" in PAGE.read_text()
