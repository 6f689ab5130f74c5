"""Runs experiments, seed by seed, from their files to finished run folders.

Every file is written as soon as its content is known, so that an interrupted
or failed run keeps all that it measured.
"""

import dataclasses
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from cnnbench.comparisons.comparison import compare
from cnnbench.comparisons.merge import covering, finished_runs_of, merged
from cnnbench.data.dataset import Dataset, dataset_of
from cnnbench.data.streaming.source import StreamOptions
from cnnbench.errors import ModelError, UsageError
from cnnbench.executors import processes
from cnnbench.executors.choice import parse_on
from cnnbench.formatting import enumeration
from cnnbench.report import comparison, csv_json
from cnnbench.report.columns import TableOptions
from cnnbench.runner import tensorboard
from cnnbench.runner.open_run import (
    Opened,
    alone,
    create,
    existing_run,
    is_usable,
    model_source,
    reopen,
    with_tags,
)
from cnnbench.runner.processes.messages import Given
from cnnbench.runner.recorder import Listener, Recorder
from cnnbench.runner.trackers.choice import TENSORBOARD, require_trackers
from cnnbench.runner.work import RunWork
from cnnbench.runs.folder import TABLES, RunFolder, read_run
from cnnbench.runs.records import Environment, RunResult, Status, SweepTrial
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.statistics.looks import Looks
from cnnbench.system import commands, settings
from cnnbench.system.stopwatch import Stopwatch
from cnnbench.training.resume import require_epochs

if TYPE_CHECKING:
    from cnnbench.training.executables import Job


@dataclass(frozen=True, slots=True)
class Request:
    """An experiment to run, with its options.

    Args:
      path: the experiment file.
      overrides: ``key=value`` with dotted paths.
      results_dir: parent of the run folders.
      data_dir: prepared or manually downloaded data; the default of tensorflow-datasets if None.
      device: ``auto``, ``cpu``, ``gpu`` or ``tpu``.
      engine: ``auto``, ``plain``, ``direct`` or ``fast``.
      retune: True to measure again which engine ``auto`` is.
      profile: folder for a trace of the first epoch; no trace if None.
      tensorboard: True to write event files for TensorBoard into the run folder.
      track: trackers that log the run, too: ``tensorboard``, ``mlflow``, ``wandb``.
      command: the command line, for the record.
      resume: folder of the run to resume. `path` is then its `resolved.yaml`, and `overrides` may
        change the number of epochs.
      needed: True to skip the training if it is finished, and to resume it if it was interrupted.
      allow_python: True to import a Python model from anywhere.
      tags: tags of the run; a run that exists already gets them, too.
      workers: worker processes that decode the images of a streamed dataset; None for one per core.
      on: where seeds are trained, such as ``local:2``; empty for this process. The same for all
        requests of a command.
      cpus: number of cores of a worker on Ray.
      gpus: number of GPUs of a worker on Ray, or a fraction of one.
      session: the same for requests with other command lines that are interleaved with this one.
      again: the command line that continues after an interrupt, if it trains more than this run.
      looks: rule that stops the runs of a command; None to train all seeds.
      sweep: the trial of a sweep that this is; None without one.
      grows: folder of the run that gets the seeds of this one; None if it stands for itself.
      known: what `load` has read, shared with the requests that `dataclasses.replace` makes.
    """

    path: Path
    overrides: Sequence[str] = ()
    results_dir: Path = Path("results")
    data_dir: Path | None = None
    device: str = "auto"
    engine: str = "auto"
    retune: bool = False
    profile: Path | None = None
    tensorboard: bool = False
    track: Sequence[str] = ()
    command: Sequence[str] = ()
    resume: Path | None = None
    needed: bool = False
    allow_python: bool = False
    tags: Sequence[str] = ()
    workers: int | None = None
    on: str = ""
    cpus: int | None = None
    gpus: float | None = None
    session: str = ""
    again: Sequence[str] = ()
    looks: Looks | None = None
    sweep: SweepTrial | None = None
    grows: Path | None = None
    known: dict[object, Loaded] = field(default_factory=dict, compare=False, repr=False)

    @property
    def trackers(self) -> tuple[str, ...]:
        """All trackers by name, also that of `tensorboard`."""
        return (*self.track, *[TENSORBOARD] * self.tensorboard)

    def load(self) -> Loaded:
        """Reads and checks the experiment, once for the same overrides.

        Raises:
          SpecError: it is invalid.
        """
        key = (self.path, tuple(self.overrides), self.data_dir)
        if key not in self.known:
            self.known[key] = load_experiment(self.path, self.overrides, data_dir=self.data_dir)
        return self.known[key]


def check_all(requests: Sequence[Request]) -> None:
    """Checks every experiment before the first one is trained.

    Raises:
      SpecError: an experiment is invalid; the error has all of its problems.
      UsageError: a tracker is required but not installed, or a run cannot be resumed to the
        number of epochs.
    """
    for request in requests:
        require_trackers(request.trackers)
        if request.on or request.cpus or request.gpus is not None:
            _check_on(request)
        loaded = request.load()
        if request.resume:
            require_epochs(read_run(request.resume), request.resume, loaded.experiment)


def _check_on(request: Request) -> None:
    """Checks `--on` and what it excludes.

    Raises:
      UsageError: it names no executor, or a trace is requested.
    """
    parse_on(request.on, request.device, request.cpus, request.gpus)
    if request.profile is not None:
        message = "--profile traces a training in this process, not on workers"
        raise UsageError(f"{message}; remove --on {request.on}, or --profile.")


def run_experiment(request: Request, listener: Listener) -> RunResult:
    """Runs an experiment and writes its folder.

    Args:
      request: the experiment with its options.
      listener: receives the progress.

    Returns:
      The run, as read back from its folder.

    Raises:
      CnnbenchError: the experiment is invalid, its data is not available, or the disk cannot be
        written.
    """
    (result,) = run_by_turns([request], [listener])
    return result


def run_by_turns(
    requests: Sequence[Request],
    listeners: Sequence[Listener],
    done: Callable[[RunResult], None] = lambda _: None,
) -> list[RunResult]:
    """Runs experiments interleaved by seed: A B, B A, A B and so on.

    A machine that warms up or becomes busy then favors none of them.

    Args:
      requests: the experiments with their options.
      listeners: one for each.
      done: called with each result as soon as it is complete.

    Returns:
      The runs, in the order of the requests.

    Raises:
      CnnbenchError: as `run_experiment`; the other runs keep what they measured so far.
      KeyboardInterrupt: the user interrupted the runs; it has a note that says how to resume them.
    """
    with opened_runs(requests, listeners, TrainingRun) as runs:
        for run in runs:
            run.read_data()
            if not run.remaining:
                done(run.finish())
        for run, seeds in interleave(runs):
            run.train(seeds)
            if not run.remaining:
                done(run.finish())
        return [run.finish() for run in runs]


AnyRun = TypeVar("AnyRun", bound="TrainingRun")


@contextmanager
def opened_runs(
    requests: Sequence[Request],
    listeners: Sequence[Listener],
    make: "Callable[[Request, Listener, Callable[[], None]], AnyRun]",
    *,
    here: bool = True,
) -> "Iterator[list[AnyRun]]":
    """Runs whose images are not read yet; at the end they are closed, and JAX is as before.

    Args:
      requests: the experiments with their options.
      listeners: one for each.
      make: makes a run, such as `TrainingRun`.
      here: True if this process trains.

    Raises:
      CnnbenchError: as `run_by_turns`.
    """
    with ExitStack() as stack:
        runs: list[AnyRun] = []
        stack.push(partial(_advise_resuming, runs, listeners[0].note))  # once all are closed

        @cache
        def pin() -> None:
            """Pins JAX's settings once the first run needs JAX; importing it takes seconds."""
            settings.start(listeners[0].note)
            if group := processes.expected():
                processes.join(group, listeners[0].note)
            stack.enter_context(settings.pinned())

        if here and (wanted := _chosen_devices(requests)):
            pin()
            _require_devices(wanted, listeners[0].note)
        for request, listener in zip(requests, listeners, strict=True):
            run = make(request, listener, pin)
            stack.callback(run.close)
            runs.append(run)
        yield runs


def _chosen_devices(requests: Sequence[Request]) -> set[str]:
    """Kinds of devices that may not exist: those of an option or an environment variable."""
    chosen = any(map(settings.env_setting, settings.DEVICE_CHOICES))
    return {request.device for request in requests} - ({"cpu"} if chosen else {"auto", "cpu"})


def _require_devices(kinds: Collection[str], note: Callable[[str], None]) -> None:
    """Checks that there are devices, before anything is read or printed.

    Raises:
      UsageError: there is no such device.
    """
    from cnnbench.system.devices import pick_devices, use_all_cores

    use_all_cores(note)
    for kind in sorted(kinds):
        pick_devices(kind)


def device_memory(kind: str, note: Callable[[str], None]) -> int | None:
    """Available memory of an accelerator in bytes; None on a CPU, which has that of the host."""
    from cnnbench.system.devices import free_memory, pick_devices, use_all_cores

    use_all_cores(note)
    device = pick_devices(kind)[0]
    return None if device.platform == "cpu" else free_memory(device)


def _advise_resuming(
    runs: "Sequence[TrainingRun]",
    note: Callable[[str], None],
    _: type[BaseException] | None,
    error: BaseException | None,
    __: object,
) -> None:
    """Says how to resume interrupted runs, in a line for all of them."""
    stopped = [run.recorder for run in runs if run.recorder and run.recorder.interrupted]
    groups: dict[tuple[str, ...], list[Recorder]] = {}
    for recorder in stopped:
        groups.setdefault(commands.resume_options(recorder.command), []).append(recorder)
    if isinstance(error, SystemExit):  # nobody reads it
        return
    if stopped and (again := next((run.again for run in runs if run.again), ())):
        _advise(f"continue with: {commands.command_line(again)}", note, error)
        return
    for group in groups.values():
        line = commands.resume(group[0].command, *(each.folder.path for each in group))
        _advise(f"resume with: {line}", note, error)


def _advise(text: str, note: Callable[[str], None], error: BaseException | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        error.add_note(text)
    note(f"interrupted; {text}")


def interleave(runs: "Sequence[TrainingRun]") -> "Iterator[tuple[TrainingRun, tuple[int, ...]]]":
    """Yields runs with the seeds that they train next: A B, B A, A B and so on."""
    order = list(runs)
    while order := [run for run in order if run.remaining]:
        for run in order:
            yield run, run.remaining[0]
        order.reverse()


class SeedTrainer(Protocol):
    """Trains the seeds of a run."""

    remaining: list[tuple[int, ...]]

    def train_seeds(self, seeds: tuple[int, ...]) -> None:
        """Trains the first of `remaining`."""

    def finish(self) -> None:
        """Completes the events of the run."""

    def close(self) -> None:
        """Ends what the training has started."""


class TrainingRun:
    """A run from its request to its finished folder, trained a few seeds at a time.

    Call `read_data`, `train` until nothing is `remaining`, `finish`, and in any case `close`.
    Its stopwatch is paused between these calls, so that other runs can train. If a call raises,
    `run.json` records how the run ended.

    Args:
      request: the experiment with its options.
      listener: receives the progress.
      pin: pins JAX's settings; called before the run needs JAX.

    Attributes:
      recorder: writes the folder of the run; None if the run has not started or is finished.

    Raises:
      SpecError: the experiment is invalid.
    """

    def __init__(self, request: Request, listener: Listener, pin: Callable[[], None]) -> None:
        self._request, self._listener, self._pin = request, listener, pin
        self._watch = Stopwatch()
        self._loaded = request.load()
        listener.loaded(self._loaded)
        self._dataset: Dataset
        self._folder = ExitStack()  # locked while it is open
        self.recorder: Recorder | None = None
        self._trainer: SeedTrainer | None = None
        self._result: RunResult | None = None
        self._batches: list[RunResult] = []  # that have other seeds already
        self._watch.pause()

    @property
    def again(self) -> Sequence[str]:
        """The command line that continues after an interrupt; empty to resume this run."""
        return self._request.again

    @property
    def remaining(self) -> Sequence[tuple[int, ...]]:
        """Groups of seeds that are still to be trained; the first seed before the run begins."""
        if self._result is not None:
            return ()
        return self._trainer.remaining if self._trainer else (self._loaded.experiment.seeds[:1],)

    @property
    def name(self) -> str:
        """Title of the experiment."""
        return self._loaded.experiment.type_title

    @property
    def num_seeds(self) -> int:
        """Number of seeds that are trained."""
        if self._result is not None:
            return len(self._result.record.seeds)
        return self.recorder.num_seeds if self.recorder else 0

    @property
    def looks(self) -> Looks | None:
        """How a finished run was stopped."""
        return self._result.record.looks if self._result else None

    def so_far(self, number: int) -> RunResult:
        """The run as if it had the first `number` of its seeds only, which are trained."""
        assert self._result or self.recorder
        found = self._result or (self.recorder and self.recorder.so_far())
        assert found
        return found.of_seeds(number)

    def earlier(self) -> list[RunResult]:
        """Finished runs of the same experiment with other seeds; the images have to be read.

        Raises:
          StoreError: a folder cannot be read.
        """
        seeds = set(self._loaded.experiment.seeds)
        return [run for run in self._alike() if not set(run.record.seeds) & seeds]

    def _alike(self) -> list[RunResult]:
        """Finished runs of the same experiment on the same images, the oldest first."""
        spec, request = self._loaded.experiment, self._request
        digest = spec.digest(model_source(spec.model.python or "", request.path.resolve().parent))
        return finished_runs_of(spec.name, request.results_dir, (digest, self._dataset.digest))

    def _trained_elsewhere(self) -> bool:
        """Leaves out seeds that finished runs have, with `needed`; True if these are all."""
        request, spec, note = self._request, self._loaded.experiment, self._listener.note
        if request.looks or request.sweep:
            return False
        asked = request.engine, request.device
        alike = [run for run in self._alike() if is_usable(run.record, *asked)]
        parts, missing = covering(spec.seeds, alike)
        if parts and (missing or request.needed):
            note(there_text(parts, spec.seeds, missing, needed=request.needed))
        if not parts or not request.needed:
            return False
        self._batches = parts
        if not missing:
            self._result = merged(parts)
            self._listener.finished(parts[-1].path or Path())
            return True
        seeds = spec.model_copy(update={"seeds": missing})
        self._loaded = dataclasses.replace(self._loaded, experiment=seeds)
        return False

    def stop_at(self, looks: Looks) -> None:
        """Trains no more seeds; the record says why."""
        if self._trainer and self.recorder:
            self._trainer.remaining = []
            self.recorder.stop_at(looks)

    def read_data(self) -> None:
        """Reads the images, unless the run is finished already.

        Raises:
          CnnbenchError: the images are not available, or the Python model is not trusted.
        """
        request = self._request
        with self._turn():
            if request.resume and self._is_finished(request.resume):
                return
            if reference := self._loaded.experiment.model.python:
                self._pin()  # its module imports JAX
                if not request.allow_python:
                    from cnnbench.nn.python_model import require_trust

                    require_trust(reference, request.path.resolve().parent)
            with self._watch.part("data_s"):
                spec = self._loaded.experiment.dataset
                note, options = self._listener.note, self._stream_options()
                self._dataset = dataset_of(spec, request.data_dir, note, options)
                known = self._dataset.pool or self._dataset.train
                labels = self._dataset.typical_labels
                self._loaded = self._loaded.with_statistics(known.images, labels)

    def _stream_options(self) -> StreamOptions:
        memory = partial(device_memory, self._request.device, self._listener.note)
        return StreamOptions(self._request.workers, memory, self._pin)

    def train(self, seeds: tuple[int, ...]) -> None:
        """Trains a group of seeds; opens the run's folder and compiles before the first.

        Args:
          seeds: the first of `remaining`.

        Raises:
          CnnbenchError: the run cannot be trained, or the disk cannot be written.
        """
        assert seeds == self.remaining[0]
        with self._turn():
            if self._trainer is None:
                self._open()
            if self._trainer is not None:  # which may have fewer seeds: others are trained already
                self._trainer.train_seeds(self._trainer.remaining[0])

    def finish(self) -> RunResult:
        """Completes the files of a run whose seeds are all trained.

        Raises:
          StoreError: the disk cannot be written.
        """
        if self._trainer and self.recorder:
            folder = self.recorder.folder
            with self._turn():
                self._trainer.finish()
                self.recorder.finish()
                self._result = merged([*self._batches, with_tables(folder)])
                self.recorder.complete()
            self._trainer = self.recorder = None  # they hold memory of the device
            del self._dataset
            self._folder.close()
            self._listener.finished(folder.path)
        assert self._result is not None
        self._folder.close()
        return self._result

    def close(self) -> None:
        """Closes the folder; an unfinished run is recorded as interrupted."""
        with self._folder:
            if self._trainer:
                self._trainer.close()
            self._stop(None)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Runs the stopwatch; an exception of the body is recorded as the end of the run."""
        completed = False
        self._watch.resume()
        try:
            try:
                yield
                completed = True
            finally:
                if not completed:
                    self._stop(sys.exception())
                self._watch.pause()
        except ModelError as error:
            raise error.at(self._loaded.place(error.key)) from None

    def _stop(self, error: BaseException | None) -> None:
        if self.recorder and not self.recorder.ended:
            self.recorder.stop(error)

    def _open(self) -> None:
        """Opens the folder and compiles, unless the run turns out to be finished."""
        request, loaded, note = self._request, self._loaded, self._listener.note
        path = self._existing()
        if path and self._is_finished(path):
            return
        if not path and self._trained_elsewhere():
            return
        loaded = self._loaded
        self._pin()
        from cnnbench.runner.processes.lead import trainer_of  # imports JAX
        from cnnbench.runs.environment import environment

        job = make_job(loaded, self._dataset, request, self._watch, note)
        work = _work_of(job, environment(job.devices, request.command))
        opened = self._enter(work, path)
        if opened is None:
            return
        job = _continued(job, opened)
        self._record(
            dataclasses.replace(work, snapshots=job.snapshots, track=request.track), opened
        )
        assert self.recorder
        given = Given(loaded.resolved(), request.data_dir, request.device, opened.folder.path)
        trainer = trainer_of(job, self.recorder.event, given)
        trainer.prepare()
        if job.reference:  # its class was called during compilation
            settings.require_pinned(f"model.python: '{job.reference}'")
        self._trainer = trainer

    def _existing(self) -> Path | None:
        """The folder of the run if there is one already."""
        request = self._request
        if not request.needed or request.resume:
            return request.resume
        source, asked = request.path.resolve().parent, (request.engine, request.device)
        found = request.results_dir, asked, self._listener.note, request.looks
        return existing_run(self._loaded, self._dataset.digest, source, *found)

    def _enter(self, work: RunWork, path: Path | None) -> Opened | None:
        """Locks the folder of the run, or a new one; None if the run is finished after all."""
        request, loaded = self._request, self._loaded
        if path is None:
            more = {"session": request.session, "looks": request.looks, "sweep": request.sweep}
            new = create(work, loaded, request.results_dir, request.tags, more)
            return self._folder.enter_context(new)
        self._folder.enter_context(alone(RunFolder(path)))
        # Another process may have finished it before this one got the lock.
        if self._is_finished(path):
            return None
        return reopen(
            work,
            path,
            self._listener.note,
            resolved=loaded.resolved() if request.resume else "",
            command=request.command,
            tags=request.tags,
        )

    def _record(self, work: RunWork, opened: Opened) -> None:
        self.recorder = Recorder(work, opened, self._listener)
        self.recorder.start()

    def _is_finished(self, path: Path) -> bool:
        """Returns True if a run has nothing left to train, after reading its result."""
        record = read_run(path).record
        epochs = self._loaded.experiment.train.epochs
        if (record.status, record.epochs) != (Status.FINISHED, epochs):
            return False
        if (tagged := with_tags(record, self._request.tags)) != record:
            RunFolder(path).write_record(tagged)
        self._listener.note(f"{path} is already finished; nothing to train")
        self._result = with_tables(RunFolder(path))
        self._listener.finished(path)
        return True


def there_text(
    parts: Sequence[RunResult], seeds: Sequence[int], missing: Sequence[int], *, needed: bool
) -> str:
    """Says which seeds are trained already.

    Args:
      parts: the runs that have them.
      seeds: the wanted seeds.
      missing: those that no run has.
      needed: True if only these are trained.
    """
    folders = enumeration([str(run.path) for run in parts])
    there = f"{len(seeds) - len(missing)} of the {len(seeds)} seeds are in {folders}"
    if not needed:
        return f"{there}; --needed trains only the others"
    one = "seed" if len(missing) == 1 else "seeds"
    rest = f"training {one} {', '.join(map(str, missing))}" if missing else "nothing to train"
    return f"{there}; {rest}"


def with_tables(folder: RunFolder) -> RunResult:
    """Reads a finished run, and writes its tables unless they exist."""
    result = read_run(folder.path)
    if not (folder.path / TABLES[-1]).exists():
        table = compare([result])
        text = comparison.markdown([table], wide=False, look=TableOptions(verbose=True))
        folder.write_tables(text, csv_json.csv_text([table]))
    return result


def reference_of(loaded: Loaded, request: Request) -> str:
    """Class of a Python model, ``module:Class``; empty for a graph of layers."""
    reference = loaded.experiment.model.python or ""
    if request.resume and reference:
        return f"model:{reference.partition(':')[2]}"  # the run's own copy
    return reference


def make_job(
    loaded: Loaded,
    dataset: Dataset,
    request: Request,
    watch: Stopwatch,
    note: Callable[[str], None],
) -> "Job":
    """Returns the training with its devices; prepares the process for it."""
    from cnnbench.nn.python_model import import_class
    from cnnbench.system.compile_cache import enable_compile_cache
    from cnnbench.system.devices import pick_devices, use_all_cores
    from cnnbench.system.host import keep_malloc_arenas
    from cnnbench.training.executables import Job

    use_all_cores(note)
    keep_malloc_arenas()
    enable_compile_cache(note)
    devices = pick_devices(request.device)
    folder = request.path.resolve().parent
    reference = reference_of(loaded, request)
    if reference:
        import_class(reference, folder)
        settings.require_pinned(f"model.python: '{reference}'")
    return Job(
        loaded.experiment,
        loaded.plan,
        folder,
        dataset,
        devices,
        watch,
        request.engine,
        request.profile,
        TENSORBOARD in request.trackers,
        reference,
        workers=StreamOptions(request.workers).num_workers,
        stops=request.looks.stops if request.looks else (),
        retune=request.retune,
    )


def _work_of(job: "Job", ran_on: Environment) -> RunWork:
    """What the run's folder records of a job."""
    return RunWork(
        job.experiment,
        job.plan,
        job.folder,
        job.dataset,
        ran_on,
        job.watch.timing,
        job.reference,
        job.snapshots,
        job.workers,
    )


def _continued(job: "Job", opened: Opened) -> "Job":
    """Adds what the folder of a resumed run determines to a job."""
    known = opened.record.engine
    return dataclasses.replace(
        job,
        resume=opened.resume,
        snapshots=job.snapshots or (opened.folder.path / tensorboard.FOLDER).exists(),
        engine=known.requested if known else job.engine,
    )
