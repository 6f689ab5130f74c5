"""SVG pictures inside a page: colours from its style sheet, ids of their own, words for all."""

import re
from xml.etree import ElementTree

from cnnbench.report.plots.charts import GRID, INK, SERIES

_SVG, _XLINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}"
_PAPER, _ARROW, _TIE = "#ffffff", "#333333", "#b03030"  # of diagrams

# What a page may redefine, each with the colour that stands without a style sheet.
COLORS = {
    INK: "var(--ink)",
    GRID: "var(--grid)",
    _PAPER: "none",
    _ARROW: "var(--ink)",
    _TIE: "var(--tie)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES)},
}


def inline_svg(content: bytes, name: str, words: str, scale: float = 1.0) -> str:
    """An `svg` element for a page.

    Args:
      content: a picture of `charts` or `diagram`.
      name: begins the ids in it, and differs from those of other pictures on the page.
      words: what the picture shows, for those who do not see it.
      scale: its width on a screen, by the width that it was drawn for.
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
    """Ids are one to a page: those that something refers to get the picture's name before them."""
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
    """The same style with the page's colours, and any letters."""
    style = re.sub(r"'DejaVu Sans'[^;]*", "sans-serif", style)
    return re.sub(r"#[0-9a-f]{6}", lambda color: COLORS.get(color[0], color[0]), style)


def _pixels(root: ElementTree.Element) -> float:
    """The width in pixels of CSS; matplotlib counts in points."""
    return float(root.attrib["width"].removesuffix("pt")) * 4 / 3
