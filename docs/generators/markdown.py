"""Markdown that renders the same on GitHub and on the site."""

import inspect
import re
from collections.abc import Callable, Iterable

_MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_ARGUMENT = re.compile(r"^  (\w+(?:, \w+)*): (.*(?:\n    .*)*)", re.MULTILINE)


def render(page: str, table: Callable[[str], str]) -> str:
    """Replace the text between ``<!-- table: NAME -->`` and ``<!-- end -->``.

    Args:
      page: the Markdown of a page.
      table: function from a table's name to its text.
    """
    # Without blank lines around it, Python-Markdown treats a table as part of the comment.
    return _MARKED.sub(lambda found: f"{found[1]}\n{table(found[2])}\n\n{found[3]}", page)


def rows(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table.

    >>> print(rows(["Key", "Meaning"], [["`a`", "first"]]))
    | Key | Meaning |
    |---|---|
    | `a` | first |
    """
    head = list(header)
    table = [head, *lines]
    text = [f"| {' | '.join(cells)} |" for cells in table]
    return "\n".join([text[0], "|---" * len(head) + "|", *text[1:]])


def code(text: str) -> str:
    """Code in a table cell, where GitHub and the site escape | differently.

    >>> code("--seeds"), code("N|LIST")
    ('`--seeds`', '<code>N&#124;LIST</code>')
    """
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = escaped.replace("|", "&#124;")
    return f"<code>{escaped}</code>" if "|" in text else f"`{text}`"


def summary(thing: object) -> str:
    """The first line of a docstring."""
    return inspect.getdoc(thing).partition("\n")[0]  # type: ignore[union-attr]


def arguments(thing: object) -> dict[str, str]:
    """Descriptions under ``Args:`` in a docstring, one line each, with null for None."""
    _, _, section = (inspect.getdoc(thing) or "").partition("\nArgs:\n")
    section = re.split(r"\n\n", section)[0]
    found = _ARGUMENT.findall(section)
    texts = {name: text for names, text in found for name in names.split(", ")}
    return {name: re.sub(r"\bNone\b", "null", _one_line(text)) for name, text in texts.items()}


def _one_line(text: str) -> str:
    return " ".join(text.split()).removesuffix(".")
