"""Seeds of experiments on a worker: tasks of an executor, which train and emit events.

A worker keeps the images and the compiled programs of its last experiments.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.dataset import Dataset, dataset_of
from cnnbench.data.streaming.source import StreamOptions
from cnnbench.errors import CnnbenchError, DataError, Notify
from cnnbench.executors.failures import SentError, sent
from cnnbench.executors.interface import Emit
from cnnbench.runner import sent_images
from cnnbench.runner.run import Request, device_memory, make_job
from cnnbench.runs.folder import RESOLVED_FILE
from cnnbench.runs.records import EngineRecord, Environment, EpochRecord, Machine
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.system import settings
from cnnbench.system.arrays import NamedArrays
from cnnbench.system.stopwatch import Stopwatch
from cnnbench.training.events import Event, Resumed
from cnnbench.training.resume import Resume, recorded_strategy

if TYPE_CHECKING:
    import jax

    from cnnbench.training.trainer import Trainer

MOST_KEPT = 8  # compiled experiments of a worker


@dataclass(frozen=True, slots=True)
class SentExperiment:
    """An experiment, as it travels to workers.

    Args:
      resolved: the experiment with all of its settings, as YAML.
      first: the seed whose task measures the network.
      digest: digest of the images.
      info: image shape and classes of the dataset.
      rest: what `sent_images` adds to images from the driver.
      folder: folder of the experiment file, from which a Python model is imported.
      reference: class of a Python model, ``module:Class``; empty for a graph of layers.
      source: source code of its module.
      data_dir: as of `Request`.
      device: as of `Request`.
      engine: as of `Request`.
      workers: as of `Request`.
      snapshots: True to emit the weights after each epoch.
      retune: as of `Request`.
    """

    resolved: str
    first: int
    digest: str
    info: DatasetInfo
    rest: bytes
    folder: Path
    reference: str = ""
    source: bytes = b""
    data_dir: Path | None = None
    device: str = "auto"
    engine: str = "auto"
    workers: int | None = None
    snapshots: bool = False
    retune: bool = False


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class SeedPart:
    """A seed of an experiment, and what is trained of it.

    Args:
      number: number of the experiment, for the driver.
      arm: the experiment.
      seed: the seed.
      engine: the strategy of the other seeds; None to choose one.
      epochs: number of finished epochs.
      step: number of finished steps of the next epoch.
      records: the finished epochs; fewer if the seed diverged.
      values: the checkpoint after them.
      machine: what trained them; None if unknown.
    """

    number: int
    arm: SentExperiment
    seed: int
    engine: EngineRecord | None = None
    epochs: int = 0
    step: int = 0
    records: tuple[EpochRecord, ...] = ()
    values: NamedArrays = field(default_factory=dict)
    machine: Machine | None = None

    def resume(self) -> Resume:
        """The finished part, for a trainer."""
        steps = {self.seed: self.step} if self.step else {}
        own = {self.seed: self.epochs}, {self.seed: self.records}
        return Resume(self.engine, None, *own, self._load, steps, self.machine)

    def _load(self, *_: int) -> NamedArrays:
        return self.values


@dataclass(frozen=True, slots=True)
class WorkerFound:
    """What a worker runs on: the first message of `Greeting`.

    Args:
      environment: software and hardware.
    """

    environment: Environment


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the user.

    Args:
      text: the sentence.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Began:
    """A worker has started with a `SeedTask`.

    Args:
      machine: what it trains on. If the task asks for another one, it trains nothing.
    """

    machine: Machine


@dataclass(frozen=True, slots=True)
class FirstEpochDone:
    """The first epoch of a seed is trained and its network is measured; others may run now."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An experiment cannot be trained.

    Args:
      error: why.
    """

    error: SentError


@dataclass(frozen=True, slots=True, eq=False)
class FromSeed:
    """A message of a part of a task.

    Args:
      number: number of the experiment.
      seed: the seed.
      value: an event of the trainer, or one of the messages above.
    """

    number: int
    seed: int
    value: "Event | Note | FirstEpochDone | Refused"


@dataclass(frozen=True, slots=True)
class Greeting:
    """A task that finds out what a worker runs on.

    Args:
      device: as of `Request`.
    """

    device: str

    def __call__(self, emit: Emit) -> None:
        """Emits `WorkerFound`."""
        from cnnbench.runs.environment import environment

        settings.start(lambda text: emit(Note(text)))
        emit(WorkerFound(environment(_devices(self.device, emit), ())))


@dataclass(frozen=True, slots=True, eq=False)
class WarmUp:
    """A task that compiles experiments.

    Args:
      parts: a seed of each of them.
    """

    parts: tuple[SeedPart, ...]

    def __call__(self, emit: Emit) -> None:
        """Emits the events of compilation."""
        with _session(emit):
            for part in self.parts:
                _Turn(part, emit).run(_Turn.prepare)


@dataclass(frozen=True, slots=True, eq=False)
class SeedTask:
    """A task that trains a seed of several experiments, one after the other.

    Args:
      parts: the seed of each of them.
      timed: True if nothing else runs until the first epoch of each part is trained and its network
        is measured.
      machine: what has trained the seed so far; a worker on another kind of machine trains nothing.
        None if any may train.
    """

    parts: tuple[SeedPart, ...]
    timed: bool = False
    machine: Machine | None = None

    def __call__(self, emit: Emit) -> None:
        """Emits `Began` and the events of training."""
        from cnnbench.runs.environment import machine

        with _session(emit):
            own = machine(_devices(self.parts[0].arm.device, emit))
            emit(Began(own))
            if self.machine and self.machine.changed(own):
                return
            turns = [_Turn(part, emit) for part in self.parts]
            for turn in turns if self.timed else ():
                turn.run(_Turn.begin)
            for turn in turns:
                turn.run(_Turn.finish)


class _Turn:
    """The training of a part.

    Args:
      part: the part.
      emit: receives its messages.
    """

    def __init__(self, part: SeedPart, emit: Emit) -> None:
        self._part, self._emit = part, emit
        self._refused = False
        self._trainer: Trainer | None = None
        self._epochs: Iterator[None] = iter(())

    def run(self, step: "Callable[[_Turn], None]") -> None:
        """Takes a step unless an earlier one failed."""
        try:
            if not self._refused:
                step(self)
        except CnnbenchError as error:
            self._refused = True
            self._send(Refused(sent(error)))

    def prepare(self) -> None:
        """Reads the images and compiles, unless this worker has done so."""
        part = self._part
        self._trainer = trainer = _trainer(part, self._send)
        trainer.take(part.seed, part.resume())
        self._epochs = trainer.epochs_of((part.seed,))

    def begin(self) -> None:
        """Trains one epoch, and measures the network."""
        self.prepare()
        next(self._epochs, None)
        assert self._trainer is not None
        self._trainer.measure_cost()
        self._send(FirstEpochDone())

    def finish(self) -> None:
        """Trains the other epochs."""
        if self._trainer is None:
            self.prepare()
        for _ in self._epochs:
            pass
        assert self._trainer is not None
        if self._part.seed == self._part.arm.first:
            self._trainer.finish()

    def _send(self, value: Any) -> None:
        if not isinstance(value, Resumed):  # the driver knows
            self._emit(FromSeed(self._part.number, self._part.seed, value))


def _devices(kind: str, emit: Emit) -> "tuple[jax.Device, ...]":
    """The devices of this worker."""
    from cnnbench.system.devices import pick_devices, use_all_cores

    use_all_cores(lambda text: emit(Note(text)))
    return pick_devices(kind)


@contextmanager
def _session(emit: Emit) -> Iterator[None]:
    """Pins the settings of JAX."""
    settings.start(lambda text: emit(Note(text)))
    with settings.pinned():
        yield


# By run, since two may have equal experiments; the last used one is the last.
_trainers: "OrderedDict[tuple[int, SentExperiment], Trainer]" = OrderedDict()


def _trainer(part: SeedPart, send: Callable[[Any], None]) -> "Trainer":
    """The compiled experiment of a part, with its strategy."""
    key = part.number, part.arm
    wanted, kept = recorded_strategy(part.engine), _trainers.pop(key, None)
    if kept and wanted not in {None, kept.strategy}:
        kept = None
    trainer = kept or _compiled(part, send)
    trainer.emit = send
    _trainers[key] = trainer
    while len(_trainers) > MOST_KEPT:
        _trainers.popitem(last=False)
    return trainer


def _compiled(part: SeedPart, send: Callable[[Any], None]) -> "Trainer":
    from cnnbench.training.trainer import Trainer  # imports JAX

    arm, watch = part.arm, Stopwatch()
    note = _noting(send)
    loaded, request = _loaded(arm), _request(arm)
    with watch.part("data_s"):
        dataset = _dataset(arm, loaded, note)
    job = make_job(loaded, dataset, request, watch, note)
    one = job.experiment.model_copy(update={"seeds": (arm.first,)})
    job = replace(job, experiment=one, snapshots=arm.snapshots)
    if part.engine:  # keeps the strategy
        job = replace(job, resume=part.resume())
    trainer = Trainer(job, send)
    trainer.remaining = [(part.seed,)]
    trainer.prepare()
    if job.reference:  # its class was called during compilation
        settings.require_pinned(f"model.python: '{arm.reference}'")
    return trainer


def _noting(send: Callable[[Any], None]) -> Callable[[str], None]:
    def note(text: str) -> None:
        send(Note(text))

    return note


def _loaded(arm: SentExperiment) -> Loaded:
    with TemporaryDirectory() as name:
        path = Path(name) / RESOLVED_FILE
        path.write_text(arm.resolved, encoding="utf-8", errors="backslashreplace")
        return load_experiment(path, data_dir=arm.data_dir, known=arm.info)


def _request(arm: SentExperiment) -> Request:
    path = _source_folder(arm) / RESOLVED_FILE
    own = path.parent != arm.folder  # the copy is `model.py`
    return Request(
        path,
        data_dir=arm.data_dir,
        device=arm.device,
        engine=arm.engine,
        retune=arm.retune,
        workers=arm.workers,
        resume=path.parent if own else None,
    )


def _source_folder(arm: SentExperiment) -> Path:
    """Folder with the Python model: that of the experiment, or a copy on another machine."""
    from cnnbench.runner.open_run import model_source

    if not arm.reference or arm.folder.is_dir():
        if model_source(arm.reference, arm.folder) != arm.source:
            message = f"model.python: '{arm.reference}' has changed since the command started"
            raise DataError(f"{message}; run the command again.")
        return arm.folder
    folder = Path(_copies().name) / str(abs(hash(arm)))
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_bytes(arm.source)
    return folder


@cache
def _copies() -> "TemporaryDirectory[str]":
    return TemporaryDirectory()


def _dataset(arm: SentExperiment, loaded: Loaded, note: Notify) -> Dataset:
    """The images of an experiment: those of this machine, or else those of the driver.

    Raises:
      DataError: the driver cannot send them.
    """
    key = json.dumps(loaded.experiment.dataset.model_dump(mode="json"), sort_keys=True)
    return _read(_Spec(f"{arm.digest} {key}", arm, loaded, note))


@dataclass(frozen=True, slots=True)
class _Spec:
    """A dataset; equal if the keys are.

    Args:
      key: its digest and settings.
      arm: an experiment that uses it.
      loaded: the same.
      note: receives messages for the user.
    """

    key: str
    arm: SentExperiment = field(compare=False)
    loaded: Loaded = field(compare=False)
    note: Notify = field(compare=False)


@lru_cache(maxsize=2)
def _read(spec: _Spec) -> Dataset:
    arm, wanted = spec.arm, spec.loaded.experiment.dataset
    if dataset := sent_images.kept(arm.rest, arm.digest, _quiet):
        return dataset
    memory = partial(device_memory, arm.device, _quiet)
    options = StreamOptions(arm.workers, memory, lambda: None)
    try:
        dataset = dataset_of(wanted, arm.data_dir, _quiet, options)
    except DataError as error:
        wrong = error
    else:
        if dataset.digest == arm.digest:
            return dataset
        message = f"{dataset.source}: the images are not those of the machine that started the run"
        wrong = DataError(f"{message}; copy them, or remove them to get them from there.")
    own = not isinstance(wanted.source, str)
    if dataset := sent_images.received(arm.rest, arm.digest, spec.note, own=own):
        return dataset
    raise wrong


def _quiet(_: str) -> None:
    """The driver has read the same images, and told the user."""
