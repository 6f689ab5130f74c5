"""Seeds with training and validation images of their own, from one pool on the device."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from flax import nnx

from cnnbench.data.adjustments import NONE, Adjustments, LabelNoise, Subset
from cnnbench.data.dataset import Dataset
from cnnbench.data.splits import RandomSplit, joined, size_of_validation
from cnnbench.runs.records import EpochRecord
from cnnbench.training.events import Event, SeedDone
from cnnbench.training.executables import Job, set_up
from cnnbench.training.strategy import Strategy
from tests.support.training import run_job
from tests.training.test_resume import AUGMENT, SEEDS, STATEFUL, numbers, resumed
from tests.training.test_trainer import LINEAR, MIRROR, Layers, make_dataset, make_job

FOLDS, BY_SEED = RandomSplit(folds=4), RandomSplit(0.25, by_seed=True)
POOL = 23  # three folds of six images and one of five


NOISE = Adjustments(subset=Subset(0.8), label_noise=LabelNoise(0.5))


def pooled(split: RandomSplit, drawn: Adjustments = NONE) -> Dataset:
    """Small images that each seed divides, and draws some of."""
    plain = make_dataset(POOL, 1, 5)
    pool = plain.train
    number = size_of_validation(split, POOL)
    train, validation = pool.first(POOL - number), pool.last(number)
    options: dict[str, Any] = {"train": train, "validation": validation, "pool": pool}
    dataset = dataclasses.replace(plain, random=split, drawn=drawn, **options)
    own = dataset.of_seed(0).train
    return dataclasses.replace(dataset, train=train.first(len(own)))


def one_by_one(job: Job) -> list[Event]:
    """Events of each seed trained alone, on a dataset that has no other images."""
    events: list[Event] = []
    for seed in job.experiment.seeds:
        experiment = job.experiment.model_copy(update={"seeds": (seed,)})
        own = dataclasses.replace(job, experiment=experiment, dataset=job.dataset.of_seed(seed))
        events += run_job(own)
    return events


def by_seed(events: Sequence[Event]) -> list[Any]:
    return sorted(numbers(events, dict.fromkeys(SEEDS, 0)), key=repr)


@pytest.mark.parametrize(
    ("split", "drawn", "layers", "seeds", "options"),
    [
        (
            BY_SEED,
            NONE,
            STATEFUL,
            SEEDS[:1],
            {"engine": "direct", "num_devices": 2, "drop_last": False},
        ),
        (FOLDS, NONE, LINEAR, SEEDS[:2], {"engine": "fast", "early_stopping": {"patience": 1}}),
        (
            FOLDS,
            NONE,
            LINEAR,
            SEEDS[:2],
            {"engine": "plain", "augment": AUGMENT, "drop_last": False},
        ),
        (
            BY_SEED,
            NONE,
            MIRROR,
            SEEDS[:2],
            {"task": "reconstruct", "ema": {}, "restore_best": "loss"},
        ),
        (FOLDS, NOISE, LINEAR, SEEDS[:2], {"engine": "plain", "drop_last": False}),
    ],
)
@pytest.mark.sampled(2)
def test_a_seed_equals_a_training_on_its_images_alone(
    split: RandomSplit,
    drawn: Adjustments,
    layers: Layers,
    seeds: tuple[int, ...],
    options: dict[str, Any],
) -> None:
    job = make_job(layers, pooled(split, drawn), seeds=seeds, batch_size=5, **options)
    assert by_seed(run_job(job)) == by_seed(one_by_one(job))


def test_whitening_uses_the_training_images_of_the_seed() -> None:
    conv = {"op": "conv", "filters": 8, "kernel": 2, "init": "whitening"}
    job = make_job({"conv": conv, "dense": LINEAR["dense"]}, pooled(BY_SEED))
    kernels = [_kernel(job, seed) for seed in (0, 1)]
    assert not np.array_equal(*kernels)
    for seed, kernel in enumerate(kernels):
        own = dataclasses.replace(job, dataset=job.dataset.of_seed(seed))
        assert np.array_equal(kernel, _kernel(own, seed))


def _kernel(job: Job, seed: int) -> Any:
    network = set_up(job, Strategy("plain", None, 1, 1)).network(seed)
    return nnx.to_pure_dict(network.params)["weights"]["conv"]["kernel"]


@pytest.mark.parametrize(
    ("split", "drawn", "layers", "options"),
    [
        (FOLDS, NONE, LINEAR, {"early_stopping": {"patience": 1}, "drop_last": False}),
        (BY_SEED, NONE, MIRROR, {"task": "reconstruct"}),
        (BY_SEED, NOISE, LINEAR, {"drop_last": False}),
    ],
)
@pytest.mark.sampled(1)
def test_seeds_in_parallel_equal_seeds_one_by_one(
    split: RandomSplit,
    drawn: Adjustments,
    layers: Layers,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = make_job(
        layers, pooled(split, drawn), seeds=SEEDS[:3], batch_size=5, engine="plain", **options
    )
    alone = run_job(job)
    monkeypatch.setattr(Job, "accelerator", True)
    monkeypatch.setattr("cnnbench.training.trainer._epoch_s", lambda _: 1e9)
    together = run_job(job)
    at_once = {e.at_once for e in together if isinstance(e, EpochRecord)}
    assert at_once == {1, 2}
    for one, other in zip(_values(alone), _values(together), strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def _values(events: Sequence[Event]) -> list[list[float]]:
    """Losses of every epoch of each seed, and its test values."""
    found: dict[int, list[float]] = {seed: [] for seed in SEEDS}
    for event in events:
        if isinstance(event, EpochRecord):
            found[event.seed] += [event.train_loss, event.validation("loss")]
        elif isinstance(event, SeedDone):
            found[event.summary.seed] += event.summary.test.values()
    return list(found.values())


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.sampled(1)
def test_a_resumed_training_is_bit_identical(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if at_once > 1:
        monkeypatch.setattr(Job, "accelerator", True)
        monkeypatch.setattr("cnnbench.training.trainer._epoch_s", lambda _: 1e9)
    options: dict[str, Any] = {"batch_size": 5, "engine": "plain", "drop_last": False, "epochs": 3}
    job = make_job(LINEAR, pooled(FOLDS), seeds=SEEDS, **options)
    whole = run_job(job)
    epochs = dict(zip(SEEDS, (3, 1, 1, 1), strict=True))
    rest = run_job(resumed(job, whole, epochs, at_once))
    assert numbers(rest, dict.fromkeys(SEEDS, 0)) == numbers(whole, epochs)


def test_folds_cover_the_pool_with_their_validation_images() -> None:
    dataset = pooled(FOLDS)
    every = joined(dataset.stored)
    assert len(every) == POOL + 5
    found = np.concatenate([dataset.rows(seed).validation for seed in range(4)])
    assert sorted(found) == list(range(POOL))
