"""A rich console that replaces characters its encoding lacks before it lays out tables.

An error handler of the stream would come too late: `+/-` is wider than the sign.
"""

import copy
from typing import Any

from rich.box import Box
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cnnbench.report.table import WrappedTable
from cnnbench.system.ascii_forms import in_encoding


class LegibleConsole(Console):
    """A console for any encoding, without markup: titles, layers and files come from users."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints objects as `rich.console.Console.print` does."""
        super().print(*(legible(part, self) for part in objects), **options)


def legible(part: Any, console: Console) -> Any:
    """Replaces characters that the console's encoding lacks by ASCII.

    Args:
      part: text, a table or a group of them; other objects are returned unchanged.
      console: the console it is printed on.
    """
    if console.encoding.startswith("utf"):
        return part
    match part:
        case str():
            return in_encoding(part, console.encoding)
        case Text():
            return _text(part, console)
        case Group():
            return Group(*(legible(each, console) for each in part.renderables), fit=part.fit)
        case Padding():
            sides = (part.top, part.right, part.bottom, part.left)
            inner = legible(part.renderable, console)
            return Padding(inner, sides, style=part.style, expand=part.expand)
        case WrappedTable():
            return WrappedTable(_table(part.table, console), part.first)
        case Table():
            return _table(part, console)
        case _:
            return part


def _text(text: Text, console: Console) -> Text:
    """Replaces characters span by span, because replacements move the ends of spans."""
    if text.plain.isascii():
        return text
    new = Text(style=text.style, justify=text.justify, overflow=text.overflow, no_wrap=text.no_wrap)
    for piece in text.render(console):
        new.append(in_encoding(piece.text, console.encoding), piece.style)
    return new


def _table(table: Table, console: Console) -> Table:
    """Copies a table; rich's own ASCII box would add lines and edges."""
    new = copy.copy(table)
    new.box = table.box and Box(in_encoding(str(table.box), "ascii"), ascii=True)
    new.title = legible(table.title, console)
    new.columns, new.rows = [], []
    for old in table.columns:
        column = old.copy()  # without its cells
        column.header = legible(old.header, console)
        column.footer = legible(old.footer, console)
        new.columns.append(column)
    cells = zip(*(column.cells for column in table.columns), strict=True)
    for row, line in zip(table.rows, cells, strict=True):
        spelled_line = (legible(cell, console) for cell in line)
        new.add_row(*spelled_line, style=row.style, end_section=row.end_section)
    return new
