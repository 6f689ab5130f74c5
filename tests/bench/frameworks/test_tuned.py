"""Tuned PyTorch does the same work as PyTorch with its default settings."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cnnbench.bench.frameworks import cnnbench as own
from cnnbench.bench.frameworks import initial_weights, make_trainer
from cnnbench.bench.frameworks.interface import FrameworkTrainer
from cnnbench.spec.loader import load_experiment
from cnnbench.spec.optimizers import OPTIMIZERS
from tests.support.oracles import Array

torch = pytest.importorskip("torch")

TEXT = """\
name: a
task: classify
dataset: {{name: mnist}}
model:
  layers:
    conv1: {{op: conv, filters: 8, kernel: 5, activation: relu}}
    pool1: {{op: max_pool, size: 4}}
    norm1: {{op: batch_norm}}
    dense1: {{op: dense, units: 10}}
train: {{batch_size: 20, optimizer: {optimizer}}}
"""
STEPS = 4
MISSING = {"lamb", "lars", "lion", "muon"}  # optimizers that PyTorch does not have


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def steps() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (STEPS, 20, 28, 28, 1), np.uint8)
    return images, rng.integers(0, 10, (STEPS, 20), np.int32)


@pytest.fixture
def trainer(tmp_path):
    def make(variant: str, optimizer: str = "sgd", make: Any = make_trainer) -> FrameworkTrainer:
        path = tmp_path / "a.yaml"
        path.write_text(TEXT.format(optimizer=optimizer))
        loaded = load_experiment(path)
        plan = loaded.plan
        assert plan is not None
        made: FrameworkTrainer = make(variant, loaded.experiment, plan, initial_weights(plan, 0))
        return made

    return make


def trained(made: FrameworkTrainer, steps: tuple[Array, Array]) -> tuple[Array, Array]:
    """Losses of the steps, and outputs after them."""
    return made.train(*steps), made.outputs(steps[0][0])


@pytest.mark.parametrize(
    ("layout", "optimizer"),
    [*(("nchw", name) for name in OPTIMIZERS if name not in MISSING), ("channels_last", "adam")],
)
def test_tuned_losses_are_those_of_default_settings(optimizer, layout, trainer, steps) -> None:
    expected = trained(trainer(f"torch-eager-{layout}", optimizer), steps)
    tuned = trainer(f"torch-tuned-eager-{layout}", optimizer)
    # They divide gradients by their size, even those that are rounding errors.
    atol = 2e-3 if optimizer in {"adam", "adamw"} else 2e-5
    for found, wanted in zip(trained(tuned, steps), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=atol)


@pytest.mark.parametrize(
    ("optimizer", "flags"),
    [("sgd", (True, False)), ("adamw", (True, False)), ("radam", (None, True))],
)
def test_parameters_are_updated_at_once(optimizer, flags, trainer) -> None:
    def flags_of(variant: str) -> set[tuple[Any, Any]]:
        groups = trainer(variant, optimizer).optimizer.param_groups
        return {(group.get("fused"), group["foreach"]) for group in groups}

    assert flags_of("torch-tuned-eager-nchw") == {flags}
    assert flags_of("torch-eager-nchw") == {(None, None)}


def test_denormals_are_flushed(trainer) -> None:
    smallest = torch.tensor([1e-38])
    trainer("torch-eager-nchw")
    assert (smallest / 100).item() > 0
    trainer("torch-tuned-eager-nchw")
    assert (smallest / 100).item() == 0


@pytest.mark.parametrize(
    ("variant", "make"),
    [
        ("torch-bfloat16-eager-nchw", make_trainer),
        pytest.param("cnnbench-bfloat16", own.make_trainer, marks=pytest.mark.slow),
    ],
)
def test_bfloat16_is_near_float32_but_not_equal(variant, make, trainer, steps) -> None:
    expected = trained(trainer("torch-tuned-eager-nchw"), steps)[0]
    losses, outputs = trained(trainer(variant, make=make), steps)
    assert np.asarray(outputs).shape == (20, 10)
    # Later steps of so steep a training differ by more.
    difference = np.abs(np.asarray(losses, np.float64) - expected)[:2]
    assert 1e-5 < difference.max() < 0.05


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.parametrize(("tuning", "layout"), [("tuned", "channels_last"), ("bfloat16", "nchw")])
def test_compiled_losses_are_those_of_eager(tuning, layout, trainer, steps) -> None:
    expected = trained(trainer(f"torch-{tuning}-eager-{layout}", "adam"), steps)[0]
    found = trained(trainer(f"torch-{tuning}-compile-{layout}", "adam"), steps)[0]
    tolerance = 1e-4 if tuning == "tuned" else 0.05
    np.testing.assert_allclose(found, expected, rtol=tolerance)
