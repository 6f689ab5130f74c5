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
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cnnbench import compare, export, report
from cnnbench.data import Dataset, dataset_of
from cnnbench.event_files import EventFiles, require_tensorboard
from cnnbench.events import Event, SeedDone
from cnnbench.loader import Loaded, load_experiment
from cnnbench.recorder import Collected, first_record, keep, summary
from cnnbench.results import RunRecord, RunResult, Status
from cnnbench.store import RunFolder, create_run, read_run
from cnnbench.timing import Stopwatch

if TYPE_CHECKING:
    from cnnbench.programs import Job


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
      check_interrupt: called at every event; may raise KeyboardInterrupt.
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
    check_interrupt: Callable[[], None] = lambda: None


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
      UsageError: the package for TensorBoard is asked for and missing.
    """
    for request in requests:
        if request.tensorboard:
            require_tensorboard()
        load_experiment(request.path, request.overrides, data_dir=request.data_dir)


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
        pairs = zip(requests, listeners, strict=True)
        trainings = [stack.enter_context(closing(_training(*pair))) for pair in pairs]
        running = list(range(len(trainings)))
        while running:
            for number in list(running):
                try:
                    next(trainings[number])
                except StopIteration as end:
                    results[number] = end.value
                    running.remove(number)
                    done(end.value)
            running.reverse()
    return [results[number] for number in range(len(requests))]


def _training(request: Request, listener: Listener) -> Training:
    """A run that pauses after each of its seeds but the last."""
    watch = Stopwatch()
    loaded = load_experiment(request.path, request.overrides, data_dir=request.data_dir)
    listener.loaded(loaded)
    with watch.part("data_s"):
        dataset = dataset_of(loaded.experiment.dataset, request.data_dir, listener.note)
    job = _prepare(loaded, dataset, request, watch)
    folder, record = _create(job, loaded, request)
    listener.started(record, job.num_steps)
    yield from _train(job, folder, record, listener, request.check_interrupt)
    result = read_run(folder.path)
    table = compare.compare([result])
    folder.write_tables(report.markdown([table], wide=False), export.csv_text([table]))
    listener.finished(folder.path)
    return result


def _create(job: "Job", loaded: Loaded, request: Request) -> tuple[RunFolder, RunRecord]:
    """Makes the run's folder; its record comes first, so that a folder can always be read."""
    from cnnbench.machine import environment

    ran_on, source = environment(job.devices, request.command), _source(job)
    folder = create_run(request.results_dir, loaded.experiment.name, datetime.now(UTC))
    record = first_record(job, folder.run_id, ran_on, source)
    folder.write_record(record)
    folder.write_spec(loaded.text)
    folder.write_resolved(loaded.resolved())
    if source:
        folder.write("model.py", source)
    return folder, record


def _source(job: "Job") -> bytes:
    """The source of a Python model; empty for a graph of layers."""
    from cnnbench.python_models import class_source

    reference = job.experiment.model.python
    return class_source(reference, job.folder) if reference else b""


def _prepare(loaded: Loaded, dataset: Dataset, request: Request, watch: Stopwatch) -> "Job":
    from cnnbench.compilation import keep_compiled
    from cnnbench.devices import pick_devices, use_all_cores
    from cnnbench.memory import keep_freed
    from cnnbench.programs import Job
    from cnnbench.python_models import import_class

    use_all_cores()
    keep_freed()
    keep_compiled()
    devices = pick_devices(request.device)
    if loaded.plan is None:
        import_class(str(loaded.experiment.model.python), request.path.resolve().parent)
    folder = request.path.resolve().parent
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
    )


def _train(
    job: "Job",
    folder: RunFolder,
    record: RunRecord,
    listener: Listener,
    check_interrupt: Callable[[], None],
) -> Generator[None]:
    """Consumes the engine's events; whatever happens, `run.json` says how it ended.

    Pauses after each seed but the last; a run that is given up there was interrupted.
    """
    from cnnbench.engine import run_job

    status = Status.FAILED
    collected = Collected()
    files = EventFiles(folder.path, job.experiment) if job.snapshots else None
    last = job.experiment.seeds[-1]
    try:
        for event in run_job(job):
            check_interrupt()
            keep(event, folder, collected)
            if files:
                files.event(event)
            listener.event(event)
            if isinstance(event, SeedDone) and event.summary.seed != last:
                with job.watch.away():
                    yield
        folder.write_summary(summary(job, collected))
        status = Status.FINISHED
    except (KeyboardInterrupt, GeneratorExit):
        status = Status.INTERRUPTED
        listener.note(f"interrupted; what was measured is in {folder.path}")
        raise
    finally:
        error = str(sys.exception() or "") if status is Status.FAILED else None
        ended = dataclasses.replace(
            record,
            status=status,
            finished_at=datetime.now(UTC),
            error=error,
            timing=job.watch.timing(),
            engine=collected.engine,
        )
        folder.write_record(ended)
