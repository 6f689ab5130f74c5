"""Regression and several labels per image: losses against PyTorch, metrics against scikit-learn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

import cnnbench
from cnnbench.nn.result import Result
from cnnbench.spec.metrics import ImageMetricName
from cnnbench.training.losses import per_image_loss, per_image_metric
from cnnbench.training.metrics.multilabel import (
    Labeled,
    macro_f1_of_labels,
    mean_average_precision,
    micro_f1,
)
from cnnbench.training.metrics.regression import Regressed, r2

torch: Any = pytest.importorskip("torch")
functional = torch.nn.functional
RANDOM = np.random.default_rng(0)
OUTPUTS = RANDOM.normal(0, 2, (50, 3)).astype(np.float32)
TARGETS = RANDOM.normal(0, 2, (50, 3)).astype(np.float32)
HOT = RANDOM.integers(0, 2, (50, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "targets", "theirs"),
    [
        ("mse", TARGETS, functional.mse_loss),
        ("mae", TARGETS, functional.l1_loss),
        ("huber", TARGETS, functional.huber_loss),
        ("huber", TARGETS, functional.smooth_l1_loss),
        (
            "binary_cross_entropy_with_logits",
            HOT,
            functional.binary_cross_entropy_with_logits,
        ),
    ],
)
def test_losses_and_gradients_are_those_of_pytorch(
    name: str, targets: Any, theirs: Callable[..., Any]
) -> None:
    def ours(outputs: Any) -> Any:
        return per_image_loss(name)(outputs, jnp.asarray(targets)).mean()

    value, gradient = jax.value_and_grad(ours)(OUTPUTS)
    outputs = torch.tensor(OUTPUTS, requires_grad=True)
    loss = theirs(outputs, torch.tensor(targets.astype(np.float32)))
    loss.backward()
    assert outputs.grad is not None
    assert float(value) == pytest.approx(loss.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, outputs.grad.numpy(), rtol=1e-5, atol=1e-9)


def test_certain_outputs_have_finite_losses_with_all_digits() -> None:
    logits = jnp.array([[20.0], [-20], [200], [-200], [1e30]])
    targets = jnp.array([[1], [0], [0], [1], [1]], jnp.uint8)
    losses = per_image_loss("binary_cross_entropy_with_logits")(logits, targets)
    small = np.log1p(np.exp(-20.0))
    np.testing.assert_allclose(losses, [small, small, 200, 200, 0], rtol=1e-6)


def test_targets_of_another_shape_are_not_broadcast() -> None:
    with pytest.raises(AssertionError):
        per_image_loss("mse")(jnp.zeros((5, 1)), jnp.zeros(5))


@given(st.integers(2, 30), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_r2_is_that_of_scikit_learn(num: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.integers(-2, 3, (num, width)).astype(np.float32)  # often constant
    outputs = targets if seed % 5 == 0 else targets + rng.normal(size=targets.shape)
    expected = metrics.r2_score(targets, outputs)
    assert r2(Regressed(outputs, targets)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_r2_is_undefined_for_one_image_and_for_nan() -> None:
    assert np.isnan(r2(Regressed(np.ones((1, 1)), np.ones((1, 1)))))
    assert np.isnan(r2(Regressed(np.array([[np.nan], [0]]), np.array([[1.0], [2]]))))


@pytest.mark.slow
@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_metrics_of_labels_are_those_of_scikit_learn(num: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, (num, width), np.uint8)
    targets[:, 0] = seed % 3 == 0  # a label of no image, or of all
    logits = rng.integers(-2, 3, (num, width)).astype(np.float32)  # with ties
    values, found = Labeled(logits, targets), (logits >= 0).astype(int)
    occurs = targets.any(axis=0)
    if occurs.any():
        each = metrics.average_precision_score(targets[:, occurs], logits[:, occurs])
        assert mean_average_precision(values) == pytest.approx(each, rel=1e-9)
    options: Any = {"zero_division": np.nan}
    macro = metrics.f1_score(targets, found, average="macro", **options)
    micro = metrics.f1_score(targets, found, average="micro", **options)
    assert macro_f1_of_labels(values) == pytest.approx(macro, rel=1e-9, nan_ok=True)
    assert micro_f1(values) == pytest.approx(micro, rel=1e-9, nan_ok=True)
    exact = metrics.accuracy_score(targets, found)
    hamming = metrics.hamming_loss(targets, found)
    assert of_images("exact_match", logits, targets) == pytest.approx(exact, rel=1e-5)
    assert of_images("hamming_loss", logits, targets) == pytest.approx(hamming, rel=1e-5)


def test_infinite_outputs_are_ties_too() -> None:
    logits = np.array([np.inf, -np.inf, np.inf, 1, -np.inf], np.float32)[:, None]
    targets = np.array([1, 0, 0, 1, 1])[:, None]
    want = metrics.average_precision_score(targets, logits.clip(-9, 9))
    assert mean_average_precision(Labeled(logits, targets)) == pytest.approx(want)


def of_images(name: ImageMetricName, logits: Any, targets: Any) -> float:
    result = Result(jnp.asarray(logits), {}, {})
    return float(per_image_metric(name, result, jnp.asarray(targets), data_range=1.0).mean())


def test_nan_outputs_predict_no_label_correctly() -> None:
    logits, targets = np.full((3, 2), np.nan, np.float32), np.array([[0, 1], [1, 0], [1, 1]])
    assert of_images("hamming_loss", logits, targets) == 1
    assert np.isnan(mean_average_precision(Labeled(logits, targets)))


SPEC = """
name: {task}
task: {task}
dataset: {{arrays: data.npz}}
model:
  layers:
    hidden: {{op: dense, units: 8, activation: relu}}
    out: {{op: dense, units: {units}}}
train: {{epochs: 2, batch_size: 20, metrics: {metrics}}}
seeds: 1
"""
EVERY = {
    "regress": ["r2", "rmse", "mae", "mse"],
    "multilabel": ["mean_average_precision", "macro_f1", "micro_f1", "exact_match", "hamming_loss"],
}


@pytest.mark.parametrize("task", list(EVERY))
def test_metrics_of_a_run_are_those_of_its_predictions(tmp_path: Path, task: str) -> None:
    from cnnbench.analysis.trained_network import load_seeds

    images = RANDOM.integers(0, 256, (90, 10, 10), np.uint8)
    halves = images.reshape(90, 2, 5, 10).mean(axis=(2, 3)) / 100
    labels = halves if task == "regress" else (halves > 1.27).astype(np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.format(task=task, units=2, metrics=EVERY[task]))
    (result,) = cnnbench.run(path, results_dir=tmp_path / "results")
    assert result.summary is not None
    assert result.summary.headline == EVERY[task][0]
    assert result.path is not None
    for network, seed in zip(load_seeds(result.path), result.summary.seeds, strict=True):
        test = network.dataset(None, lambda _: None).test
        outputs = network.outputs(test.images)
        expected = theirs_of(task, test.labels, outputs)
        assert dict(seed.test) == pytest.approx(expected, rel=1e-4)


def theirs_of(task: str, targets: Any, outputs: Any) -> dict[str, float]:
    if task == "regress":
        return {
            "loss": metrics.mean_squared_error(targets, outputs),
            "r2": metrics.r2_score(targets, outputs),
            "rmse": metrics.root_mean_squared_error(targets, outputs),
            "mae": metrics.mean_absolute_error(targets, outputs),
            "mse": metrics.mean_squared_error(targets, outputs),
        }
    found, chances = outputs >= 0, torch.tensor(outputs)
    loss = functional.binary_cross_entropy_with_logits(chances, torch.tensor(targets).float())
    return {
        "loss": loss.item(),
        "mean_average_precision": float(metrics.average_precision_score(targets, outputs)),
        "macro_f1": float(metrics.f1_score(targets, found, average="macro")),
        "micro_f1": float(metrics.f1_score(targets, found, average="micro")),
        "exact_match": float(metrics.accuracy_score(targets, found)),
        "hamming_loss": float(metrics.hamming_loss(targets, found)),
    }


CONV = """
name: {task}
task: {task}
dataset: {{arrays: data.npz}}
model:
  layers:
    conv: {{op: conv, filters: 4, kernel: 3, activation: relu}}
    pool: {{op: max_pool, size: 2}}
    out: {{op: dense, units: 2}}
train: {{epochs: 1, batch_size: 20, drop_last: false}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("task", list(EVERY))
def test_all_engines_train_the_same_network(tmp_path: Path, task: str) -> None:
    images = RANDOM.integers(0, 256, (70, 10, 10), np.uint8)
    halves = images.reshape(70, 2, 5, 10).mean(axis=(2, 3)) / 100
    labels = halves if task == "regress" else (halves > 1.27).astype(np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    path = tmp_path / "spec.yaml"
    path.write_text(CONV.format(task=task))
    found = []
    for engine in ("plain", "direct", "fast"):
        (result,) = cnnbench.run(path, engine=engine, results_dir=tmp_path / engine, progress=False)
        (epoch,) = result.epochs
        found.append([epoch.train_loss, epoch.validation("loss"), *epoch.metrics.values()])
    np.testing.assert_allclose(found[1:], found[:1] * 2, rtol=1e-4)
