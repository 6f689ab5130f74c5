"""Runs as tables: for a terminal, and for programs a row per run or seed in CSV, JSON or Parquet.

Nothing here needs comparisons, which take longer to import than a list takes.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from cnnbench.errors import UsageError
from cnnbench.formatting import MISSING, clean, csv_cell, diverged_text
from cnnbench.report.sparkline import sparkline
from cnnbench.report.table import LONG, WrappedTable
from cnnbench.runs.folder import RunEntry
from cnnbench.runs.index.curves import CURVE_POINTS
from cnnbench.runs.index.values import RECORDED, RunValues, Value, parsed
from cnnbench.runs.records import Facts
from cnnbench.runs.settings import as_override
from cnnbench.spec.metrics import metric_text
from cnnbench.system import commands

RunRow = Mapping[str, Any]


def list_table(
    entries: Sequence[RunEntry],
    curves: Iterable[Sequence[float]],
    encoding: str,
    columns: Mapping[str, Sequence[Value]] | None = None,
) -> WrappedTable:
    """Returns a table of runs for a terminal; the RUN-ID begins with the start time in UTC.

    Args:
      entries: the runs.
      curves: the headline metric of each run by epoch.
      encoding: encoding of the terminal.
      columns: values to show instead of epochs, seeds and curve, by name; None or empty for none.
        Without them, hardware that differs takes the place of the curves.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("Run", no_wrap=True)
    table.add_column("Name")
    table.add_column("Dataset")
    for header in columns or ("Epochs", "Seeds"):
        table.add_column(Text(_short(header)), justify="right", no_wrap=True)
    devices = device_labels(entries)
    if not columns:
        table.add_column("Device" if devices else "Curve", no_wrap=True)
    table.add_column("Result", justify="right", no_wrap=True)
    others = [list(map(_value_cell, values)) for values in (columns or {}).values()]
    # Texts are slow; long tables have no style that a string would be searched for.
    cell: Callable[[str], str | Text] = str if len(entries) > LONG else Text
    for number, (entry, curve) in enumerate(zip(entries, curves, strict=True)):
        middle = [cells[number] for cells in others]
        if not columns:
            last = devices.get(_device(entry)) or sparkline(curve, encoding, CURVE_POINTS)
            middle = [*_counts(entry), last]
        table.add_row(*map(cell, _list_cells(entry, middle)))
    return WrappedTable(table)


def device_labels(entries: Sequence[RunEntry]) -> dict[tuple[str, str], str]:
    """Short names of the hardware of runs, by kind and model; none if all have the same.

    A kind is enough (`cpu`, `gpu`) unless there are several models of it (`cpu 1`, `cpu 2`).

    Args:
      entries: the runs.
    """
    found = list(dict.fromkeys(map(_device, entries)))
    if len(found) < 2:
        return {}
    kinds = [kind for kind, _ in found]
    return {
        device: device[0]
        if kinds.count(device[0]) == 1
        else f"{device[0]} {kinds[: number + 1].count(device[0])}"
        for number, device in enumerate(found)
    }


def device_notes(entries: Sequence[RunEntry]) -> Iterator[str]:
    """What the short names of hardware mean, a line each."""
    for (_, model), label in device_labels(entries).items():
        yield f"{label}: {clean(model)}"


def _device(entry: RunEntry) -> tuple[str, str]:
    return entry.facts.device_kind, entry.facts.device


def _list_cells(entry: RunEntry, middle: Sequence[str]) -> tuple[str, ...]:
    """Returns the cells of a run; the last one is its result, or why there is none."""
    facts = entry.facts
    dataset = f"{facts.dataset} for {facts.stand_in_for}" if facts.stand_in_for else facts.dataset
    name = facts.name + facts.tags_text
    return (facts.run_id, name, dataset, *middle, _result(facts) or entry.status)


def _counts(entry: RunEntry) -> tuple[str, str]:
    return str(entry.facts.epochs), str(len(entry.facts.seeds))


def _short(name: str) -> str:
    """The end of a dotted name."""
    return name.rpartition(".")[2] if name.startswith(("train.", "dataset.")) else name


def _value_cell(value: Value) -> str:
    """Formats any value of a run.

    >>> [_value_cell(value) for value in (0.98765, 1e-4, 12.0, ("a", "b"), True)]
    ['0.9877', '0.0001', '12', 'a, b', 'true']
    """
    match value:
        case None:
            return MISSING
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.4g}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M}"
        case tuple():
            return ", ".join(value)
    return str(value)


def _result(facts: Facts) -> str:
    """Returns the headline metric, or that seeds diverged; empty without results."""
    if facts.result is None:
        return ""
    name, value = facts.result
    views = f" (TTA {facts.test_augment})" if facts.test_augment else ""
    on_test = "test " if name.startswith("test_") else ""
    text = f"{on_test}{metric_text(facts.headline, value)}{views}"
    return diverged_text(facts.num_diverged, len(facts.seeds)) or text


def run_rows(entries: Sequence[RunEntry], columns: Mapping[str, Sequence[Value]]) -> list[RunRow]:
    """Returns a row per run: recorded values, other columns, means over seeds.

    Args:
      entries: the runs.
      columns: further columns by name, a value per run.
    """
    known = RunValues(entries, "--where")
    recorded = {name: known.column(name) for name in RECORDED}
    return [
        {
            **{name: values[number] for name, values in recorded.items()},
            **{name: values[number] for name, values in columns.items()},
            **entry.facts.values,
        }
        for number, entry in enumerate(entries)
    ]


def differing_settings(entries: Sequence[RunEntry]) -> dict[str, list[Value]]:
    """Returns the settings that are not the same in all runs, as in overrides."""
    settings = RunValues(entries, "--where").settings
    skipped = ("seeds", "train.epochs", "train.batch_size", "dataset.name", "task")
    names = dict.fromkeys(name for each in settings for name in each if name not in skipped)
    columns = {name: [parsed(each.get(name)) for each in settings] for name in names}
    return {as_override(name): values for name, values in columns.items() if len({*values}) > 1}


def seed_rows(rows: Sequence[RunRow], entries: Sequence[RunEntry]) -> Iterator[RunRow]:
    """Yields a row per seed: the row of its run with the values of the seed alone.

    Args:
      rows: of runs.
      entries: the runs.
    """
    for row, entry in zip(rows, entries, strict=True):
        kept = {name: value for name, value in row.items() if name not in entry.facts.values}
        for seed in entry.summary.seeds if entry.summary else ():
            yield {
                **kept,
                **({"device": seed.machine.model} if seed.machine else {}),
                "seed": seed.seed,
                **{f"validation_{name}": value for name, value in seed.final.items()},
                **{f"test_{name}": value for name, value in seed.test.items()},
                **{f"best_validation_{name}": best.value for name, best in seed.best.items()},
                "train_s": seed.train_s,
                "eval_s": seed.eval_s,
                "compile_s": seed.compile_s,
                "diverged": seed.diverged is not None,
            }


def rows_csv(rows: Sequence[RunRow]) -> str:
    """Formats rows as CSV; missing values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = column_names(rows)
    writer.writerow(names)
    writer.writerows([csv_cell(_plain(row.get(name))) for name in names] for row in rows)
    return text.getvalue()


def rows_json(rows: Sequence[RunRow]) -> str:
    """Formats rows as a JSON list of objects; values that are not finite are null."""
    found = [{name: _json(value) for name, value in row.items()} for row in rows]
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def rows_parquet(rows: Sequence[RunRow]) -> bytes:
    """Encodes rows as a Parquet file: times in UTC, tags as text.

    Raises:
      UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        install = commands.pip_install("cnnbench[parquet]")
        message = "Parquet files need the package 'pyarrow', which is not installed"
        raise UsageError(f"{message}; run {install}, or write a .csv file.") from None
    names = column_names(rows)
    columns = {name: _one_kind([_flat(row.get(name)) for row in rows]) for name in names}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def column_names(rows: Sequence[RunRow]) -> list[str]:
    """Lists the names of all columns, in the order of their first rows; some without any row."""
    return list(dict.fromkeys(name for row in rows for name in row)) or list(RECORDED)


def _flat(value: Value) -> Any:
    return ", ".join(value) if isinstance(value, tuple) else value


def _plain(value: Value) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return "" if value is None else _flat(value)


def _json(value: Value) -> Any:
    if isinstance(value, datetime):
        return _plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else value


def _one_kind(values: list[Any]) -> list[Any]:
    """Values of one type: numbers, or else texts."""
    kinds = {float if isinstance(v, int) and not isinstance(v, bool) else type(v) for v in values}
    if len(kinds - {type(None)}) <= 1:
        return values
    return [None if value is None else str(value) for value in values]
