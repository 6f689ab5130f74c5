"""Comparisons for programs: CSV and JSON with the raw, unrounded values."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from cnnbench.comparisons.comparison import Comparison
from cnnbench.comparisons.statistics import Estimate, mean_interval
from cnnbench.comparisons.verdict_text import fields
from cnnbench.formatting import csv_cell
from cnnbench.report.columns import Column, Field, R, T, cost_files, epoch_files
from cnnbench.runs import codec

COMPARISON_FIELDS: tuple[Field[Comparison], ...] = (
    Field("task", lambda comparison: comparison.task, "as in `run.json`"),
    Field("metric", lambda comparison: comparison.metric, "the headline metric"),
    Field(
        "images",
        lambda comparison: comparison.dataset.judged_on,
        "`validation`, or `test` where there are no validation images",
    ),
    Field(
        "dataset",
        lambda comparison: comparison.dataset.name,
        "name of the dataset that was used",
    ),
    Field("dataset_digest", lambda comparison: comparison.dataset.digest, "its digest"),
    Field("device_kind", lambda comparison: comparison.device_kind, "as in `run.json`"),
)
"""What stands first in every line of a CSV file."""


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
    return codec.encode_document({"comparisons": tuple(map(_json, comparisons))}).decode()


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


def _json(comparison: Comparison) -> dict[str, object]:
    return {
        "task": comparison.task,
        "metric": comparison.metric,
        "images": comparison.dataset.judged_on,
        "direction": comparison.direction,
        "dataset": comparison.dataset,
        "device_kind": comparison.device_kind,
        "devices": comparison.devices,
        "rows": _json_rows(epoch_files(comparison), comparison.rows),
        "verdicts": tuple(fields(verdict) for verdict in comparison.verdicts),
        "code_verdicts": tuple(fields(verdict) for verdict in comparison.code_verdicts),
        "costs": _json_rows(cost_files(comparison), comparison.costs),
        "warnings": comparison.warnings,
        "remarks": comparison.remarks,
        "contradictions": comparison.contradictions,
    }


def _json_value(value: object) -> object:
    """An estimate with its interval; anything else as it is."""
    if not isinstance(value, Estimate):
        return value
    return {
        "values": value.values,
        "mean": value.mean,
        "std": value.std,
        "interval_95": mean_interval(value.values, 0.95),
    }
