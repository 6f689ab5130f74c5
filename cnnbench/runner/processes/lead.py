"""Leader of several processes: the followers train in step with it."""

import itertools
from collections.abc import Callable

from cnnbench.executors import processes
from cnnbench.runner.open_run import model_source
from cnnbench.runner.processes.messages import Begin, Close, Given, TrainSeeds
from cnnbench.training.events import Event
from cnnbench.training.executables import Job
from cnnbench.training.trainer import Trainer

_numbers = itertools.count()
_SAME = ("folder", "engine", "reference", "workers")  # values of a job that all processes share


def trainer_of(job: Job, emit: Callable[[Event], None], given: Given) -> Trainer:
    """The trainer of a job, which leads the other processes, if any."""
    if job.num_processes == 1:
        return Trainer(job, emit)
    return LeadingTrainer(job, emit, given)


class LeadingTrainer(Trainer):
    """A trainer that sends each of its calls to the other processes."""

    def __init__(self, job: Job, emit: Callable[[Event], None], given: Given) -> None:
        super().__init__(job, emit)
        self._given, self._number = given, next(_numbers)

    def prepare(self) -> None:
        """Choose the strategy and compile, on all processes."""
        job = self.job
        digests = job.experiment.digest(model_source(job.reference, job.folder)), job.dataset.digest
        options = {name: getattr(job, name) for name in _SAME}
        resume = None
        if job.resume:
            names = ("engine", "at_once", "epochs", "records", "steps")
            resume = {name: getattr(job.resume, name) for name in names}
        streamed = job.dataset.streamed
        processes.publish(Begin(self._number, self._given, digests, options, resume, streamed))
        super().prepare()

    def train_seeds(self, seeds: tuple[int, ...]) -> None:
        """Train a group of seeds on all processes."""
        processes.publish(TrainSeeds(self._number, seeds))
        super().train_seeds(seeds)

    def finish(self) -> None:
        """End the training on all processes."""
        processes.publish(Close(self._number))
        super().finish()
