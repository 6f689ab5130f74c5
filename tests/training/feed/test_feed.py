"""A streamed training has the numbers of one whose images are on the device, bit for bit."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from cnnbench.data.adjustments import NONE, Adjustments, LabelNoise
from cnnbench.data.splits import RandomSplit, joined
from cnnbench.data.streaming.loader import TaskResult, Tasks
from cnnbench.data.streaming.schedule import TRAIN, VALIDATION, Share
from cnnbench.errors import DataError
from cnnbench.runs.records import EpochRecord
from cnnbench.training import executables
from cnnbench.training.events import Checkpoint, Event, StepDone
from cnnbench.training.executables import Job, set_up
from cnnbench.training.feed.ahead import Ahead
from cnnbench.training.feed.feed import BatchPlace, Feed
from cnnbench.training.resume import Resume
from cnnbench.training.strategy import Strategy
from tests.support.processes import as_processes
from tests.support.streams import in_process, streamed
from tests.support.training import run_job
from tests.training.test_resume import STATEFUL, engine_of, numbers
from tests.training.test_trainer import CLASSES, SHAPE, Layers, make_dataset, make_job

SEEDS = (4, 1)
VAE: Layers = {
    "flat": {"op": "flatten"},
    "mean": {"op": "dense", "units": 2, "inputs": "flat"},
    "log_variance": {"op": "dense", "units": 2, "inputs": "flat"},
    "sample": {"op": "sample", "inputs": ["mean", "log_variance"], "kl_weight": 1.0},
    "decode": {"op": "dense", "units": math.prod(SHAPE), "activation": "sigmoid"},
    "image": {"op": "reshape", "shape": list(SHAPE)},
}
DENSE: Layers = {"dense": {"op": "dense", "units": CLASSES}}


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnbench.training.feed.feed.results", in_process)


def as_stream(job: Job) -> Job:
    return replace(job, dataset=streamed(job.dataset))


def checkpointed(job: Job, **keys: int) -> Job:
    spec = job.experiment.checkpoint.model_copy(update=keys)
    return replace(job, experiment=job.experiment.model_copy(update={"checkpoint": spec}))


def assert_same(job: Job) -> None:
    whole, after = run_job(job), dict.fromkeys(job.experiment.seeds, 0)
    found = run_job(as_stream(job))
    assert numbers(found, after) == numbers(whole, after)
    assert kinds(found) == kinds(whole)


def kinds(events: list[Event]) -> list[type[Event]]:
    """Kinds of the events, except those that are due to the time."""
    return [type(event) for event in events if not isinstance(event, StepDone)]


@cache
def stateful() -> Job:
    """Augmented images in pairs, batch statistics, dropout, and an incomplete last batch."""
    options: dict[str, Any] = {"epochs": 2, "batch_size": 6, "ema": {"decay": 0.8}}
    options |= {"augment": {"random_flip": "horizontal", "cutmix": {}}, "drop_last": False}
    layers = {name: layer for name, layer in STATEFUL.items() if name != "conv"}
    return make_job(layers, make_dataset(20, 5, 4), seeds=SEEDS, **options)


@cache
def stateful_events() -> list[Event]:
    return run_job(stateful())


@pytest.mark.slow
def test_with_augmentation_and_incomplete_batches() -> None:
    after = dict.fromkeys(SEEDS, 0)
    assert numbers(run_job(as_stream(stateful())), after) == numbers(stateful_events(), after)


def test_stopping_early_and_restoring_the_best_epoch() -> None:
    stopping: dict[str, Any] = {
        "early_stopping": {"patience": 1, "min_delta": 10.0},
        "restore_best": "balanced_accuracy",
        "metrics": ["accuracy", "balanced_accuracy", "macro_f1", "ece"],
    }
    job = make_job(DENSE, make_dataset(9, 5, 4), seeds=SEEDS, epochs=9, batch_size=4, **stopping)
    assert_same(job)


@pytest.mark.parametrize(
    ("split", "drawn"),
    [
        (RandomSplit(0.3, by_seed=True), NONE),
        (RandomSplit(folds=3), Adjustments(label_noise=LabelNoise(0.5))),
    ],
)
def test_splits_by_seed(split: RandomSplit, drawn: Adjustments) -> None:
    known = make_dataset(14, 7, 4)
    pool = joined([known.train, known.validation])
    dataset = replace(known, random=split, pool=pool, drawn=drawn)
    assert_same(make_job(DENSE, dataset, seeds=SEEDS, batch_size=4))


def test_large_images_are_evaluated_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunks are the same without streaming, so losses are rounded alike."""
    monkeypatch.setattr(executables, "EVAL_BYTES", 3 * math.prod(SHAPE))
    job = make_job(DENSE, make_dataset(9, 7, 5), seeds=SEEDS, batch_size=4)
    assert job.schedule(0).chunk == 3
    assert_same(job)


def test_devices_that_are_cores_share_the_images() -> None:
    dataset = streamed(make_dataset(9, 7, 5))
    job = make_job(DENSE, dataset, num_devices=2, batch_size=4)
    feed = set_up(job, Strategy("direct", 2, 2, 1)).feed
    assert feed is not None
    (fed,) = feed.batches(BatchPlace(0, VALIDATION, 1), 1, lambda: None)
    feed.close()
    places = [shard.data.unsafe_buffer_pointer() for shard in fed.arrays.images.addressable_shards]
    assert len(places) == 2
    assert len(set(places)) == 1
    np.testing.assert_array_equal(fed.arrays.images[:7], dataset.validation.images)
    np.testing.assert_array_equal(fed.arrays.labels[:7], dataset.validation.labels)


@pytest.mark.parametrize(
    ("split", "own", "want"),
    [
        (TRAIN, [0, 1, 2, 3], [0, 1, 2, 3]),  # 7 of 8 places of two devices each
        (TRAIN, [4, 5, 6, 7], [4, 5, 6, 6]),
        (VALIDATION, [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 4]),  # 5 images in a chunk of 11
        (VALIDATION, [6, 7, 8, 9, 10, 11], [4] * 6),
    ],
)
def test_a_process_decodes_its_part_of_a_batch(
    split: int, own: list[int], want: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executables, "EVAL_BATCH", 11)
    dataset = streamed(make_dataset(14, 5, 4))
    job = make_job(DENSE, dataset, batch_size=7)
    share = Share(2, 4, 4) if own[0] else Share(0, 2, 4)
    place: Any = lambda batch: batch  # noqa: E731
    feed = Feed(dataset, job.schedule, 1, job.watch, place, share)
    (fed,) = feed.batches(BatchPlace(0, split, 1), 1, lambda: None)
    feed.close()
    pixels = np.asarray(joined(dataset.stored).images)[fed.indices[want]]
    np.testing.assert_array_equal(fed.arrays.images[own], pixels)
    assert not np.delete(np.asarray(fed.arrays.images), own, axis=0).any()
    assert len(fed.arrays.labels) == (7 if split == TRAIN else 11)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [DENSE, STATEFUL])
def test_processes_stream_the_numbers_of_images_in_memory(layers: Layers) -> None:
    """Images travel between devices; batches of 6, the last of 2, and chunks are padded."""
    options: dict[str, Any] = {"batch_size": 6, "drop_last": False, "augment": {"mixup": {}}}
    job = make_job(layers, make_dataset(20, 5, 3), num_devices=2, **options)
    with as_processes():
        assert_same(job)


def test_without_validation_images_and_with_class_weights() -> None:
    weights: dict[str, Any] = {"class_weights": [1.0 + label for label in range(CLASSES)]}
    assert_same(make_job(DENSE, make_dataset(9, 0, 4), batch_size=4, **weights))


@cache
def parted() -> tuple[Job, list[Event]]:
    """The same training, with checkpoints after the second of 4 steps per epoch."""
    job = checkpointed(stateful(), every_steps=2)
    return job, run_job(job)


def test_checkpoints_within_an_epoch_change_no_numbers() -> None:
    after = dict.fromkeys(SEEDS, 0)
    assert numbers(parted()[1], after) == numbers(stateful_events(), after)
    places = [(e.seed, e.epoch, e.step) for e in parted()[1] if isinstance(e, Checkpoint)]
    within = [(0, 2), (1, 0), (1, 2), (2, 0)]
    assert places == [(seed, *place) for seed in SEEDS for place in within]


@pytest.mark.parametrize(("seed", "epoch", "streams"), [(4, 0, True), (4, 1, False), (1, 1, True)])
@pytest.mark.sampled(1)
def test_resuming_within_an_epoch_is_bit_identical(seed: int, epoch: int, streams: bool) -> None:
    job, whole = parted()
    kind = as_stream(job) if streams else job
    rest = run_job(replace(kind, resume=resume_at(job, whole, seed, epoch, 2)))
    done = {4: epoch, 1: 0} if seed == 4 else {4: 2, 1: epoch}
    assert numbers(rest, dict.fromkeys(SEEDS, 0)) == numbers(whole, done)


def resume_at(job: Job, events: list[Event], seed: int, epoch: int, step: int) -> Resume:
    """What is known of a run that was interrupted within an epoch of a seed."""
    values = {(e.seed, e.epoch, e.step): e.values for e in events if isinstance(e, Checkpoint)}
    epochs = {4: 2, 1: 0} | {seed: epoch}
    records = {
        own: tuple(
            e
            for e in events
            if isinstance(e, EpochRecord) and e.seed == own and e.epoch <= epochs[own]
        )
        for own in job.experiment.seeds
    }

    def load(own: int, after: int, part: int = 0) -> Any:
        return values[own, after, part]

    return Resume(engine_of(events), None, epochs, records, load, {seed: step})


def test_times_of_an_epoch_include_those_before_an_interruption() -> None:
    job, whole = parted()
    resume = resume_at(job, whole, 4, 1, 2)
    values = dict(resume.load(4, 1, 2)) | {"epoch.seconds": np.array([1_000.0, 10.0])}
    rest = run_job(replace(job, resume=replace(resume, load=lambda *_: values)))
    epoch = next(e for e in rest if isinstance(e, EpochRecord))
    assert epoch.train_s > 1_000
    assert epoch.data_s == 10


def test_data_s_is_what_the_device_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    pause_s = 0.15

    @contextmanager
    def slow(tasks: Tasks, *, start: int = 0, **_: Any) -> Iterator[Iterator[TaskResult]]:
        def items() -> Iterator[TaskResult]:
            for number in range(start, len(tasks)):
                time.sleep(pause_s)
                yield tasks[number]

        yield items()

    job = make_job(DENSE, make_dataset(8, 4, 4), epochs=2, batch_size=4)
    after = dict.fromkeys(job.experiment.seeds, 0)
    want = numbers(run_job(job), after)
    monkeypatch.setattr("cnnbench.training.feed.feed.results", slow)
    found = run_job(as_stream(job))
    assert numbers(found, after) == want
    for epoch in (e for e in found if isinstance(e, EpochRecord)):
        assert epoch.train_s + epoch.eval_s >= epoch.data_s
    last = next(e for e in found if isinstance(e, EpochRecord) and e.epoch == 2)
    assert last.data_s > pause_s  # three batches, of which some were prepared


def test_images_on_the_device_are_not_waited_for() -> None:
    assert {e.data_s for e in stateful_events() if isinstance(e, EpochRecord)} == {0.0}


def test_an_unreadable_image_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def broken(tasks: Tasks, **_: Any) -> Iterator[Iterator[TaskResult]]:
        def items() -> Iterator[TaskResult]:
            yield tasks[0]
            raise DataError("pics/a/1.png: is damaged")

        yield items()

    monkeypatch.setattr("cnnbench.training.feed.feed.results", broken)
    job = make_job(DENSE, make_dataset(8, 4, 4), batch_size=4)
    with pytest.raises(DataError, match=r"pics/a/1\.png: is damaged"):
        run_job(as_stream(job))


@contextmanager
def counted(opened: list[str]) -> Iterator[Iterator[int]]:
    opened.append("opened")
    yield iter(range(100))
    opened.append("closed")


def test_values_are_prepared_in_advance_until_it_is_closed() -> None:
    opened: list[str] = []
    ahead = Ahead(lambda: counted(opened), 2)
    assert [ahead.take() for _ in range(5)] == [0, 1, 2, 3, 4]
    ahead.close()
    assert opened == ["opened", "closed"]


def test_a_thread_that_ends_does_not_block_its_caller() -> None:
    opened: list[str] = []

    @contextmanager
    def short() -> Iterator[Iterator[int]]:
        opened.append("opened")
        yield iter([7])

    ahead = Ahead(short, 2)
    assert ahead.take() == 7
    with pytest.raises(RuntimeError, match="has ended"):
        ahead.take()


@pytest.mark.slow
def test_sampled_codes_and_reconstructions() -> None:
    """Codes are sampled by the number of the image, not by its place in a batch."""
    dataset = make_dataset(8, 4, 14)
    assert_same(make_job(VAE, dataset, task="reconstruct", batch_size=4, seeds=SEEDS))
