"""Tables of docs/reference/tables.md, from the columns of comparisons."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from cnnbench.comparisons.comparison import Comparison
from cnnbench.comparisons.verdict import Verdict
from cnnbench.report.columns import (
    COST_COLUMNS,
    EPOCH_COLUMNS,
    Column,
    Field,
    cost_files,
    epoch_files,
)
from cnnbench.report.csv_json import COMPARISON_FIELDS, JSON_FIELDS
from cnnbench.runs.records import DatasetRecord, Direction
from generators.markdown import arguments, code, rows

_IMAGES = DatasetRecord("mnist", "MNIST", "", None, 50_000, 10_000, 10_000, "")
ANY = Comparison("classify", "accuracy", Direction.HIGHER, _IMAGES, "cpu", (), ())
"""An empty comparison, since the columns have the same meaning in all."""


def column_table(columns: Iterable[Column[Any]]) -> str:
    """A row for each column of a table."""
    return rows(("Column", "Meaning"), [(column.header, column.meaning) for column in columns])


def csv_table() -> str:
    """A row for each column of a CSV file."""
    columns: Sequence[Column[Any]] = [*epoch_files(ANY), *cost_files(ANY)]
    fields: list[Field[Any]] = [*COMPARISON_FIELDS]
    fields += [field for column in columns for field in column.files.csv]
    return rows(("CSV column", "Meaning"), [(code(each.name), each.meaning) for each in fields])


def comparison_table() -> str:
    """A row for each key of a comparison in JSON."""
    return rows(("JSON key", "Meaning"), [(code(each.name), each.meaning) for each in JSON_FIELDS])


def rows_table() -> str:
    """A row for each key of a row and of a cost in JSON."""
    lines: list[tuple[str, str]] = []
    for list_name, columns in (("rows", epoch_files(ANY)), ("costs", cost_files(ANY))):
        fields: list[Field[Any]] = [field for c in columns for field in c.files.json]
        for field in fields:
            key = f"{list_name}[].{field.name}"
            lines.append((code(key), field.meaning))
            lines += [(code(f"{key}.{part}"), text) for part, text in field.parts.items()]
    return rows(("JSON key", "Meaning"), lines)


def verdict_table() -> str:
    """A row for each key of a verdict in JSON."""
    meanings = arguments(Verdict) | {"sentence": "the verdict as a sentence"}
    names = [*(field.name for field in dataclasses.fields(Verdict)), "sentence"]
    return rows(
        ("JSON key", "Meaning"), [(code(f"verdicts[].{name}"), meanings[name]) for name in names]
    )


def table(name: str) -> str:
    """Render the table of a name."""
    match name:
        case "columns":
            return column_table(make(ANY, None) for make in EPOCH_COLUMNS)
        case "costs":
            return column_table(make(ANY, None) for make in COST_COLUMNS)
        case "csv":
            return csv_table()
        case "comparison":
            return comparison_table()
        case "verdicts":
            return verdict_table()
        case "rows":
            return rows_table()
        case _:
            raise ValueError(name)
