"""Weights of labels and normalized targets: PyTorch, scikit-learn and data scaled by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.preprocessing import StandardScaler

import cnnbench
from cnnbench.analysis.predict import regress
from cnnbench.analysis.trained_network import TrainedNetwork, load_trained
from cnnbench.data.scaling import TargetScaling, balanced_pos_weight, target_statistics
from cnnbench.errors import DataError
from cnnbench.export import export_network
from cnnbench.export.verify import VerificationImages
from cnnbench.gradcheck.losses import Objective
from cnnbench.nn.augment import MixedLabels, mixed
from cnnbench.nn.result import Result
from cnnbench.runs.records import RunResult
from cnnbench.spec.experiment import Experiment
from cnnbench.training.losses import objective

torch: Any = pytest.importorskip("torch")
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 3, (40, 3)).astype(np.float32)
HOT = RANDOM.integers(0, 2, (40, 3), np.uint8)
WEIGHTS = (0.25, 1.0, 7.5)
SPEC = """
name: idea
task: {task}
dataset: {{arrays: {file}{dataset}}}
model:
  layers:
    hidden: {{op: dense, units: 8, activation: relu}}
    out: {{op: dense, units: 2}}
train: {{epochs: 2, batch_size: 20{train}}}
seeds: 1
"""


def of_labels(pos_weight: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "idea",
            "task": "multilabel",
            "dataset": {"name": "chestmnist"},
            "model": {"layers": {"out": {"op": "dense", "units": 3}}},
            "train": {"pos_weight": pos_weight},
        }
    )


def loss_of_pytorch(outputs: Any, targets: Any, weights: tuple[float, ...] | None) -> Any:
    weight = None if weights is None else torch.tensor(weights, dtype=outputs.dtype)
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=weight)
    return loss(outputs, torch.tensor(targets, dtype=outputs.dtype))


@pytest.mark.parametrize(("training", "weights"), [(True, WEIGHTS), (False, None)])
def test_pos_weight_is_pytorchs_in_training_only(
    *, training: bool, weights: tuple[float, ...] | None
) -> None:
    score = objective(of_labels(list(WEIGHTS)), training=training)
    value, gradient = jax.value_and_grad(
        lambda x: score(Result(x, {}, {}), jnp.asarray(HOT)).mean()
    )(LOGITS)
    outputs = torch.tensor(LOGITS, requires_grad=True)
    loss = loss_of_pytorch(outputs, HOT, weights)
    loss.backward()
    assert float(value) == pytest.approx(loss.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, outputs.grad.numpy(), rtol=1e-5, atol=1e-9)


def test_mixed_labels_are_weighted_as_pytorch_weights_soft_ones() -> None:
    score = objective(of_labels(list(WEIGHTS)))
    others, share = HOT[::-1], RANDOM.random(len(HOT)).astype(np.float32)
    soft = share[:, None] * HOT + (1 - share[:, None]) * others
    labels = MixedLabels(jnp.asarray(HOT), jnp.asarray(others), jnp.asarray(share))
    found = mixed(score, Result(jnp.asarray(LOGITS), {}, {}), labels).mean()
    want = loss_of_pytorch(torch.tensor(LOGITS), soft, WEIGHTS)
    assert float(found) == pytest.approx(want.item(), rel=1e-6)


def test_the_cost_of_gradient_checks_and_its_gradient_match_pytorch() -> None:
    ours = Objective("binary_cross_entropy_with_logits", HOT, pos_weight=WEIGHTS)
    wide = LOGITS.astype(np.float64)
    outputs = torch.tensor(wide, requires_grad=True)
    loss = loss_of_pytorch(outputs, HOT, WEIGHTS)
    loss.backward()
    assert ours.value(wide) == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(ours.gradient(wide), outputs.grad.numpy(), rtol=1e-9, atol=1e-15)


@given(st.integers(2, 40), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_with_balanced_weights_images_with_and_without_a_label_count_the_same(
    number: int, width: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, 2, (number, width), np.uint8)
    labels[0], labels[1] = 0, 1
    weights = np.array(balanced_pos_weight(labels))
    np.testing.assert_allclose((labels * weights).sum(axis=0), (1 - labels).sum(axis=0))


@pytest.mark.parametrize(
    ("labels", "names", "what"),
    [
        ([[1, 0], [1, 1]], ("cat", "dog"), "all training images have label 'cat'"),
        ([[1, 0], [0, 0]], ("cat", "dog"), "no training image has label 'dog'"),
        ([[1, 0], [0, 0]], (), "no training image has label 1"),
    ],
)
def test_labels_of_all_images_or_of_none_have_no_balanced_weight(
    labels: Any, names: tuple[str, ...], what: str
) -> None:
    with pytest.raises(DataError) as caught:
        balanced_pos_weight(np.array(labels, np.uint8), names)
    message = f"train.pos_weight: {what}; write a list of weights instead of balanced."
    assert str(caught.value) == message


@given(st.integers(2, 30), st.integers(1, 3), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_statistics_of_targets_are_those_of_scikit_learn(n: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-3, 5, width)
    targets = ((rng.normal(size=(n, width)) + rng.normal(0, 3, width)) * scale).astype(np.float32)
    theirs = StandardScaler().fit(targets.astype(np.float64))
    mean, std = target_statistics(targets)
    np.testing.assert_allclose(mean, theirs.mean_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(std, theirs.scale_, rtol=1e-9)
    scaling = TargetScaling(mean, std)
    np.testing.assert_allclose(scaling.apply(targets), theirs.transform(targets), atol=1e-3)
    np.testing.assert_allclose(scaling.undo(scaling.apply(targets)), targets, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "name"), [(("age", "height"), "target 'height'"), ((), "target 1")]
)
def test_constant_targets_have_no_scale(names: tuple[str, ...], name: str) -> None:
    with pytest.raises(DataError) as caught:
        target_statistics(np.array([[1, 0.1], [2, 0.1], [4, 0.1]], np.float32), names)
    assert str(caught.value) == (
        f"dataset.normalize_targets: {name} is the same for all training images;"
        " write {mean: [...], std: [...]} instead of auto."
    )


def data(tmp_path: Path) -> tuple[Any, Any]:
    """Images, and the mean brightness of their halves in units of very different sizes."""
    images = RANDOM.integers(0, 256, (120, 10, 10), np.uint8)
    halves = images.reshape(120, 2, 5, 10).mean(axis=(2, 3))
    targets = (halves * [0.001, 100] + [5, -2000]).astype(np.float32)
    names = np.array(["mass", "price"])
    np.savez(tmp_path / "data.npz", images=images, labels=targets, target_names=names)
    return images, targets


def trained(tmp_path: Path, task: str, file: str, dataset: str = "", train: str = "") -> RunResult:
    (tmp_path / "spec.yaml").write_text(
        SPEC.format(task=task, file=file, dataset=dataset, train=train)
    )
    (found,) = cnnbench.run(tmp_path / "spec.yaml", results_dir=tmp_path / "runs", progress=False)
    return found


def network_of(run: RunResult) -> TrainedNetwork:
    assert run.path is not None
    return load_trained(run.path)


def resolved_of(network: TrainedNetwork) -> Any:
    return yaml.safe_load((network.path / "resolved.yaml").read_text())


def results_of(run: RunResult) -> Mapping[str, float]:
    assert run.summary is not None
    return run.summary.seeds[0].test


def test_normalized_targets_train_as_targets_normalized_by_hand(tmp_path: Path) -> None:
    _, targets = data(tmp_path)
    run = trained(tmp_path, "regress", "data.npz", ", normalize_targets: auto")
    network = network_of(run)
    dataset = network.dataset(None, pytest.fail)
    assert run.record.loss == "mse of normalized targets"
    resolved = resolved_of(network)["dataset"]["normalize_targets"]
    scaler = StandardScaler().fit(dataset.train.labels.astype(np.float64))
    np.testing.assert_allclose(resolved["mean"], scaler.mean_)
    np.testing.assert_allclose(resolved["std"], scaler.scale_)
    test = dict(results_of(run))
    outputs = network.outputs(dataset.test.images)
    assert test["mae"] == pytest.approx(
        metrics.mean_absolute_error(dataset.test.labels, outputs), rel=1e-4
    )
    assert test["r2"] == pytest.approx(metrics.r2_score(dataset.test.labels, outputs), rel=1e-4)
    scaled = [scaler.transform(each) for each in (dataset.test.labels, outputs)]
    assert test["loss"] == pytest.approx(metrics.mean_squared_error(*scaled), rel=1e-3)
    (answer,) = regress([network], dataset.test.images[:1])
    np.testing.assert_allclose(answer.values, outputs[0], rtol=1e-6)

    scaling = TargetScaling(tuple(resolved["mean"]), tuple(resolved["std"]))
    with np.load(tmp_path / "data.npz") as arrays:
        np.savez(tmp_path / "by_hand.npz", images=arrays["images"], labels=scaling.apply(targets))
    other = trained(tmp_path, "regress", "by_hand.npz")
    losses = [[epoch.train_loss for epoch in each.epochs] for each in (run, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # XLA multiplies by 1 / std
    assert test["loss"] == pytest.approx(results_of(other)["loss"], rel=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "stablehlo", "safetensors"])
def test_exported_models_predict_targets_in_their_unit(tmp_path: Path, kind: Any) -> None:
    data(tmp_path)
    statistics = ", normalize_targets: {mean: [5, 10000], std: [2, 5000]}"
    network = network_of(trained(tmp_path, "regress", "data.npz", statistics))
    images = network.dataset(None, pytest.fail).test.images[:5]
    done = export_network(network, kind, VerificationImages(images, "test images"))
    if kind == "safetensors":
        assert b'"target_mean":"[5.0, 10000.0]"' in done.content
        assert b'"target_std":"[2.0, 5000.0]"' in done.content
        return
    assert "targets" in done.lines[1]
    layer = network.parameters["out"]
    hidden = network.activations(images, ["hidden"])["hidden"]
    want = (hidden @ layer["kernel"] + layer["bias"]) * [2, 5000] + [5, 10000]
    if kind == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(done.content, providers=["CPUExecutionProvider"])
        (outputs,) = session.run(None, {"images": images})
    else:
        outputs = jax.export.deserialize(bytearray(done.content)).call(images)
    np.testing.assert_allclose(outputs, want, rtol=1e-4)


def test_balanced_weights_are_those_of_the_training_images(tmp_path: Path) -> None:
    images, targets = data(tmp_path)
    labels = (targets > np.quantile(targets, 0.7, axis=0)).astype(np.uint8)
    np.savez(tmp_path / "labels.npz", images=images, labels=labels)
    run = trained(tmp_path, "multilabel", "labels.npz", train=", pos_weight: balanced")
    network = network_of(run)
    own = network.dataset(None, pytest.fail).train.labels
    found = resolved_of(network)["train"]["pos_weight"]
    np.testing.assert_allclose(found, (own == 0).sum(axis=0) / (own == 1).sum(axis=0))
