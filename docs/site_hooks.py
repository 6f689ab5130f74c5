"""MkDocs hooks, so that the site renders the Markdown like GitHub.

Pages outside docs/ are added to the site, links between files become links between pages, and math
in GitHub's syntax becomes MathML, which browsers render without scripts.
"""

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

# Pages of the site from elsewhere in the repository.
OUTSIDE = {
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
_DOCS = "docs"
_ROOT = Path(__file__).resolve().parents[1]
_SOURCES = {page: source for source, page in OUTSIDE.items()}
_LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_CODE = re.compile(
    r"^(```+).*?^\1$|(?<!`)(`+)(?!`)(?:(?!\n\n).)+?(?<!`)\2(?!`)", re.MULTILINE | re.DOTALL
)
_MATH = re.compile(
    r"^```math\n(?P<block>.*?)^```$|\$`(?P<inline>[^`]+)`\$", re.MULTILINE | re.DOTALL
)
_TAG = re.compile(r"\\tag\{(\w+)\}")
_CELL_CODE = re.compile(r"(?<=<code>)[^<]+(?=</code>)")
_OPTION = re.compile(r"<code>(--?[\w-]+)</code>")
_HELD_CODE = re.compile(r"HELD(\d+)CODE")
_HELD_MATH = re.compile(r"<p>HELD(\d+)BLOCK</p>|HELD(\d+)INLINE")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside docs/."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(_ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files into links between pages, and replace math by placeholders."""
    page.meta["math"] = math = []
    code: list[str] = []

    def hold_math(found: re.Match[str]) -> str:
        block = found["block"]
        math.append(_display(block) if block else convert(found["inline"]))
        number = len(math) - 1
        return f"\nHELD{number}BLOCK\n" if block else f"HELD{number}INLINE"

    def hold_code(found: re.Match[str]) -> str:
        code.append(found[0])
        return f"HELD{len(code) - 1}CODE"

    markdown = _CODE.sub(hold_code, _MATH.sub(hold_math, markdown))
    uri = page.file.src_uri
    markdown = _LINK.sub(lambda found: _link(found, uri), markdown)
    return _HELD_CODE.sub(lambda found: code[int(found[1])], markdown)


def on_page_content(html_text: str, page: Any, **_: Any) -> str:
    """Restore the math; code in tables may break between words, options never."""
    math = page.meta.pop("math")
    html_text = _OPTION.sub(r'<code class="option">\1</code>', html_text)
    html_text = re.sub(r"<td.*?</td>", lambda cell: _CELL_CODE.sub(_breakable, cell[0]), html_text)
    return _HELD_MATH.sub(lambda found: math[int(found[1] or found[2])], html_text)


def _breakable(code: re.Match[str]) -> str:
    return re.sub(r"(/|_|\.|&#124;)(?=[A-Za-z])", r"\1<wbr>", code[0])


def _link(found: re.Match[str], uri: str) -> str:
    """A link of the page `uri`, whose target is relative to the source file.

    Only its label if the target is a file of the repository without a page.
    """
    mark, label, target, anchor = found.groups(default="")
    if re.match(r"\w+:", target) or not target:
        return found[0]
    source = _SOURCES.get(uri, posixpath.join(_DOCS, uri))
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if not place.startswith(f"{_DOCS}/") and place not in OUTSIDE:
        return label if (_ROOT / place).exists() else found[0]
    page = OUTSIDE.get(place) or place.removeprefix(f"{_DOCS}/")
    return f"{mark}[{label}]({posixpath.relpath(page, posixpath.dirname(uri) or '.')}{anchor})"


def _display(latex: str) -> str:
    """A displayed formula, with its number at the right."""
    numbers = _TAG.findall(latex)
    formula = convert(_TAG.sub("", latex).strip(), display="block")
    label = "".join(f"<span>({html.escape(number)})</span>" for number in numbers)
    return f'<div class="formula">{formula}{label}</div>'
