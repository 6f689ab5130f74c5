"""Performance targets, and whether measurements meet them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
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
      target: the target.
      measured: the measured value; None if it could not be measured.
      note: further information.
    """

    target: Target
    measured: float | None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """True if the target is met; None if it was not measured."""
        if self.measured is None:
            return None
        if self.target.at_least:
            return self.measured >= self.target.limit
        return self.measured <= self.target.limit


def checks_rows(checks: Sequence[Check]) -> list[list[str]]:
    """Table rows: name, target, measured, verdict, note."""
    verdicts = {True: "met", False: "MISSED", None: "not measured"}
    return [
        [
            check.target.name,
            _target_text(check),
            _measured_text(check),
            verdicts[check.holds],
            check.note,
        ]
        for check in checks
    ]


def _target_text(check: Check) -> str:
    return f"{'>=' if check.target.at_least else '<='} {check.target.limit:g}{check.target.unit}"


def _measured_text(check: Check) -> str:
    return "" if check.measured is None else f"{check.measured:.3g}{check.target.unit}"
