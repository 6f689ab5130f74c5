"""The metric of a sweep by the value of one key, or of two."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cnnbench.comparisons.sweeps.results import SweepResult, SweepRow
from cnnbench.formatting import is_number
from cnnbench.runs.over import in_order

MOST_GROUPS = 8  # values of a key in a heat map; more numbers are grouped


@dataclass(frozen=True, slots=True)
class ValueGroup:
    """Trials with one value of a key, or with adjacent values.

    Args:
      label: the value, or the smallest and the largest.
      rows: the trials.
    """

    label: str
    rows: tuple[SweepRow, ...]


def groups(rows: Sequence[SweepRow], place: int, most: int = MOST_GROUPS) -> tuple[ValueGroup, ...]:
    """Trials by the value of a key, numbers in ascending order.

    Args:
      rows: the trials.
      place: index of the key.
      most: number of groups.
    """
    found: dict[str, list[SweepRow]] = {}
    for row in rows:
        found.setdefault(row.values[place], []).append(row)
    values = in_order(list(found))
    if len(values) <= most or not all(map(is_number, values)):
        return tuple(ValueGroup(value, tuple(found[value])) for value in values)
    ends = [round(i * len(values) / most) for i in range(most + 1)]
    parts = [values[low:high] for low, high in pairwise(ends)]
    return tuple(
        ValueGroup(
            part[0] if len(part) == 1 else f"{part[0]}..{part[-1]}",
            tuple(row for value in part for row in found[value]),
        )
        for part in parts
    )


def best_of(result: SweepResult, rows: Sequence[SweepRow]) -> float:
    """The best mean of trials; NaN if there are none, or all diverged."""
    finite = [row.mean for row in rows if math.isfinite(row.mean)]
    return (max if result.higher else min)(finite, default=math.nan)


def cells(
    result: SweepResult, title: str, keys: tuple[int, int] = (0, 1)
) -> tuple[tuple[ValueGroup, ...], tuple[ValueGroup, ...], tuple[tuple[float, ...], ...]]:
    """The best mean for each pair of values of two keys.

    Args:
      result: the sweep.
      title: of the experiment.
      keys: indices of the keys of the rows and columns.

    Returns:
      The groups of the rows, those of the columns, and the values; NaN where there is no trial.
    """
    down, across = (groups(result.of(title), key) for key in keys)
    values = tuple(
        tuple(best_of(result, [r for r in one.rows if r in other.rows]) for other in across)
        for one in down
    )
    return down, across, values
