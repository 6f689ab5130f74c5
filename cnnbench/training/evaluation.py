"""Evaluation on held-out images, with compiled functions."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from cnnbench.runs.records import Direction
from cnnbench.spec.experiment import Experiment
from cnnbench.spec.metrics import higher_is_better
from cnnbench.training.executables import EVAL_BATCH, NUM_SAMPLES, Executables
from cnnbench.training.linear_probe import MOST_TRAIN, probe_accuracy
from cnnbench.training.losses import metric_names
from cnnbench.training.state import Arrays, TrainState, unstack


def metric_directions(experiment: Experiment) -> dict[str, Direction]:
    """Every metric of an experiment with its better direction."""
    names = (*metric_names(experiment), "loss")
    return {n: Direction.HIGHER if higher_is_better(n) else Direction.LOWER for n in names}


def evaluate(executables: Executables, state: TrainState, rows: range) -> list[dict[str, float]]:
    """Means of loss and metrics over the images in `rows`, by seed.

    The last chunk is padded with images of weight zero.
    """
    sums = []
    for start in range(rows.start, rows.stop, EVAL_BATCH):
        indices = np.arange(start, start + EVAL_BATCH, dtype=np.int32)
        weights = (indices < rows.stop).astype(np.float32)
        indices = np.minimum(indices, rows.stop - 1)
        sums.append(executables.evaluate(*state.model, executables.arrays, indices, weights))
    host = jax.device_get(sums)
    totals = {
        key: np.sum([np.float64(part[key]) for part in host], axis=0).reshape(-1) for key in host[0]
    }
    return [
        {key: float(total[number] / len(rows)) for key, total in totals.items()}
        for number in range(executables.at_once)
    ]


def code_accuracies(executables: Executables, state: TrainState) -> list[float | None]:
    """Linear-probe accuracy of the code, by seed; None without a code."""
    job, number = executables.job, executables.at_once
    if executables.codes is None:
        return [None] * number
    train, test = job.dataset.train, job.dataset.test
    size = min(MOST_TRAIN, len(train))
    first_test = len(train) + len(job.dataset.validation)
    indices = np.r_[0:size, first_test : first_test + len(test)].astype(np.int32)
    return [
        probe_accuracy(codes[:size], train.labels[:size], codes[size:], test.labels)
        for one in unstack(state, number)
        for codes in [_codes(executables.codes, one, executables.arrays, indices)]
    ]


def _codes(
    call: Callable[..., jax.Array], state: TrainState, arrays: Arrays, indices: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Codes of the images at `indices`; the last chunk is padded."""
    chunks = np.resize(indices, (-(-len(indices) // EVAL_BATCH), EVAL_BATCH))
    found = [np.asarray(call(*state.model, arrays, chunk)) for chunk in chunks]
    return np.concatenate(found)[: len(indices)]


def samples(
    executables: Executables, state: TrainState, start: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """The first test images and their reconstructions by each seed, (seeds, n, h, w, c)."""
    job = executables.job
    inputs = job.dataset.test.images[:NUM_SAMPLES]
    if executables.outputs is None:
        return inputs, None
    indices = np.arange(start, start + len(inputs), dtype=np.int32)
    outputs = np.asarray(executables.outputs(*state.model, executables.arrays, indices))
    return inputs, outputs.reshape(-1, *inputs.shape) * job.experiment.dataset.pixel_scale
