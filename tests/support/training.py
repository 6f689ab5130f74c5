"""Trains a job and collects the events that its trainer emits."""

from collections.abc import Callable

from cnnbench.training.events import Event
from cnnbench.training.executables import Job
from cnnbench.training.trainer import Trainer


def run_job(job: Job, meanwhile: Callable[[Event], None] = lambda _: None) -> list[Event]:
    """Trains every seed of a job.

    Args:
      job: what to train.
      meanwhile: gets each event as it happens.

    Returns:
      The events in their order.
    """
    events: list[Event] = []

    def emit(event: Event) -> None:
        meanwhile(event)
        events.append(event)

    Trainer(job, emit).run()
    return events
