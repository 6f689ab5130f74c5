"""Training of a job with its events collected."""

from collections.abc import Callable

from cnnbench.training.events import Event
from cnnbench.training.executables import Job
from cnnbench.training.trainer import Trainer


def run_job(job: Job, meanwhile: Callable[[Event], None] = lambda _: None) -> list[Event]:
    """Train every seed of a job.

    Args:
      job: the job.
      meanwhile: called with each event as it is emitted.

    Returns:
      The events in order.
    """
    events: list[Event] = []

    def emit(event: Event) -> None:
        meanwhile(event)
        events.append(event)

    Trainer(job, emit).run()
    return events
