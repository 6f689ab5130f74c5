"""Benchmarks with real processes, most of which train nothing."""

import dataclasses
import os
import time

import numpy as np
import pytest

from cnnbench.bench import scheduler, worker_process
from cnnbench.bench.frameworks import initial_weights
from cnnbench.bench.measurements import VariantStatus
from cnnbench.bench.scheduler import OURS, BenchTask, Settings, run_benchmark
from cnnbench.bench.worker import metrics, read_weights
from cnnbench.bench.worker_process import BenchVariant, LostError, Worker
from cnnbench.data.splits import Split
from cnnbench.errors import UsageError
from cnnbench.spec.loader import load_experiment
from tests.support.paths import ROOT

TINY = """\
name: tiny
task: classify
dataset: {name: mnist}
model:
  layers:
    pool1: {op: max_pool, size: 7}
    dense1: {op: dense, units: 10}
train: {batch_size: 20}
"""
QUICK = Settings(rounds=4, budget_s=1.0, pause_s=0.0, most_steps=2, libraries=())


@pytest.fixture(autouse=True)
def _findable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "log"
    monkeypatch.setenv("FAKE_TRAINERS_LOG", str(path))
    return path


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, 28, 28, 1), np.uint8)
    labels = np.arange(100, dtype=np.int32) % 10
    test = Split(images[:50], labels[:50])
    weights = {"dense1": {"kernel": np.ones((16, 10), np.float32), "bias": np.ones(10, np.float32)}}
    return BenchTask(load_experiment(path), Split(images, labels), test, "random images", weights)


def fakes(*variants: str) -> list[BenchVariant]:
    return [BenchVariant(variant, "fake", "tests.bench.fake_frameworks") for variant in variants]


def test_turns_alternate_and_variants_train_on_the_same_batches(task, log):
    notes: list[str] = []
    done = run_benchmark(task, fakes("a", "b", "c"), QUICK, notes.append)
    lines = [line.split() for line in log.read_text().splitlines()]
    trained = [line for line in lines if line[1] != "evaluates"]
    before, rounds = trained[:9], trained[9:]
    assert [line[0] for line in before] == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    assert [line[0] for line in rounds] == list("abccba") * 2 + list("abc")
    assert {line[1] for line in before} == {"1"}
    assert {line[1] for line in rounds} == {"2"}
    work = {name: [line[1:] for line in trained if line[0] == name] for name in "abc"}
    assert work["a"] == work["b"] == work["c"]
    # An epoch has five batches; every epoch has a different order.
    sums = [int(pixels) for _, pixels, _ in work["a"]]
    images = sum(sums[:4]), int(task.train.images.sum(dtype=np.int64))
    assert images == (images[1], images[1])
    assert len({int(pixels) for pixels in sums}) == len(sums)
    assert [m.steps for m in done.measurements] == [3 + 5 * 2] * 3
    assert [len(m.seconds) for m in done.measurements] == [4] * 3
    assert notes[-1] == "tiny: round 4 of 4, 2 x 20 images"


def test_measured_values(task):
    (measured,) = run_benchmark(task, fakes("a"), QUICK, lambda _: None).measurements
    assert measured.outcome is VariantStatus.MEASURED
    assert (measured.family, measured.images) == ("fake", 40)
    assert all(0.02 <= seconds < 0.2 for seconds in measured.seconds)
    assert measured.compile_s >= 0.01
    assert 2e7 < measured.peak_memory_bytes < 2e9
    # Full batches of 20 of the 50 test images; the fake predicts 0 with a logit of 1 + 1.
    loss = np.log(np.exp(2) + 9) - 2 * 0.1
    assert measured.metrics == pytest.approx({"accuracy": 0.1, "loss": loss})


@pytest.mark.slow
def test_failing_variants_are_reported_and_the_others_continue(task):
    names = ("refuses", "dies", "a", "is-killed", "refuses-later")
    notes: list[str] = []
    done = run_benchmark(task, fakes(*names), QUICK, notes.append)
    found = {m.variant: (m.outcome, m.reason) for m in done.measurements}
    no_convolutions = "peer 'refuses': it has no convolutions; leave it out."
    assert found == {
        "refuses": (VariantStatus.SKIPPED, no_convolutions),
        "dies": (
            VariantStatus.FAILED,
            "its process exited with code 3: MemoryError: no room for 7 images",
        ),
        "a": (VariantStatus.MEASURED, ""),
        "is-killed": (VariantStatus.FAILED, "its process was killed by SIGKILL"),
        "refuses-later": (VariantStatus.SKIPPED, "enough."),
    }
    assert f"tiny: refuses skipped: {no_convolutions}" in notes
    assert len(done.measured[0].seconds) == 4


def test_a_hanging_worker_is_killed(task, monkeypatch):
    monkeypatch.setattr(scheduler, "SHORTEST_LIMIT_S", 5.0)
    monkeypatch.setattr(scheduler, "START_LIMIT_S", 5.0)
    began = time.monotonic()
    done = run_benchmark(task, fakes("hangs", "a"), QUICK, lambda _: None)
    assert done.measurements[0].reason == "'start' timed out after 5 s"
    assert done.measurements[1].outcome is VariantStatus.MEASURED
    assert time.monotonic() - began < 30


def test_a_budget_bounds_rounds_and_steps(task):
    settings = Settings(rounds=6, budget_s=1.5, pause_s=0.0, libraries=())
    done = run_benchmark(task, fakes("slow-1", "slow-2"), settings, lambda _: None)
    rounds, steps = len(done.measurements[0].seconds), done.measurements[0].images // 20
    # A step of both takes a bit over 0.1 s: 14 steps, in 6 rounds and a warm-up round.
    assert (rounds, steps) == (6, 2) or (rounds >= 3 and steps == 1)
    spent = sum(sum(m.seconds) for m in done.measurements)
    assert spent <= 1.5


@pytest.mark.slow
def test_matrix_products_are_measured_in_the_same_run(task, monkeypatch):
    settings = Settings(rounds=3, budget_s=1, pause_s=0.0, most_steps=1, libraries=("numpy",))
    done = run_benchmark(task, fakes("a"), settings, lambda _: None)
    assert done.product is not None
    assert (done.product.library, done.product.size) == ("numpy", 2048)
    assert 1e8 < done.product.flops < 1e15


def test_no_process_is_left(task, monkeypatch):
    started: list[Worker] = []

    class Spy(Worker):
        def __init__(self, *args):
            super().__init__(*args)
            started.append(self)

    monkeypatch.setattr(scheduler, "Worker", Spy)
    interrupt_at = "tiny: round 1 of 4, 2 x 20 images"

    def notify(text: str) -> None:
        if text == interrupt_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_benchmark(task, fakes("a", "b"), QUICK, notify)
    assert len(started) == 2
    assert all(worker._process.poll() is not None for worker in started)


def test_our_engine_is_measured(task, tmp_path):
    assert task.loaded.plan is not None
    weights = initial_weights(task.loaded.plan, 0)
    real = BenchTask(task.loaded, task.train, task.test, task.dataset, weights)
    done = run_benchmark(real, [OURS, *fakes("a")], QUICK, lambda _: None)
    own = done.own
    assert own is not None, done.measurements
    assert own.metrics is not None
    assert own.metrics["loss"] < 5
    ratio = done.ratio(done.find("a"))
    assert ratio is not None
    assert ratio.interval.low < ratio.value < ratio.interval.high


def test_a_python_model_is_refused(task):
    python = BenchTask(
        dataclasses.replace(task.loaded, plan=None), task.train, task.test, "", task.weights
    )
    with pytest.raises(UsageError, match=r"^tiny: model\.python only runs in Flax; write model"):
        run_benchmark(python, fakes("a"), QUICK, lambda _: None)


def test_a_worker_starts_with_empty_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/somewhere")
    found = worker_process._environment(tmp_path / "caches")
    assert found["CNNBENCH_CACHE_DIR"] == str(tmp_path / "caches")
    assert "JAX_COMPILATION_CACHE_DIR" not in found
    assert found["PATH"] == os.environ["PATH"]


def test_a_worker_that_fails_to_start_reports_the_reason(tmp_path):
    worker = Worker(BenchVariant("a", "fake", "tests.bench.fake_frameworks"), tmp_path)
    try:
        with pytest.raises(LostError, match=r"exited with code 1: .*spec\.yaml"):
            worker.ask("start", 30)
    finally:
        worker.close()


@pytest.mark.parametrize("loss", ["mse", "mae", "binary_cross_entropy"])
def test_reconstruction_losses_match_training(loss, tmp_path):
    import jax.numpy as jnp

    from cnnbench.training.losses import per_image_loss

    path = tmp_path / "a.yaml"
    path.write_text(
        f"name: a\ntask: reconstruct\ndataset: {{name: mnist}}\ntrain: {{loss: {loss}}}\n"
        "model: {layers: {c: {op: conv, filters: 1, kernel: 3, padding: same, "
        "activation: sigmoid}}}\n"
    )
    experiment = load_experiment(path).experiment
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 28, 28, 1), np.uint8)
    outputs = rng.random((4, 28, 28, 1), dtype=np.float32)
    scaled = jnp.asarray(images / np.float32(256))
    expected = float(per_image_loss(loss)(jnp.asarray(outputs), scaled).mean())
    found = metrics(experiment, outputs, images, np.zeros(4, np.int32))
    assert found == {"loss": pytest.approx(expected, rel=1e-5)}


def test_weights_are_read_by_layer(tmp_path, task):
    scheduler.write_task(tmp_path, task)
    read = read_weights(tmp_path / "weights.npz")
    assert {layer: set(values) for layer, values in read.items()} == {"dense1": {"kernel", "bias"}}
    assert np.array_equal(read["dense1"]["kernel"], task.weights["dense1"]["kernel"])
