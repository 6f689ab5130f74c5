"""Searches runs: a condition, an order, a number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cnnbench.runs.folder import RunEntry
from cnnbench.runs.index.condition import parse_condition
from cnnbench.runs.index.kinds import range_of
from cnnbench.runs.index.values import RunValues, Value

_ALWAYS_SHOWN = ("run", "name", "tags", "dataset")  # in every list


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked for.

    Args:
      where: a condition; None for all runs.
      sort_by: name of the value to sort by, in ascending order; None for the start.
      reverse: True for descending order; runs without the value are last in any case.
      limit: the first runs to take, or the newest ones without `sort_by`; None for all.
    """

    where: str | None = None
    sort_by: str | None = None
    reverse: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class FoundRuns:
    """Runs that were found.

    Args:
      entries: the runs, in order.
      columns: the values that they were searched or sorted by, one per run.
      known: if there are none, the values that all runs have, in words.
    """

    entries: Sequence[RunEntry]
    columns: Mapping[str, Sequence[Value]]
    known: str = ""

    def part(self, which: slice) -> "FoundRuns":
        """Some of the runs."""
        columns = {name: values[which] for name, values in self.columns.items()}
        return FoundRuns(self.entries[which], columns)


def search(entries: Sequence[RunEntry], asked: Search) -> FoundRuns:
    """Searches runs.

    Args:
      entries: the runs, oldest first.
      asked: what is asked for.

    Raises:
      UsageError: the condition or a name is wrong.
    """
    known = RunValues(entries, "--where")
    condition = parse_condition(asked.where) if asked.where is not None else None
    names = condition.names if condition else []
    order = list(range(len(entries)))
    if condition:
        order = [number for number, holds in enumerate(condition.holds(known)) if holds]
    columns = {name: known.column(name) for name in names}
    if condition and not order:
        ranges = (range_of(name, columns[name], condition.texts()) for name in names)
        return FoundRuns([], {}, "; ".join(ranges))
    if asked.sort_by is not None:
        known.option = "--sort-by"
        keys = columns[asked.sort_by] = known.column(asked.sort_by)
        order = _in_order(order, keys, reverse=asked.reverse)[: asked.limit]
    else:
        order = order[-asked.limit :] if asked.limit else order
        order = order[::-1] if asked.reverse else order
    shown = {name: values for name, values in columns.items() if name not in _ALWAYS_SHOWN}
    return FoundRuns(
        [entries[number] for number in order],
        {name: [values[number] for number in order] for name, values in shown.items()},
    )


def _in_order(order: Sequence[int], keys: Sequence[Value], *, reverse: bool) -> list[int]:
    """Sorts numbers of runs by their values: numbers before texts, missing ones last."""

    def key(number: int) -> tuple[bool, object]:
        value = keys[number]
        if isinstance(value, tuple):
            value = ", ".join(value)
        return isinstance(value, str), value

    known = [number for number in order if not _is_missing(keys[number])]
    missing = [number for number in order if _is_missing(keys[number])]
    return [*sorted(known, key=key, reverse=reverse), *missing]


def _is_missing(value: Value) -> bool:
    return value is None or value != value  # noqa: PLR0124 - NaN
