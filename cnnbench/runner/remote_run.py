"""A run that is trained elsewhere and recorded here."""

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cnnbench.data.streaming.source import StreamOptions
from cnnbench.errors import ModelError, UsageError
from cnnbench.runner import sent_images, tensorboard
from cnnbench.runner.open_run import checkpoints_of, source_of
from cnnbench.runner.recorder import Listener
from cnnbench.runner.run import Request, TrainingRun, reference_of
from cnnbench.runner.seed_task import SeedPart, SentExperiment
from cnnbench.runner.trackers.choice import TENSORBOARD
from cnnbench.runner.work import RunWork
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import EngineRecord, Environment, EpochRecord, Machine
from cnnbench.system.host import load_per_cpu
from cnnbench.system.stopwatch import Timing
from cnnbench.training.events import Compiled, Event, Resumed, SeedDone, Trained, Tuning
from cnnbench.training.resume import Resume, plan_resume


class RemoteRun(TrainingRun):
    """A run whose seeds are trained on workers, in any order.

    Call `read_data`, `look_for_result`, and unless nothing is `remaining`, `begin`; pass on the
    events of workers with `receive`; then `finish`, and in any case `close`.

    Attributes:
      engine: the training strategy, once it is known.
      failed: True if it cannot be trained.
    """

    def __init__(self, request: Request, listener: Listener, pin: Callable[[], None]) -> None:
        super().__init__(request, listener, pin)
        self.engine: EngineRecord | None = None
        self.failed = self._tuned = self._compiled = self._measured = False
        self._path: Path | None = None
        self._arm: SentExperiment
        self._work: RunWork
        self._resumes: dict[int, Resume] = {}
        self._started = time.monotonic()
        self._spent: dict[str, float] = defaultdict(float)

    @property
    def waiting(self) -> list[int]:
        """Seeds that are not trained; all of them before the run has begun."""
        if self._result is not None or self.failed:
            return []
        return [seed for (seed,) in self._trainer.remaining] if self._trainer else []

    @property
    def complete(self) -> bool:
        """True if everything for the summary has arrived."""
        return not self.remaining and (self._result is not None or self._measured)

    @property
    def offer(self) -> tuple[str, Callable[[], bytes]]:
        """The digest of its images, and a function that packs them for machines without them."""
        return self._dataset.digest, partial(sent_images.packed, self._dataset)

    @property
    def machines(self) -> dict[int, Machine]:
        """What trained the seeds of a resumed run so far, as far as it is known."""
        return {
            seed: resume.machines[seed]
            for seed, resume in self._resumes.items()
            if seed in resume.machines
        }

    def is_missing(self, seed: int) -> bool:
        """True if a seed has to be trained, or at least its network measured."""
        first = self._loaded.experiment.seeds[0]
        return seed in self.waiting or (seed == first and not self._measured and not self.failed)

    def first_waiting(self, number: int | None) -> list[int]:
        """Seeds that are not trained, of the first `number` of all seeds, or of all."""
        wanted = self._loaded.experiment.seeds[:number]
        return [seed for seed in self.waiting if seed in wanted]

    @property
    def has_times(self) -> bool:
        """True if an epoch was trained alone."""
        records = [record for resume in self._resumes.values() for record in resume.kept]
        return any(record.alone for record in records)

    def look_for_result(self) -> None:
        """Finds the folder of the run if there is one, and its result if it is finished."""
        if self._result is None:
            self._path = self._existing()
            if self._path and not self._is_finished(self._path):
                self.engine = read_run(self._path).record.engine
            if self._path is None:
                self._trained_elsewhere()

    def begin(self, found: Environment) -> None:
        """Opens the folder, unless another process has finished the run meanwhile.

        Args:
          found: what the workers run on.

        Raises:
          UsageError: they have GPUs for themselves that JAX does not find.
        """
        if self._request.gpus and found.device_kind == "cpu":
            message = f"--gpus {self._request.gpus:g}: JAX finds no GPU on a worker of the cluster"
            raise UsageError(f"{message}; install JAX for CUDA there, or leave out --gpus.")
        with self._turn():
            self._started = time.monotonic()
            self._work = self._described(found)
            opened = self._enter(self._work, self._path)
            if opened is None:
                return
            if opened.resume:
                self._resumes = dict.fromkeys(opened.record.seeds, opened.resume)
            if (opened.folder.path / tensorboard.FOLDER).exists():
                self._work = dataclasses.replace(self._work, snapshots=True)
            self._trainer = _Seeds([(seed,) for seed in opened.record.seeds])
            self._arm = self._sendable()
            self._record(self._work, opened)

    def part(self, number: int, seed: int) -> SeedPart:
        """A seed for a worker, with its checkpoint.

        Args:
          number: number of the run, for the driver.
          seed: the seed.
        """
        part, resume = SeedPart(number, self._arm, seed, self.engine), self._resumes.get(seed)
        if resume is None:
            return part
        epochs, step = resume.epochs[seed], resume.steps.get(seed, 0)
        values = resume.load(seed, epochs, *[step] * bool(step)) if epochs or step else {}
        return dataclasses.replace(
            part,
            epochs=epochs,
            step=step,
            records=resume.records[seed],
            values=values,
            machine=resume.machine_of(seed),
        )

    def receive(self, event: Event) -> None:
        """Records an event of a worker; those of other workers that tune or compile are not new.

        Raises:
          StoreError: the disk cannot be written.
        """
        assert self.recorder is not None
        self._count(event)
        with self._turn():
            match event:
                case Compiled():
                    self._begin_with(event)
                case Trained() if self._measured:
                    pass
                case Tuning() if self._tuned:
                    pass
                case _:
                    self._tuned |= isinstance(event, Tuning)
                    self._measured |= isinstance(event, Trained)
                    self.recorder.event(event)
        if isinstance(event, SeedDone) and self._trainer:
            own = (event.summary.seed,)
            self._trainer.remaining = [seed for seed in self._trainer.remaining if seed != own]

    def cut_back(self, seed: int) -> int:
        """Goes back to the last checkpoint of a seed whose worker is lost.

        Returns:
          The number of finished epochs that are kept.

        Raises:
          StoreError: the disk cannot be read or written.
        """
        assert self.recorder is not None
        folder, train = self.recorder.folder, self._loaded.experiment.train
        run = read_run(folder.path)
        own = dataclasses.replace(run, record=dataclasses.replace(run.record, seeds=(seed,)))
        checkpoints = checkpoints_of(self._work, folder)
        resume = plan_resume(own, checkpoints, self._listener.note, train)
        folder.write_epochs([*(e for e in run.epochs if e.seed != seed), *resume.kept])
        self._resumes[seed] = resume
        return resume.epochs[seed]

    def has_part(self, seed: int) -> bool:
        """True if some of a seed is trained and kept."""
        resume = self._resumes.get(seed)
        return not self.is_missing(seed) or bool(
            resume and (resume.epochs[seed] or resume.steps.get(seed))
        )

    def lacks_epochs(self, seed: int) -> bool:
        """True unless all epochs of a seed are trained and kept, so that it is only tested."""
        resume, train = self._resumes.get(seed), self._loaded.experiment.train
        return self.is_missing(seed) and not (resume and resume.is_trained(seed, train))

    def start_over(self, seed: int) -> None:
        """Forgets what is trained of a seed.

        Raises:
          StoreError: the disk cannot be read or written.
        """
        assert self.recorder is not None
        assert self._trainer is not None
        with self._turn():
            self.recorder.forget(seed)
        self._resumes.pop(seed, None)
        seeds = self._loaded.experiment.seeds
        self._measured &= seed != seeds[0]
        waiting = {seed, *self.waiting}
        self._trainer.remaining = [(known,) for known in seeds if known in waiting]

    def fail(self, error: Exception) -> Exception:
        """Records that the run cannot be trained.

        Returns:
          The error, with its location in the experiment file.
        """
        self.failed = True
        if isinstance(error, ModelError):
            error = error.at(self._loaded.place(error.key))
        self._stop(error)
        return error

    @property
    def is_trial(self) -> bool:
        """True for a trial of a sweep, which does not need others for a verdict."""
        return self._request.sweep is not None

    def tell_failure(self, reason: str) -> None:
        """Tells the user that the run failed while others continue."""
        self._listener.failed(reason)

    def note(self, text: str) -> None:
        """Tells the user about the run."""
        self._listener.note(text)

    def _begin_with(self, event: Compiled) -> None:
        """Records the strategy of the first worker that compiled, which all others use."""
        assert self.recorder is not None
        if self._compiled:
            return
        self._compiled, self.engine = True, event.engine
        self.recorder.event(event)
        if self._resumes:
            kept = next(iter(self._resumes.values())).kept
            self.recorder.event(Resumed(kept))

    def _count(self, event: Event) -> None:
        match event:
            case Compiled(compile_s=compile_s):
                self._spent["compile_s"] += compile_s
            case EpochRecord(train_s=train_s, eval_s=eval_s):
                self._spent["train_s"] += train_s
                self._spent["eval_s"] += eval_s

    def _timing(self) -> Timing:
        """Seconds of all workers in each part, and those since the run began."""
        spent, data_s = self._spent, self._watch.spent("data_s")
        parts = spent["compile_s"], data_s, spent["train_s"], spent["eval_s"]
        return Timing(*parts, time.monotonic() - self._started)

    def _stream_options(self) -> StreamOptions:
        return StreamOptions(self._request.workers, prepare=self._pin)  # no device here

    def _described(self, found: Environment) -> RunWork:
        request, loaded = self._request, self._loaded
        command = tuple(request.command)
        return RunWork(
            loaded.experiment,
            loaded.plan,
            request.path.resolve().parent,
            self._dataset,
            dataclasses.replace(found, command=command, load_per_cpu=load_per_cpu()),
            self._timing,
            reference_of(loaded, request),
            TENSORBOARD in request.trackers,
            StreamOptions(request.workers).num_workers,
            any_order=True,
            track=request.track,
        )

    def _sendable(self) -> SentExperiment:
        """The experiment, for workers."""
        request, work = self._request, self._work
        return SentExperiment(
            self._loaded.resolved(),
            work.experiment.seeds[0],
            work.dataset.digest,
            self._loaded.info,
            sent_images.without_images(work.dataset),
            work.folder,
            work.reference,
            source_of(work),
            request.data_dir,
            request.device,
            self.engine.requested if self.engine else request.engine,
            request.workers,
            work.snapshots,
            request.retune,
        )


class _Seeds:
    """The seeds of a run that are not trained.

    Args:
      remaining: the seeds, each in a group of its own.
    """

    def __init__(self, remaining: list[tuple[int, ...]]) -> None:
        self.remaining = remaining

    def train_seeds(self, seeds: tuple[int, ...]) -> None:
        """Workers train."""
        raise NotImplementedError

    def finish(self) -> None:
        """The workers have sent everything."""

    def close(self) -> None:
        """The executor ends the workers."""
