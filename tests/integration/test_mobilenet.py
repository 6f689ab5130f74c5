"""experiments/python/mobilenet: both depthwise convolutions, PyTorch, training and report."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.nn.python_model import import_class
from cnnbench.nn.submodules import outline
from cnnbench.spec.loader import load_experiment
from cnnbench.training.state import split_network, weights_of
from tests.support.paths import EXPERIMENTS

SPEC = EXPERIMENTS / "python" / "mobilenet.yaml"
NUM_PARAMS = 86_634  # PyTorch has the same number, see below
SPLITS = "dataset.splits={validation: 50, test: 50}"
SMALL = ["dataset.train_examples=100", SPLITS, "train.batch_size=50", "train.epochs=1"]


def make(*, shifted: bool) -> Any:
    loaded = load_experiment(SPEC)
    kind: Any = import_class(str(loaded.experiment.model.python), SPEC.parent)
    return kind(shifted=shifted, rngs=nnx.Rngs(3))


@pytest.fixture(scope="module")
def images() -> Any:
    return np.random.default_rng(0).uniform(size=(3, 28, 28, 1)).astype(np.float32)


def step(model: Any, images: Any) -> Any:
    """Loss of a batch in training, its logits, and the gradients."""
    network = split_network(model)

    def loss(params: Any) -> Any:
        logits = nnx.merge(network.training, params, network.rest, copy=True)(images)
        return (logits**2).sum(), logits

    program = jax.jit(jax.grad(loss, has_aux=True)).lower(network.params)
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}  # for fast compilation
    quick = program.compile(options)
    gradients, logits = quick(network.params)
    return logits, gradients


@pytest.fixture(scope="module")
def shifted_step(images: Any) -> Any:
    return step(make(shifted=True), images)


@pytest.mark.slow
def test_both_convolutions_give_the_same_outputs_and_gradients(
    images: Any, shifted_step: Any
) -> None:
    own, own_gradients = shifted_step
    xla, xla_gradients = step(make(shifted=False), images)
    assert own.shape == (3, 10)
    np.testing.assert_allclose(own, xla, rtol=1e-3, atol=1e-4)
    # Batch norm makes some gradients zero except for rounding, so all share one tolerance.
    one, other = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (own_gradients, xla_gradients)
    )
    assert one.size == NUM_PARAMS
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


def test_the_network_matches_pytorch(images: Any, shifted_step: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra peers)")
    from benchmarks import depthwise

    network = split_network(make(shifted=True))
    weights = weights_of(network.params, network.rest, layers=False)
    net = depthwise.MobileNet(weights, depthwise.STRIDES)
    assert sum(p.numel() for p in net.parameters()) == NUM_PARAMS
    theirs = net.train()(torch.tensor(images.transpose(0, 3, 1, 2))).detach().numpy()
    ours, _ = shifted_step
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("shifted", "slow"), [(True, 0), (False, 7)])
def test_the_outline(shifted: bool, slow: int) -> None:
    kind = import_class("mobilenet:MobileNet", SPEC.parent)
    found = outline(kind, {"shifted": shifted}, (28, 28, 1), (10,))
    assert (found.num_params, found.multiply_adds) == (NUM_PARAMS, 6_597_856)
    assert found.num_slow == slow
    own = [part for part in found.parts if ".depthwise.conv" in part.name]
    assert [part.shape for part in own][:3] == [(28, 28, 16), (14, 14, 64), (14, 14, 96)]


ADVICE = (
    "7 depthwise convolutions are slow on a CPU; pass conv_general_dilated=cnnbench.depthwise to"
    " nnx.Conv"
)


@pytest.mark.slow
def test_training_gives_advice_and_the_report_draws_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def invoke(*words: str) -> Any:
        return CliRunner().invoke(app, words, catch_exceptions=False)

    monkeypatch.chdir(tmp_path)
    xla = "model.args={shifted: false}"
    assert ADVICE in invoke("show", str(SPEC), xla).stdout.splitlines()
    assert ADVICE not in invoke("show", str(SPEC)).stdout
    done = invoke("run", str(SPEC), *SMALL, xla, "--quiet", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert f"MobileNet: {ADVICE}" in done.stderr.splitlines()
    done = invoke("report")
    assert done.exit_code == 0, done.stderr
    page = Path("report.html").read_text("utf-8")
    assert f"MobileNet: 45 submodules, {NUM_PARAMS:,} parameters" in page
    assert "blocks.1.expand.conv: Conv 1x1x16x64 of stem.norm, blocks.0.project.norm" in page
    assert re.search(r">blocks\.6\.depthwise\.conv</t", page)
    assert "not drawn" not in page
