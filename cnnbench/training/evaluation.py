"""Evaluation on held-out images, with compiled functions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from cnnbench.data.splits import Rows
from cnnbench.data.streaming.schedule import TEST, VALIDATION
from cnnbench.runs.experiment import metric_names
from cnnbench.spec.experiment import Task
from cnnbench.spec.metrics import SplitMetricName
from cnnbench.system.arrays import NamedArrays
from cnnbench.training.executables import NUM_SAMPLES, Executables, Job
from cnnbench.training.feed.feed import BatchPlace, Idle
from cnnbench.training.linear_probe import MOST_TRAIN, probe_accuracy
from cnnbench.training.losses import split_metric_names
from cnnbench.training.metrics.split import split_metric
from cnnbench.training.state import Arrays, Network, TrainState, unstack
from cnnbench.training.step import Evaluated


class SplitResults(NamedTuple):
    """Loss and metrics of n images.

    Args:
      values: loss and metrics, by name.
      images: loss and metrics of each image, (n,), by name; boolean if they are 0 or 1.
    """

    values: dict[str, float]
    images: NamedArrays


def evaluate(
    executables: Executables,
    state: TrainState,
    rows: Sequence[NDArray[np.int32]],
    first: BatchPlace | None = None,
) -> list[SplitResults]:
    """Loss and metrics of images, by seed.

    The last chunk is padded with images of weight zero.

    Args:
      executables: compiled functions for this number of seeds.
      state: state of the seeds.
      rows: indices of the images of each seed, (n,); the same for all unless `own_rows`.
      first: where a streamed dataset has the first of these images.
    """
    own = rows if executables.own_rows else rows[:1]
    parts: list[Evaluated] = []

    def idle() -> None:
        jax.block_until_ready(parts[-1:])

    for start, arrays in _chunks(executables, max(map(len, own)), first, idle):
        chunks = [_chunk(indices, start, executables.job.eval_batch) for indices in own]
        pair = [np.stack(each) for each in zip(*chunks, strict=True)]
        given = pair if executables.own_rows else [each[0] for each in pair]
        parts.append(executables.evaluate(*state.model, arrays, *given))
    host, several = jax.device_get(parts), executables.at_once > 1
    names = split_metric_names(executables.job.experiment)
    order = ("loss", *metric_names(executables.job.experiment))
    return [
        _evaluation(of_seed, len(indices), names, order)
        for number, indices in enumerate(rows)
        for of_seed in [jax.tree.map(lambda leaf, n=number: leaf[n], host) if several else host]
    ]


def _evaluation(
    parts: Sequence[Evaluated],
    size: int,
    split_names: Iterable[SplitMetricName],
    order: Sequence[str],
) -> SplitResults:
    """Loss and metrics of `size` images in this order, from the parts of a split."""
    values = _means(parts, size) | _split_metrics(split_names, parts, size)
    images = {
        name: np.concatenate([part.images[name] for part in parts])[:size]
        for name in parts[0].images
    }
    return SplitResults({name: values[name] for name in order}, images)


def _chunks(
    executables: Executables, number: int, first: BatchPlace | None, idle: Idle
) -> Iterator[tuple[int, Arrays]]:
    """Number of the first image of each chunk, and the arrays that have its images."""
    starts = range(0, number, executables.job.eval_batch)
    if executables.feed is None:
        yield from ((start, executables.arrays) for start in starts)
        return
    assert first is not None
    chunks = executables.feed.batches(first, len(starts), idle)
    for start, fed in zip(starts, chunks, strict=True):
        yield start, fed.arrays
        idle()  # so that no more chunks are in memory than are prepared


def _chunk(
    indices: NDArray[np.int32], start: int, size: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Indices from `start` on, padded with the last one, and their weights, (size,) each."""
    places = np.arange(start, start + size)
    weights = (places < len(indices)).astype(np.float32)
    return indices[np.minimum(places, len(indices) - 1)], weights


def _means(parts: Sequence[Evaluated], size: int) -> dict[str, float]:
    """Means of loss and metrics over `size` images, from the parts of a split."""
    return {
        name: float(np.sum([np.float64(part.sums[name]) for part in parts]) / size)
        for name in parts[0].sums
    }


def _split_metrics(
    names: Iterable[SplitMetricName], parts: Sequence[Evaluated], size: int
) -> dict[str, float]:
    """Metrics of a whole split of `size` images, from its parts; the last ones are padded."""
    values = (part.values for part in parts)
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:size], *values)
    return {name: split_metric(name, whole) for name in names}


def predictions_of(job: Job, seed: int, splits: Mapping[str, NamedArrays]) -> NamedArrays:
    """Results for each image of a seed, as a run keeps them, by split and name.

    Args:
      job: the training.
      seed: the seed.
      splits: loss and metrics of each image by split, `validation` or `test`; none of a split
        without images.

    Returns:
      Arrays such as `test_accuracy`, (n,), and the labels of a classifier's images, `test_label`.
    """
    rows = job.dataset.rows(seed)._asdict()
    found: dict[str, NDArray[Any]] = {}
    for split, scores in splits.items():
        found |= {f"{split}_{name}": each for name, each in scores.items()}
    if job.experiment.task is Task.CLASSIFY:
        labels = np.concatenate([each.labels for each in job.dataset.stored]).astype(np.int32)
        found |= {f"{split}_label": labels[rows[split]] for split in splits if splits[split]}
    return found


def image_results(executables: Executables, network: Network, seed: int) -> NamedArrays:
    """Results for each image of a network that is trained already, as `predictions_of`.

    Args:
      executables: programs for one seed.
      network: the trained network.
      seed: the seed.
    """
    state = executables.place(TrainState(network.params, network.rest, ()))
    job, last = executables.job, executables.job.experiment.train.epochs
    rows, splits = job.dataset.rows(seed), {}
    for split, number in (("validation", VALIDATION), ("test", TEST)):
        if len(own := getattr(rows, split)):
            place = BatchPlace(seed, number, last)
            splits[split] = evaluate(executables, state, [own], place)[0].images
    return predictions_of(job, seed, splits)


def code_accuracies(
    executables: Executables, state: TrainState, seeds: Sequence[int]
) -> list[float | None]:
    """Linear-probe accuracy of the code, by seed; None without a code."""
    job, number = executables.job, executables.at_once
    if executables.codes is None or job.dataset.train.labels.ndim > 1:
        return [None] * number
    return [
        _probe(executables, one, job.dataset.rows(seed))
        for seed, one in zip(seeds, unstack(state, number), strict=True)
    ]


def _probe(executables: Executables, state: TrainState, rows: Rows) -> float:
    train, every = rows.train[:MOST_TRAIN], executables.job.dataset.stored
    labels = np.concatenate([split.labels for split in every])
    codes = _codes(executables, state, np.r_[train, rows.test])
    size = len(train)
    return probe_accuracy(codes[:size], labels[train], codes[size:], labels[rows.test])


def _codes(
    executables: Executables, state: TrainState, indices: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Codes of the images at `indices`; the last chunk is padded."""
    call, size = executables.codes, executables.job.eval_batch
    assert call is not None
    chunks = np.resize(indices, (-(-len(indices) // size), size))
    found = [np.asarray(call(*state.model, *executables.arrays_with(chunk))) for chunk in chunks]
    return np.concatenate(found)[: len(indices)]


def samples(
    executables: Executables, state: TrainState, rows: NDArray[np.int32]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """The first test images and their reconstructions by each seed, (seeds, n, h, w, c).

    Args:
      executables: compiled functions for this number of seeds.
      state: state of the seeds.
      rows: indices of the test images.
    """
    job = executables.job
    inputs = np.asarray(job.dataset.test.images[:NUM_SAMPLES])
    if executables.outputs is None:
        return inputs, None
    indices = rows[:NUM_SAMPLES]
    outputs = np.asarray(executables.outputs(*state.model, *executables.arrays_with(indices)))
    return inputs, outputs.reshape(-1, *inputs.shape) * job.experiment.dataset.pixel_scale
