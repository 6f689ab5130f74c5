"""Terminal tables: one that is too wide continues below; names and numbers stay whole."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segments
    from rich.table import Table

UNBOUNDED = 10_000  # columns
LONG = 200  # rows
WHOLE_NAME = 20  # characters; shorter names are never broken over lines


class WrappedTable:
    """A table that fits the width of the terminal.

    A column that may wrap is never narrower than its longest word, and short names stay on one
    line. Columns that do not fit continue in another table below, which repeats the first columns.

    Args:
      table: the table; without padding at its edges, whose width rich does not report.
      first: number of columns that identify a row.
    """

    def __init__(self, table: "Table", first: int = 1) -> None:
        self.table, self.first = table, first

    def __rich_console__(
        self, console: "Console", options: "ConsoleOptions"
    ) -> Iterator["RenderableType"]:
        """Yields the table, or its parts separated by blank lines."""
        from rich.measure import Measurement

        width, wide = options.max_width, options.update_width(UNBOUNDED)

        def measured(part: "RenderableType") -> tuple[int, int]:
            return Measurement.get(console, wide, part)

        def empty(chosen: Sequence[int], widths: Sequence[int]) -> int:
            return measured(self._part(chosen, widths, rows=False))[1]

        bounds = [self._bounds(i, measured, width) for i in range(len(self.table.columns))]
        start = self.first
        while start < len(bounds):
            chosen = [*range(self.first), start]
            while chosen[-1] + 1 < len(bounds):
                more = [*chosen, chosen[-1] + 1]
                if empty(more, [bounds[i][0] for i in more]) > width:
                    break
                chosen = more
            least = [bounds[i][0] for i in chosen]
            spare = width - empty(chosen, least)
            if start > self.first and not self.table.show_edge:
                yield ""
            widths = _grown(least, [bounds[i][1] for i in chosen], spare)
            if self._is_long:
                yield self._part(chosen, widths, start, rows=False)
                yield self._lines(chosen, widths)
            else:
                yield self._part(chosen, widths, start)
            start = chosen[-1] + 1

    def _bounds(self, number: int, measured: "Measure", width: int) -> tuple[int, int]:
        """Returns the least and the greatest width; words longer than half a line are broken."""
        column = self.table.columns[number]
        parts = [column.header, *column.cells, *([column.footer] if self.table.show_footer else [])]
        if self._is_long:
            measured, parts = _sizes, list({str(part) for part in parts})
        narrow, wide = (max(sizes) for sizes in zip(*map(measured, parts), strict=True))
        is_name = number < self.first and wide <= min(WHOLE_NAME, width // 2)
        if column.no_wrap or is_name:
            return wide, wide
        return min(narrow, max(8, width // 2)), wide

    @property
    def _is_long(self) -> bool:
        """True for so many rows that Rich would take seconds."""
        return self.table.row_count > LONG and not self.table.show_edge

    def _lines(self, chosen: Sequence[int], widths: Sequence[int]) -> "Segments":
        """Formats the rows of a long table without style, as Rich would."""
        from rich.segment import Segment, Segments

        columns = [self.table.columns[i] for i in chosen]
        right = [column.justify == "right" for column in columns]
        cells = [
            [_folded(str(cell), width, is_right) for cell in column.cells]
            for column, width, is_right in zip(columns, widths, right, strict=True)
        ]
        blank = [" " * width for width in widths]
        lines = [
            "  ".join(
                cell[number] if number < len(cell) else empty
                for cell, empty in zip(row, blank, strict=True)
            ).rstrip()
            for row in zip(*cells, strict=True)
            for number in range(max(map(len, row)))
        ]
        end = Segment.line()
        return Segments([part for line in lines for part in (Segment(line), end)])

    def _part(
        self, chosen: Sequence[int], widths: Sequence[int], start: int = 0, *, rows: bool = True
    ) -> "Table":
        """Makes a table of some columns with these widths."""
        from rich.table import Table

        whole = self.table
        columns = [whole.columns[i].copy() for i in chosen]
        for column, width in zip(columns, widths, strict=True):
            column.width, column.overflow = width, "fold"
        part = Table(*columns, box=whole.box, title=whole.title if start <= self.first else None)
        part.title_justify, part.show_footer = whole.title_justify, whole.show_footer
        part.padding, part.pad_edge = whole.padding, whole.pad_edge
        part.show_edge, part.collapse_padding = whole.show_edge, whole.collapse_padding
        if not rows:
            return part
        for row, cells in zip(
            whole.rows, zip(*(whole.columns[i].cells for i in chosen), strict=True), strict=True
        ):
            part.add_row(*cells, style=row.style)
        return part


if TYPE_CHECKING:
    from collections.abc import Callable

    Measure = Callable[[RenderableType], tuple[int, int]]


def _sizes(part: "RenderableType") -> tuple[int, int]:
    """Widths of the longest word and the longest line of a text."""
    from rich.cells import cell_len

    text = str(part)
    if text.isascii() and text.isprintable():
        return max(map(len, text.split()), default=0), len(text)
    lines = text.splitlines() or [""]
    words = text.split() or [""]
    return max(map(cell_len, words)), max(map(cell_len, lines))


@lru_cache(maxsize=10_000)
def _folded(text: str, width: int, is_right: bool) -> tuple[str, ...]:
    """Breaks the text of a cell into lines and aligns them.

    >>> _folded("mnist_5k for mnist", 8, False), _folded("1", 3, True)
    (('mnist_5k', 'for     ', 'mnist   '), ('  1',))
    """
    if text.isascii() and text.isprintable() and len(text) <= width:
        return (text.rjust(width) if is_right else text.ljust(width),)
    from rich.console import Console
    from rich.text import Text

    lines = Text(text).wrap(Console(width=width), width, overflow="fold")
    for line in lines:
        line.align("right" if is_right else "left", width)
    return tuple(line.plain for line in lines)


def _grown(least: Sequence[int], most: Sequence[int], spare: int) -> list[int]:
    """Distributes spare width, to the first columns that can use it.

    >>> _grown([4, 5, 6], [9, 5, 20], 7)
    [9, 5, 8]
    """
    widths = []
    for low, high in zip(least, most, strict=True):
        more = max(0, min(high - low, spare))
        widths.append(low + more)
        spare -= more
    return widths


def terminal_grid(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, wide: bool = False, first: int = 1
) -> WrappedTable:
    """Makes a terminal table: the first column is text, the others are numbers.

    Args:
      header: names of the columns.
      rows: cells of each row.
      wide: True for so many columns that there is no room for lines between them.
      first: as of `WrappedTable`.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.MARKDOWN)
    if wide:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column(Text(header[0]))
    for name in header[1:]:
        table.add_column(Text(name), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return WrappedTable(table, first)


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], rule: str | None = None
) -> str:
    """Formats a Markdown table: the first column is text, the others are numbers.

    Args:
      header: names of the columns, escaped.
      rows: cells of each row, escaped.
      rule: the second line; the shortest one with spaces if None.

    >>> print(markdown_table(["a", "b"], [["x", "1"]]), end="")
    | a | b |
    | --- | ---: |
    | x | 1 |
    """
    rule = rule or f"| --- |{' ---: |' * (len(header) - 1)}"
    first, *lines = (f"| {' | '.join(cells)} |" for cells in (header, *rows))
    return "\n".join([first, rule, *lines, ""])
