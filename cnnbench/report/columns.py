"""The columns of comparisons: what stands in them, which value sorts them, which are worth showing.

Rows are of two kinds: a run after an epoch (`Row`), and what the run costs (`CostRow`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

from cnnbench.compare.comparison import CODE, Comparison, CostRow, Row
from cnnbench.compare.statistics import Estimate
from cnnbench.compare.time_to_target import TimeToTarget, target_title
from cnnbench.errors import UsageError, or_list
from cnnbench.formatting import (
    MISSING,
    bytes_text,
    clean,
    count_text,
    flops_text,
    percent_text,
    seconds_text,
)
from cnnbench.runs.records import Direction
from cnnbench.spec.metrics import heading, is_fraction, metric_text
from cnnbench.spec.vocabulary import COLUMN

R = TypeVar("R", bound=Row | CostRow)
CellValue = float | str | None


@dataclass(frozen=True, slots=True)
class TableOptions:
    """How a comparison is shown.

    Args:
      precision: digits after the point of what was measured; chosen by its size if None.
      only_changed: leave out columns that say the same of every run.
    """

    precision: int | None = None
    only_changed: bool = False


PLAIN = TableOptions()


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
      synonym: another word for it; empty if there is none.
    """

    name: str
    header: str
    cell: Callable[[R], str]
    value: Callable[[R], CellValue]
    heading: str | None = None
    falling: bool = False
    always: bool = False
    synonym: str = ""


def epoch_columns(
    comparison: Comparison, *, wide: bool, look: TableOptions = PLAIN
) -> list[Column[Row]]:
    """Of the table of first and last epochs.

    Args:
      comparison: what is shown.
      wide: also the test value, parameters and images per second.
      look: how it is shown.
    """
    metric, digits = comparison.metric, look.precision
    higher = comparison.direction is Direction.HIGHER
    times = [row.train_s.mean for row in comparison.rows]
    columns: list[Column[Row]] = [
        Column("type", "Type", lambda row: clean(row.label), lambda row: row.label, always=True),
        Column("epoch", "Epoch", lambda row: str(row.epoch), lambda row: row.epoch, always=True),
        Column(
            metric,
            heading(comparison.shown_metric),
            lambda row: row.lost or estimate_text(metric, row.value, digits),
            lambda row: row.value.mean,
            falling=higher,
            synonym="" if comparison.validates else "test",
        ),
        Column(
            "time",
            "Time",
            lambda row: seconds_text(row.train_s.mean, digits, times),
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
    if any(row.code for row in comparison.rows):
        columns.append(
            Column(
                "code",
                "Code",
                lambda row: estimate_text(CODE, row.code, digits) if row.code else "",
                lambda row: row.code.mean if row.code else None,
                falling=True,
            )
        )
    if wide:
        wider = _wide(metric, digits, higher=higher)
        columns += wider if comparison.validates else wider[1:]  # the values are those of the test
    return _shown(columns, comparison.rows, look)


def _wide(metric: str, digits: int | None, *, higher: bool) -> list[Column[Row]]:
    return [
        Column(
            "test",
            "Test",
            lambda row: (
                (row.lost or metric_text(metric, row.test.mean, digits)) if row.test else ""
            ),
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


def cost_columns(comparison: Comparison, look: TableOptions = PLAIN) -> list[Column[CostRow]]:
    """Of the table of costs."""
    rows, digits = comparison.costs, look.precision

    def quantity(name: str, header: str, text: _Text, *fields: str) -> Column[CostRow]:
        """Of the first field, in one unit with the others."""
        value, known = _field(fields[0]), [_field(f)(row) for f in fields for row in rows]
        beside = [v for v in known if v is not None]
        heading = header.replace(" ", "\n")
        return Column(
            name, header, lambda row: _known(text, value(row), digits, beside), value, heading
        )

    p50, p99 = "latency_p50_s", "latency_p99_s"
    columns: list[Column[CostRow]] = [
        Column("type", "Type", lambda row: clean(row.label), lambda row: row.label, always=True),
        quantity("forward", "Forward", flops_text, "forward_flops"),
        quantity("backward", "Backward", flops_text, "backward_flops"),
        quantity("memory", "Memory", bytes_text, "memory_bytes"),
        quantity("p50", "Latency p50", seconds_text, p50, p99),
        quantity("p99", "Latency p99", seconds_text, p99, p50),
        Column(
            "peak",
            "Peak",
            lambda row: MISSING if (p := row.product_share) is None else percent_text(p, digits),
            lambda row: row.product_share,
            falling=True,
        ),
    ]
    if targets := [row.target for row in rows if row.target]:
        title = f"To {target_title(comparison.metric, targets[0].target)}"
        times = [_seconds(target) for target in targets]
        columns.append(
            Column("target", title, lambda row: _target_text(row.target, digits, times), _target_s)
        )
    return _shown(columns, rows, look)


_Text = Callable[[float, int | None, Sequence[float]], str]


def _field(name: str) -> Callable[[CostRow], float | None]:
    return lambda row: getattr(row.cost, name) if row.cost else None


def _known(text: _Text, value: float | None, digits: int | None, beside: Sequence[float]) -> str:
    return MISSING if value is None else text(value, digits, beside)


def _target_text(target: TimeToTarget | None, digits: int | None, beside: Sequence[float]) -> str:
    """The median, and how many seeds got there unless all did."""
    if target is None:
        return MISSING
    time = seconds_text(_seconds(target), digits, beside)
    time = f"> {time}" if target.median_s is None else time
    return time if target.reached == target.seeds else f"{time}, {target.reached}/{target.seeds}"


def _seconds(target: TimeToTarget) -> float:
    return target.longest_s if target.median_s is None else target.median_s


def _target_s(row: CostRow) -> float | None:
    return row.target.median_s if row.target else None


def _shown(columns: list[Column[R]], rows: Sequence[R], look: TableOptions) -> list[Column[R]]:
    if not look.only_changed:
        return columns
    return [c for c in columns if c.always or len({c.cell(row) for row in rows}) > 1]


def sort_runs(comparisons: Sequence[Comparison], name: str) -> list[Comparison]:
    """The same runs with the best first, by a column of either table.

    Best is the highest accuracy, the lowest loss, the least time or cost, the most images a
    second. Runs are sorted by their last epoch; those whose value is not known come last.

    Args:
      comparisons: each is sorted by itself; one without the column stays as it is.
      name: of the column, or its header; upper or lower case, with spaces or without.

    Raises:
      UsageError: none has such a column.
    """
    keys = [_keys(comparison) for comparison in comparisons]
    if not any(_spelt(name) in found for found in keys):
        words = [word for comparison in comparisons for word in _words(comparison)]
        names = dict.fromkeys(key for key, _ in words)
        near = COLUMN.hint(name, [*names, *(header for _, header in words)])
        message = f"--sort-by: there is no column '{name}'{near}"
        raise UsageError(f"{message}; write {or_list(names)}, or a header of the tables.")
    pairs = zip(comparisons, keys, strict=True)
    return [_sorted(comparison, found.get(_spelt(name))) for comparison, found in pairs]


SortKey = Callable[[str], tuple[bool, float | str]]
_SYNONYMS = {"type": ("name",), "p50": ("latency",)}


def _spelt(word: str) -> str:
    return "".join(word.lower().split())


def _words(comparison: Comparison) -> list[tuple[str, str]]:
    """Names and headers."""
    of_epochs = [(c.name, c.header) for c in epoch_columns(comparison, wide=True)]
    return of_epochs + [(c.name, c.header) for c in cost_columns(comparison)]


def _keys(comparison: Comparison) -> dict[str, SortKey]:
    """By all that a column is called, what the run of a label is sorted by."""
    last = {row.label: row for row in comparison.rows}
    costs = {row.label: row for row in comparison.costs}
    keys: dict[str, SortKey] = {}
    for cost in cost_columns(comparison):
        keys |= dict.fromkeys(_called(cost), partial(_key, cost, costs))
    for column in epoch_columns(comparison, wide=True):
        keys |= dict.fromkeys(_called(column), partial(_key, column, last))
    return keys


def _called(column: Column[R]) -> list[str]:
    synonyms = _SYNONYMS.get(column.name, (column.synonym or column.name,))
    names = (column.name, column.header, *synonyms)
    return [_spelt(name) for name in names]


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


def estimate_text(metric: str, estimate: Estimate, digits: int | None = None) -> str:
    """Mean and spread, such as `98.97 ± 0.05 %`.

    A spread that rounds to zero would claim a certainty that is not there.

    >>> estimate_text("accuracy", Estimate((0.98, 0.98), 0.98, 0.0))
    '98.00 ± <0.01 %'
    """
    value, std = metric_text(metric, estimate.mean, digits), estimate.std
    if std is None or math.isnan(std):
        return value
    if is_fraction(metric):
        spread = _spread(100 * std, 2 if digits is None else digits)
        return f"{value.removesuffix(' %')} ± {spread} %"
    if digits is not None:
        return f"{value} ± {_spread(std, digits)}"
    return f"{value} ± {std:#.2g}" if std else f"{value} ± 0"


def _spread(std: float, digits: int) -> str:
    least = 10.0**-digits
    return f"<{least:.{digits}f}" if std < least / 2 else f"{std:.{digits}f}"
