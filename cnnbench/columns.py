"""The columns of comparisons: what stands in them, which value sorts them, which are worth showing.

Rows are of two kinds: a run after an epoch (`Row`), and what the run costs (`CostRow`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

from cnnbench.compare import Comparison, CostRow, Row
from cnnbench.errors import UsageError, did_you_mean, listing
from cnnbench.phrases import (
    MISSING,
    bytes_text,
    clean,
    count_text,
    estimate_text,
    flops_text,
    metric_text,
    percent_text,
    seconds_text,
    words,
)
from cnnbench.results import Direction
from cnnbench.targets import TimeToTarget, target_title

R = TypeVar("R", bound=Row | CostRow)
Value = float | str | None


@dataclass(frozen=True, slots=True)
class Look:
    """How a comparison is shown.

    Args:
      precision: digits after the point of what was measured; chosen by its size if None.
      only_changed: leave out columns that say the same of every run.
    """

    precision: int | None = None
    only_changed: bool = False


PLAIN = Look()


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """A column of a table.

    Args:
      name: what `--sort-by` calls it.
      header: what stands above it.
      cell: a row's text.
      value: what a row is sorted by; None where it is not known.
      heading: the header broken over lines, to keep numbers whole; the header if None.
      falling: whether the largest value comes first.
      always: whether it stays where it says the same of every run.
    """

    name: str
    header: str
    cell: Callable[[R], str]
    value: Callable[[R], Value]
    heading: str | None = None
    falling: bool = False
    always: bool = False


def epoch_columns(comparison: Comparison, *, wide: bool, look: Look = PLAIN) -> list[Column[Row]]:
    """Of the table of first and last epochs.

    Args:
      comparison: what is shown.
      wide: also the test value, parameters and images per second.
      look: how it is shown.
    """
    metric, digits = comparison.metric, look.precision
    higher = comparison.direction is Direction.HIGHER
    title = words(metric)
    columns: list[Column[Row]] = [
        Column("type", "Type", lambda row: clean(row.label), lambda row: row.label, always=True),
        Column("epoch", "Epoch", lambda row: str(row.epoch), lambda row: row.epoch, always=True),
        Column(
            title.replace(" ", "_"),
            title.capitalize(),
            lambda row: estimate_text(metric, row.value, digits),
            lambda row: row.value.mean,
            falling=higher,
        ),
        Column(
            "time",
            "Time",
            lambda row: seconds_text(row.train_s.mean, digits),
            lambda row: row.train_s.mean,
        ),
    ]
    if any(len(row.run.seeds) > 1 for row in comparison.rows):
        columns.append(
            Column(
                "seeds",
                "Seeds",
                lambda row: str(len(row.run.seeds)),
                lambda row: len(row.run.seeds),
                falling=True,
            )
        )
    if wide:
        columns += _wide(metric, digits, higher=higher)
    return _shown(columns, comparison.rows, look)


def _wide(metric: str, digits: int | None, *, higher: bool) -> list[Column[Row]]:
    return [
        Column(
            "test",
            "Test",
            lambda row: metric_text(metric, row.test.mean, digits) if row.test else "",
            lambda row: row.test.mean if row.test else None,
            falling=higher,
        ),
        Column(
            "parameters",
            "Parameters",
            lambda row: f"{row.num_params:,}",
            lambda row: row.num_params,
            "Para-\nmeters",
        ),
        Column(
            "images/s",
            "Images/s",
            lambda row: count_text(row.images_per_s),
            lambda row: row.images_per_s,
            "Images\n/s",
            falling=True,
        ),
    ]


def cost_columns(comparison: Comparison, look: Look = PLAIN) -> list[Column[CostRow]]:
    """Of the table of costs."""
    digits = look.precision

    def flops(name: str, value: Callable[[CostRow], float | None]) -> Column[CostRow]:
        return Column(
            name, name.capitalize(), lambda row: _known(flops_text, value(row), digits), value
        )

    def latency(name: str, value: Callable[[CostRow], float | None]) -> Column[CostRow]:
        def cell(row: CostRow) -> str:
            return _known(seconds_text, value(row), digits)

        return Column(name, f"Latency {name}", cell, value, f"Latency\n{name}")

    def memory(row: CostRow) -> float | None:
        return row.cost.memory_bytes if row.cost else None

    columns: list[Column[CostRow]] = [
        Column("type", "Type", lambda row: clean(row.label), lambda row: row.label, always=True),
        flops("forward", lambda row: row.cost.forward_flops if row.cost else None),
        flops("backward", lambda row: row.cost.backward_flops if row.cost else None),
        Column("memory", "Memory", lambda row: _known(bytes_text, memory(row), digits), memory),
        latency("p50", lambda row: row.cost.latency_p50_s if row.cost else None),
        latency("p99", lambda row: row.cost.latency_p99_s if row.cost else None),
        Column(
            "peak",
            "Peak",
            lambda row: _known(percent_text, row.product_share, digits),
            lambda row: row.product_share,
            falling=True,
        ),
    ]
    if targets := [row.target.target for row in comparison.costs if row.target]:
        title = f"To {target_title(comparison.metric, targets[0])}"
        columns.append(
            Column("target", title, lambda row: _target_text(row.target, digits), _target_s)
        )
    return _shown(columns, comparison.costs, look)


def _known(
    text: Callable[[float, int | None], str], value: float | None, digits: int | None
) -> str:
    return MISSING if value is None else text(value, digits)


def _target_text(target: TimeToTarget | None, digits: int | None) -> str:
    """The median, and how many seeds got there unless all did."""
    if target is None:
        return MISSING
    if target.median_s is None:
        time = f"> {seconds_text(target.longest_s, digits)}"
    else:
        time = seconds_text(target.median_s, digits)
    return time if target.reached == target.seeds else f"{time}, {target.reached}/{target.seeds}"


def _target_s(row: CostRow) -> float | None:
    return row.target.median_s if row.target else None


def _shown(columns: list[Column[R]], rows: Sequence[R], look: Look) -> list[Column[R]]:
    if not look.only_changed:
        return columns
    return [c for c in columns if c.always or len({c.cell(row) for row in rows}) > 1]


def sort_runs(comparisons: Sequence[Comparison], name: str) -> list[Comparison]:
    """The same runs with the best first, by a column of either table.

    Best is the highest accuracy, the lowest loss, the least time or cost, the most images a
    second. Runs are sorted by their last epoch; those whose value is not known come last.

    Args:
      comparisons: each is sorted by itself; one without the column stays as it is.
      name: of the column, upper or lower case.

    Raises:
      UsageError: none has such a column.
    """
    keys = [_keys(comparison) for comparison in comparisons]
    known = list(dict.fromkeys(column for columns in keys for column in columns))
    if name.lower() not in known:
        message = f"--sort-by: there is no column '{name}'{did_you_mean(name, known)}"
        raise UsageError(f"{message}; write {listing(known)}.")
    pairs = zip(comparisons, keys, strict=True)
    return [_sorted(comparison, columns.get(name.lower())) for comparison, columns in pairs]


SortKey = Callable[[str], tuple[bool, float | str]]


def _keys(comparison: Comparison) -> dict[str, SortKey]:
    """For each column, what the run of a label is sorted by."""
    last = {row.label: row for row in comparison.rows}
    costs = {row.label: row for row in comparison.costs}
    of_costs: dict[str, SortKey] = {
        c.name: partial(_key, c, costs) for c in cost_columns(comparison)
    }
    of_epochs: dict[str, SortKey] = {
        c.name: partial(_key, c, last) for c in epoch_columns(comparison, wide=True)
    }
    return of_epochs | of_costs  # the type stands in both


def _sorted(comparison: Comparison, key: SortKey | None) -> Comparison:
    if key is None:
        return comparison
    labels = sorted(dict.fromkeys(row.label for row in comparison.rows), key=key)
    order = {label: place for place, label in enumerate(labels)}
    return replace(
        comparison,
        rows=tuple(sorted(comparison.rows, key=lambda row: order[row.label])),
        costs=tuple(sorted(comparison.costs, key=lambda row: order[row.label])),
    )


def _key(column: Column[R], rows: Mapping[str, R], label: str) -> tuple[bool, float | str]:
    value = column.value(rows[label])
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True, 0.0
    return False, -value if column.falling and not isinstance(value, str) else value
