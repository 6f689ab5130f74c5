"""Promises about speed and memory, and whether what was measured keeps them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise about speed or memory that must hold.

    Args:
      name: what is promised.
      limit: the value that must be reached.
      unit: of the value; may be empty.
      at_least: whether larger values are better.
    """

    name: str
    limit: float
    unit: str = ""
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """A bar and what was measured.

    Args:
      bar: the promise.
      measured: the value; None if it could not be measured.
      note: what else to know about it.
    """

    bar: Bar
    measured: float | None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the promise is kept; None if that is not known."""
        if self.measured is None:
            return None
        if self.bar.at_least:
            return self.measured >= self.bar.limit
        return self.measured <= self.bar.limit
