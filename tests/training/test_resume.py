"""Training resumed from a checkpoint gives bit-identical numbers."""

import dataclasses
import errno
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cnnbench.errors import StoreError
from cnnbench.runs.checkpoints import Checkpoints
from cnnbench.runs.environment import machine
from cnnbench.runs.folder import RunFolder, read_run
from cnnbench.runs.records import EngineRecord, EpochRecord
from cnnbench.runs.verify import check_run
from cnnbench.spec.experiment import TrainSpec
from cnnbench.training.events import Checkpoint, Compiled, Event, Resumed, SeedDone
from cnnbench.training.executables import Job
from cnnbench.training.resume import Resume, plan_resume
from cnnbench.training.state import stack, unstack, values_of, with_values
from cnnbench.training.strategy import Strategy
from tests.support.samples import make_run
from tests.support.training import run_job
from tests.training.test_trainer import CLASSES, Layers, make_dataset, make_job

STATEFUL: Layers = {
    "conv": {"op": "conv", "filters": 2, "kernel": 2},
    "norm": {"op": "batch_norm"},
    "drop": {"op": "dropout", "rate": 0.4},
    "dense": {"op": "dense", "units": CLASSES},
}
SEEDS = (5, 0, 3, 9)
GROUPS = [
    {"layers": "n*", "learning_rate": {"times": 3}},
    {"layers": "conv", "learning_rate": 0.005, "weight_decay": 0},
]
AUGMENT = {"random_translation": {"pixels": 1}, "random_flip": "horizontal", "mixup": {}}


def digest(values: Mapping[str, Any]) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    """Names, types, shapes and bytes."""
    return [(n, str(v.dtype), v.shape, v.tobytes()) for n, v in sorted(values.items())]


def numbers(events: Sequence[Event], after: Mapping[int, int]) -> list[Any]:
    """All metrics and weights after some epochs of each seed, without times."""
    found: list[Any] = []
    for event in events:
        match event:
            case EpochRecord(seed=seed, epoch=epoch) if epoch > after[seed]:
                found.append((seed, epoch, event.train_loss, event.validation_loss, event.metrics))
            case SeedDone(summary=summary, weights=weights, predictions=predictions):
                found.append((summary.seed, summary.final, summary.best, summary.test))
                found.extend(map(digest, (weights, predictions)))
    return found


def engine_of(events: Sequence[Event]) -> EngineRecord | None:
    return next(event.engine for event in events if isinstance(event, Compiled))


def resumed(job: Job, events: Sequence[Event], epochs: Mapping[int, int], at_once: int) -> Job:
    """The training after the given number of epochs of each seed."""
    values = {(e.seed, e.epoch): e.values for e in events if isinstance(e, Checkpoint)}
    records = {
        seed: tuple(
            e
            for e in events
            if isinstance(e, EpochRecord) and e.seed == seed and e.epoch <= epochs[seed]
        )
        for seed in job.experiment.seeds
    }
    started = any(epochs[seed] for seed in job.experiment.seeds[1:])
    known = at_once if started else None
    load: Callable[[int, int], Any] = lambda seed, epoch: values[seed, epoch]  # noqa: E731
    resume = Resume(engine_of(events), known, epochs, records, load)
    return dataclasses.replace(job, resume=resume)


@cache
def a_whole_run() -> tuple[Job, list[Any]]:
    options: dict[str, Any] = {"epochs": 3, "batch_size": 6, "clip": {"norm": 1.0}}
    options |= {"optimizer": {"name": "adam", "weight_decay": 0.1}, "ema": {"decay": 0.8}}
    options |= {"num_devices": 2, "augment": AUGMENT, "drop_last": False}
    job = make_job(STATEFUL, make_dataset(20, 5, 4), seeds=SEEDS, **options)
    return job, run_job(job)


@pytest.mark.parametrize(
    "after", [(0, 0, 0, 0), (1, 0, 0, 0), (3, 0, 0, 0), (3, 2, 0, 0), (3, 3, 3, 2), (3, 3, 3, 3)]
)
@pytest.mark.sampled(3)
def test_a_resumed_training_is_bit_identical(after: tuple[int, ...]) -> None:
    job, whole = a_whole_run()
    epochs = dict(zip(SEEDS, after, strict=True))
    rest = run_job(resumed(job, whole, epochs, 1))
    assert numbers(rest, dict.fromkeys(SEEDS, 0)) == numbers(whole, epochs)
    (event,) = [event for event in rest if isinstance(event, Resumed)]
    assert len(event.records) == sum(after)


@cache
def a_parallel_run() -> tuple[Job, list[Any]]:
    options: dict[str, Any] = {"engine": "plain", "epochs": 3, "batch_size": 6, "augment": AUGMENT}
    options |= {"ema": {}, "optimizer": {"name": "muon", "weight_decay": 0.1}, "drop_last": False}
    layers = {name: value for name, value in STATEFUL.items() if name != "norm"}
    job = make_job(layers, make_dataset(20, 3, 4), seeds=SEEDS, **options)
    return job, run_job(job)


@pytest.mark.slow
@pytest.mark.parametrize("after", [(2, 0, 0, 0), (3, 1, 1, 1), (3, 3, 3, 3)])
def test_parallel_seeds_are_resumed_in_parallel(
    after: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "accelerator", True)
    # Decided by the trial epoch, whose times depend on the machine.
    monkeypatch.setattr("cnnbench.training.trainer._epoch_s", lambda _: 1e9)
    job, whole = a_parallel_run()
    assert {e.at_once for e in whole if isinstance(e, EpochRecord) and e.seed != 5} == {3}
    epochs = dict(zip(SEEDS, after, strict=True))
    rest = run_job(resumed(job, whole, epochs, 3))
    assert numbers(rest, dict.fromkeys(SEEDS, 0)) == numbers(whole, epochs)


@pytest.mark.slow
def test_a_resumed_run_keeps_its_engine() -> None:
    job = make_job(STATEFUL, make_dataset(12, 3, 3), engine="plain", batch_size=6)
    whole = run_job(job)
    rest = resumed(dataclasses.replace(job, engine="direct"), whole, {0: 1}, 1)
    assert rest.resume is not None
    assert rest.resume.strategy == Strategy("plain", None, 1, 1)
    engine = engine_of(run_job(rest))
    assert engine is not None
    assert engine.form == "plain"


@pytest.mark.parametrize("seeds", [(0, 1), (0, 1, 2, 3)])
@pytest.mark.sampled(1)
def test_a_diverged_seed_stops_and_the_others_continue(
    seeds: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnbench.training import trainer

    real = trainer._record

    def record(job: Job, place: tuple[int, int], *rest: Any) -> EpochRecord:
        found = real(job, place, *rest)
        return dataclasses.replace(found, train_loss=float("inf")) if place == (1, 2) else found

    monkeypatch.setattr(trainer, "_record", record)
    if len(seeds) > 2:
        monkeypatch.setattr(Job, "accelerator", True)
        monkeypatch.setattr(trainer, "_epoch_s", lambda _: 1e9)
    job = make_job(STATEFUL, make_dataset(12, 3, 3), seeds=seeds, batch_size=6, epochs=4)
    events = run_job(job)
    found = {seed: [e.epoch for e in events if isinstance(e, EpochRecord) and e.seed == seed]
             for seed in seeds}  # fmt: skip
    assert found == {seed: [1, 2] if seed == 1 else [1, 2, 3, 4] for seed in seeds}
    done = {e.summary.seed: e.summary.diverged for e in events if isinstance(e, SeedDone)}
    assert done == {seed: 2 if seed == 1 else None for seed in seeds}
    if len(seeds) == 2:
        after = {0: 4, 1: 2}
        rest = run_job(resumed(job, events, after, 1))
        assert not [event for event in rest if isinstance(event, EpochRecord)]
        assert numbers(rest, after) == numbers(events, after)


CALM: Layers = {name: value for name, value in STATEFUL.items() if name != "norm"}
ADAM = {"optimizer": {"name": "adam"}}
EXTENDED: list[tuple[Layers, str, int, dict[str, Any]]] = [
    (STATEFUL, "plain", 1, {"optimizer": {"name": "sgd", "learning_rate": 0.1}}),
    (STATEFUL, "fast", 1, ADAM),
    (CALM, "direct", 2, {"optimizer": {"name": "rmsprop", "momentum": 0.5}}),
    (CALM, "direct", 1, {"schedule": {"name": "step", "every": 2, "factor": 0.3}}),
    (STATEFUL, "direct", 1, {"schedule": {"name": "step", "every": 1}, **ADAM}),
    (CALM, "direct", 1, {"schedule": {"name": "exponential", "rate": 0.7}}),
]


@pytest.mark.parametrize(
    ("layers", "engine", "num_devices", "train"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] if i % 2 else [])
        for i, case in enumerate(EXTENDED)
    ],
)
@pytest.mark.sampled(2)
def test_an_extended_run_equals_one_with_more_epochs_from_the_start(
    layers: Layers, engine: str, num_devices: int, train: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"engine": engine, "num_devices": num_devices, "batch_size": 6}
    data = make_dataset(20, 5, 4)
    short, whole = (
        make_job(layers, data, seeds=(5, 0), epochs=epochs, **train, **options) for epochs in (2, 5)
    )
    done = run_job(short)
    rest = run_job(resumed(whole, done, {5: 2, 0: 2}, 1))
    want = run_job(whole)
    assert numbers(rest, {5: 2, 0: 2}) == numbers(want, {5: 2, 0: 2})


def test_a_diverged_seed_is_not_extended(monkeypatch: pytest.MonkeyPatch) -> None:
    from cnnbench.training import trainer

    real = trainer._record

    def record(job: Job, place: tuple[int, int], *rest: Any) -> EpochRecord:
        found = real(job, place, *rest)
        return dataclasses.replace(found, train_loss=float("inf")) if place == (1, 1) else found

    monkeypatch.setattr(trainer, "_record", record)
    data = make_dataset(12, 3, 3)
    short, whole = (
        make_job(STATEFUL, data, seeds=(0, 1, 2), batch_size=6, epochs=n) for n in (2, 4)
    )
    after = {0: 2, 1: 1, 2: 2}
    rest = run_job(resumed(whole, run_job(short), after, 1))
    want = run_job(whole)
    assert numbers(rest, after) == numbers(want, after)
    assert [(e.seed, e.epoch) for e in rest if isinstance(e, EpochRecord)] == [
        (0, 3), (0, 4), (2, 3), (2, 4),
    ]  # fmt: skip


# Files.


def make_values(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "params.conv.kernel": rng.normal(size=(2, 3)).astype(np.float32),
        "rest.key": rng.integers(0, 2**32, (2,), np.uint32),
        "opt_state.0.count": np.asarray(7, np.int32),
    }


def test_values_round_trip(tmp_path: Path) -> None:
    checkpoints = Checkpoints(RunFolder(tmp_path), num_images=10, keep=2)
    for epoch in (1, 2, 10):
        checkpoints.save(3, epoch, make_values(epoch))
    assert checkpoints.epochs(3) == [2, 10]
    assert checkpoints.epochs(4) == []
    for epoch in (2, 10):
        found, want = checkpoints.load(3, epoch), make_values(epoch)
        assert found.keys() == want.keys()
        for name, value in want.items():
            assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
            np.testing.assert_array_equal(found[name], value)
    assert sorted(file.name for file in (tmp_path / "checkpoints" / "seed-3").iterdir()) == [
        "epoch-10.safetensors",
        "epoch-2.safetensors",
    ]
    checkpoints.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_names_the_machine(tmp_path: Path) -> None:
    checkpoints, own = Checkpoints(RunFolder(tmp_path), num_images=10), machine(jax.devices())
    checkpoints.save(0, 1, make_values(), machine=own)
    checkpoints.save(1, 1, make_values())  # of an older version
    assert [checkpoints.machine(seed, 1) for seed in (0, 1)] == [own, None]
    assert checkpoints.machine(2, 0) is None
    checkpoints.forget(0)
    assert [checkpoints.points(seed) for seed in (0, 1)] == [[], [(1, 0)]]


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(RunFolder(tmp_path), num_images=10)
    checkpoints.save(0, 4, make_values())
    return checkpoints


def file_of(saved: Checkpoints) -> Path:
    return saved.run.path / "checkpoints" / "seed-0" / "epoch-4.safetensors"


USED = "; the checkpoint before it is used."


def test_every_dtype_of_training_round_trips_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 256, 48, np.uint8)
    names = ("float64", "float32", "float16", "bfloat16", "int64", "int8", "uint32", "uint64")
    values = {name: bits.view(jax.numpy.dtype(name)).reshape(2, -1) for name in names}
    values |= {f"{name} transposed": value.T for name, value in values.items()}
    values["bool"] = rng.random((3, 2)) < 0.5
    values["complex64"] = bits.view(np.complex64)
    values["scalar"], values["empty"] = np.asarray(7, np.int32), np.zeros((0, 3))
    values["big-endian"] = np.asarray([1.5, -2], ">f4")
    checkpoints = Checkpoints(RunFolder(tmp_path), num_images=10)
    checkpoints.save(0, 1, values)
    found = checkpoints.load(0, 1)
    values["big-endian"] = values["big-endian"].astype("<f4")
    assert digest(found) == digest(values)


@pytest.mark.parametrize("num_bytes", [0, 1, 7, 8, 9, -1])
def test_truncated_checkpoints_are_refused(saved: Checkpoints, num_bytes: int) -> None:
    path = file_of(saved)
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(StoreError) as caught:
        saved.load(0, 4)
    reason = "the SHA-256 does not match" if num_bytes == -1 else "the header is damaged"
    assert str(caught.value) == f"{path}: {reason}{USED}"


def test_any_flipped_bit_of_a_checkpoint_is_detected(saved: Checkpoints) -> None:
    path = file_of(saved)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(StoreError, match=r"(the header is damaged|SHA-256 does not match)"):
            saved.load(0, 4)
    path.write_bytes(whole)
    assert digest(saved.load(0, 4)) == digest(make_values())


def test_a_checkpoint_with_a_different_shuffle_is_refused(saved: Checkpoints) -> None:
    other = dataclasses.replace(saved, num_images=11)
    with pytest.raises(StoreError) as caught:
        other.load(0, 4)
    reason = "this NumPy shuffles the images in another order"
    assert str(caught.value) == f"{file_of(saved)}: {reason}{USED}"


def test_a_failed_checkpoint_write_is_one_line(
    saved: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError) as caught:
        saved.save(0, 5, make_values())
    path = file_of(saved).with_name("epoch-5.safetensors")
    reason = "cannot write: no space left on device; free some disk space."
    assert str(caught.value) == f"{path}: {reason}"
    assert list(path.parent.iterdir()) == [file_of(saved)]


def test_restarting_a_seed_removes_later_checkpoints(saved: Checkpoints) -> None:
    """Otherwise the new ones would count as older and be removed."""
    file_of(saved).write_bytes(b"damaged")
    for epoch in (1, 2):
        saved.save(0, epoch, make_values(epoch))
        assert saved.epochs(0) == [epoch]
        assert digest(saved.load(0, epoch)) == digest(make_values(epoch))


# Older versions wrote checkpoints with Orbax.


@pytest.fixture
def orbax_run(tmp_path: Path) -> Path:
    """A finished run of two epochs of version 0.1.0."""
    with zipfile.ZipFile(Path(__file__).parents[1] / "runs" / "orbax_run.zip") as file:
        file.extractall(tmp_path / "results")
    (run,) = (tmp_path / "results" / "old").iterdir()
    return run


def orbax_message(run: Path) -> str:
    return (
        f"{run}/checkpoints/seed-0/epoch-2: an Orbax checkpoint, which this version of cnnbench"
        " does not read; resume with the version that wrote it, or the seed is trained again from"
        " its first epoch."
    )


def test_an_orbax_checkpoint_is_refused_by_name(orbax_run: Path) -> None:
    run, messages = read_run(orbax_run), list[str]()
    checkpoints = Checkpoints(RunFolder(orbax_run), run.record.dataset.num_train)
    assert checkpoints.epochs(0) == [2]
    found = plan_resume(run, checkpoints, messages.append, TrainSpec())
    assert found.epochs == {0: 0}
    assert messages == [orbax_message(orbax_run)]


def test_a_run_with_an_orbax_checkpoint_is_intact(orbax_run: Path) -> None:
    assert check_run(orbax_run) == []


def test_the_next_checkpoint_replaces_an_orbax_checkpoint(orbax_run: Path) -> None:
    checkpoints = Checkpoints(RunFolder(orbax_run), num_images=40)
    checkpoints.save(0, 1, make_values())
    assert checkpoints.epochs(0) == [1]
    folder = orbax_run / "checkpoints" / "seed-0"
    assert [file.name for file in folder.iterdir()] == ["epoch-1.safetensors"]


def test_the_newest_usable_checkpoint_is_used(tmp_path: Path) -> None:
    run = make_run(seeds=(0, 1))
    checkpoints = Checkpoints(RunFolder(tmp_path), run.record.dataset.num_train, keep=3)
    for epoch in (1, 2):
        checkpoints.save(0, epoch, make_values(epoch))
    file = tmp_path / "checkpoints" / "seed-0" / "epoch-2.safetensors"
    file.write_bytes(file.read_bytes() + b"0")
    messages: list[str] = []
    found = plan_resume(run, checkpoints, messages.append, TrainSpec())
    assert found.epochs == {0: 1, 1: 0}
    assert [len(found.records[seed]) for seed in (0, 1)] == [1, 0]
    assert [(record.seed, record.epoch) for record in found.kept] == [(0, 1)]
    assert messages == [f"{file}: the SHA-256 does not match{USED}"]


def test_state_round_trips_through_values() -> None:
    job = make_job(STATEFUL, make_dataset(12, 3, 3), batch_size=6)
    from cnnbench.training.executables import set_up

    setup = set_up(job, Strategy("plain", None, 1, 1))
    states = [setup.state(setup.network(seed)) for seed in (1, 2)]
    values = values_of(states[0])
    assert all(isinstance(value, np.ndarray) for value in values.values())
    assert any("key" in name for name in values)
    back = with_values(states[1], values, "here")
    assert digest(values_of(back)) == digest(values)
    for one, other in zip(unstack(stack(states), 2), states, strict=True):
        assert digest(values_of(one)) == digest(values_of(other))
    assert str(jax.tree.structure(back)) == str(jax.tree.structure(states[0]))


@pytest.mark.parametrize("wrong", ["missing", "shape", "dtype"])
def test_values_of_another_network_are_refused(wrong: str) -> None:
    job = make_job(STATEFUL, make_dataset(12, 3, 3), batch_size=6)
    from cnnbench.training.executables import set_up

    setup = set_up(job, Strategy("plain", None, 1, 1))
    state = setup.state(setup.network(0))
    values = values_of(state)
    name = next(name for name in values if name.startswith("params"))
    match wrong:
        case "missing":
            del values[name]
        case "shape":
            values[name] = values[name][..., None]
        case _:
            values[name] = values[name].astype(np.float64)
    with pytest.raises(StoreError) as caught:
        with_values(state, values, "seed 0, epoch 1")
    reason = "does not fit this network; the file belongs to another run, so"
    if wrong == "dtype":
        reason = (
            "is float64, not float32: an older version of cnnbench trained with different"
            " JAX settings (JAX_ENABLE_X64);"
        )
    message = f"seed 0, epoch 1: '{name}' {reason} re-run the experiment."
    assert str(caught.value) == message


def test_a_checkpoint_of_a_different_random_number_generator_is_explained() -> None:
    from cnnbench.training.executables import set_up

    setup = set_up(make_job(STATEFUL, make_dataset(12, 3, 3)), Strategy("plain", None, 1, 1))
    state = setup.state(setup.network(0))
    values = values_of(state)
    name = next(name for name in values if "drop" in name and values[name].dtype == np.uint32
                and values[name].shape == (2,))  # fmt: skip
    values[name] = np.zeros(4, np.uint32)  # the key of rbg
    with pytest.raises(StoreError) as caught:
        with_values(state, values, "seed 0, epoch 1")
    assert str(caught.value) == (
        f"seed 0, epoch 1: '{name}' is a key of a different random number generator"
        " (JAX_DEFAULT_PRNG_IMPL), used by an older version of cnnbench; re-run the experiment."
    )
