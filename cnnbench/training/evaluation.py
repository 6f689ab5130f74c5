"""What a network is worth on images that it was not trained on, by its compiled programs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from cnnbench.graph.autoencoder import code_layer
from cnnbench.runs.records import Direction
from cnnbench.spec.experiment import Experiment, Task
from cnnbench.spec.metrics import higher_is_better
from cnnbench.training.executables import EVAL_BATCH, NUM_SAMPLES, Programs, Setup
from cnnbench.training.inference import activations_of
from cnnbench.training.linear_probe import MOST_TRAIN, probe_accuracy
from cnnbench.training.losses import metric_names
from cnnbench.training.state import Arrays, TrainState, unstack


class Ready(NamedTuple):
    """Programs with what they were compiled for.

    Args:
      setup: devices and data.
      programs: compiled.
      codes: (params, rest, arrays, indices) to the code of those images, compiled when it is
        first called; None unless a graph of layers reconstructs.
      num_slow: convolutions of a Python model that are slow here, as `check_output` counts them.
    """

    setup: Setup
    programs: Programs
    codes: Callable[..., jax.Array] | None = None
    num_slow: int = 0


def metric_directions(experiment: Experiment) -> dict[str, Direction]:
    """Every metric of an experiment, and which of its values are better."""
    names = (*metric_names(experiment), "loss")
    return {n: Direction.HIGHER if higher_is_better(n) else Direction.LOWER for n in names}


def evaluate(ready: Ready, state: TrainState, rows: range) -> list[dict[str, float]]:
    """Means over every one of `rows`, by seed; the last chunk is filled up with weight zero."""
    sums = []
    for start in range(rows.start, rows.stop, EVAL_BATCH):
        indices = np.arange(start, start + EVAL_BATCH, dtype=np.int32)
        weights = (indices < rows.stop).astype(np.float32)
        indices = np.minimum(indices, rows.stop - 1)
        sums.append(ready.programs.evaluate(*state[:2], ready.setup.arrays, indices, weights))
    host = jax.device_get(sums)
    totals = {
        key: np.sum([np.float64(part[key]) for part in host], axis=0).reshape(-1) for key in host[0]
    }
    return [
        {key: float(total[number] / len(rows)) for key, total in totals.items()}
        for number in range(ready.setup.at_once)
    ]


def code_accuracies(ready: Ready, state: TrainState) -> list[float | None]:
    """What the code is worth, by seed; None where there is none."""
    job, number = ready.setup.job, ready.setup.at_once
    if ready.codes is None:
        return [None] * number
    train, test = job.dataset.train, job.dataset.test
    size = min(MOST_TRAIN, len(train))
    first_test = len(train) + len(job.dataset.validation)
    places = np.r_[0:size, first_test : first_test + len(test)].astype(np.int32)
    return [
        probe_accuracy(codes[:size], train.labels[:size], codes[size:], test.labels)
        for one in unstack(state, number)
        for codes in [_codes(ready.codes, one, ready.setup.arrays, places)]
    ]


def _codes(
    call: Callable[..., jax.Array], state: TrainState, arrays: Arrays, places: NDArray[np.int32]
) -> NDArray[np.float32]:
    """The codes of the images at `places`; the last chunk is filled up."""
    chunks = np.resize(places, (-(-len(places) // EVAL_BATCH), EVAL_BATCH))
    found = [np.asarray(call(*state[:2], arrays, chunk)) for chunk in chunks]
    return np.concatenate(found)[: len(places)]


def coder(setup: Setup) -> Callable[..., jax.Array] | None:
    """The `codes` of `Ready`."""
    job = setup.job
    if job.experiment.task is not Task.RECONSTRUCT or job.plan is None:
        return None
    layer = code_layer(job.plan, job.experiment.model.code_layer)
    plain = replace(setup, strategy=replace(setup.strategy, form="plain", row=None))
    graphdef, rules = plain.network(0).evaluation, setup.rules(training=False)

    def codes(params: Any, rest: Any, arrays: Arrays, indices: jax.Array) -> jax.Array:
        given = activations_of(params, rest, arrays, indices, graphdef=graphdef, rules=rules)
        return given[layer]

    return jax.jit(codes)


def samples(
    ready: Ready, state: TrainState, start: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """The first test images, and what each seed makes of them, (seeds, n, h, w, c)."""
    job = ready.setup.job
    inputs = job.dataset.test.images[:NUM_SAMPLES]
    if ready.programs.outputs is None:
        return inputs, None
    indices = np.arange(start, start + len(inputs), dtype=np.int32)
    outputs = np.asarray(ready.programs.outputs(*state[:2], ready.setup.arrays, indices))
    return inputs, outputs.reshape(-1, *inputs.shape) * job.experiment.dataset.pixel_scale
