"""Comparisons for programs: CSV and JSON with the raw, unrounded values."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from cnnbench.comparisons.comparison import Comparison
from cnnbench.comparisons.verdict_text import fields
from cnnbench.formatting import csv_cell
from cnnbench.report.columns import Column, Field, R, T, cost_files, epoch_files
from cnnbench.runs import codec
from cnnbench.statistics.estimates import Estimate, mean_interval

_JUDGED: tuple[Field[Comparison], ...] = (
    Field("task", lambda comparison: comparison.task, "as in `run.json`"),
    Field("metric", lambda comparison: comparison.metric, "the headline metric"),
    Field(
        "images",
        lambda comparison: comparison.dataset.judged_on,
        "`validation`, or `test` where there are no validation images",
    ),
)
_KIND: Field[Comparison] = Field(
    "device_kind", lambda comparison: comparison.device_kind, "as in `run.json`"
)
COMPARISON_FIELDS: tuple[Field[Comparison], ...] = (
    *_JUDGED,
    Field(
        "dataset",
        lambda comparison: comparison.dataset.name,
        "name of the dataset that was used",
    ),
    Field("dataset_digest", lambda comparison: comparison.dataset.digest, "its digest"),
    _KIND,
)
"""The first columns of a CSV file."""

JSON_FIELDS: tuple[Field[Comparison], ...] = (
    *_JUDGED,
    Field(
        "direction",
        lambda comparison: comparison.direction,
        "`higher` or `lower`: which values of the metric are better",
    ),
    Field("dataset", lambda comparison: comparison.dataset, "as in `run.json`"),
    _KIND,
    Field(
        "devices",
        lambda comparison: comparison.devices,
        "models of the devices that trained, without duplicates",
    ),
    Field(
        "rows",
        lambda comparison: _json_rows(epoch_files(comparison), comparison.rows),
        "first and last epoch of each run",
    ),
    Field(
        "verdicts",
        lambda comparison: tuple(map(fields, comparison.verdicts)),
        "verdict on each run but the baseline",
    ),
    Field(
        "code_verdicts",
        lambda comparison: tuple(map(fields, comparison.code_verdicts)),
        "verdicts by `code_accuracy`, in the same form; empty if a run has none",
    ),
    Field(
        "costs",
        lambda comparison: _json_rows(cost_files(comparison), comparison.costs),
        "cost of each run",
    ),
    Field(
        "warnings",
        lambda comparison: [warning.text for warning in comparison.warnings],
        "reasons to doubt the times, with remedies",
    ),
    Field("remarks", lambda comparison: comparison.remarks, "notes on the runs"),
    Field(
        "contradictions",
        lambda comparison: comparison.contradictions,
        "runs of one experiment with the same seeds and different results, with likely causes",
    ),
    Field(
        "spreads",
        lambda comparison: comparison.spreads,
        "spread over seeds of each run, and what the finite number of images explains of it",
    ),
)
"""The keys of a comparison in JSON."""


def csv_text(comparisons: Sequence[Comparison]) -> str:
    """One header and one line for each row of each comparison; an unknown value is empty."""
    rows = [line for comparison in comparisons for line in csv_rows(comparison)]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def json_text(comparisons: Sequence[Comparison]) -> str:
    """Everything in the comparisons, with the raw value of each seed."""
    fields = {"comparisons": tuple(map(comparison_fields, comparisons))}
    return codec.encode_document(fields).decode()


def csv_rows(comparison: Comparison) -> Iterator[dict[str, object]]:
    """Yields the lines of a CSV file, unrounded: the first and the last epoch of each run."""
    first = _values(COMPARISON_FIELDS, comparison)
    fields = [one for column in epoch_files(comparison) for one in column.files.csv]
    cost_fields = [one for column in cost_files(comparison) for one in column.files.csv]
    for cost in comparison.costs:
        last = _values(cost_fields, cost)
        for row in comparison.rows:
            if row.label == cost.label:
                yield first | _values(fields, row) | last


def _values(fields: Iterable[Field[T]], row: T) -> dict[str, object]:
    return {one.name: one.value(row) for one in fields}


def _json_rows(columns: Sequence[Column[R]], rows: Iterable[R]) -> tuple[dict[str, object], ...]:
    fields = [one for column in columns for one in column.files.json]
    return tuple(
        {name: _json_value(value) for name, value in _values(fields, row).items()} for row in rows
    )


def comparison_fields(comparison: Comparison) -> dict[str, object]:
    """A comparison for JSON."""
    return _values(JSON_FIELDS, comparison)


def _json_value(value: object) -> object:
    """An estimate with its interval; anything else as it is."""
    if not isinstance(value, Estimate):
        return value
    return {
        "values": value.values,
        "mean": value.mean,
        "std": value.std,
        "interval_95": mean_interval(value.values, 0.95, value.overlap),
    }
