"""Cost of a network on its device: FLOPs, memory, latency, and the device's peak throughput.

Takes a few seconds after the first seed, outside the training time. Latency and peak measurements
are interleaved, so that load on the machine is noticed.
"""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnbench.graph.flops import training_flops
from cnnbench.runs.cost import Cost
from cnnbench.training.executables import Executables
from cnnbench.training.inference import outputs_of
from cnnbench.training.matmul_peak import SIZE, multiplier, product_flops
from cnnbench.training.state import Arrays, Network, TrainState
from cnnbench.training.step import gradients
from cnnbench.training.strategy import Strategy

PLAIN = Strategy("plain", None, 1, 1)
TURNS = 3
CALLS = 100  # timed calls with one image per turn
FEWEST_CALLS = 7
FEWEST_FOR_P99 = 200
LATENCY_BUDGET_S = 1 / TURNS
WARM_UP_CALLS = 5


def measure_cost(executables: Executables) -> Cost:
    """Measure the cost of a network, which does not depend on its parameters.

    Args:
      executables: executables of the training of one seed.
    """
    job = executables.job
    plain = replace(executables, strategy=PLAIN, mesh=None, at_once=1)
    network = plain.network(job.experiment.seeds[0])
    forward, backward = count_flops(plain, network)
    rounds, products = interleave(_one_image(plain, network), _multipliers(job.device))
    seconds = [second for turn in rounds for second in turn]
    best = min(products, key=min)
    return Cost(
        training_flops=None if job.plan is None else training_flops(job.plan),
        forward_flops=forward,
        backward_flops=backward,
        memory_bytes=_program_bytes(executables),
        latency_p50_s=float(np.percentile(seconds, 50)),
        latency_p90_s=float(np.percentile(seconds, 90)),
        latency_p99_s=percentile_99(seconds),
        latency_calls=len(seconds),
        product_flops=product_flops(SIZE) / min(best),
        latency_spread=relative_spread([statistics.median(turn) for turn in rounds], max),
        product_spread=relative_spread(best, statistics.median),
    )


def count_flops(plain: Executables, network: Network) -> tuple[float | None, float | None]:
    """XLA's FLOP count per image, forward and backward, before optimization.

    Backward is the loss and gradient of a training step, without the optimizer, minus forward.
    Nothing is compiled. The CPU backend counts for all devices, since plug-in backends may not.
    """
    size, (height, width, channels) = plain.job.batch_size, plain.job.dataset.info.shape
    params, rest = jax.eval_shape(lambda: (network.params, network.rest))
    images = jax.ShapeDtypeStruct((size, height, width, channels), jnp.uint8)
    given = plain.job.dataset.train.labels
    labels = jax.ShapeDtypeStruct((size, *given.shape[1:]), given.dtype)
    indices = jax.ShapeDtypeStruct((size,), jnp.int32)
    arrays: Any = (images, labels)
    forward = partial(outputs_of, graphdef=network.evaluation, rules=plain.rules(training=False))
    rules = plain.rules(training=True)._replace(augment=None)
    gradient = partial(gradients, graphdef=network.training, rules=rules)
    state = TrainState(params, rest, ())
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # the user disabled JAX's CPU backend
        return None, None
    with jax.default_device(cpu):
        once = _flops(forward, params, rest, Arrays(*arrays), indices)
        both = _flops(gradient, state, Arrays(*arrays), indices)
    if once is None or both is None:
        return None, None
    return once / size, (both - once) / size


def _flops(function: Callable[..., Any], *args: Any) -> float | None:
    counted = jax.jit(function).lower(*args).cost_analysis()
    return float(counted["flops"]) if counted and "flops" in counted else None


def _one_image(plain: Executables, network: Network) -> Callable[[], object]:
    """A call of the compiled forward pass that blocks until the result is ready."""
    test: Any = plain.job.dataset.test
    image: Any = np.asarray(test.images[:1])
    arrays = Arrays(image, test.labels[:1])
    args = plain.place((network.params, network.rest, arrays, np.zeros(1, np.int32)))
    forward = partial(outputs_of, graphdef=network.evaluation, rules=plain.rules(training=False))
    compiled = jax.jit(forward).lower(*args).compile()
    return lambda: compiled(*args).block_until_ready()


def interleave(
    call: Callable[[], object],
    products: Sequence[Callable[[], object]],
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[tuple[float, ...]], list[list[float]]]:
    """Time calls and matrix products in turn: one product per library, then a round of calls.

    Args:
      call: function that blocks until its result is ready.
      products: matrix products that block until ready, one per library.
      clock: seconds since any fixed point.

    Returns:
      Seconds of the calls of each round, and of all products of each library.
    """
    rounds: list[tuple[float, ...]] = []
    times: list[list[float]] = [[] for _ in products]
    for _ in range(TURNS):
        for multiply, seconds in zip(products, times, strict=True):
            seconds.append(_once(multiply, clock))
        rounds.append(call_seconds(call, clock))
    return rounds, times


def call_seconds(call: Callable[[], object], clock: Callable[[], float]) -> tuple[float, ...]:
    """Seconds of each call of a round, limited by number and by total time."""
    for _ in range(WARM_UP_CALLS):
        call()
    seconds: list[float] = []
    end = clock() + LATENCY_BUDGET_S
    while len(seconds) < CALLS and (len(seconds) < FEWEST_CALLS or clock() < end):
        seconds.append(_once(call, clock))
    return tuple(seconds)


def _once(call: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


def relative_spread(seconds: Sequence[float], upper: Callable[[Sequence[float]], float]) -> float:
    """Spread relative to the minimum, ``upper(seconds) / min(seconds) - 1``.

    >>> relative_spread([2.0, 2.5, 3.0], max)
    0.5
    """
    return upper(seconds) / min(seconds) - 1


def percentile_99(seconds: Sequence[float]) -> float | None:
    """The 99th percentile; None for too few values, where it is close to the maximum."""
    return float(np.percentile(seconds, 99)) if len(seconds) >= FEWEST_FOR_P99 else None


def _program_bytes(executables: Executables) -> int | None:
    """Peak memory of the training step on all devices together, without the dataset."""
    train: Any = executables.train
    found = train.memory_analysis()
    if found is None:
        return None
    # Outputs aliased with arguments are counted twice.
    sizes = found.argument_size_in_bytes + found.output_size_in_bytes
    total = sizes - found.alias_size_in_bytes + found.temp_size_in_bytes
    dataset = sum(array.nbytes for array in executables.arrays)
    return executables.strategy.num_devices * (int(total) - dataset)


@functools.cache
def _multipliers(device: jax.Device) -> tuple[Callable[[], object], ...]:
    """Matrix products of each library, compiled and with warm thread pools."""
    names = ("jax", "numpy") if device.platform == "cpu" else ("jax",)
    found = tuple(multiplier(name, SIZE) for name in names)
    for multiply in found:
        multiply()
    return found
