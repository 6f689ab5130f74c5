"""Inline SVG for the report page: themed colors, unique ids and alternative text."""

import re
from xml.etree import ElementTree

from cnnbench.report.plots.charts import GRID, INK, SERIES

_SVG, _XLINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}"
_PAPER, _ARROW, _TIE = "#ffffff", "#333333", "#b03030"  # of diagrams

# Colors of pictures, and the CSS values that replace them on a page.
COLORS = {
    INK: "var(--ink)",
    GRID: "var(--grid)",
    _PAPER: "none",
    _ARROW: "var(--ink)",
    _TIE: "var(--tie)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES)},
}


def inline_svg(content: bytes, name: str, words: str, scale: float = 1.0) -> str:
    """Turns a picture into an `svg` element for a page.

    Args:
      content: an SVG file by `charts` or `diagram_picture`.
      name: prefix of the ids in it, unique on the page.
      words: alternative text for screen readers.
      scale: factor of its width.
    """
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(content)
    for parent in (root, *root.findall(f"{{{_SVG}}}defs")):
        for child in tuple(parent):
            if child.tag.removeprefix(f"{{{_SVG}}}") in {"metadata", "title", "style"}:
                parent.remove(child)
    used = set(re.findall(r"(?:url\(|href=\")#([\w-]+)", content.decode()))
    for element in root.iter():
        _rename(element, name, used)
        if style := element.get("style"):
            element.set("style", _themed(style))
    root.attrib |= {
        "role": "img",
        "aria-label": words,
        "style": f"width: {scale * _pixels(root):.0f}px",
    }
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    return re.sub(r"\n *", "\n", ElementTree.tostring(root, encoding="unicode"))


def _rename(element: ElementTree.Element, name: str, used: set[str]) -> None:
    """Prefixes referenced ids with the picture's name and removes the others."""
    for key, value in tuple(element.attrib.items()):
        if key == "id":
            del element.attrib[key]
            if value in used:
                element.set("id", f"{name}-{value}")
        elif key == f"{_XLINK}href":
            del element.attrib[key]
            element.set("href", f"#{name}-{value.removeprefix('#')}")
        else:
            element.set(key, value.replace("url(#", f"url(#{name}-"))


def _themed(style: str) -> str:
    """The style with the page's colors and a generic font."""
    style = re.sub(r"'DejaVu Sans'[^;]*", "sans-serif", style)
    return re.sub(r"#[0-9a-f]{6}", lambda color: COLORS.get(color[0], color[0]), style)


def _pixels(root: ElementTree.Element) -> float:
    """Width in CSS pixels; matplotlib writes points."""
    return float(root.attrib["width"].removesuffix("pt")) * 4 / 3
