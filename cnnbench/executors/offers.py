"""Contents that the driver offers to tasks, such as images that a machine lacks."""

from collections.abc import Callable

from cnnbench.errors import CnnbenchError
from cnnbench.executors.failures import SentError, sent

Content = bytes | SentError | None
"""A content, an error, or None for an unknown name."""


class Offers:
    """Contents by name; each is made on the first request."""

    def __init__(self) -> None:
        self._make: dict[str, Callable[[], bytes]] = {}

    def add(self, name: str, make: Callable[[], bytes]) -> None:
        """Offers a content.

        Args:
          name: its name.
          make: returns it, or raises a `CnnbenchError`, which the task then raises.
        """
        self._make[name] = make

    def answer(self, name: str) -> Content:
        """Answers a task's request for a name."""
        make = self._make.get(name)
        try:
            return make() if make else None
        except CnnbenchError as error:
            return sent(error)
