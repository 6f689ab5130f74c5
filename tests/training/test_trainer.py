"""The trainer on small data: against NumPy, event order, reproducibility, timing."""

import copy
import dataclasses
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from cnnbench.data.batches import epoch_order
from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.dataset import Dataset
from cnnbench.data.splits import RandomSplit, Split, joined
from cnnbench.errors import UsageError
from cnnbench.nn.graph_net import GraphNet
from cnnbench.runs.environment import machine
from cnnbench.runs.experiment import metric_directions
from cnnbench.runs.records import BestValue, Direction, EngineRecord, EpochRecord
from cnnbench.spec.experiment import Experiment
from cnnbench.spec.metrics import names_of
from cnnbench.system.devices import pick_devices
from cnnbench.system.stopwatch import Stopwatch, Timing
from cnnbench.training import executables
from cnnbench.training.events import Checkpoint, Compiled, Event, SeedDone, StepDone, Trained
from cnnbench.training.executables import Executables, Job, compile_train, set_up
from cnnbench.training.state import split_network
from cnnbench.training.strategy import Strategy
from tests.support import oracles
from tests.support.oracles import Array, make_plan
from tests.support.training import run_job

SHAPE, CLASSES = (4, 3, 1), 7
PIXELS = math.prod(SHAPE)
Layers = Mapping[str, Mapping[str, Any]]

LINEAR: Layers = {"dense": {"op": "dense", "units": CLASSES}}
MIRROR: Layers = {
    "dense": {"op": "dense", "units": PIXELS},
    "image": {"op": "reshape", "shape": list(SHAPE)},
}
CONV: Layers = {
    "conv": {"op": "conv", "filters": 2, "kernel": 2, "activation": "relu"},
    "drop": {"op": "dropout", "rate": 0.5},
    "dense": {"op": "dense", "units": CLASSES},
}


class Clock:
    """A clock that only moves when advanced."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def make_dataset(num_train: int, num_validation: int, num_test: int) -> Dataset:
    rng = np.random.default_rng(0)

    def split(num_images: int) -> Split:
        images = rng.integers(0, 256, (num_images, *SHAPE), np.uint8)
        return Split(images, rng.integers(0, CLASSES, num_images, np.int32))

    info = DatasetInfo("tiny", SHAPE, CLASSES, num_train + num_validation, num_test, "noise")
    return Dataset(
        info,
        train=split(num_train),
        validation=split(num_validation),
        test=split(num_test),
        digest="sha256:00",
        stand_in_for=None,
        source="made here",
    )


def make_job(  # noqa: PLR0913
    layers: Layers,
    dataset: Dataset,
    *,
    task: str = "classify",
    seeds: Sequence[int] = (0,),
    clock: Callable[[], float] | None = None,
    engine: str = "direct",
    num_devices: int = 1,
    augment: Any = None,
    **train: Any,
) -> Job:
    experiment = Experiment.model_validate(
        {
            "name": "tiny",
            "task": task,
            "dataset": {"name": "mnist", "pixel_scale": 255.0, "augment": augment},
            "model": {"layers": layers},
            "train": {"epochs": 2} | train,
            "seeds": list(seeds),
        }
    )
    plan = make_plan(layers, SHAPE, (CLASSES,) if task == "classify" else SHAPE)
    watch = Stopwatch(clock) if clock else Stopwatch()
    devices = pick_devices("cpu")[:num_devices]
    return Job(experiment, plan, Path(), dataset, devices, watch, engine)


# Against NumPy.


class InNumpy:
    """One layer of weights trained in NumPy, with every number that the engine should report."""

    def __init__(self, job: Job, seed: int) -> None:
        assert job.plan is not None
        params = split_network(GraphNet(job.plan, form="direct", rngs=nnx.Rngs(seed))).params
        first = oracles.get_params(params)["dense"]
        self.kernel = np.asarray(first["kernel"], np.float64)
        self.bias = np.asarray(first["bias"], np.float64)
        self.velocity = [np.zeros_like(self.kernel), np.zeros_like(self.bias)]
        self.classifies = job.experiment.task == "classify"
        self.smoothing = job.experiment.train.label_smoothing
        self.drop_last = job.experiment.train.drop_last
        self.train_losses: list[float] = []
        self.ema = job.experiment.train.ema
        self.averages: list[Array] = []

    def evaluated(self) -> "InNumpy":
        """The network to evaluate, which has the averages if there are any."""
        other = copy.copy(self)
        other.kernel, other.bias = self.averages if self.ema else (self.kernel, self.bias)
        return other

    def outputs(self, split: Split) -> Array:
        result: Array = (split.images / 255).reshape(-1, PIXELS) @ self.kernel + self.bias
        return result

    def losses(self, split: Split) -> Array:
        if self.classifies:
            return oracles.cross_entropy(self.outputs(split), split.labels)
        x = (split.images / 255).reshape(-1, PIXELS)
        result: Array = np.mean((self.outputs(split) - x) ** 2, axis=1)
        return result

    def accuracy(self, split: Split) -> float:
        return float(np.mean(self.outputs(split).argmax(axis=1) == split.labels))

    def step(self, batch: Split) -> float:
        loss = float(self.losses(batch).mean())
        x, outputs = (batch.images / 255).reshape(-1, PIXELS), self.outputs(batch)
        if self.classifies:
            chances = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
            targets = np.eye(CLASSES)[batch.labels]
            targets += self.smoothing * (1 / CLASSES - targets)
            loss = float(-(targets * np.log(chances)).sum(axis=1).mean())
            error = (chances - targets) / len(batch)
        else:
            error = 2 * (outputs - x) / x.size
        gradients = [x.T @ error, error.sum(axis=0)]
        # lasagne.updates.nesterov_momentum
        self.velocity = [0.9 * v - 0.01 * g for v, g in zip(self.velocity, gradients, strict=True)]
        moves = [0.9 * v - 0.01 * g for v, g in zip(self.velocity, gradients, strict=True)]
        self.kernel, self.bias = self.kernel + moves[0], self.bias + moves[1]
        now, kept = [self.kernel, self.bias], self.ema.decay if self.ema else 0
        before = self.averages or now
        self.averages = [kept * a + (1 - kept) * p for a, p in zip(before, now, strict=True)]
        return loss

    def epoch(self, split: Split, order: Array, batch_size: int) -> None:
        rows = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        rows = [r for r in rows if len(r) == batch_size or not self.drop_last]
        losses = [self.step(Split(split.images[r], split.labels[r])) for r in rows]
        self.train_losses.append(float(np.average(losses, weights=list(map(len, rows)))))


@pytest.mark.parametrize(
    ("task", "sizes", "batch_size", "num_devices", "options"),
    [
        # One step of all seven; a chunk of one in evaluation.
        ("classify", (7, 3, 501), 500, 2, {}),
        # Two steps of four, and three images dropped; labels are smoothed in training only.
        ("classify", (11, 1, 2), 4, 1, {"label_smoothing": 0.2}),
        ("reconstruct", (6, 5, 3), 1, 2, {"ema": {"decay": 0.7}}),
        # Two steps of four, and one of three.
        ("classify", (11, 1, 2), 4, 2, {"drop_last": False}),
    ],
)
def test_every_number_equals_a_training_loop_in_numpy(
    task: str,
    sizes: tuple[int, int, int],
    batch_size: int,
    num_devices: int,
    options: dict[str, Any],
) -> None:
    """Evaluation uses all images for any sizes; training, those of whole batches by default."""
    dataset = make_dataset(*sizes)
    layers = LINEAR if task == "classify" else MIRROR
    metrics = ["accuracy", "top5_accuracy"] if task == "classify" else ["mae"]
    job = make_job(
        layers,
        dataset,
        task=task,
        seeds=(3, 1),
        num_devices=num_devices,
        batch_size=batch_size,
        epochs=3,
        metrics=metrics,
        **options,
    )
    events = run_job(job)
    for seed, group in _by_seed(events).items():
        *records, done = [e for e in group if not isinstance(e, StepDone | Checkpoint)]
        assert isinstance(done, SeedDone)
        want = InNumpy(job, seed)
        for epoch, record in enumerate(records, start=1):
            assert isinstance(record, EpochRecord)
            order = epoch_order(seed, epoch, sizes[0])
            want.epoch(dataset.train, order, min(batch_size, sizes[0]))
            assert (record.seed, record.epoch) == (seed, epoch)
            assert record.train_loss == pytest.approx(want.train_losses[-1], rel=1e-5)
            values = {**record.metrics, "loss": record.validation("loss")}
            _check_values(values, want.evaluated(), dataset.validation)
        assert len(want.train_losses) == 3
        _check_values(done.summary.test, want.evaluated(), dataset.test)
        _check_samples(done, want.evaluated(), dataset.test)
        kernel = want.evaluated().kernel
        np.testing.assert_allclose(done.weights["dense.kernel"], kernel, rtol=1e-4, atol=1e-6)


NORMED: Layers = {
    "conv": {"op": "conv", "filters": 3, "kernel": 2},
    "norm": {"op": "batch_norm"},
    "act": {"op": "activation", "activation": "tanh"},
    "dense": {"op": "dense", "units": CLASSES},
}


@pytest.mark.parametrize(("engine", "num_devices"), [("plain", 1), ("direct", 2), ("fast", 1)])
@pytest.mark.sampled(2)
def test_an_incomplete_last_batch_is_trained_as_in_pytorch(engine: str, num_devices: int) -> None:
    """Means over its own images, its own batch statistics, and a step of the schedule."""
    torch = pytest.importorskip("torch", reason="needs the peers extra")
    from cnnbench.bench.frameworks import initial_weights
    from cnnbench.bench.frameworks.torch import TorchTrainer

    dataset = make_dataset(21, 4, 4)
    options: dict[str, Any] = {"batch_size": 8, "drop_last": False, "epochs": 3}
    options |= {"optimizer": {"name": "sgd", "learning_rate": 0.1}, "schedule": "cosine"}
    job = make_job(NORMED, dataset, engine=engine, num_devices=num_devices, **options)
    *records, done = _by_seed(run_job(job))[0]
    assert isinstance(done, SeedDone)
    assert job.plan is not None
    weights = initial_weights(job.plan, 0)
    theirs = TorchTrainer("torch-eager-nchw", job.experiment, job.plan, weights)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(theirs.optimizer, 3 * 3)
    for epoch, record in enumerate([r for r in records if isinstance(r, EpochRecord)], start=1):
        sampler = epoch_order(0, epoch, 21).tolist()
        loader = torch.utils.data.DataLoader(range(21), 8, sampler=sampler, drop_last=False)
        losses = []
        for rows in loader:
            images, labels = dataset.train.images[rows], dataset.train.labels[rows]
            losses += [len(rows) * theirs.train(images[None], labels[None])[0]]
            cosine.step()
        assert len(losses) == 3
        assert record.train_loss == pytest.approx(sum(losses) / 21, rel=1e-4)
        assert record.samples_per_s == pytest.approx(21 / record.train_s)
    outputs = theirs.outputs(dataset.test.images)
    loss = oracles.cross_entropy(np.asarray(outputs, np.float64), dataset.test.labels).mean()
    assert done.summary.test["loss"] == pytest.approx(loss, rel=1e-3)


def _by_seed(events: Sequence[Event]) -> dict[int, list[Event]]:
    """Events between the first and the last, grouped by seed."""
    groups: dict[int, list[Event]] = {}
    group: list[Event] = []
    for event in events[1:-1]:
        group.append(event)
        if isinstance(event, SeedDone):
            groups[event.summary.seed], group = group, []
    assert not group
    return groups


def _check_values(values: Mapping[str, float], want: InNumpy, split: Split) -> None:
    outputs = want.outputs(split)
    assert values["loss"] == pytest.approx(want.losses(split).mean(), rel=1e-5)
    if want.classifies:
        own = outputs[np.arange(len(split)), split.labels]
        place = (outputs > own[:, None]).sum(axis=1)
        assert set(values) == {"loss", "accuracy", "top5_accuracy"}
        assert values["accuracy"] == pytest.approx(np.mean(place < 1))
        assert values["top5_accuracy"] == pytest.approx(np.mean(place < 5))
    else:
        assert set(values) == {"loss", "mae"}
        difference = np.abs(outputs - (split.images / 255).reshape(-1, PIXELS))
        assert values["mae"] == pytest.approx(difference.mean(), rel=1e-5)


def _check_samples(done: SeedDone, want: InNumpy, test: Split) -> None:
    np.testing.assert_array_equal(done.inputs, test.images[:10])
    if want.classifies:
        assert done.outputs is None
    else:
        assert done.outputs is not None
        outputs = 255 * want.outputs(test.first(10)).reshape(-1, *SHAPE)
        np.testing.assert_allclose(done.outputs, outputs, rtol=1e-4, atol=1e-3)


# Order, seeds, repetition.


def kinds(events: Sequence[Event]) -> list[Any]:
    """Events without progress and checkpoints."""
    return [
        (type(e).__name__, e.seed, e.epoch) if isinstance(e, EpochRecord) else type(e).__name__
        for e in events
        if not isinstance(e, StepDone | Checkpoint)
    ]


def measured(events: Sequence[Event], seed: int) -> list[Any]:
    """All measurements of a seed except for times."""
    found: list[Any] = [
        (e.epoch, e.train_loss, e.validation_loss, e.metrics)
        for e in events
        if isinstance(e, EpochRecord) and e.seed == seed
    ]
    summaries = [e.summary for e in events if isinstance(e, SeedDone) and e.summary.seed == seed]
    return found + [(s.final, s.best, s.test) for s in summaries]


def test_a_seed_gives_the_same_bits_whatever_ran_before_it() -> None:
    dataset = make_dataset(23, 12, 5)
    both = run_job(make_job(CONV, dataset, seeds=(4, 9), batch_size=12))
    assert kinds(both) == [
        "Compiled",
        ("EpochRecord", 4, 1),
        ("EpochRecord", 4, 2),
        "SeedDone",
        ("EpochRecord", 9, 1),
        ("EpochRecord", 9, 2),
        "SeedDone",
        "Trained",
    ]
    sequential = run_job(make_job(CONV, dataset, seeds=(9,), batch_size=12))
    assert len(measured(sequential, 9)) == 3
    assert measured(sequential, 9) == measured(both, 9)
    for one, other in zip(measured(both, 4)[:2], measured(both, 9)[:2], strict=True):
        assert one[1] != other[1]
        assert one[2] != other[2]
    compiled = both[0]
    assert isinstance(compiled, Compiled)
    assert compiled.num_params == (2 * 2 * 2 + 2) + (3 * 2 * 2 * CLASSES + CLASSES)


def test_the_summary_matches_the_records() -> None:
    job = make_job(LINEAR, make_dataset(20, 9, 4), batch_size=5, epochs=4)
    events = run_job(job)
    records = [event for event in events if isinstance(event, EpochRecord)]
    done = events[-2]
    assert isinstance(done, SeedDone)
    assert done.summary.machine == machine(job.devices)
    losses, accuracies = np.transpose([(r.validation_loss, r.metrics["accuracy"]) for r in records])
    lowest, highest = int(np.argmin(losses)), int(np.argmax(accuracies))
    assert done.summary.final == {"accuracy": accuracies[-1], "loss": losses[-1]}
    assert done.summary.best == {
        "accuracy": BestValue(accuracies[highest], highest + 1),
        "loss": BestValue(losses[lowest], lowest + 1),
    }
    assert done.summary.train_s == pytest.approx(sum(r.train_s for r in records))
    assert done.summary.eval_s == pytest.approx(sum(r.eval_s for r in records))


def test_the_last_event_has_the_engine_record() -> None:
    job = make_job(CONV, make_dataset(8, 1, 1), engine="fast", num_devices=2, batch_size=4)
    trained = run_job(job)[-1]
    assert isinstance(trained, Trained)
    engine = trained.engine
    assert (engine.requested, engine.form, engine.row) == ("fast", "fast", 2)
    assert (engine.num_devices, engine.steps_per_call, engine.step_s) == (2, 1, {})
    assert engine.compile_cache in {"cold", "warm"}
    assert engine.peak_memory_bytes is None or engine.peak_memory_bytes > 10_000_000
    assert 0 < engine.first_step_s < job.watch.timing().total_s


# Whole epochs in one program.


def test_an_epoch_under_scan_equals_the_loop_of_steps() -> None:
    """As on an accelerator, with dropout and momentum in the carry."""
    job = make_job(CONV, make_dataset(12, 1, 1), batch_size=3)
    indices = epoch_order(0, 1, 12).reshape(4, 3)
    found = []
    for size in (1, 4):
        setup = set_up(job, Strategy("plain", None, 1, size))
        network = setup.network(0)
        state = setup.state(network)
        program, losses = compile_train(setup, network, state), []
        for call in indices.reshape(-1, size, 3):
            state, some = program(state, setup.arrays, call)
            assert some.shape == (size,)
            losses += [float(loss) for loss in some]
        found.append((losses, jax.tree.map(np.asarray, oracles.get_params(state.params))))
    (losses, params), (scanned_losses, scanned) = found
    assert len(set(losses)) == 4
    assert scanned_losses == pytest.approx(losses, rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params, scanned
    )


def test_a_run_under_scan_trains_on_every_image_of_every_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Events with an epoch per call equal those with a step per call."""
    dataset = make_dataset(20, 3, 3)

    def run(accelerator: bool) -> list[Any]:
        monkeypatch.setattr(Job, "accelerator", accelerator)
        job = make_job(LINEAR, dataset, engine="plain", batch_size=5)
        *events, trained = run_job(job)
        assert isinstance(trained, Trained)
        assert trained.engine.steps_per_call == (4 if accelerator else 1)
        return [
            value
            for e in events
            if isinstance(e, EpochRecord)
            for value in (e.train_loss, e.validation_loss)
        ]

    assert run(accelerator=True) == pytest.approx(run(accelerator=False), rel=1e-5)


# Parallel seeds in one program.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Compilation takes 100 s, a training step 0.04 s, an evaluation chunk 7 s, all else no time.

    The programs are real; only the times are fake.
    """
    fake, real = Clock(), executables._compiled

    def compile_slowly(setup: Executables, traces: Any, meanwhile: Any) -> dict[str, Any]:
        fake.time += 100 * len(traces)
        seconds = {"train": 0.04, "evaluate": 7.0}
        found = real(setup, traces, meanwhile).items()
        return {name: slowed(program, fake, seconds.get(name, 0.0)) for name, program in found}

    monkeypatch.setattr(executables, "_compiled", compile_slowly)
    return fake


def slowed(program: Any, clock: Clock, seconds: float) -> Any:
    """A compiled program that takes some seconds of a fake clock."""

    def run(*args: Any) -> Any:
        clock.time += seconds
        return program(*args)

    run.memory_analysis = program.memory_analysis  # type: ignore[attr-defined]
    return run


DROPOUT: Layers = {
    "conv": {"op": "conv", "filters": 2, "kernel": 2, "activation": "tanh"},
    "drop": {"op": "dropout", "rate": 0.4},
    "dense": {"op": "dense", "units": CLASSES},
}
AUTOENCODER: Layers = {
    "conv": {"op": "conv", "filters": 2, "kernel": 2},
    "back": {"op": "conv_transpose", "tie": "conv"},
}


@pytest.mark.parametrize(
    ("layers", "task", "num_devices", "split"),
    [
        (DROPOUT, "classify", 1, RandomSplit(0.2, by_seed=True)),
        (DROPOUT, "classify", 2, None),
        (AUTOENCODER, "reconstruct", 1, None),
        (AUTOENCODER, "reconstruct", 2, None),
    ],
)
@pytest.mark.sampled(2)
def test_parallel_seeds_equal_sequential_seeds(
    layers: Layers,
    task: str,
    num_devices: int,
    split: RandomSplit | None,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each seed has its own order, masks, initial weights and results; the first is sequential."""
    dataset = make_dataset(20, 3, 4)
    if split:
        pool = joined([dataset.train, dataset.validation])
        dataset = dataclasses.replace(dataset, random=split, pool=pool)

    def run(accelerator: bool) -> tuple[list[EpochRecord], list[SeedDone], EngineRecord]:
        monkeypatch.setattr(Job, "accelerator", accelerator)
        options: dict[str, Any] = {"clock": clock} if accelerator else {}
        shared: dict[str, Any] = {
            "engine": "plain",
            "batch_size": 4,
            "task": task,
            "num_devices": num_devices,
            "metrics": ["mae"] if task == "reconstruct" else names_of(task)[:-1],
        }
        job = make_job(layers, dataset, seeds=(5, 0, 3, 9), **shared, **options)
        events = run_job(job)
        records = [event for event in events if isinstance(event, EpochRecord)]
        done = [event for event in events if isinstance(event, SeedDone)]
        (trained,) = [event for event in events if isinstance(event, Trained)]
        return sorted(records, key=lambda r: (r.seed, r.epoch)), done, trained.engine

    sequential, alone_done, engine = run(accelerator=False)
    assert engine.seeds_at_once == 1
    parallel, done, engine = run(accelerator=True)
    assert engine.seeds_at_once == 3
    assert [r.at_once for r in parallel] == [1 if r.seed == 5 else 3 for r in sequential]
    assert [(r.seed, r.epoch) for r in parallel] == [(r.seed, r.epoch) for r in sequential]
    for one, other in zip(parallel, sequential, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-5)
        assert one.metrics == pytest.approx(other.metrics)
    assert [event.summary.seed for event in done] == [5, 0, 3, 9]
    for one_done, other_done in zip(done, alone_done, strict=True):
        assert (one_done.outputs is None) == (task == "classify")
        assert one_done.summary.test == pytest.approx(other_done.summary.test, rel=1e-5)
        if other_done.outputs is not None and one_done.outputs is not None:
            np.testing.assert_allclose(one_done.outputs, other_done.outputs, rtol=1e-4, atol=1e-3)
        assert set(one_done.weights) == set(other_done.weights)
        for name, value in one_done.weights.items():
            np.testing.assert_allclose(value, other_done.weights[name], rtol=1e-3, atol=1e-5)


def test_parallel_seeds_share_the_seconds(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fifth seed is trained after the group of four; compilation is in no epoch's time."""
    monkeypatch.setattr(Job, "accelerator", True)
    seeds = range(10)
    job = make_job(LINEAR, make_dataset(20, 3, 3), seeds=seeds, clock=clock, batch_size=5)
    events = run_job(job)
    records = [event for event in events if isinstance(event, EpochRecord)]
    by_seed = {seed: next(r for r in records if r.seed == seed) for seed in seeds}
    assert [by_seed[s].at_once for s in seeds] == [1, *[4] * 8, 1]
    assert [by_seed[s].train_s for s in seeds] == pytest.approx([0.04, *[0.01] * 8, 0.04])
    assert [by_seed[s].samples_per_s for s in (0, 1)] == pytest.approx([500, 2000])
    steps = [event for event in events if isinstance(event, StepDone)]
    assert all(event.at_once == by_seed[event.seed].at_once for event in steps)


@pytest.mark.parametrize("slow", [True, False])
def test_seeds_are_trained_in_parallel_only_if_that_is_faster(
    slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, real = Clock(), executables._compiled
    train_seconds = itertools.chain([1.0], itertools.repeat(2.0 if slow else 1.99))

    def timed(setup: Executables, traces: Any, meanwhile: Any) -> dict[str, Any]:
        found = real(setup, traces, meanwhile)
        return found | {"train": slowed(found["train"], fake, next(train_seconds))}

    monkeypatch.setattr(executables, "_compiled", timed)
    monkeypatch.setattr(Job, "accelerator", True)
    job = make_job(LINEAR, make_dataset(10, 3, 3), seeds=(0, 1, 2), clock=fake, batch_size=5)
    trained = run_job(job)[-1]
    assert isinstance(trained, Trained)
    assert trained.engine.seeds_at_once == (1 if slow else 2)


# Seconds.


def test_seconds_are_measured_by_the_clock(clock: Clock) -> None:
    """Compilation is in no epoch's time, and is attributed to the first seed."""
    job = make_job(
        LINEAR, make_dataset(26, 501, 3), seeds=(0, 1), clock=clock, batch_size=5, epochs=2
    )

    def take_time(event: Event) -> None:
        clock.time += 0 if isinstance(event, StepDone) else 1000

    events = run_job(job, take_time)
    assert isinstance(events[0], Compiled)
    assert events[0].compile_s == 200
    records = [event for event in events if isinstance(event, EpochRecord)]
    assert [r.train_s for r in records] == pytest.approx([5 * 0.04] * 4)  # 26 // 5 steps
    assert [r.eval_s for r in records] == [14] * 4  # 501 images are two chunks
    assert [r.samples_per_s for r in records] == pytest.approx([25 / 0.2] * 4)
    summaries = [event.summary for event in events if isinstance(event, SeedDone)]
    assert [s.compile_s for s in summaries] == [200, 0]
    timing, callers = job.watch.timing(), 1000 * (1 + 4 + 4 + 2 + 1)
    test_s = 2 * 7.0
    want = Timing(200, 0, train_s=0.8, eval_s=56, total_s=200 + 0.8 + 56 + test_s + callers)
    assert dataclasses.astuple(timing) == pytest.approx(dataclasses.astuple(want))
    assert isinstance(events[-1], Trained)
    # Recorded after dispatching the second step: after 200 s, the first event and two steps.
    assert events[-1].engine.first_step_s == pytest.approx(200 + 1000 + 2 * 0.04)
    assert events[-1].engine.tune_s == 0


def test_progress_is_emitted_ten_times_a_second(clock: Clock) -> None:
    job = make_job(LINEAR, make_dataset(40, 3, 3), clock=clock, batch_size=4, epochs=2)
    steps = [event for event in run_job(job) if isinstance(event, StepDone)]
    assert steps == [StepDone(0, epoch, step, 10) for epoch in (1, 2) for step in (3, 6, 9)]


# Options of a run.


def test_directions_of_the_metrics() -> None:
    dataset = make_dataset(2, 1, 1)
    classify = make_job(LINEAR, dataset, metrics=["accuracy", "top5_accuracy"])
    assert metric_directions(classify.experiment) == {
        "accuracy": Direction.HIGHER,
        "top5_accuracy": Direction.HIGHER,
        "loss": Direction.LOWER,
    }
    reconstruct = make_job(MIRROR, dataset, task="reconstruct", metrics=["mae"])
    assert metric_directions(reconstruct.experiment) == {
        "mae": Direction.LOWER,
        "loss": Direction.LOWER,
    }


@pytest.mark.parametrize(
    ("num_train", "batch_size", "in_a_step", "steps"),
    [(7, 500, 7, 1), (500, 500, 500, 1), (1001, 500, 500, 2), (3, 1, 1, 3)],
)
def test_batches_of_an_epoch(num_train: int, batch_size: int, in_a_step: int, steps: int) -> None:
    job = make_job(LINEAR, make_dataset(num_train, 1, 1), batch_size=batch_size)
    assert (job.num_train, job.batch_size, job.num_steps) == (num_train, in_a_step, steps)


# Python models.


@pytest.fixture
def python_model(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "cnnbench_engine_net.py").write_text(
        "from flax import nnx\n\n\n"
        "class Net(nnx.Module):\n"
        "    def __init__(self, units, *, rngs):\n"
        f"        self.dense = nnx.Linear({PIXELS}, units, rngs=rngs)\n\n"
        "    def __call__(self, x):\n"
        "        return self.dense(x.reshape(len(x), -1))\n",
        encoding="utf-8",
    )
    yield tmp_path
    sys.modules.pop("cnnbench_engine_net", None)


def python_job(folder: Path, **args: Any) -> Job:
    experiment = Experiment.model_validate(
        {
            "name": "tiny",
            "task": "classify",
            "dataset": {"name": "mnist"},
            "model": {"python": "cnnbench_engine_net:Net", "args": args},
            "train": {"epochs": 1},
        }
    )
    dataset, devices = make_dataset(20, 3, 3), pick_devices("cpu")
    reference = str(experiment.model.python)
    return Job(experiment, None, folder, dataset, devices, Stopwatch(), reference=reference)


def test_a_python_model_is_trained(python_model: Path) -> None:
    events = run_job(python_job(python_model, units=CLASSES))
    assert isinstance(events[0], Compiled)
    assert events[0].num_params == PIXELS * CLASSES + CLASSES
    assert kinds(events) == ["Compiled", ("EpochRecord", 0, 1), "SeedDone", "Trained"]
    assert isinstance(events[-1], Trained)
    assert (events[-1].engine.requested, events[-1].engine.form) == ("auto", "plain")
    cost = events[-1].cost
    assert (cost.training_flops, cost.product_share(1000.0)) == (None, None)
    assert cost.forward_flops is not None
    assert cost.forward_flops > 2 * PIXELS * CLASSES


def test_a_python_model_with_the_wrong_output_shape_is_refused(python_model: Path) -> None:
    message = "model.python: the output has shape 5, but must have shape 7"
    message += "; change the return value of the class."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        run_job(python_job(python_model, units=5))


@pytest.mark.parametrize(
    ("change", "shape"),
    [("jnp.concatenate([x, x])", "2x7"), ("jnp.mean(x, 0)", "7"), ("jnp.mean(x)", "()")],
)
def test_a_python_model_that_mixes_images_is_refused(
    python_model: Path, change: str, shape: str
) -> None:
    text = (python_model / "cnnbench_engine_net.py").read_text()
    text = re.sub(r"return (.*)", rf"x = \1\n        return {change}", text)
    (python_model / "cnnbench_engine_net.py").write_text(f"import jax.numpy as jnp\n{text}")
    message = (
        f"model.python: the output has shape {shape} for a batch of one image, but must have"
        " shape 1x7; change the return value of the class."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        run_job(python_job(python_model, units=CLASSES))


def test_a_python_model_that_returns_no_array_is_refused(python_model: Path) -> None:
    text = (python_model / "cnnbench_engine_net.py").read_text()
    pair = re.sub(r"return (.*)", r"return (\1, 0)", text)
    (python_model / "cnnbench_engine_net.py").write_text(pair)
    message = (
        "model.python: the output is a tuple, but must have shape 7; change the return value of"
        " the class."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        run_job(python_job(python_model, units=CLASSES))


def test_wrong_arguments_of_a_python_model_are_named(python_model: Path) -> None:
    message = (
        "model.args: Net(**args, rngs=...) cannot be called: got an unexpected keyword argument"
        " 'width'; use the arguments of its __init__."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        run_job(python_job(python_model, units=CLASSES, width=3))


def test_whitened_patches_have_second_moments_of_about_one() -> None:
    """Of the training images, for every seed; NumPy has the eigenvalues of the patches."""
    conv = {"op": "conv", "filters": 12, "kernel": [3, 2], "init": "whitening"}
    layers: Layers = {
        "whiten": {**conv, "trainable": False},
        "out": {"op": "dense", "units": CLASSES},
    }
    job = make_job(layers, make_dataset(40, 5, 5))
    setup = set_up(job, Strategy("plain", None, 1, 1))
    first, second = (nnx.to_pure_dict(setup.network(seed).rest) for seed in (0, 1))
    kernel = first["weights"]["whiten"]["kernel"]
    np.testing.assert_array_equal(kernel, second["weights"]["whiten"]["kernel"])

    images = job.dataset.train.images / 255
    height, width, channels = SHAPE
    patches = np.array(
        [
            image[i : i + 3, j : j + 2].ravel()
            for image in images
            for i in range(height - 2)
            for j in range(width - 1)
        ]
    )
    values = np.linalg.eigvalsh(patches.T @ patches / len(patches))[::-1]
    outputs = patches @ kernel.reshape(-1, kernel.shape[-1])
    half = 6 * channels
    np.testing.assert_allclose(outputs[:, :half], -outputs[:, half:])
    moments = outputs[:, :half].T @ outputs[:, :half] / len(patches)
    np.testing.assert_allclose(moments, np.diag(values / (values + 5e-4)), atol=1e-5)
