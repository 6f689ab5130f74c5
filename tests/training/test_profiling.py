"""Cost of a network: XLA's FLOP counts against ours, and the timing logic."""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
import pytest

from cnnbench.graph.flops import training_flops
from cnnbench.spec.loader import load_experiment
from cnnbench.training import profiling
from cnnbench.training.events import Trained
from cnnbench.training.executables import Executables, Job, compile_train, set_up
from cnnbench.training.state import Arrays
from cnnbench.training.strategy import Strategy
from tests.support.paths import EXPERIMENTS
from tests.support.training import run_job
from tests.training.test_trainer import CONV, make_dataset, make_job


def plain_setup(job: Job) -> Executables:
    return Executables(job, profiling.PLAIN, None, Arrays(*2 * (jax.numpy.zeros(1),)))


def shipped(name: str) -> Job:
    """A shipped experiment, without its images."""
    loaded = load_experiment(EXPERIMENTS / f"{name}.yaml")
    job = make_job(CONV, make_dataset(1, 1, 1))
    images = np.zeros((500, *loaded.info.shape), np.uint8)
    train = dataclasses.replace(job.dataset.train, images=images, labels=np.zeros(500, np.int32))
    dataset = dataclasses.replace(job.dataset, info=loaded.info, train=train)
    return dataclasses.replace(job, experiment=loaded.experiment, plan=loaded.plan, dataset=dataset)


@pytest.mark.parametrize("name", ["standard", "modified", "autoencoder", "mlp"])
def test_xla_flops_match_the_count_from_shapes(name: str) -> None:
    """XLA also counts biases, activations, pools and the loss, a few percent more."""
    job = shipped(name)
    plain = plain_setup(job)
    forward, backward = profiling.count_flops(plain, plain.network(0))
    assert job.plan is not None
    assert forward is not None
    assert backward is not None
    products = 2 * job.plan.multiply_adds
    assert products < forward < 1.03 * products
    assert training_flops(job.plan) < forward + backward < 1.05 * training_flops(job.plan)


def test_a_dense_layer_is_counted_by_hand() -> None:
    """A multiply-add counts 2; a bias and pixel scaling 1; indexing an image about a dozen."""
    layers = {"dense": {"op": "dense", "units": 7}}
    plain = plain_setup(make_job(layers, make_dataset(6, 1, 1), batch_size=3))
    forward, _ = profiling.count_flops(plain, plain.network(0))
    assert forward is not None
    assert 0 <= forward - (2 * 12 * 7 + 7 + 12) <= 20


def test_counts_do_not_depend_on_the_engine() -> None:
    """The fast form needs fewer multiplications; the architecture is the same."""
    dataset = make_dataset(8, 1, 1)
    costs = []
    for engine in ("plain", "fast"):
        *_, trained = run_job(make_job(CONV, dataset, engine=engine, batch_size=4, epochs=1))
        assert isinstance(trained, Trained)
        costs.append(trained.cost)
    one, other = costs
    assert (one.forward_flops, one.backward_flops) == (other.forward_flops, other.backward_flops)
    assert one.training_flops == other.training_flops
    for cost in costs:
        assert cost.product_flops > 1e8
        assert cost.latency_p90_s is not None
        assert 0 < cost.latency_p50_s <= cost.latency_p90_s
        assert cost.latency_spread is not None
        assert cost.product_spread is not None
        assert min(cost.latency_spread, cost.product_spread) >= 0


def test_no_count_without_a_cpu_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = plain_setup(make_job(CONV, make_dataset(8, 1, 1)))
    network = plain.network(0)

    def none(backend: str) -> Any:
        raise RuntimeError(f"unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", none)
    assert profiling.count_flops(plain, network) == (None, None)


def test_memory_covers_all_devices_without_the_dataset() -> None:
    """Parameters and momentum are 7 x 12 + 7 floats each; the rest is small on small data."""
    layers = {"dense": {"op": "dense", "units": 7}}
    found = []
    for num_train in (8, 8000):
        job = make_job(layers, make_dataset(num_train, 1, 1), batch_size=4)
        setup = set_up(job, Strategy("plain", None, 1, 1))
        network = setup.network(0)
        train = compile_train(setup, network, setup.state(network))
        found.append(profiling._program_bytes(dataclasses.replace(setup, train=train)))
    assert found[0] == found[1]
    assert found[0] is not None
    assert 2 * 4 * (7 * 12 + 7) <= found[0] < 20_000


def test_memory_is_none_if_the_program_does_not_report_it() -> None:
    class Silent:
        def memory_analysis(self) -> None:
            """As a backend without memory analysis."""

    train: Any = Silent()
    setup = plain_setup(make_job(CONV, make_dataset(8, 1, 1)))
    silent = dataclasses.replace(setup, train=train)
    assert profiling._program_bytes(silent) is None


class Ticking:
    """A clock that calls advance."""

    def __init__(self, seconds: list[float]) -> None:
        self.now, self.calls, self._seconds = 0.0, 0, itertools.cycle(seconds)

    def __call__(self) -> float:
        return self.now

    def call(self) -> None:
        self.calls += 1
        self.now += next(self._seconds)


def test_fast_calls_are_timed_300_times_in_three_rounds_with_warm_up() -> None:
    clock = Ticking([0.001])
    rounds, _ = profiling.interleave(clock.call, [], clock)
    assert ([len(turn) for turn in rounds], clock.calls) == ([100, 100, 100], 315)
    assert rounds[2] == pytest.approx([0.001] * 100)


@pytest.mark.parametrize(("call_s", "calls"), [(0.005, 67), (0.04, 9), (2.0, 7)])
def test_slow_calls_stop_after_a_third_of_a_second_but_not_before_seven(
    call_s: float, calls: int
) -> None:
    clock = Ticking([call_s])
    assert len(profiling.call_seconds(clock.call, clock)) == pytest.approx(calls, abs=1)


def test_products_are_timed_before_each_round_by_library() -> None:
    """Both share a clock: the first library takes 1 s, then 3 s, the second always 2 s."""
    clock, order = Ticking([0.001]), []

    def product(name: str, seconds: list[float]) -> Any:
        times = itertools.cycle(seconds)

        def multiply() -> None:
            order.append(name)
            clock.now += next(times)

        return multiply

    _, times = profiling.interleave(clock.call, [product("a", [1, 3]), product("b", [2])], clock)
    assert order == ["a", "b"] * 3
    assert times[0] == pytest.approx([1, 3, 1])
    assert times[1] == pytest.approx([2] * 3)


def test_relative_spread() -> None:
    assert profiling.relative_spread([0.1, 0.1, 0.1], max) == 0
    assert profiling.relative_spread([0.2, 0.1, 0.15], max) == pytest.approx(1)
    assert profiling.relative_spread([0.2, 0.1, 0.15], np.median) == pytest.approx(0.5)


def test_the_99th_percentile_needs_200_calls() -> None:
    seconds = [i / 1000 for i in range(1, 202)]
    assert profiling.percentile_99(seconds) == pytest.approx(0.199)
    assert profiling.percentile_99(seconds[:199]) is None
