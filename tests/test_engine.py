"""The engine on small data: equal to a loop in NumPy, in order, repeatable, on the clock."""

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

from cnnbench import engine
from cnnbench.catalog import DatasetInfo
from cnnbench.data import Dataset, Split
from cnnbench.engine import Job, metric_directions, microbatch_size, pick_device, run_job
from cnnbench.errors import UsageError
from cnnbench.events import Compiled, Event, SeedDone, StepDone
from cnnbench.models import GraphNet
from cnnbench.results import BestValue, Direction, EpochRecord, Timing
from cnnbench.spec import Experiment
from cnnbench.timing import Stopwatch
from cnnbench.train import epoch_order, take_apart
from tests import oracles
from tests.oracles import Array, make_plan

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
    """Stands still unless it is told to move."""

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


def make_job(
    layers: Layers,
    dataset: Dataset,
    *,
    task: str = "classify",
    seeds: Sequence[int] = (0,),
    clock: Callable[[], float] | None = None,
    **train: Any,
) -> Job:
    experiment = Experiment.model_validate(
        {
            "name": "tiny",
            "task": task,
            "dataset": {"name": "mnist", "pixel_scale": 255.0},
            "model": {"layers": layers},
            "train": {"epochs": 2} | train,
            "seeds": list(seeds),
        }
    )
    plan = make_plan(layers, SHAPE, (CLASSES,) if task == "classify" else SHAPE)
    watch = Stopwatch(clock) if clock else Stopwatch()
    return Job(experiment, plan, Path(), dataset, pick_device("cpu"), watch)


# Against NumPy.


class Trained:
    """A layer of weights trained in NumPy as the engine should: every number it should report."""

    def __init__(self, job: Job, seed: int) -> None:
        assert job.plan is not None
        params = take_apart(GraphNet(job.plan, form="direct", rngs=nnx.Rngs(seed))).params
        first = oracles.get_params(params)["dense"]
        self.kernel = np.asarray(first["kernel"], np.float64)
        self.bias = np.asarray(first["bias"], np.float64)
        self.velocity = [np.zeros_like(self.kernel), np.zeros_like(self.bias)]
        self.classifies = job.experiment.task == "classify"
        self.train_losses: list[float] = []

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
            error = (chances - np.eye(CLASSES)[batch.labels]) / len(batch)
        else:
            error = 2 * (outputs - x) / x.size
        gradients = [x.T @ error, error.sum(axis=0)]
        # lasagne.updates.nesterov_momentum
        self.velocity = [0.9 * v - 0.01 * g for v, g in zip(self.velocity, gradients, strict=True)]
        moves = [0.9 * v - 0.01 * g for v, g in zip(self.velocity, gradients, strict=True)]
        self.kernel, self.bias = self.kernel + moves[0], self.bias + moves[1]
        return loss

    def epoch(self, split: Split, order: Array, batch_size: int) -> None:
        starts = range(0, len(order) - batch_size + 1, batch_size)
        rows = [order[start : start + batch_size] for start in starts]
        losses = [self.step(Split(split.images[r], split.labels[r])) for r in rows]
        self.train_losses.append(float(np.mean(losses)))


@pytest.mark.parametrize(
    ("task", "sizes", "batch_size"),
    [
        ("classify", (7, 3, 501), 500),  # one step of all seven; a chunk of one in evaluation
        ("classify", (11, 1, 2), 4),  # two steps of four, and three images that wait
        ("reconstruct", (6, 5, 3), 1),
    ],
)
def test_every_number_is_that_of_a_training_loop_in_numpy(
    task: str, sizes: tuple[int, int, int], batch_size: int
) -> None:
    """Nothing is dropped in evaluation, whatever the sizes; training takes whole batches."""
    dataset = make_dataset(*sizes)
    layers = LINEAR if task == "classify" else MIRROR
    metrics = ["accuracy", "top5_accuracy"] if task == "classify" else ["mae"]
    job = make_job(
        layers, dataset, task=task, seeds=(3, 1), batch_size=batch_size, epochs=3, metrics=metrics
    )
    events = list(run_job(job))
    for seed, group in _by_seed(events).items():
        *records, done = [event for event in group if not isinstance(event, StepDone)]
        assert isinstance(done, SeedDone)
        want = Trained(job, seed)
        for epoch, record in enumerate(records, start=1):
            assert isinstance(record, EpochRecord)
            order = epoch_order(seed, epoch, sizes[0])
            want.epoch(dataset.train, order, min(batch_size, sizes[0]))
            assert (record.seed, record.epoch) == (seed, epoch)
            assert record.train_loss == pytest.approx(want.train_losses[-1], rel=1e-5)
            _check_values(
                {**record.metrics, "loss": record.validation_loss}, want, dataset.validation
            )
        assert len(want.train_losses) == 3
        _check_values(done.summary.test, want, dataset.test)
        _check_samples(done, want, dataset.test)


def _by_seed(events: Sequence[Event]) -> dict[int, list[Event]]:
    """Events after the first, in groups that end with the end of a seed."""
    groups: dict[int, list[Event]] = {}
    group: list[Event] = []
    for event in events[1:]:
        group.append(event)
        if isinstance(event, SeedDone):
            groups[event.summary.seed], group = group, []
    assert not group
    return groups


def _check_values(values: Mapping[str, float], want: Trained, split: Split) -> None:
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


def _check_samples(done: SeedDone, want: Trained, test: Split) -> None:
    np.testing.assert_array_equal(done.inputs, test.images[:10])
    if want.classifies:
        assert done.outputs is None
    else:
        assert done.outputs is not None
        outputs = 255 * want.outputs(test.first(10)).reshape(-1, *SHAPE)
        np.testing.assert_allclose(done.outputs, outputs, rtol=1e-4, atol=1e-3)


# Order, seeds, repetition.


def kinds(events: Sequence[Event]) -> list[Any]:
    """What happened, without the progress."""
    return [
        (type(e).__name__, e.seed, e.epoch) if isinstance(e, EpochRecord) else type(e).__name__
        for e in events
        if not isinstance(e, StepDone)
    ]


def measured(events: Sequence[Event], seed: int) -> list[Any]:
    """All that a seed measured, but for seconds."""
    found: list[Any] = [
        (e.epoch, e.train_loss, e.validation_loss, e.metrics)
        for e in events
        if isinstance(e, EpochRecord) and e.seed == seed
    ]
    summaries = [e.summary for e in events if isinstance(e, SeedDone) and e.summary.seed == seed]
    return found + [(s.final, s.best, s.test) for s in summaries]


def test_a_seed_gives_the_same_bits_whatever_ran_before_it() -> None:
    dataset = make_dataset(23, 12, 5)
    both = list(run_job(make_job(CONV, dataset, seeds=(4, 9), batch_size=12)))
    assert kinds(both) == [
        "Compiled",
        ("EpochRecord", 4, 1),
        ("EpochRecord", 4, 2),
        "SeedDone",
        ("EpochRecord", 9, 1),
        ("EpochRecord", 9, 2),
        "SeedDone",
    ]
    alone = list(run_job(make_job(CONV, dataset, seeds=(9,), batch_size=12)))
    assert len(measured(alone, 9)) == 3
    assert measured(alone, 9) == measured(both, 9)
    for one, other in zip(measured(both, 4)[:2], measured(both, 9)[:2], strict=True):
        assert one[1] != other[1]
        assert one[2] != other[2]
    compiled = both[0]
    assert isinstance(compiled, Compiled)
    assert compiled.num_params == (2 * 2 * 2 + 2) + (3 * 2 * 2 * CLASSES + CLASSES)


def test_the_summary_is_made_of_the_records() -> None:
    events = list(run_job(make_job(LINEAR, make_dataset(20, 9, 4), batch_size=5, epochs=4)))
    records = [event for event in events if isinstance(event, EpochRecord)]
    done = events[-1]
    assert isinstance(done, SeedDone)
    losses, accuracies = np.transpose([(r.validation_loss, r.metrics["accuracy"]) for r in records])
    lowest, highest = int(np.argmin(losses)), int(np.argmax(accuracies))
    assert done.summary.final == {"accuracy": accuracies[-1], "loss": losses[-1]}
    assert done.summary.best == {
        "accuracy": BestValue(accuracies[highest], highest + 1),
        "loss": BestValue(losses[lowest], lowest + 1),
    }
    assert done.summary.train_s == pytest.approx(sum(r.train_s for r in records))
    assert done.summary.eval_s == pytest.approx(sum(r.eval_s for r in records))


# Seconds.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Compiling takes 100 s, a training step 0.04 s, a chunk of evaluation 7 s, nothing else any.

    The programs are the real ones; only the time that they take is made up.
    """
    fake = Clock()
    seconds = itertools.cycle([0.04, 7.0])  # the order in which they are compiled
    real = engine._ahead_of_time

    def compile_slowly(function: Any, *args: Any, **options: Any) -> Any:
        fake.time += 100
        program, spent = real(function, *args, **options), next(seconds)

        def run(*args: Any) -> Any:
            fake.time += spent
            return program(*args)

        return run

    monkeypatch.setattr(engine, "_ahead_of_time", compile_slowly)
    return fake


def test_seconds_are_those_of_the_clock(clock: Clock) -> None:
    """Compilation is in no epoch, and is charged to the first seed."""
    job = make_job(
        LINEAR, make_dataset(26, 501, 3), seeds=(0, 1), clock=clock, batch_size=5, epochs=2
    )
    events = []
    for event in run_job(job):
        clock.time += 0 if isinstance(event, StepDone) else 1000  # the caller takes its time
        events.append(event)
    assert isinstance(events[0], Compiled)
    assert events[0].compile_s == 200
    records = [event for event in events if isinstance(event, EpochRecord)]
    assert [r.train_s for r in records] == pytest.approx([5 * 0.04] * 4)  # 26 // 5 steps
    assert [r.eval_s for r in records] == [14] * 4  # 501 images are two chunks
    assert [r.samples_per_s for r in records] == pytest.approx([25 / 0.2] * 4)
    summaries = [event.summary for event in events if isinstance(event, SeedDone)]
    assert [s.compile_s for s in summaries] == [200, 0]
    timing, callers = job.watch.timing(), 1000 * (1 + 4 + 2)
    test_s = 2 * 7.0
    want = Timing(200, 0, train_s=0.8, eval_s=56, total_s=200 + 0.8 + 56 + test_s + callers)
    assert dataclasses.astuple(timing) == pytest.approx(dataclasses.astuple(want))


def test_progress_is_told_ten_times_a_second(clock: Clock) -> None:
    job = make_job(LINEAR, make_dataset(40, 3, 3), clock=clock, batch_size=4, epochs=2)
    steps = [event for event in run_job(job) if isinstance(event, StepDone)]
    assert steps == [StepDone(0, epoch, step, 10) for epoch in (1, 2) for step in (3, 6, 9)]


# What a run is told to do.


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


def test_a_batch_is_cut_where_that_changes_no_result() -> None:
    """Batch statistics are those of the whole batch."""
    norm: Layers = {"norm": {"op": "batch_norm"}}

    def size(layers: Layers, form: Any) -> int | None:
        plan = make_plan(layers, SHAPE, (CLASSES,))
        return microbatch_size(plan, take_apart(GraphNet(plan, form=form, rngs=nnx.Rngs(0))), form)

    assert size(CONV, "direct") == engine.MICROBATCH
    assert size(CONV, "plain") is None
    assert size({**norm, **CONV}, "direct") is None
    assert size(LINEAR, "direct") is None


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_a_device_that_is_not_there(kind: str) -> None:
    have = {device.platform for device in jax.devices()}
    if kind in have:
        pytest.skip(f"this machine has a {kind}")
    message = (
        f"--device {kind}: JAX finds no {kind} on this machine, but {', '.join(sorted(have))};"
        " write --device auto."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        pick_device(kind)


def test_auto_is_the_first_device() -> None:
    assert pick_device("auto") == jax.devices()[0]
    assert pick_device("cpu").platform == "cpu"


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
    watch = Stopwatch()
    return Job(experiment, None, folder, make_dataset(20, 3, 3), pick_device("cpu"), watch)


def test_a_python_model_is_trained(python_model: Path) -> None:
    events = list(run_job(python_job(python_model, units=CLASSES)))
    assert isinstance(events[0], Compiled)
    assert events[0].num_params == PIXELS * CLASSES + CLASSES
    assert kinds(events) == ["Compiled", ("EpochRecord", 0, 1), "SeedDone"]


def test_a_python_model_of_another_shape_is_refused(python_model: Path) -> None:
    message = "model.python: the output has shape 5, and shape 7 is needed"
    message += "; change what the class returns."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        list(run_job(python_job(python_model, units=5)))


def test_a_python_model_that_returns_no_array_is_refused(python_model: Path) -> None:
    text = (python_model / "cnnbench_engine_net.py").read_text()
    pair = re.sub(r"return (.*)", r"return (\1, 0)", text)
    (python_model / "cnnbench_engine_net.py").write_text(pair)
    message = (
        "model.python: the output is a tuple, and shape 7 is needed; change what the class returns."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        list(run_job(python_job(python_model, units=CLASSES)))


def test_a_python_model_says_which_arguments_do_not_fit(python_model: Path) -> None:
    message = (
        "model.args: Net(**args, rngs=...) cannot be called: got an unexpected keyword argument"
        " 'width'; write the arguments that it takes."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        list(run_job(python_job(python_model, units=CLASSES, width=3)))
