"""Runs from experiment files to folders: loads, trains, writes, and tells listeners.

Every file is written as soon as its content is known, so that an interrupted
or failed run leaves all that it measured.
"""

import dataclasses
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cnnbench.compare import comparison
from cnnbench.data.dataset import Dataset, dataset_of
from cnnbench.errors import ModelError
from cnnbench.formatting import depthwise_advice
from cnnbench.report import comparison as report
from cnnbench.report import csv_json
from cnnbench.runner import tensorboard as event_files
from cnnbench.runner.open_run import (
    Opened,
    alone,
    begun,
    checkpoints_of,
    create,
    reopen,
    total_timing,
    with_tags,
)
from cnnbench.runner.recorder import Collected, keep, summary
from cnnbench.runs.folder import TABLES, RunFolder, read_epochs, read_run
from cnnbench.runs.records import RunRecord, RunResult, Status
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.spec.optimizers import depends_on_total
from cnnbench.system import commands, settings, signals
from cnnbench.system.stopwatch import Stopwatch
from cnnbench.training.events import Compiled, Event, SeedDone
from cnnbench.training.resume import require_epochs

if TYPE_CHECKING:
    from cnnbench.training.executables import Job


@dataclass(frozen=True, slots=True)
class Request:
    """What to run, and where things are.

    Args:
      path: the experiment file.
      overrides: ``key=value`` with dotted paths.
      results_dir: where run folders are made.
      data_dir: prepared or manually fetched data; tensorflow-datasets' own folder if None.
      device: ``auto``, ``cpu``, ``gpu`` or ``tpu``.
      engine: ``auto``, ``plain``, ``direct`` or ``fast``.
      profile: folder for a trace of the first epoch; None for no trace.
      tensorboard: whether event files for TensorBoard are written into the run's folder.
      command: the command line that asked for it.
      resume: the folder of a run that goes on; `path` is its `resolved.yaml` then, and
        `overrides` may change the number of epochs.
      needed: whether an experiment that has been trained already is taken as it is, and one
        that was stopped goes on.
      allow_python: whether a Python model may come from anywhere.
      tags: of the run; one that is there already gets them too.
    """

    path: Path
    overrides: Sequence[str] = ()
    results_dir: Path = Path("results")
    data_dir: Path | None = None
    device: str = "auto"
    engine: str = "auto"
    profile: Path | None = None
    tensorboard: bool = False
    command: Sequence[str] = ()
    resume: Path | None = None
    needed: bool = False
    allow_python: bool = False
    tags: Sequence[str] = ()


class Listener(Protocol):
    """Is told how a run goes."""

    def loaded(self, loaded: Loaded) -> None:
        """The experiment is checked."""

    def note(self, text: str) -> None:
        """Something worth a sentence happened."""

    def started(self, record: RunRecord, num_steps: int) -> None:
        """Data and device are there, and the folder is made; compilation begins."""

    def event(self, event: Event) -> None:
        """The engine reports."""

    def finished(self, folder: Path) -> None:
        """The run's files are complete."""


def check_all(requests: Sequence[Request]) -> None:
    """Checks every experiment before the first is trained.

    Raises:
      SpecError: the first wrong experiment's problems.
      UsageError: the package for TensorBoard is asked for and missing, or a run cannot be
        continued to a number of epochs.
    """
    for request in requests:
        if request.tensorboard:
            event_files.require_tensorboard()
        loaded = load_experiment(request.path, request.overrides, data_dir=request.data_dir)
        if request.resume:
            require_epochs(read_run(request.resume), request.resume, loaded.experiment)


Training = Generator[None, None, RunResult]


def run_experiment(request: Request, listener: Listener) -> RunResult:
    """Runs an experiment and writes its folder.

    Args:
      request: what to run.
      listener: is told how it goes.

    Returns:
      The run as it can be read back from its folder.

    Raises:
      CnnbenchError: the experiment is wrong, its data cannot be had, or the disk refuses.
    """
    (result,) = run_by_turns([request], [listener])
    return result


def run_by_turns(
    requests: Sequence[Request],
    listeners: Sequence[Listener],
    done: Callable[[RunResult], None] = lambda _: None,
) -> list[RunResult]:
    """Runs experiments seed by seed: A B, B A, A B and so on.

    A machine that warms up or gets busy then favours none of them.

    Args:
      requests: what to run.
      listeners: one for each.
      done: gets each result as soon as it is complete.

    Returns:
      The runs, in the order of the requests.

    Raises:
      CnnbenchError: as `run_experiment`; what the other runs measured so far is kept.
    """
    results: dict[int, RunResult] = {}
    with ExitStack() as stack:

        @cache
        def pin() -> None:
            """Pins JAX's settings for all of them, once the first needs JAX: it takes seconds."""
            settings.start(listeners[0].note)
            stack.enter_context(settings.pinned())

        pairs = zip(requests, listeners, strict=True)
        trainings = [stack.enter_context(closing(_training(*pair, pin))) for pair in pairs]
        running, turn = list(range(len(trainings))), 0  # in the first turn all data are read
        while running:
            for number in list(running):
                try:
                    next(trainings[number])
                except StopIteration as end:
                    results[number] = end.value
                    running.remove(number)
                    done(end.value)
            running, turn = running[:: -1 if turn else 1], turn + 1
    return [results[number] for number in range(len(requests))]


def _training(request: Request, listener: Listener, pin: Callable[[], None]) -> Training:
    """A run that pauses when its data are read, and after each of its seeds but the last."""
    watch = Stopwatch()
    loaded = load_experiment(request.path, request.overrides, data_dir=request.data_dir)
    listener.loaded(loaded)
    try:
        return (yield from _trained(request, listener, loaded, watch, pin))
    except ModelError as error:
        raise error.placed(loaded.place(error.key)) from None


def _trained(
    request: Request, listener: Listener, loaded: Loaded, watch: Stopwatch, pin: Callable[[], None]
) -> Training:
    done_already = partial(
        _done, epochs=loaded.experiment.train.epochs, tags=request.tags, listener=listener
    )
    if request.resume and (done := done_already(request.resume)):
        return done
    if reference := loaded.experiment.model.python:
        pin()  # its module imports JAX
    if reference and not request.allow_python:
        from cnnbench.nn.python_model import require_trust

        require_trust(reference, request.path.resolve().parent)
    with watch.part("data_s"):
        dataset = dataset_of(loaded.experiment.dataset, request.data_dir, listener.note)
    with watch.away():
        yield
    path = request.resume
    if request.needed and not path:
        source = request.path.resolve().parent
        asked = request.engine, request.device
        path = begun(loaded, dataset.digest, source, request.results_dir, asked, listener.note)
    if path and (done := done_already(path)):
        return done
    pin()
    job = _prepare(loaded, dataset, request, watch, listener)
    with ExitStack() as stack:
        if path:
            stack.enter_context(alone(RunFolder(path)))
            # Another process may have finished it before the lock was ours.
            if done := done_already(path):
                return done
            resolved = loaded.resolved() if request.resume else ""
            opened = reopen(
                job,
                path,
                listener.note,
                resolved=resolved,
                command=request.command,
                tags=request.tags,
            )
        else:
            new = create(job, loaded, request.results_dir, request.command, request.tags)
            opened = stack.enter_context(new)
        pictured = job.snapshots or (opened.folder.path / event_files.FOLDER).exists()
        known = opened.record.engine
        job = dataclasses.replace(
            job,
            resume=opened.resume,
            snapshots=pictured,
            engine=known.requested if known else job.engine,
        )
        yield from _train(job, opened, listener)
        result = _with_tables(opened.folder)
    listener.finished(opened.folder.path)
    return result


def _done(path: Path, *, epochs: int, tags: Sequence[str], listener: Listener) -> RunResult | None:
    """A run that has nothing left to train."""
    record = read_run(path).record
    if (record.status, record.epochs) != (Status.FINISHED, epochs):
        return None
    if (tagged := with_tags(record, tags)) != record:
        RunFolder(path).write_record(tagged)
    listener.note(f"{path} is finished; nothing is trained")
    return _with_tables(RunFolder(path))


def _with_tables(folder: RunFolder) -> RunResult:
    """A finished run, whose tables are written where they are not there yet."""
    result = read_run(folder.path)
    if not (folder.path / TABLES[-1]).exists():
        table = comparison.compare([result])
        folder.write_tables(report.markdown([table], wide=False), csv_json.csv_text([table]))
    return result


def _prepare(
    loaded: Loaded, dataset: Dataset, request: Request, watch: Stopwatch, listener: Listener
) -> "Job":
    from cnnbench.nn.python_model import import_class
    from cnnbench.system.compile_cache import enable_compile_cache
    from cnnbench.system.devices import pick_devices, use_all_cores
    from cnnbench.system.host import keep_malloc_arenas
    from cnnbench.training.executables import Job

    use_all_cores(listener.note)
    keep_malloc_arenas()
    enable_compile_cache(listener.note)
    devices = pick_devices(request.device)
    folder = request.path.resolve().parent
    reference = loaded.experiment.model.python or ""
    if request.resume and reference:
        reference = f"model:{reference.partition(':')[2]}"  # the run's own copy
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
        request.tensorboard,
        reference,
    )


def _train(job: "Job", opened: Opened, listener: Listener) -> Generator[None]:
    """Consumes the engine's events; whatever happens, `run.json` says how it ended.

    Pauses after each seed but the last; a run that is given up there was interrupted.
    """
    from cnnbench.training.trainer import run_job

    folder, status, collected = opened.folder, Status.FAILED, Collected()
    checkpoints = checkpoints_of(job, folder)
    last = job.experiment.seeds[-1]
    try:
        listener.started(opened.record, job.num_steps)
        files = _event_files(job, opened)
        for event in run_job(job):
            signals.raise_if_stopped()
            with signals.finishing():
                keep(event, folder, checkpoints, collected)
                if files:
                    files.event(event)
                if isinstance(event, Compiled):
                    if job.reference:  # its class has been called by now
                        settings.require_pinned(f"model.python: '{job.reference}'")
                    _compiled(event, opened, job, listener)
            listener.event(event)
            if isinstance(event, SeedDone) and event.summary.seed != last:
                with job.watch.away():
                    yield
        if opened.record.extended:
            _sort_epochs(folder, job)
        folder.write_summary(summary(job, collected))
        status = Status.FINISHED
    except (KeyboardInterrupt, GeneratorExit, SystemExit):  # the last where nobody reads progress
        status = Status.INTERRUPTED
        resume = commands.resume(opened.record.environment.command, folder.path)
        listener.note(f"interrupted; resume with: {resume}")
        raise
    finally:
        error = str(sys.exception() or "") if status is Status.FAILED else None
        ended = dataclasses.replace(
            opened.record,
            status=status,
            finished_at=datetime.now(UTC),
            error=error,
            timing=total_timing(opened.record.timing, job.watch.timing()),
            engine=collected.engine or opened.record.engine,
        )
        with signals.finishing():
            folder.write_record(ended)
    if depends_on_total(job.experiment.train.schedule):
        checkpoints.clear()
    else:
        checkpoints.keep_last(job.experiment.seeds)


def _event_files(job: "Job", opened: Opened) -> event_files.EventFiles | None:
    """What writes the event files of a run that has some."""
    if not job.snapshots:
        return None
    files = event_files.EventFiles(opened.folder.path, job.experiment)
    if opened.record.extended:
        files.renew_hyperparameters()
    return files


def _compiled(event: Compiled, opened: Opened, job: "Job", listener: Listener) -> None:
    """Records how the run trains; names what would make a Python model faster."""
    opened.folder.write_record(dataclasses.replace(opened.record, engine=event.engine))
    if event.num_slow:
        listener.note(f"{job.experiment.type_title}: {depthwise_advice(event.num_slow)}")


def _sort_epochs(folder: RunFolder, job: "Job") -> None:
    """Seed by seed, as in a run that was not extended."""
    epochs, _ = read_epochs(folder.path)
    seeds = job.experiment.seeds
    folder.write_epochs(sorted(epochs, key=lambda e: (seeds.index(e.seed), e.epoch)))
