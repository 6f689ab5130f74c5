"""Contents that the driver has and tasks may ask for, such as images that a machine lacks."""

from collections.abc import Callable

from cnnbench.errors import CnnbenchError
from cnnbench.executors.failures import SentError, sent

Content = bytes | SentError | None
"""A content, why there is none, or None for an unknown name."""


class Offers:
    """Contents by name; each is made when it is first asked for."""

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
        """What a task gets that asks for a name."""
        make = self._make.get(name)
        try:
            return make() if make else None
        except CnnbenchError as error:
            return sent(error)
