"""Tables in a terminal: one that is too wide goes on below, and no name or number is broken."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Column, Table

UNBOUNDED = 10_000  # columns


class WrappedTable:
    """A table as wide as the terminal lets it be.

    A column that may wrap is never narrower than its longest word. Columns that find no room
    stand in another table below, beside the first ones once more.

    Args:
      table: the whole one; without padding at its edges, whose width rich does not tell.
      first: how many columns say what a line is about.
    """

    def __init__(self, table: "Table", first: int = 1) -> None:
        self.table, self.first = table, first

    def __rich_console__(
        self, console: "Console", options: "ConsoleOptions"
    ) -> Iterator["RenderableType"]:
        """Yields the table, or its parts with a line between them."""
        from rich.measure import Measurement

        width, wide = options.max_width, options.update_width(UNBOUNDED)

        def measured(part: "RenderableType") -> tuple[int, int]:
            return Measurement.get(console, wide, part)

        bounds = [self._bounds(column, measured, width) for column in self.table.columns]
        start = self.first
        while start < len(bounds):
            chosen = [*range(self.first), start]
            while chosen[-1] + 1 < len(bounds):
                more = [*chosen, chosen[-1] + 1]
                if measured(self._part(more, [bounds[i][0] for i in more]))[1] > width:
                    break
                chosen = more
            least = [bounds[i][0] for i in chosen]
            spare = width - measured(self._part(chosen, least))[1]
            if start > self.first and not self.table.show_edge:
                yield ""
            yield self._part(chosen, _grown(least, [bounds[i][1] for i in chosen], spare), start)
            start = chosen[-1] + 1

    def _bounds(self, column: "Column", measured: "Measure", width: int) -> tuple[int, int]:
        """How narrow and how wide a column may be; a word of half a line is broken all the same."""
        parts = [column.header, *column.cells, *([column.footer] if self.table.show_footer else [])]
        narrow, wide = (max(sizes) for sizes in zip(*map(measured, parts), strict=True))
        return (wide, wide) if column.no_wrap else (min(narrow, max(8, width // 2)), wide)

    def _part(self, chosen: Sequence[int], widths: Sequence[int], start: int = 0) -> "Table":
        """Some columns, of these widths."""
        from rich.table import Table

        whole = self.table
        columns = [whole.columns[i].copy() for i in chosen]
        for column, width in zip(columns, widths, strict=True):
            column.width, column.overflow = width, "fold"
        part = Table(*columns, box=whole.box, title=whole.title if start <= self.first else None)
        part.title_justify, part.show_footer = whole.title_justify, whole.show_footer
        part.padding, part.pad_edge = whole.padding, whole.pad_edge
        part.show_edge, part.collapse_padding = whole.show_edge, whole.collapse_padding
        for row, cells in zip(
            whole.rows, zip(*(whole.columns[i].cells for i in chosen), strict=True), strict=True
        ):
            part.add_row(*cells, style=row.style)
        return part


if TYPE_CHECKING:
    from collections.abc import Callable

    Measure = Callable[[RenderableType], tuple[int, int]]


def _grown(least: Sequence[int], most: Sequence[int], spare: int) -> list[int]:
    """Widths with what is left over, given to the first columns that can use it.

    >>> _grown([4, 5, 6], [9, 5, 20], 7)
    [9, 5, 8]
    """
    widths = []
    for low, high in zip(least, most, strict=True):
        more = max(0, min(high - low, spare))
        widths.append(low + more)
        spare -= more
    return widths


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], rule: str | None = None
) -> str:
    """A Markdown table of cells that are escaped: the first column is text, the others are numbers.

    Args:
      header: names of the columns.
      rows: a cell for each of them.
      rule: the second line, where it is not the shortest one with spaces.

    >>> print(markdown_table(["a", "b"], [["x", "1"]]), end="")
    | a | b |
    | --- | ---: |
    | x | 1 |
    """
    rule = rule or f"| --- |{' ---: |' * (len(header) - 1)}"
    first, *lines = (f"| {' | '.join(cells)} |" for cells in (header, *rows))
    return "\n".join([first, rule, *lines, ""])
