"""What a tracker is, and a group of them whose errors do not stop a training."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from cnnbench.errors import StoreError, UsageError
from cnnbench.runs.records import Status
from cnnbench.training.events import Event


class Tracker(Protocol):
    """Logs a run to another tool, as it trains."""

    def event(self, event: Event) -> None:
        """Logs an event of the training.

        Raises:
          StoreError: it cannot be logged.
        """

    def ended(self, status: Status) -> None:
        """Called when the run ends; if it is finished, once all of its files are complete.

        Raises:
          StoreError: it cannot be logged.
        """


@dataclass(frozen=True, slots=True)
class Trackers:
    """Trackers of a run; one that fails is reported once, and dropped.

    Args:
      active: the trackers by the option that asks for them; this object removes those that fail.
      note: called with a sentence for the user.
    """

    active: dict[str, Tracker]
    note: Callable[[str], None]

    def event(self, event: Event) -> None:
        """Passes an event on to every tracker."""
        for option, tracker in tuple(self.active.items()):
            self.attempt(option, partial(tracker.event, event))

    def ended(self, status: Status) -> None:
        """Tells every tracker how the run ended."""
        for option, tracker in tuple(self.active.items()):
            self.attempt(option, partial(tracker.ended, status))

    def attempt(self, option: str, log: Callable[[], None]) -> None:
        """Logs something, unless the tracker has failed."""
        try:
            log()
        except (StoreError, UsageError) as error:
            self.active.pop(option, None)
            text = str(error).removeprefix(f"{option}: ")
            self.note(f"{option}: {text} The training continues without it.")
