"""Early stopping and the best epoch: the rule, the weights, resumption, parallel seeds."""

import dataclasses
import math
import random
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from cnnbench.errors import UsageError
from cnnbench.runs.records import EpochRecord
from cnnbench.runs.selection import chosen_epoch, is_stopped
from cnnbench.spec.experiment import TrainSpec
from cnnbench.training.events import Event, SeedDone, Snapshot
from cnnbench.training.executables import Job
from tests.support.training import run_job
from tests.training.test_resume import STATEFUL, digest, numbers, resumed
from tests.training.test_trainer import make_dataset, make_job

SEEDS = (5, 0, 3, 9)


def records(values: Sequence[float], *, finite: bool = True) -> list[EpochRecord]:
    """Epochs with the same values of loss and accuracy."""
    found = [
        EpochRecord(0, number, 0.5, value, {"accuracy": value}, 1.0, 1.0, 1.0)
        for number, value in enumerate(values, start=1)
    ]
    return found if finite else [*found[:-1], dataclasses.replace(found[-1], train_loss=math.nan)]


def settings(**options: Any) -> TrainSpec:
    return TrainSpec.model_validate(options)


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_a_seed_stops_after_the_epoch_after_which_keras_stops(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="needs the peers extra")
    draw, stops = random.Random(0), set()
    for patience, min_delta in [(1, 0.0), (2, 0.0), (3, 0.0), (2, 0.15), (3, 0.4)] * 4:
        values = [round(draw.random(), 1) for _ in range(14)]  # some are equal
        rule = {"metric": metric, "patience": patience, "min_delta": min_delta}
        train = settings(early_stopping=rule)
        mode = "min" if metric == "loss" else "max"
        theirs = keras.callbacks.EarlyStopping("m", min_delta, patience, mode=mode)
        theirs.set_model(SimpleNamespace(stop_training=False))
        theirs.on_train_begin()
        for epoch, value in enumerate(values):
            theirs.on_epoch_end(epoch, {"m": value})
            stopped = theirs.model.stop_training
            assert is_stopped(train, records(values[: epoch + 1])) == stopped
            if stopped:
                stops.add(epoch)
                break
    assert len(stops) > 4


def test_the_first_of_the_best_epochs_is_chosen() -> None:
    values = [0.2, 0.4, math.nan, 0.4, 0.1]
    assert chosen_epoch(settings(restore_best="accuracy"), records(values)) == 2
    assert chosen_epoch(settings(restore_best="loss"), records(values)) == 5
    assert chosen_epoch(settings(), records(values)) == 5
    rule = {"patience": 1}
    assert chosen_epoch(settings(early_stopping=rule), records(values)) == 5
    assert chosen_epoch(settings(restore_best="accuracy"), records(values, finite=False)) == 5


OPTIONS: dict[str, Any] = {
    "epochs": 9,
    "batch_size": 6,
    "ema": {"decay": 0.3},
    "optimizer": {"name": "adam", "learning_rate": 0.02},
    "early_stopping": {"metric": "loss", "patience": 2},
    "restore_best": "accuracy",
}


@cache
def whole_run() -> tuple[Job, list[Event]]:
    job = make_job(STATEFUL, make_dataset(20, 15, 8), seeds=SEEDS, **OPTIONS)
    job = dataclasses.replace(job, snapshots=True)
    return job, run_job(job)


def test_the_weights_of_the_chosen_epoch_are_tested_and_stored() -> None:
    """Training goes as without the options, and ends after the epoch that the rule says."""
    job, events = whole_run()
    plain = {"early_stopping": None, "restore_best": None}
    train = job.experiment.train.model_copy(update=plain)
    experiment = job.experiment.model_copy(update={"train": train})
    long = run_job(dataclasses.replace(job, experiment=experiment))
    weights = {(e.seed, e.epoch): digest(e.weights) for e in long if isinstance(e, Snapshot)}
    ends = []
    for done in (e for e in events if isinstance(e, SeedDone)):
        seed = done.summary.seed
        every = [e for e in long if isinstance(e, EpochRecord) and e.seed == seed]
        rule = job.experiment.train
        lengths = [n for n in range(1, 10) if is_stopped(rule, every[:n])]
        last = min([*lengths, 9])
        own = [e for e in events if isinstance(e, EpochRecord) and e.seed == seed]
        assert [e.validation_loss for e in own] == [e.validation_loss for e in every[:last]]
        chosen = chosen_epoch(rule, every[:last])
        assert (done.summary.num_epochs, done.summary.chosen_epoch) == (last, chosen)
        assert digest(done.weights) == weights[seed, chosen]
        assert done.summary.final["accuracy"] == max(e.metrics["accuracy"] for e in own)
        assert done.summary.final["loss"] == own[chosen - 1].validation_loss
        ends.append((last, chosen))
    assert len({last for last, _ in ends}) > 1
    assert any(chosen < last < 9 for last, chosen in ends)


@pytest.mark.parametrize("after", [(2, 0, 0, 0), (99, 3, 0, 0), (99, 99, 99, 99)])
@pytest.mark.sampled(1)
def test_a_resumed_training_chooses_the_same_epochs(after: tuple[int, ...]) -> None:
    job, events = whole_run()
    lengths = {e.summary.seed: e.summary.num_epochs or 0 for e in events if isinstance(e, SeedDone)}
    epochs = {seed: min(n, lengths[seed]) for seed, n in zip(SEEDS, after, strict=True)}
    rest = run_job(resumed(job, events, epochs, 1))
    assert numbers(rest, dict.fromkeys(SEEDS, 0)) == numbers(events, epochs)


@pytest.mark.parametrize("restore_best", ["accuracy", pytest.param(None, marks=pytest.mark.slow)])
def test_seeds_trained_in_parallel_stop_each_for_itself(
    restore_best: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "accelerator", True)
    epoch_s = "cnnbench.training.trainer._epoch_s"  # the time to beat
    options = OPTIONS | {"restore_best": restore_best, "engine": "plain"}
    layers = {name: value for name, value in STATEFUL.items() if name != "norm"}
    job = make_job(layers, make_dataset(20, 15, 8), seeds=SEEDS, **options)
    monkeypatch.setattr(epoch_s, lambda _: 0.0)
    alone = {e.summary.seed: e for e in run_job(job) if isinstance(e, SeedDone)}
    monkeypatch.setattr(epoch_s, lambda _: 1e9)
    events = run_job(job)
    assert {e.at_once for e in events if isinstance(e, EpochRecord) and e.seed != 5} == {3}
    done = {e.summary.seed: e for e in events if isinstance(e, SeedDone)}
    assert len({done[seed].summary.num_epochs for seed in SEEDS[1:]}) > 1
    for seed in SEEDS[1:]:
        one, other = alone[seed].summary, done[seed].summary
        assert (one.num_epochs, one.chosen_epoch) == (other.num_epochs, other.chosen_epoch)
        assert one.test == pytest.approx(other.test, rel=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            dict(alone[seed].weights),
            dict(done[seed].weights),
        )
    epochs = {seed: 3 if seed != 5 else done[5].summary.num_epochs or 0 for seed in SEEDS}
    rest = run_job(resumed(job, events, epochs, 3))
    assert numbers(rest, dict.fromkeys(SEEDS, 0)) == numbers(events, epochs)


def test_validation_images_are_required() -> None:
    job = make_job(STATEFUL, make_dataset(20, 0, 8), **OPTIONS)
    with pytest.raises(UsageError) as caught:
        run_job(job)
    assert str(caught.value) == (
        "train.early_stopping needs validation images, and tiny has none; set"
        " dataset.splits.validation, or remove early_stopping."
    )
