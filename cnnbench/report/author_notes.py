"""An author's notes on a report: a Markdown file as HTML that cannot harm the page it is in.

markdown-it-py parses CommonMark with tables. Raw HTML is shown as text, and links that could run
a script stay text (its `js-default` preset). Images become part of the page, which loads nothing.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.parsers import expat

from cnnbench.errors import UsageError, quoted

if TYPE_CHECKING:
    from markdown_it.token import Token

OPTION = "--notes"
MAX_BYTES = 16 * 2**20  # of a file that becomes part of the page
_HEADING, _DEEPEST = 3, 6  # the notes are below a heading of level 2
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}
_SVG_ROOT = "http://www.w3.org/2000/svg svg"
_SCROLLS = '<div class="scroll" role="group" aria-label="Table" tabindex="0">\n<table>'
# Text in notes is escaped, so only the renderer can have written these.
_REPLACED = {"<pre>": '<pre tabindex="0">', "<table>": _SCROLLS, "</table>": "</table>\n</div>"}


def read_notes(path: Path) -> str:
    """Renders a Markdown file as HTML.

    Headings start at level 3 and never skip a level. Images are read relative to the file.

    Args:
      path: a file of CommonMark in UTF-8, which may have tables.

    Raises:
      UsageError: the file, or an image in it, cannot be read or is not what it should be.
    """
    raw = _read(path, f"{OPTION} {path}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{OPTION} {path}: is not UTF-8 text; save the file as UTF-8.") from None
    return notes_html(text, path)


def notes_html(text: str, path: Path) -> str:
    """Renders Markdown as HTML.

    Args:
      text: CommonMark, which may have tables.
      path: its file, for messages and for the places of images.

    Raises:
      UsageError: an image cannot be read or is not what it should be.
    """
    from markdown_it import MarkdownIt

    parser = MarkdownIt("js-default")
    tokens = parser.parse(text)
    _level_headings([token for token in tokens if token.type.startswith("heading_")])
    _mark_headers(tokens)
    for token in tokens:
        for child, line in _inline(token):
            if child.type == "image":
                child.attrSet("src", _embedded(str(child.attrGet("src") or ""), path, line))
            elif child.type == "link_open":
                child.attrSet("rel", "noopener noreferrer")
    html: str = parser.renderer.render(tokens, parser.options, {})
    for written, shown in _REPLACED.items():
        html = html.replace(written, shown)
    return html


def _level_headings(tokens: Sequence["Token"]) -> None:
    levels = heading_levels([int(token.tag[1:]) for token in tokens[::2]])
    for number, token in enumerate(tokens):  # each heading is opened and closed
        token.tag = f"h{levels[number // 2]}"


def _mark_headers(tokens: Sequence["Token"]) -> None:
    """A table's headers belong to columns; an empty one is a cell, for screen readers."""
    for number, token in enumerate(tokens):
        if token.type != "th_open":
            continue
        if tokens[number + 1].content:
            token.attrSet("scope", "col")
        else:
            token.tag = tokens[number + 2].tag = "td"


def heading_levels(written: Sequence[int]) -> list[int]:
    """Levels of headings inside the page, without the gaps that screen readers stumble over.

    >>> heading_levels([1, 3, 3, 2, 1]), heading_levels([2, 1])
    ([3, 4, 4, 4, 3], [3, 3])
    """
    levels: list[int] = []
    above: list[int] = []
    for level in written:
        while above and above[-1] >= level:
            above.pop()
        above.append(level)
        levels.append(min(_HEADING - 1 + len(above), _DEEPEST))
    return levels


def _inline(token: "Token") -> Iterator[tuple["Token", int]]:
    """The parts of a block of text, each with its line in the file, from 1."""
    line = token.map[0] + 1 if token.map else 1
    for child in token.children or ():
        line += child.type in {"softbreak", "hardbreak"}
        yield child, line


def _embedded(source: str, path: Path, line: int) -> str:
    """The data URI of an image that notes name."""
    scheme, _, data = source.partition(":")
    if scheme.lower() == "data":
        return f"data:{data}"
    place = f"{path}:{line}"
    name = unquote(source)
    if "://" in source or source.startswith("//"):
        raise UsageError(
            f"{place}: the image {quoted(name)} is on the network, and a report loads nothing;"
            " save it as a file and name that."
        )
    content = _read(path.parent / name, f"{place}: the image {quoted(name)}")
    if (kind := _image_kind(content)) is None:
        raise UsageError(
            f"{place}: the image {quoted(name)} is not a PNG, JPEG, GIF, WebP or SVG file;"
            " convert it to one."
        )
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _image_kind(content: bytes) -> str | None:
    """The subtype of ``image/`` that browsers show, by the content."""
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "webp"
    known = (kind for start, kind in _SIGNATURES.items() if content.startswith(start))
    return next(known, "svg+xml" if _is_svg(content) else None)


def _is_svg(content: bytes) -> bool:
    """Tests for well-formed XML with the root element of SVG, as browsers require.

    A page shows it by ``<img>``, where browsers run no scripts and load no other files.
    """
    parser = expat.ParserCreate(namespace_separator=" ")
    root = ""

    def start(name: str, _: Mapping[str, str]) -> None:
        nonlocal root
        root = root or name

    parser.StartElementHandler = start
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError, ValueError):  # the last two for unknown encodings
        return False
    return root == _SVG_ROOT


def _read(path: Path, place: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise UsageError(f"{place}: cannot be read: {reason}; check the file name.") from None
    if len(content) > MAX_BYTES:
        size = f"{MAX_BYTES // 2**20} MiB"
        raise UsageError(f"{place}: is larger than {size}; name a smaller file.")
    return content
