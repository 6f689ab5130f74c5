"""``cnnbench list``: lists runs, and searches and exports them."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from cnnbench.cli.options import Format, ResultsDir
from cnnbench.cli.terminal import file_form, print_document, stdout, tell, warn, write_file
from cnnbench.errors import UsageError
from cnnbench.report import run_list
from cnnbench.runs import find
from cnnbench.runs.index.search import FoundRuns, Search, search
from cnnbench.system import commands

_FORMS = ("csv", "parquet", "json")
MOST_ON_TERMINAL = 200  # rows, without --limit


class Per(StrEnum):
    """What a row of an exported table is."""

    RUN = "run"
    SEED = "seed"


PerOption = Annotated[Per, typer.Option(help="With --output: a row per run, or per seed.")]


def list_runs(  # noqa: PLR0913, PLR0917 - one parameter per option
    where: Annotated[
        str | None,
        typer.Option(
            help="Only runs for which this holds, such as 'test_accuracy > 0.98 and epochs >= 10':"
            " recorded values, means over seeds and settings; texts in quotes.",
            metavar="CONDITION",
            show_default=False,
        ),
    ] = None,
    sort_by: Annotated[
        str | None,
        typer.Option(
            help="Value to sort by, in ascending order; default: start.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Reverse the order.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            help="List the first N runs only, or without --sort-by the newest N.",
            min=1,
            metavar="N",
            show_default=False,
        ),
    ] = None,
    format: Annotated[  # noqa: A002 - the option's name
        Literal[Format.TABLE, Format.CSV, Format.JSON], typer.Option(help="Output format.")
    ] = Format.TABLE,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write a table to this file, .csv, .parquet or .json.",
            metavar="FILE",
        ),
    ] = None,
    per: PerOption = Per.RUN,
    results_dir: ResultsDir = Path("results"),
) -> None:
    """List runs, oldest first; or search, sort and export them."""
    if per is Per.SEED and output is None and format is Format.TABLE:
        raise UsageError("--per seed: needs --output FILE or --format csv; add one of them.")
    asked = Search(where, sort_by, reverse=reverse, limit=limit)
    found = _searched(asked, results_dir)
    if found is None:
        return
    is_table = output is None and format is Format.TABLE
    if not found.entries:
        tell(f"no run matches {where}; {found.known}", err=not is_table)
    if output is not None:
        write_runs("--output", output, found, per)
    elif not is_table:
        print_document(_text(found, per, format.value), format.value)
    elif found.entries:
        _print(found, asked)


def _print(found: FoundRuns, asked: Search) -> None:
    """Prints a table; on a terminal not more rows than anyone reads, unless they are asked for."""
    console, number = stdout(), len(found.entries)
    if console.is_terminal and asked.limit is None and number > MOST_ON_TERMINAL:
        is_start = asked.sort_by or asked.reverse
        found = found.part(slice(MOST_ON_TERMINAL) if is_start else slice(-MOST_ON_TERMINAL, None))
        which = "first" if asked.sort_by else "newest"
        tell(f"Showing the {which} {MOST_ON_TERMINAL} of {number:,} runs; --limit N shows more.")
    curves = [entry.curve for entry in found.entries]
    console.print(run_list.list_table(found.entries, curves, console.encoding, found.columns))
    for line in () if found.columns else run_list.device_notes(found.entries):
        tell(line, err=False)


def export_runs(output: Path, per: Per, results_dir: Path) -> None:
    """Writes all runs to a file, as `cnnbench export FILE` does.

    Raises:
      UsageError: the file has another extension, or there are no runs.
    """
    if found := _searched(Search(), results_dir):
        write_runs("export", output, found, per)


def write_runs(option: str, output: Path, found: FoundRuns, per: Per) -> None:
    """Writes runs to a file in the format of its extension."""
    form = file_form(option, output, _FORMS)
    if form == "parquet":
        write_file(option, output, run_list.rows_parquet(_rows(found, per)))
    else:
        write_file(option, output, _text(found, per, form).encode(errors="backslashreplace"))


def _searched(asked: Search, results_dir: Path) -> FoundRuns | None:
    """Searches the runs of a folder; None after saying that there are none."""
    listing = find.list_runs(results_dir)
    warn(listing.warnings)
    if not listing.entries:
        start = commands.cnnbench("run", "standard", *commands.results_dir_option(results_dir))
        tell(f"no runs in {results_dir}; start one with: {start}", err=False)
        return None
    return search(listing.entries, asked)


def _rows(found: FoundRuns, per: Per) -> Sequence[Mapping[str, object]]:
    columns = {**run_list.differing_settings(found.entries), **found.columns}
    rows = run_list.run_rows(found.entries, columns)
    return rows if per is Per.RUN else list(run_list.seed_rows(rows, found.entries))


def _text(found: FoundRuns, per: Per, form: str) -> str:
    rows = _rows(found, per)
    return run_list.rows_csv(rows) if form == "csv" else run_list.rows_json(rows)
