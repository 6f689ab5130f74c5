"""What a network is worth on images that it was not trained on, by its compiled programs."""

from typing import Any, NamedTuple

import jax
import numpy as np

from cnnbench.losses import metric_names
from cnnbench.programs import EVAL_BATCH, NUM_SAMPLES, Programs, Setup
from cnnbench.results import Direction
from cnnbench.spec import Experiment
from cnnbench.train import TrainState


class Ready(NamedTuple):
    """Programs with what they were compiled for."""

    setup: Setup
    programs: Programs


def metric_directions(experiment: Experiment) -> dict[str, Direction]:
    """Every metric of an experiment, and which of its values are better."""
    names = (*metric_names(experiment), "loss")
    return {name: Direction.HIGHER if _rises(name) else Direction.LOWER for name in names}


def _rises(metric: str) -> bool:
    return metric.endswith("accuracy") or metric in {"psnr", "ssim"}


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
