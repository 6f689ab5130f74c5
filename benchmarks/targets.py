"""Promises about speed and memory, and whether what was measured keeps them."""

from collections.abc import Sequence
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


def checks_rows(checks: Sequence[Check]) -> list[list[str]]:
    """The table of bars: promise, bar, measured, verdict, note."""
    verdicts = {True: "holds", False: "MISSES", None: "not measured"}
    return [
        [check.bar.name, _bar_text(check), _measured_text(check), verdicts[check.holds], check.note]
        for check in checks
    ]


def _bar_text(check: Check) -> str:
    return f"{'>=' if check.bar.at_least else '<='} {check.bar.limit:g}{check.bar.unit}"


def _measured_text(check: Check) -> str:
    return "" if check.measured is None else f"{check.measured:.3g}{check.bar.unit}"
