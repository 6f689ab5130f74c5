"""One run from the experiment file to its folder: loads, trains, writes, and tells a listener.

Every file is written as soon as its content is known, so that an interrupted
or failed run leaves all that it measured.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, assert_never

from cnnbench import compare, export, plots, report
from cnnbench.catalog import KNOWN
from cnnbench.data import Dataset, load_dataset
from cnnbench.events import Compiled, Event, SeedDone, StepDone, Trained, Tuning
from cnnbench.loader import Loaded, load_experiment
from cnnbench.results import (
    DatasetRecord,
    Engine,
    Environment,
    EpochRecord,
    RunRecord,
    RunResult,
    SeedSummary,
    Status,
    Summary,
)
from cnnbench.spec import Task
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
    """
    for request in requests:
        load_experiment(request.path, request.overrides, data_dir=request.data_dir)


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
    watch = Stopwatch()
    loaded = load_experiment(request.path, request.overrides, data_dir=request.data_dir)
    listener.loaded(loaded)
    with watch.part("data_s"):
        dataset = _load(loaded, request, listener.note)
    job = _prepare(loaded, dataset, request, watch)
    folder, record = _create(job, loaded, request)
    listener.started(record, job.num_steps)
    _train(job, folder, record, listener, request.check_interrupt)
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
    record = _record(job, folder.run_id, ran_on, source)
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


def _load(loaded: Loaded, request: Request, notify: Callable[[str], None]) -> Dataset:
    spec = loaded.experiment.dataset
    return load_dataset(
        spec.name,
        offline=spec.offline,
        splits=spec.splits.model_dump(exclude_none=True),
        train_examples=spec.train_examples,
        data_dir=request.data_dir,
        notify=notify,
    )


def _prepare(loaded: Loaded, dataset: Dataset, request: Request, watch: Stopwatch) -> "Job":
    from cnnbench.compilation import keep_compiled
    from cnnbench.devices import pick_devices, use_all_cores
    from cnnbench.programs import Job
    from cnnbench.python_models import import_class

    use_all_cores()
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
    )


def _record(job: "Job", run_id: str, ran_on: Environment, source: bytes) -> RunRecord:
    from cnnbench.losses import loss_name

    experiment, dataset = job.experiment, job.dataset
    return RunRecord(
        run_id=run_id,
        name=experiment.name,
        title=experiment.type_title,
        task=experiment.task.value,
        loss=loss_name(experiment),
        status=Status.RUNNING,
        started_at=datetime.now(UTC),
        finished_at=None,
        error=None,
        timing=None,
        engine=None,
        seeds=experiment.seeds,
        epochs=experiment.train.epochs,
        batch_size=job.batch_size,
        spec_digest=experiment.digest(source),
        dataset=_dataset_record(dataset),
        environment=ran_on,
    )


def _dataset_record(dataset: Dataset) -> DatasetRecord:
    info = dataset.info
    return DatasetRecord(
        name=info.name,
        title=f"{info.name} ({KNOWN[info.name].title})" if info.name in KNOWN else info.name,
        digest=dataset.digest,
        stand_in_for=dataset.stand_in_for,
        num_train=len(dataset.train),
        num_validation=len(dataset.validation),
        num_test=len(dataset.test),
        source=dataset.source,
    )


def _train(
    job: "Job",
    folder: RunFolder,
    record: RunRecord,
    listener: Listener,
    check_interrupt: Callable[[], None],
) -> None:
    """Consumes the engine's events; whatever happens, `run.json` says how it ended."""
    from cnnbench.engine import run_job

    status = Status.FAILED
    collected = _Collected()
    try:
        for event in run_job(job):
            check_interrupt()
            _keep(event, folder, collected)
            listener.event(event)
        folder.write_summary(_summary(job, collected))
        status = Status.FINISHED
    except KeyboardInterrupt:
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


@dataclass(slots=True)
class _Collected:
    """What the summary needs from the events."""

    num_params: int = 0
    engine: Engine | None = None
    compile_s: float = 0.0
    seeds: tuple[SeedSummary, ...] = ()


def _keep(event: Event, folder: RunFolder, collected: _Collected) -> None:
    match event:
        case Compiled(num_params=num_params, compile_s=compile_s):
            collected.num_params, collected.compile_s = num_params, compile_s
        case EpochRecord():
            folder.append_epoch(event)
        case SeedDone():
            collected.seeds += (event.summary,)
            if event.outputs is not None and len(collected.seeds) == 1:
                picture: Any = plots.reconstructions_png(event.inputs, event.outputs)
                folder.write("reconstructions.png", picture)
        case Trained(engine=engine):
            collected.engine = engine
        case StepDone() | Tuning():
            pass
        case _:
            assert_never(event)


def _summary(job: "Job", collected: _Collected) -> Summary:
    from cnnbench.engine import metric_directions

    metrics = metric_directions(job.experiment)
    first = next(iter(metrics))
    return Summary(
        num_params=collected.num_params,
        compile_s=collected.compile_s,
        headline=first if job.experiment.task is Task.CLASSIFY else "loss",
        metrics=metrics,
        seeds=collected.seeds,
    )
