"""Follower process: trains with its leader, but writes and prints nothing."""

import tempfile
from dataclasses import replace
from pathlib import Path

from cnnbench.data.dataset import dataset_of
from cnnbench.data.streaming.source import StreamOptions
from cnnbench.errors import StoreError
from cnnbench.executors import processes
from cnnbench.runner.open_run import model_source
from cnnbench.runner.processes.messages import Begin, Close, End, TrainSeeds
from cnnbench.runs.checkpoints import Checkpoints
from cnnbench.runs.folder import RunFolder
from cnnbench.spec.loader import load_experiment
from cnnbench.system import settings
from cnnbench.system.compile_cache import enable_compile_cache
from cnnbench.system.devices import pick_devices
from cnnbench.system.host import keep_malloc_arenas
from cnnbench.system.stopwatch import Stopwatch
from cnnbench.training.executables import Job
from cnnbench.training.resume import Resume
from cnnbench.training.trainer import Trainer


def follow(group: processes.ProcessGroup) -> None:
    """Trains with the leader of a group until the leader ends the session.

    Raises:
      CnnbenchError: the processes cannot connect, or this process has different files.
    """
    settings.start(_ignore)
    processes.join(group, _ignore)
    with settings.pinned():
        keep_malloc_arenas()
        enable_compile_cache(_ignore)
        _obey()
    processes.leave()


def _ignore(_: object) -> None:
    """The leader prints it."""


def _obey() -> None:
    trainers: dict[int, Trainer] = {}
    while True:
        match processes.receive():
            case Begin() as begin:
                trainer = trainers[begin.number] = FollowingTrainer(_job(begin), _ignore)
                trainer.prepare()
            case TrainSeeds(number, seeds):
                trainers[number].train_seeds(seeds)
            case Close(number):
                trainers.pop(number).close()
            case End():
                return


class FollowingTrainer(Trainer):
    """A trainer that leaves measurements to the leader."""

    def _measure(self) -> None:
        """Leave it to the leader."""


def _job(begin: Begin) -> Job:
    """The leader's job.

    Raises:
      StoreError: this process has a different model or images.
    """
    given = begin.given
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resolved.yaml"
        path.write_text(given.resolved, encoding="utf-8", errors="backslashreplace")
        loaded = load_experiment(path, data_dir=given.data_dir)
    options = StreamOptions(begin.options["workers"])
    spec = loaded.experiment.dataset.model_copy(update={"streaming": begin.streamed})
    dataset = dataset_of(spec, given.data_dir, _ignore, options)
    devices = pick_devices(given.device)
    job = Job(
        loaded.experiment, loaded.plan, dataset=dataset, devices=devices, watch=Stopwatch(),
        **begin.options,
    )  # fmt: skip
    found = loaded.experiment.digest(model_source(job.reference, job.folder)), dataset.digest
    for what, own, wanted in zip(("experiment", "images"), found, begin.digests, strict=True):
        if own != wanted:
            message = f"a process does not have the {what} of process 0"
            raise StoreError(f"{message}; make the same files available to all of them.")
    return _resumed(job, begin)


def _resumed(job: Job, begin: Begin) -> Job:
    if begin.resume is None:
        return job
    load = Checkpoints(RunFolder(begin.given.run), job.num_train).load
    return replace(job, resume=Resume(load=load, **begin.resume))
