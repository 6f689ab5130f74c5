"""Keys that pages of docs/reference/ document."""

import re
from collections.abc import Iterator

from tests.support.paths import ROOT


def documented(page: str, heading: str) -> set[str]:
    """Keys in the first column of the tables below a heading.

    Args:
      page: file name in docs/reference/.
      heading: of the second level.
    """
    text = (ROOT / "docs" / "reference" / page).read_text()
    tables = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| `([^`]+)` \|", tables, flags=re.MULTILINE))


def flat_keys(value: object, prefix: str = "") -> Iterator[str]:
    """Dotted paths of a JSON value."""
    match value:
        case dict():
            for key, inner in value.items():
                yield from flat_keys(inner, f"{prefix}.{key}" if prefix else key)
        case [dict(), *_]:
            for inner in value:
                yield from flat_keys(inner, f"{prefix}[]")
        case _:
            yield prefix
