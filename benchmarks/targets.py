"""Performance targets, and whether measurements meet them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """A target for speed or memory.

    Args:
      name: description of the measured quantity.
      limit: the target value.
      unit: unit of the value; may be empty.
      at_least: True if the value has to be at least `limit`, False if at most.
    """

    name: str
    limit: float
    unit: str = ""
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """A target and its measurement.

    Args:
      bar: the target.
      measured: the measured value; None if it could not be measured.
      note: further information.
    """

    bar: Bar
    measured: float | None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """True if the target is met; None if it was not measured."""
        if self.measured is None:
            return None
        if self.bar.at_least:
            return self.measured >= self.bar.limit
        return self.measured <= self.bar.limit


def checks_rows(checks: Sequence[Check]) -> list[list[str]]:
    """Table rows: name, target, measured, verdict, note."""
    verdicts = {True: "met", False: "MISSED", None: "not measured"}
    return [
        [check.bar.name, _bar_text(check), _measured_text(check), verdicts[check.holds], check.note]
        for check in checks
    ]


def _bar_text(check: Check) -> str:
    return f"{'>=' if check.bar.at_least else '<='} {check.bar.limit:g}{check.bar.unit}"


def _measured_text(check: Check) -> str:
    return "" if check.measured is None else f"{check.measured:.3g}{check.bar.unit}"
