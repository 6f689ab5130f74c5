"""Writes tables of docs/reference/ from the columns, so that none is missing or made up.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. Run
``python docs/make_results.py`` after changing a column; a test compares the page
with what this would write.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cnnbench.comparisons.comparison import Comparison
from cnnbench.report.columns import (
    COST_COLUMNS,
    EPOCH_COLUMNS,
    Column,
    Field,
    cost_files,
    epoch_files,
)
from cnnbench.report.csv_json import COMPARISON_FIELDS
from cnnbench.runs.records import DatasetRecord, Direction

PAGE = Path(__file__).parent / "reference" / "tables.md"
_IMAGES = DatasetRecord("mnist", "MNIST", "", None, 50_000, 10_000, 10_000, "")
ANY = Comparison("classify", "accuracy", Direction.HIGHER, _IMAGES, "cpu", (), ())
"""A comparison of nothing: the columns mean the same in all."""


def column_rows(columns: Iterable[Column[Any]]) -> list[str]:
    """A row for each column of a table."""
    rows = [f"| {column.header} | {column.meaning} |" for column in columns]
    return ["| Column | Meaning |", "|---|---|", *rows]


def csv_rows() -> list[str]:
    """A row for each column of a CSV file."""
    columns: Sequence[Column[Any]] = [*epoch_files(ANY), *cost_files(ANY)]
    fields: list[Field[Any]] = [*COMPARISON_FIELDS]
    fields += [field for column in columns for field in column.files.csv]
    rows = [f"| `{field.name}` | {field.meaning} |" for field in fields]
    return ["| CSV column | Meaning |", "|---|---|", *rows]


def json_rows() -> list[str]:
    """A row for each key of a row and of a cost."""
    lines = ["| JSON key | Meaning |", "|---|---|"]
    for list_name, columns in (("rows", epoch_files(ANY)), ("costs", cost_files(ANY))):
        fields: list[Field[Any]] = [field for c in columns for field in c.files.json]
        for field in fields:
            key = f"{list_name}[].{field.name}"
            lines.append(f"| `{key}` | {field.meaning} |")
            lines += [f"| `{key}.{part}` | {text} |" for part, text in field.parts.items()]
    return lines


def table(name: str) -> str:
    """The text between the markers of a table."""
    match name:
        case "columns":
            lines = column_rows(make(ANY, None) for make in EPOCH_COLUMNS)
        case "costs":
            lines = column_rows(make(ANY, None) for make in COST_COLUMNS)
        case "csv":
            lines = csv_rows()
        case "json":
            lines = json_rows()
        case _:
            raise ValueError(name)
    return "\n".join(lines)


def render(page: str) -> str:
    """The page with every table made anew."""
    pattern = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda m: f"{m[1]}{table(m[2])}\n{m[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
