r"""Plain data of many similar YAML files, such as the settings of a sweep's runs.

Runs of a sweep differ in few lines, so the blocks of a file are parsed once each: those below its
top-level keys, and below the keys in these. A file that is not made of such blocks alone is parsed
as a whole.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from cnnbench.errors import SpecError
from cnnbench.spec.document import parse_document, read_document

LEVELS = 3  # of keys whose blocks are parsed by themselves
LARGEST = 64 * 1024  # characters; far from the limits of the parser
_KEY = re.compile(r"^(?=[A-Za-z_]\w*:(?: |$))", re.MULTILINE)
_ALONE = re.compile(r"[A-Za-z_]\w*:\n")


class _UnusualError(Exception):
    """The text must be parsed as a whole."""


def read_plain(path: Path) -> Any:
    """Reads a YAML file.

    Raises:
      SpecError: it cannot be read.
    """
    try:
        text = path.read_bytes().decode()
        if len(text) <= LARGEST:
            return plain(text)
    except (OSError, UnicodeDecodeError, SpecError, _UnusualError):
        pass  # for the message
    return read_document(path).data


def plain(text: str) -> dict[str, Any]:
    r"""Parses the blocks of a text; the result must not be changed.

    Raises:
      SpecError: a block cannot be parsed by itself.
      _UnusualError: there is more than blocks.

    >>> plain("name: a\ntrain:\n  epochs: 3\n  metrics:\n  - accuracy\n")
    {'name': 'a', 'train': {'epochs': 3, 'metrics': ['accuracy']}}
    """
    return _blocks(text, LEVELS)


def _blocks(text: str, levels: int) -> dict[str, Any]:
    first, *parts = _KEY.split(text)
    found: dict[str, Any] = {}
    for part in parts:
        found |= _block(part, levels)
    if first or not parts or len(found) < len(parts):  # a duplicate key
        raise _UnusualError
    return found


@lru_cache(maxsize=8192)
def _block(part: str, levels: int) -> dict[str, Any]:
    """Parses a key and what is below it."""
    below = _ALONE.match(part)
    if levels > 1 and below and (inner := _dedented(part[below.end() :])):
        (key,) = _block(f"{below[0].rstrip()} 0\n", 1)
        try:
            return {key: _blocks(inner, levels - 1)}
        except _UnusualError:
            pass
    document = parse_document(part.encode(), "")
    if document.problems or not isinstance(document.data, dict) or len(document.data) != 1:
        raise _UnusualError
    return document.data


def _dedented(text: str) -> str | None:
    """The text without two spaces before each line; None if it has another form."""
    lines = text.removesuffix("\n").split("\n")
    if not all(line.startswith("  ") for line in lines):
        return None
    inner = "".join(f"{line[2:]}\n" for line in lines)
    return inner if _KEY.match(inner) else None
