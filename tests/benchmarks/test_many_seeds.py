"""Wall time of many seeds, with processes that train nothing."""

from collections import Counter

import numpy as np
import pytest

from benchmarks import many_seeds
from cnnbench.bench.scheduler import BenchTask
from cnnbench.bench.worker_process import BenchVariant
from cnnbench.data.splits import Split
from cnnbench.spec.loader import load_experiment
from cnnbench.system.host import cores
from tests.bench.test_worker_process import TINY
from tests.support.paths import ROOT


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    images, labels = np.zeros((60, 28, 28, 1), np.uint8), np.arange(60, dtype=np.int32) % 10
    split = Split(images, labels)
    weights = {"dense1": {"kernel": np.ones((16, 10), np.float32), "bias": np.ones(10, np.float32)}}
    return BenchTask(load_experiment(path), split, split, "random images", weights)


def test_every_seed_is_trained_for_all_epochs(task, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("FAKE_TRAINERS_LOG", str(tmp_path / "log"))
    variants = [BenchVariant(name, "fake", "tests.bench.fake_frameworks") for name in "ab"]
    seconds = many_seeds.torch_seconds([task], variants, seeds=3, epochs=2)
    assert seconds > 0
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    steps: Counter[str] = Counter()
    for name, number, *_ in lines:
        steps[name] += int(number) if number.isdigit() else 0
    # Epochs of 3 steps, and one that compiles; 2 and 1 seeds of 2 epochs.
    assert steps == {"a": 1 + 2 * 2 * 3, "b": 1 + 1 * 2 * 3}


def test_pytorch_has_a_thread_on_each_core() -> None:
    assert {*many_seeds.torch_arrangements("*-tuned-eager-*")} == {
        "torch-tuned-eager-nchw",
        "torch-tuned-eager-channels_last",
    }
    found = many_seeds.torch_arrangements("*")
    assert {"torch-tuned-eager-nchw", "torch-tuned-compile-channels_last"} <= {*found}
    assert "torch-eager-nchw" not in found
    for variants in found.values():
        assert [variant.environment["OMP_NUM_THREADS"] for variant in variants] == ["1"] * len(
            cores()
        )
        assert [v.environment["OMP_PLACES"] for v in variants] == [f"{{{c}}}" for c in cores()]


def test_the_best_of_each_side_is_compared_and_slow_ones_are_dropped() -> None:
    times = {"run": 4.0, "run --on local": 2.0, "torch-a": 9.0, "torch-b": 6.0, "torch-c": 7.0}
    calls: list[str] = []

    def after(name: str) -> float:
        calls.append(name)
        return times[name]

    arrangements = {name: lambda name=name: after(name) for name in times}
    seconds = many_seeds.measure(arrangements, 2, lambda _: None)
    assert calls == [*times, "torch-c", "torch-b", "run --on local", "run"]
    found = many_seeds.summary(seconds)
    assert (found["ours"], found["theirs"]) == ("run --on local", "torch-b")
    assert found["ratio"] == "3.00 (3.00-3.00)"
