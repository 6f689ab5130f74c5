"""Runs from experiment files to finished folders, seed by seed.

Every file is written as soon as its content is known, so that an interrupted
or failed run leaves all that it measured.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.comparisons.comparison import compare
from cnnbench.data.dataset import Dataset, dataset_of
from cnnbench.errors import ModelError
from cnnbench.report import comparison, csv_json
from cnnbench.runner import tensorboard
from cnnbench.runner.open_run import Opened, alone, begun, create, reopen, with_tags
from cnnbench.runner.recorder import Listener, Recorder
from cnnbench.runs.folder import TABLES, RunFolder, read_run
from cnnbench.runs.records import RunResult, Status
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.system import settings
from cnnbench.system.stopwatch import Stopwatch
from cnnbench.training.resume import require_epochs

if TYPE_CHECKING:
    from cnnbench.training.executables import Job
    from cnnbench.training.trainer import Trainer


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


def check_all(requests: Sequence[Request]) -> None:
    """Checks every experiment before the first is trained.

    Raises:
      SpecError: the first wrong experiment's problems.
      UsageError: the package for TensorBoard is asked for and missing, or a run cannot be
        continued to a number of epochs.
    """
    for request in requests:
        if request.tensorboard:
            tensorboard.require_tensorboard()
        loaded = load_experiment(request.path, request.overrides, data_dir=request.data_dir)
        if request.resume:
            require_epochs(read_run(request.resume), request.resume, loaded.experiment)


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
    with ExitStack() as stack:

        @cache
        def pin() -> None:
            """Pins JAX's settings for all of them, once the first needs JAX: it takes seconds."""
            settings.start(listeners[0].note)
            stack.enter_context(settings.pinned())

        runs: list[TrainingRun] = []
        for request, listener in zip(requests, listeners, strict=True):
            run = TrainingRun(request, listener, pin)
            stack.callback(run.close)
            runs.append(run)
            run.read_data()
            if not run.remaining:
                done(run.finish())
        for run, seeds in interleave(runs):
            run.train(seeds)
            if not run.remaining:
                done(run.finish())
        return [run.finish() for run in runs]


def interleave(runs: "Sequence[TrainingRun]") -> "Iterator[tuple[TrainingRun, tuple[int, ...]]]":
    """Yields each run with the seeds that it trains next: A B, B A, A B and so on."""
    order = list(runs)
    while order := [run for run in order if run.remaining]:
        for run in order:
            yield run, run.remaining[0]
        order.reverse()


class TrainingRun:
    """An experiment from its request to its finished folder, trained a few seeds at a time.

    Call `read_data`, `train` until nothing is `remaining`, `finish`, and in any case `close`.
    Its stopwatch is paused between these calls, so that other runs can train. If a call raises,
    `run.json` records how the run ended.

    Args:
      request: what to run.
      listener: called as it goes.
      pin: pins JAX's settings; called before the run needs JAX.

    Raises:
      SpecError: the experiment is wrong.
    """

    def __init__(self, request: Request, listener: Listener, pin: Callable[[], None]) -> None:
        self._request, self._listener, self._pin = request, listener, pin
        self._watch = Stopwatch()
        data_dir = request.data_dir
        self._loaded = load_experiment(request.path, request.overrides, data_dir=data_dir)
        listener.loaded(self._loaded)
        self._dataset: Dataset
        self._folder = ExitStack()  # locked while it is open
        self._recorder: Recorder | None = None
        self._trainer: Trainer | None = None
        self._result: RunResult | None = None
        self._watch.pause()

    @property
    def remaining(self) -> Sequence[tuple[int, ...]]:
        """Groups of seeds still to be trained, as far as they are known."""
        if self._result is not None:
            return ()
        return self._trainer.remaining if self._trainer else (self._loaded.experiment.seeds[:1],)

    def read_data(self) -> None:
        """Reads the images, unless the run is finished already.

        Raises:
          CnnbenchError: the images cannot be had, or the Python model is not to be trusted.
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
                self._dataset = dataset_of(spec, request.data_dir, self._listener.note)

    def train(self, seeds: tuple[int, ...]) -> None:
        """Trains seeds at once; before the first, opens the run's folder and compiles.

        Args:
          seeds: the first of `remaining`.

        Raises:
          CnnbenchError: the run cannot be trained, or the disk refuses.
        """
        with self._turn():
            if self._trainer is None:
                self._open()
            if self._trainer is not None:
                self._trainer.train_seeds(seeds)

    def finish(self) -> RunResult:
        """Completes the files of a run whose seeds are all trained.

        Raises:
          StoreError: the disk refuses.
        """
        if self._trainer and self._recorder:
            folder = self._recorder.folder
            with self._turn():
                self._trainer.finish()
                self._recorder.finish()
                self._result = _with_tables(folder)
            self._trainer = self._recorder = None  # they hold memory of the device
            del self._dataset
            self._folder.close()
            self._listener.finished(folder.path)
        assert self._result is not None
        self._folder.close()
        return self._result

    def close(self) -> None:
        """Closes the folder; a run that is not finished is recorded as interrupted."""
        with self._folder:
            self._stop(None)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Runs the stopwatch; an exception in the body is recorded as the end of the run."""
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
            raise error.placed(self._loaded.place(error.key)) from None

    def _stop(self, error: BaseException | None) -> None:
        if self._recorder and not self._recorder.ended:
            self._recorder.stop(error)

    def _open(self) -> None:
        """Opens the folder and compiles, unless the run is found finished."""
        request, loaded, note = self._request, self._loaded, self._listener.note
        path = request.resume
        if request.needed and not path:
            source, asked = request.path.resolve().parent, (request.engine, request.device)
            digest = self._dataset.digest
            path = begun(loaded, digest, source, request.results_dir, asked, note)
        if path and self._is_finished(path):
            return
        self._pin()
        from cnnbench.training.trainer import Trainer  # imports JAX

        job = _job(loaded, self._dataset, request, self._watch, note)
        if path:
            self._folder.enter_context(alone(RunFolder(path)))
            # Another process may have finished it before the lock was ours.
            if self._is_finished(path):
                return
            opened = reopen(
                job,
                path,
                note,
                resolved=loaded.resolved() if request.resume else "",
                command=request.command,
                tags=request.tags,
            )
        else:
            new = create(job, loaded, request.results_dir, request.command, request.tags)
            opened = self._folder.enter_context(new)
        job = _continued(job, opened)
        self._recorder = Recorder(job, opened, self._listener)
        self._recorder.start()
        trainer = Trainer(job, self._recorder.event)
        trainer.prepare()
        self._trainer = trainer

    def _is_finished(self, path: Path) -> bool:
        """Tests whether a run has nothing left to train; its result is known then."""
        record = read_run(path).record
        epochs = self._loaded.experiment.train.epochs
        if (record.status, record.epochs) != (Status.FINISHED, epochs):
            return False
        if (tagged := with_tags(record, self._request.tags)) != record:
            RunFolder(path).write_record(tagged)
        self._listener.note(f"{path} is finished; nothing is trained")
        self._result = _with_tables(RunFolder(path))
        return True


def _with_tables(folder: RunFolder) -> RunResult:
    """A finished run, whose tables are written where they are not there yet."""
    result = read_run(folder.path)
    if not (folder.path / TABLES[-1]).exists():
        table = compare([result])
        folder.write_tables(comparison.markdown([table], wide=False), csv_json.csv_text([table]))
    return result


def _job(
    loaded: Loaded,
    dataset: Dataset,
    request: Request,
    watch: Stopwatch,
    note: Callable[[str], None],
) -> "Job":
    """What is trained, and on which devices; makes the process ready for it."""
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


def _continued(job: "Job", opened: Opened) -> "Job":
    """The job with what a folder that was opened says of it."""
    known = opened.record.engine
    return dataclasses.replace(
        job,
        resume=opened.resume,
        snapshots=job.snapshots or (opened.folder.path / tensorboard.FOLDER).exists(),
        engine=known.requested if known else job.engine,
    )
