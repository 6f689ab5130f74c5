"""Writes measurements of a run as they arrive, and how the run ended."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, assert_never

from cnnbench.errors import ProcessLostError
from cnnbench.formatting import depthwise_advice
from cnnbench.graph.autoencoder import code_layer
from cnnbench.runner.open_run import Opened, checkpoints_of, total_timing
from cnnbench.runner.trackers.choice import trackers_of
from cnnbench.runner.trackers.tracker import Trackers
from cnnbench.runner.work import RunWork
from cnnbench.runs.checkpoints import Checkpoints
from cnnbench.runs.cost import Cost
from cnnbench.runs.experiment import metric_directions
from cnnbench.runs.folder import RunFolder, read_epochs
from cnnbench.runs.records import (
    EngineRecord,
    EpochRecord,
    RunRecord,
    RunResult,
    SeedSummary,
    Status,
    Summary,
)
from cnnbench.runs.weights import digest
from cnnbench.spec.experiment import Task
from cnnbench.spec.loader import Loaded
from cnnbench.spec.optimizers import depends_on_total
from cnnbench.statistics.looks import Looks
from cnnbench.system import signals
from cnnbench.training.events import (
    Checkpoint,
    Compiled,
    Event,
    Remark,
    Resumed,
    SeedDone,
    Snapshot,
    StepDone,
    Trained,
    Tuning,
)

MOST_WAITING = 0.1  # share of an epoch
STARTING_S = 5.0  # worker processes take a few seconds to start


class Listener(Protocol):
    """Receives the progress of a run."""

    def loaded(self, loaded: Loaded) -> None:
        """Called once the experiment is checked."""

    def note(self, text: str) -> None:
        """Called with a sentence for the user."""

    def started(self, record: RunRecord, num_steps: int) -> None:
        """Called before compilation, once data, device and folder are ready."""

    def event(self, event: Event) -> None:
        """Called with every event of the training."""

    def failed(self, reason: str) -> None:
        """Called if the run cannot be trained while others continue."""

    def finished(self, folder: Path) -> None:
        """Called once the run's files are complete, also if there was nothing to train."""


class Recorder:
    """Writes a run's folder during training, and passes every event on to the listener.

    Args:
      work: the training.
      opened: its folder, locked.
      listener: called with each event after it is written.

    Attributes:
      folder: the folder.
      ended: True once `run.json` says how the run ended.
      interrupted: True if the run was stopped and can be resumed.
    """

    def __init__(self, work: RunWork, opened: Opened, listener: Listener) -> None:
        self.folder, self.ended, self.interrupted = opened.folder, False, False
        self._work, self._record, self._listener = work, opened.record, listener
        self._checkpoints = checkpoints_of(work, opened.folder)
        self._collected = Collected()
        self._trackers = Trackers({}, listener.note)
        self._waited = False  # the user was told that the device waits

    @property
    def num_seeds(self) -> int:
        """Number of seeds that are trained, without gaps from the first of them on."""
        trained = {seed.seed for seed in self._collected.seeds}
        waiting = (n for n, seed in enumerate(self._record.seeds) if seed not in trained)
        return next(waiting, len(self._record.seeds))

    def so_far(self) -> RunResult:
        """The run as if it had only the seeds that are trained; at least one."""
        record = self._record.of_seeds(self.num_seeds)
        epochs, _ = read_epochs(self.folder.path)
        found = tuple(epoch for epoch in epochs if epoch.seed in record.seeds)
        finished = dataclasses.replace(record, status=Status.FINISHED)
        path = self.folder.path
        return RunResult(finished, summary(self._work, self._collected), found, path=path)

    def forget(self, seed: int) -> None:
        """Forgets everything of a seed, which is trained from scratch.

        Raises:
          StoreError: the disk cannot be read or written.
        """
        self._checkpoints.forget(seed)  # first, so that no process resumes from them
        epochs, _ = read_epochs(self.folder.path)
        self.folder.write_epochs([epoch for epoch in epochs if epoch.seed != seed])
        seeds = self._collected.seeds
        self._collected.seeds = tuple(known for known in seeds if known.seed != seed)

    def stop_at(self, looks: Looks) -> None:
        """Reduces the run to the seeds that are trained, and records why."""
        self._record = dataclasses.replace(self._record.of_seeds(self.num_seeds), looks=looks)

    @property
    def command(self) -> Sequence[str]:
        """The command line of the run."""
        return self._record.environment.command

    def start(self) -> None:
        """Prepares for the first event."""
        record = self._record
        self._listener.started(record, record.num_steps // record.epochs)
        self._trackers = trackers_of(self._work, self.folder, record, self._listener.note)

    def event(self, event: Event) -> None:
        """Writes an event; a signal is raised before or after that."""
        signals.raise_if_stopped()
        with signals.defer_signals():
            keep(event, self.folder, self._checkpoints, self._collected)
            if isinstance(event, SeedDone) and event.summary.seed == self._record.seeds[0]:
                _keep_picture(event, self.folder)
            self._trackers.event(event)
            if isinstance(event, Compiled):
                self._compiled(event)
        self._listener.event(event)
        if isinstance(event, EpochRecord) and not self._waited and waits(event):
            self._waited = True
            self._listener.note(wait_text(event, self._work.workers))

    def finish(self) -> None:
        """Writes the summary of a run whose seeds are all trained, and marks it finished."""
        record = self._record  # a run that was resumed may have begun on workers
        if record.extended or record.resumed_at or self._work.any_order:
            _sort_epochs(self.folder, self._work)
        self.folder.write_summary(summary(self._work, self._collected))
        self._end(Status.FINISHED)
        if depends_on_total(self._work.experiment.train.schedule):
            self._checkpoints.clear()
        else:
            self._checkpoints.keep_last(self._record.seeds)

    def complete(self) -> None:
        """Tells trackers that the files of a finished run are complete."""
        with signals.defer_signals():
            self._trackers.ended(Status.FINISHED)

    def stop(self, error: BaseException | None) -> None:
        """Records that a run ended before it was finished.

        Args:
          error: the exception that ended it; None if another run raised it.
        """
        # SystemExit: standard error is closed.
        resumable = KeyboardInterrupt | SystemExit | ProcessLostError
        self.interrupted = error is None or isinstance(error, resumable)
        if self.interrupted:
            self._end(Status.INTERRUPTED)
        else:
            self._end(Status.FAILED, str(error))
        with signals.defer_signals():
            self._trackers.ended(Status.INTERRUPTED if self.interrupted else Status.FAILED)

    def _compiled(self, event: Compiled) -> None:
        """Records the engine, and advises on what would make a Python model faster."""
        self.folder.write_record(dataclasses.replace(self._record, engine=event.engine))
        if event.num_slow:
            advice = depthwise_advice(event.num_slow)
            self._listener.note(f"{self._work.experiment.type_title}: {advice}")

    def _end(self, status: Status, error: str | None = None) -> None:
        self.ended = True
        ended = dataclasses.replace(
            self._record,
            status=status,
            finished_at=datetime.now(UTC),
            error=error,
            timing=total_timing(self._record.timing, self._work.timing()),
            engine=self._collected.engine or self._record.engine,
        )
        with signals.defer_signals():
            self.folder.write_record(ended)


def waits(epoch: EpochRecord) -> bool:
    """True if the device waited for images more than when worker processes start."""
    spent = epoch.train_s + epoch.eval_s
    return epoch.data_s > MOST_WAITING * spent and epoch.data_s > STARTING_S


def wait_text(epoch: EpochRecord, workers: int) -> str:
    """Says how long the device waited for images, and what helps."""
    share = epoch.data_s / (epoch.train_s + epoch.eval_s)
    with_ = "1 worker" if workers == 1 else f"{workers} workers"
    return (
        f"the device waited for images in {share:.0%} of epoch {epoch.epoch}, with {with_}; raise"
        " --workers if there are idle cores, or store smaller images"
    )


@dataclass(slots=True)
class Collected:
    """Values of events that the summary and the last record need."""

    num_params: int = 0
    engine: EngineRecord | None = None
    compile_s: float = 0.0
    seeds: tuple[SeedSummary, ...] = ()
    cost: Cost | None = None


def keep(event: Event, folder: RunFolder, checkpoints: Checkpoints, collected: Collected) -> None:
    """Writes an event to the run's folder, and collects values for the summary."""
    match event:
        case Compiled(num_params=num_params, compile_s=compile_s):
            collected.num_params, collected.compile_s = num_params, compile_s
            collected.engine = event.engine
        case EpochRecord():
            folder.append_epoch(event)
        case Checkpoint(seed=seed, epoch=epoch, values=values, step=step, machine=machine):
            checkpoints.save(seed, epoch, values, step, machine)
        case SeedDone():
            trained = dataclasses.replace(event.summary, weights_digest=digest(event.weights))
            others = (seed for seed in collected.seeds if seed.seed != trained.seed)
            collected.seeds = (*others, trained)
            folder.write_weights(event.summary.seed, event.weights)
            folder.write_predictions(event.summary.seed, event.predictions)
        case Trained(engine=engine, cost=cost):
            collected.engine, collected.cost = engine, cost
        case Resumed() | StepDone() | Snapshot() | Tuning() | Remark():
            pass
        case _:
            assert_never(event)


def _keep_picture(event: SeedDone, folder: RunFolder) -> None:
    """Writes the first images with their reconstructions, if there are any."""
    if event.outputs is not None:
        from cnnbench.report.plots.image_grid import reconstructions_png

        picture: Any = reconstructions_png(event.inputs, event.outputs)
        folder.write("reconstructions.png", picture)


def summary(work: RunWork, collected: Collected) -> Summary:
    """Returns the summary of a run whose seeds are all trained."""
    metrics = metric_directions(work.experiment)
    first = next(iter(metrics))
    reconstructs = work.experiment.task is Task.RECONSTRUCT
    wanted = work.experiment.model.code_layer
    code = code_layer(work.plan, wanted) if work.plan and reconstructs else None
    return Summary(
        num_params=collected.num_params,
        compile_s=collected.compile_s,
        headline="loss" if reconstructs else first,
        metrics=metrics,
        seeds=tuple(sorted(collected.seeds, key=lambda s: work.experiment.seeds.index(s.seed))),
        cost=collected.cost,
        code=code,
    )


def _sort_epochs(folder: RunFolder, work: RunWork) -> None:
    """Sorts epochs by seed, as in a run that trains them one after another."""
    epochs, _ = read_epochs(folder.path)
    seeds = work.experiment.seeds
    folder.write_epochs(sorted(epochs, key=lambda e: (seeds.index(e.seed), e.epoch)))
