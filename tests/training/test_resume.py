"""A training that goes on from a checkpoint comes to the same numbers, to the bit."""

import dataclasses
import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cnnbench.errors import StoreError
from cnnbench.runs.checkpoints import Checkpoints
from cnnbench.runs.folder import RunFolder
from cnnbench.runs.records import EngineRecord, EpochRecord
from cnnbench.training.events import Checkpoint, Compiled, Event, Resumed, SeedDone
from cnnbench.training.executables import Job
from cnnbench.training.resume import Resume, plan_resume
from cnnbench.training.state import stack, unstack, values_of, with_values
from cnnbench.training.strategy import Strategy
from cnnbench.training.trainer import run_job
from tests.support.samples import make_run
from tests.training.test_trainer import CLASSES, Layers, make_dataset, make_job

STATEFUL: Layers = {
    "conv": {"op": "conv", "filters": 2, "kernel": 2},
    "norm": {"op": "batch_norm"},
    "drop": {"op": "dropout", "rate": 0.4},
    "dense": {"op": "dense", "units": CLASSES},
}
SEEDS = (5, 0, 3, 9)


def digest(values: Mapping[str, Any]) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    """Names, types, shapes and bytes."""
    return [(n, str(v.dtype), v.shape, v.tobytes()) for n, v in sorted(values.items())]


def numbers(events: Sequence[Event], after: Mapping[int, int]) -> list[Any]:
    """All that is measured and learnt after some epochs of each seed, but the times."""
    found: list[Any] = []
    for event in events:
        match event:
            case EpochRecord(seed=seed, epoch=epoch) if epoch > after[seed]:
                found.append((seed, epoch, event.train_loss, event.validation_loss, event.metrics))
            case SeedDone(summary=summary, weights=weights):
                found.append((summary.seed, summary.final, summary.best, summary.test))
                found.append(digest(weights))
    return found


def engine_of(events: Sequence[Event]) -> EngineRecord | None:
    return next(event.engine for event in events if isinstance(event, Compiled))


def resumed(job: Job, events: Sequence[Event], epochs: Mapping[int, int], at_once: int) -> Job:
    """The same training after so many epochs of each seed."""
    values = {(e.seed, e.epoch): e.values for e in events if isinstance(e, Checkpoint)}
    records = {
        seed: tuple(
            e
            for e in events
            if isinstance(e, EpochRecord) and e.seed == seed and e.epoch <= epochs[seed]
        )
        for seed in job.experiment.seeds
    }
    begun = any(epochs[seed] for seed in job.experiment.seeds[1:])
    known = at_once if begun else None
    load: Callable[[int, int], Any] = lambda seed, epoch: values[seed, epoch]  # noqa: E731
    resume = Resume(engine_of(events), known, epochs, records, load)
    return dataclasses.replace(job, resume=resume)


@pytest.mark.parametrize(
    "after", [(0, 0, 0, 0), (1, 0, 0, 0), (3, 0, 0, 0), (3, 2, 0, 0), (3, 3, 3, 2), (3, 3, 3, 3)]
)
def test_the_rest_is_the_same_to_the_bit(after: tuple[int, ...]) -> None:
    options: dict[str, Any] = {"optimizer": {"name": "adam"}, "epochs": 3, "batch_size": 6}
    job = make_job(STATEFUL, make_dataset(20, 5, 4), seeds=SEEDS, num_devices=2, **options)
    whole = list(run_job(job))
    epochs = dict(zip(SEEDS, after, strict=True))
    rest = list(run_job(resumed(job, whole, epochs, 1)))
    assert numbers(rest, dict.fromkeys(SEEDS, 0)) == numbers(whole, epochs)
    (told,) = [event for event in rest if isinstance(event, Resumed)]
    assert len(told.records) == sum(after)


@pytest.mark.parametrize("after", [(2, 0, 0, 0), (3, 1, 1, 1), (3, 3, 3, 3)])
def test_seeds_at_once_go_on_at_once(
    after: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "accelerator", True)
    # The trial decides for it; its times are the machine's.
    monkeypatch.setattr("cnnbench.training.trainer._epoch_s", lambda _: 1e9)
    options: dict[str, Any] = {"engine": "plain", "epochs": 3, "batch_size": 4}
    layers = {name: value for name, value in STATEFUL.items() if name != "norm"}
    job = make_job(layers, make_dataset(20, 3, 4), seeds=SEEDS, **options)
    whole = list(run_job(job))
    assert {e.at_once for e in whole if isinstance(e, EpochRecord) and e.seed != 5} == {3}
    epochs = dict(zip(SEEDS, after, strict=True))
    rest = list(run_job(resumed(job, whole, epochs, 3)))
    assert numbers(rest, dict.fromkeys(SEEDS, 0)) == numbers(whole, epochs)


def test_a_run_goes_on_with_the_engine_it_began_with() -> None:
    job = make_job(STATEFUL, make_dataset(12, 3, 3), engine="plain", batch_size=6)
    whole = list(run_job(job))
    rest = resumed(dataclasses.replace(job, engine="direct"), whole, {0: 1}, 1)
    assert rest.resume is not None
    assert rest.resume.strategy == Strategy("plain", None, 1, 1)
    engine = engine_of(list(run_job(rest)))
    assert engine is not None
    assert engine.form == "plain"


@pytest.mark.parametrize("seeds", [(0, 1), (0, 1, 2, 3)])
def test_a_seed_that_diverges_ends_and_the_others_go_on(
    seeds: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnbench.training import trainer as engine

    real = engine._record

    def record(job: Job, place: tuple[int, int], *rest: Any) -> EpochRecord:
        found = real(job, place, *rest)
        return dataclasses.replace(found, train_loss=float("inf")) if place == (1, 2) else found

    monkeypatch.setattr(engine, "_record", record)
    if len(seeds) > 2:
        monkeypatch.setattr(Job, "accelerator", True)
        monkeypatch.setattr(engine, "_epoch_s", lambda _: 1e9)
    job = make_job(STATEFUL, make_dataset(12, 3, 3), seeds=seeds, batch_size=6, epochs=4)
    events = list(run_job(job))
    found = {seed: [e.epoch for e in events if isinstance(e, EpochRecord) and e.seed == seed]
             for seed in seeds}  # fmt: skip
    assert found == {seed: [1, 2] if seed == 1 else [1, 2, 3, 4] for seed in seeds}
    done = {e.summary.seed: e.summary.diverged for e in events if isinstance(e, SeedDone)}
    assert done == {seed: 2 if seed == 1 else None for seed in seeds}
    if len(seeds) == 2:
        after = {0: 4, 1: 2}
        rest = list(run_job(resumed(job, events, after, 1)))
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


@pytest.mark.parametrize(("layers", "engine", "num_devices", "train"), EXTENDED)
def test_more_epochs_are_those_of_a_run_that_had_them_from_the_start(
    layers: Layers, engine: str, num_devices: int, train: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"engine": engine, "num_devices": num_devices, "batch_size": 6}
    data = make_dataset(20, 5, 4)
    short, whole = (
        make_job(layers, data, seeds=(5, 0), epochs=epochs, **train, **options) for epochs in (2, 5)
    )
    done = list(run_job(short))
    rest = list(run_job(resumed(whole, done, {5: 2, 0: 2}, 1)))
    want = list(run_job(whole))
    assert numbers(rest, {5: 2, 0: 2}) == numbers(want, {5: 2, 0: 2})


def test_a_seed_that_diverged_is_trained_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    from cnnbench.training import trainer as engine

    real = engine._record

    def record(job: Job, place: tuple[int, int], *rest: Any) -> EpochRecord:
        found = real(job, place, *rest)
        return dataclasses.replace(found, train_loss=float("inf")) if place == (1, 1) else found

    monkeypatch.setattr(engine, "_record", record)
    data = make_dataset(12, 3, 3)
    short, whole = (
        make_job(STATEFUL, data, seeds=(0, 1, 2), batch_size=6, epochs=n) for n in (2, 4)
    )
    after = {0: 2, 1: 1, 2: 2}
    rest = list(run_job(resumed(whole, list(run_job(short)), after, 1)))
    want = list(run_job(whole))
    assert numbers(rest, after) == numbers(want, after)
    assert [(e.seed, e.epoch) for e in rest if isinstance(e, EpochRecord)] == [
        (0, 3), (0, 4), (2, 3), (2, 4),
    ]  # fmt: skip


# The files.


def make_values(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "params.conv.kernel": rng.normal(size=(2, 3)).astype(np.float32),
        "rest.key": rng.integers(0, 2**32, (2,), np.uint32),
        "opt_state.0.count": np.asarray(7, np.int32),
    }


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
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
        "epoch-10",
        "epoch-10.json",
        "epoch-2",
        "epoch-2.json",
    ]
    checkpoints.clear()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(RunFolder(tmp_path), num_images=10)
    checkpoints.save(0, 4, make_values())
    return checkpoints


USED = "; the checkpoint before it is used."


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"digest": "sha256:0"}, "epoch-4: the SHA-256 does not match"),
        (
            {"order": "PCG64 [0, 5] crc32 00000000"},
            "epoch-4: this NumPy shuffles the images in another order",
        ),
        (None, "epoch-4.json: is no record of a checkpoint"),
    ],
)
def test_a_checkpoint_that_was_changed_is_refused(
    saved: Checkpoints, change: dict[str, str] | None, reason: str
) -> None:
    mark = saved.run.path / "checkpoints" / "seed-0" / "epoch-4.json"
    text = json.dumps(json.loads(mark.read_text()) | change) if change else "{}"
    mark.write_text(text)
    with pytest.raises(StoreError) as caught:
        saved.load(0, 4)
    assert str(caught.value) == f"{mark.parent}/{reason}{USED}"


def test_a_checkpoint_without_one_of_its_files_is_refused(saved: Checkpoints) -> None:
    folder = saved.run.path / "checkpoints" / "seed-0" / "epoch-4"
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        content = file.read_bytes()
        for change in (file.unlink, lambda file=file: file.write_bytes(b"x" + file.read_bytes())):
            change()
            with pytest.raises(StoreError) as caught:
                saved.load(0, 4)
            assert str(caught.value) == f"{folder}: the SHA-256 does not match{USED}"
            file.write_bytes(content)
    assert digest(saved.load(0, 4)) == digest(make_values())


def test_what_orbax_cannot_read_is_refused(saved: Checkpoints, monkeypatch: Any) -> None:
    import orbax.checkpoint as ocp

    def fail(*_: object) -> None:
        raise ValueError("NOT_FOUND: no such thing.\nMore on it.")

    monkeypatch.setattr(ocp.PyTreeCheckpointer, "restore", fail)
    with pytest.raises(StoreError) as caught:
        saved.load(0, 4)
    folder = saved.run.path / "checkpoints" / "seed-0" / "epoch-4"
    assert str(caught.value) == f"{folder}: NOT_FOUND: no such thing{USED}"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "read-only file system; choose another"),
        (ValueError("RESOURCE_EXHAUSTED: disk full"), "RESOURCE_EXHAUSTED: disk full; free some"),
    ],
)
def test_what_orbax_cannot_write_is_one_line(
    error: Exception, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import orbax.checkpoint as ocp

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ocp.PyTreeCheckpointer, "save", fail)
    with pytest.raises(StoreError) as caught:
        Checkpoints(RunFolder(tmp_path), num_images=10).save(0, 1, make_values())
    path = tmp_path / "checkpoints" / "seed-0" / "epoch-1"
    assert str(caught.value).startswith(f"{path}: cannot write: {message}")


def test_the_newest_checkpoint_that_can_be_used_is_taken(tmp_path: Path) -> None:
    run = make_run(seeds=(0, 1))
    checkpoints = Checkpoints(RunFolder(tmp_path), run.record.dataset.num_train, keep=3)
    for epoch in (1, 2):
        checkpoints.save(0, epoch, make_values(epoch))
    mark = tmp_path / "checkpoints" / "seed-0" / "epoch-2.json"
    mark.write_text(mark.read_text().replace("sha256:", "sha256:0"))
    told: list[str] = []
    found = plan_resume(run, checkpoints, told.append)
    assert found.epochs == {0: 1, 1: 0}
    assert [len(found.records[seed]) for seed in (0, 1)] == [1, 0]
    assert [(record.seed, record.epoch) for record in found.kept] == [(0, 1)]
    assert told == [f"{mark.with_suffix('')}: the SHA-256 does not match{USED}"]


def test_a_state_becomes_values_and_back() -> None:
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
    reason = "does not fit this network; the file is of another run, so"
    if wrong == "dtype":
        reason = (
            "is float64 and not float32: an older version of cnnbench trained with other settings"
            " of JAX (JAX_ENABLE_X64);"
        )
    message = f"seed 0, epoch 1: '{name}' {reason} run the experiment again."
    assert str(caught.value) == message


def test_a_checkpoint_of_another_random_number_generator_is_named() -> None:
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
        f"seed 0, epoch 1: '{name}' is of another random number generator"
        " (JAX_DEFAULT_PRNG_IMPL), with which an older version of cnnbench trained; run the"
        " experiment again."
    )
