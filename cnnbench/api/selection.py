"""Runs as users of Python name them: by name, by folder, or as results."""

import io
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from cnnbench.cli.console import LegibleConsole
from cnnbench.errors import UsageError
from cnnbench.runs.find import find_runs
from cnnbench.runs.records import RunResult

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDTH = 80  # columns of text forms

RunLike: TypeAlias = RunResult | str | Path
"""A run: its result, or what the command line accepts: a name, NAME@TAG, RUN-ID or folder."""

_Item = TypeVar("_Item", bound=RunLike)


def flat(items: "Iterable[_Item | Iterable[_Item]]") -> Iterator[_Item]:
    """Yields runs or experiments that are given one by one or in lists."""
    for item in items:
        if isinstance(item, RunResult | str | Path):
            yield item
        else:
            yield from item


def printed(parts: Iterable["RenderableType"]) -> str:
    """What a terminal of 80 columns shows, without spaces at the ends of lines."""
    text = io.StringIO()
    console = LegibleConsole(file=text, width=_WIDTH, color_system=None, force_jupyter=False)
    for part in parts:
        console.print(part)
    return "\n".join(map(str.rstrip, text.getvalue().splitlines()))


def number_text(value: float | str) -> str:
    """Writes a number without an exponent.

    >>> number_text(1e-05), number_text("2%")
    ('0.00001', '2%')
    """
    return value if isinstance(value, str) else f"{Decimal(str(value)):f}"


def named_runs(runs: "Sequence[RunLike | Iterable[RunLike]]", otherwise: str) -> list[RunLike]:
    """Lists the runs that are given to a function.

    Args:
      runs: its arguments.
      otherwise: how to get the runs that are used without arguments, for the message.

    Returns:
      The runs; none only if there are no arguments.

    Raises:
      UsageError: all arguments are empty.
    """
    items = list(flat(runs))
    if runs and not items:
        raise UsageError(f"runs: empty; name a run, or {otherwise}.")
    return items


def read_runs(
    items: Sequence[RunLike], results_dir: Path
) -> tuple[tuple[RunResult, ...], tuple[str, ...]]:
    """Reads the runs that are given by name.

    Args:
      items: results, which are returned unchanged, and names as in `find_runs`.
      results_dir: folder of all results.

    Returns:
      The runs in the order of `items`, and warnings.

    Raises:
      CnnbenchError: as `find_runs`.
    """
    names = [str(item) for item in items if not isinstance(item, RunResult)]
    if not names:
        return tuple(item for item in items if isinstance(item, RunResult)), ()
    selection = find_runs(names, results_dir)
    found = iter(selection.runs)
    runs = (item if isinstance(item, RunResult) else next(found) for item in items)
    return tuple(runs), selection.warnings
