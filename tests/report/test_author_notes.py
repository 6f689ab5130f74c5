"""Markdown notes: what they become, and what they cannot do to the page they are in."""

import base64
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cnnbench.errors import UsageError
from cnnbench.report.author_notes import MAX_BYTES, notes_html, read_notes

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><title>a</title></svg>'
_ENTITIES = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
BOMB = f'<!DOCTYPE svg [<!ENTITY e0 "e">{_ENTITIES}]>'.encode() + SVG.replace(b">a<", b">&e11;<")
HERE = Path("notes.md")
HARMLESS = {
    *("h3", "h4", "h5", "h6", "p", "em", "strong", "s", "code", "pre", "blockquote", "hr", "br"),
    *("ul", "ol", "li", "a", "img", "div", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"href", "rel", "title", "src", "alt", "scope", "style", "class", "start"}
ATTRIBUTES |= {"role", "aria-label", "tabindex"}


class Tags(HTMLParser):
    """Elements and attributes of a fragment."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_markdown_becomes_html() -> None:
    text = "# Why\n\nA *wider* kernel, see [the post](https://a.example).\n\n- one\n- two\n"
    assert notes_html(text, HERE) == (
        "<h3>Why</h3>\n<p>A <em>wider</em> kernel, see"
        ' <a href="https://a.example" rel="noopener noreferrer">the post</a>.</p>\n'
        "<ul>\n<li>one</li>\n<li>two</li>\n</ul>\n"
    )


def test_tables_scroll_and_name_their_columns() -> None:
    html = notes_html("| | b |\n|---|--:|\n| x | 1 |\n", HERE)
    assert '<div class="scroll" role="group" aria-label="Table" tabindex="0">\n<table>' in html
    assert "<td></td>\n" in html.split("</thead>")[0]  # an empty header is a cell
    assert '<th style="text-align:right" scope="col">b</th>' in html
    assert html.endswith("</table>\n</div>\n")


@pytest.mark.parametrize(
    "attack",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "a <b onclick=alert(1)>b</b>",
        "</section></main><iframe src=https://a.example>",
        "<!-- --><style>* { display: none }</style>",
        "[a](javascript:alert(1))",
        "[a](JaVaScRiPt:alert(1))",
        "[a](&#106;avascript:alert(1))",
        "[a](java\nscript:alert(1))",
        "[a](vbscript:x)",
        "[a](data:text/html;base64,PHNjcmlwdD4=)",
        "[a](file:///etc/passwd)",
        "<javascript:alert(1)>",
        '[a](https://a.example "\\" onmouseover=alert(1) x=\\"")',
        '![\\" onerror=alert(1) x=\\"](data:image/png;base64,AAAA)',
        "![a](data:image/svg+xml;base64,AAAA)",
        "[a]: javascript:alert(1)\n\n[a]",
        '```"><script>alert(1)</script>\nx\n```',
        "| <script>alert(1)</script> |\n|---|\n| <img src=x onerror=y> |",
        "# <script>alert(1)</script>\n\n<details open ontoggle=alert(1)>",
        "&lt;script&gt;alert(1)&lt;/script&gt; \\<script>",
    ],
)
def test_notes_cannot_harm_the_page(attack: str) -> None:
    found = Tags(notes_html(attack, HERE)).found
    assert {tag for tag, _ in found} <= HARMLESS
    for _, attributes in found:
        assert set(attributes) <= ATTRIBUTES
        link = attributes.get("href") or ""
        assert not re.match(r"\s*(javascript|vbscript|file|data):", link, re.IGNORECASE)
        assert (attributes.get("src") or "data:image/png").startswith("data:image/png")


@pytest.mark.parametrize(
    "text", ["[" * 5_000, "![" * 2_000, ">" * 5_000, "*a " * 20_000, "- " * 5_000, "`" * 20_000]
)
@pytest.mark.sampled(1)
def test_odd_notes_take_no_time(text: str) -> None:
    start = time.perf_counter()
    notes_html(text, HERE)
    assert time.perf_counter() - start < 5


def test_images_are_embedded(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(PNG)
    (tmp_path / "c.svg").write_bytes(b'<?xml version="1.0"?>\n' + SVG)
    notes = tmp_path / "notes.md"
    notes.write_text("\ufeffSee ![two words](a%20b.png)\n![](c.svg)\n", encoding="utf-8")
    images = [attributes for tag, attributes in Tags(read_notes(notes)).found if tag == "img"]
    uri = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert images[0] == {"src": uri, "alt": "two words"}
    assert (images[1]["src"] or "").startswith("data:image/svg+xml;base64,PD94bWwg")


@pytest.mark.parametrize(
    "content",
    [
        SVG,
        b"\xef\xbb\xbf" + SVG,
        b"<!-- drawn by hand -->\n" + SVG,
        b"<!DOCTYPE svg>\n" + SVG,
        b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://a.example/svg11.dtd">' + SVG,
        b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?><!-- a --><!DOCTYPE svg>' + SVG,
        b'<v:svg xmlns:v="http://www.w3.org/2000/svg"/>',
        SVG.decode().encode("utf-16"),
    ],
)
def test_an_svg_file_may_begin_as_xml_files_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.svg").write_bytes(content)
    uri = f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}"
    assert f'src="{uri}"' in notes_html("![](a.svg)", tmp_path / "notes.md")


@pytest.mark.parametrize(
    "content",
    [
        b'<?xml version="1.0"?><html><svg xmlns="http://www.w3.org/2000/svg"/></html>',
        b'<?xml version="1.0"?><a><!-- <svg> --></a>',
        b"<svg><title>a</title></svg>",  # browsers show nothing without the namespace
        b"<svgs/>",
        SVG[:-3],
        SVG + b"<script/>",
        b'<?xml version="1.0" encoding="none"?>' + SVG,
        b'<?xml version="1.0" encoding="utf-7"?>' + SVG,
        b'<?xml version="1.0" encoding="shift_jis"?>' + SVG,  # of no use to Python's parser
        BOMB,
        b"",
    ],
)
def test_an_svg_file_that_cannot_be_shown_or_checked_is_an_error(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "a.svg").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        notes_html("![](a.svg)", tmp_path / "notes.md")
    assert str(caught.value) == (
        f"{tmp_path / 'notes.md'}:1: the image 'a.svg' is not a PNG, JPEG, GIF, WebP or SVG file;"
        " convert it to one."
    )


def test_the_scheme_of_an_embedded_image_may_be_upper_case() -> None:
    assert notes_html("![a](DATA:image/png;base64,AAAA)", HERE) == (
        '<p><img src="data:image/png;base64,AAAA" alt="a"></p>\n'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a\n![b](c.png)",
            "2: the image 'c.png': cannot be read: no such file or directory; check the file name.",
        ),
        (
            "a\nb ![c](https://a.example/c.png)",
            "2: the image 'https://a.example/c.png' is on the network, and a report loads nothing;"
            " save it as a file and name that.",
        ),
        (
            "\n\n- [![b](notes.md)](https://a.example)",
            "3: the image 'notes.md' is not a PNG, JPEG, GIF, WebP or SVG file; convert it to one.",
        ),
        ("![b](.)", "1: the image '.': cannot be read: is a directory; check the file name."),
    ],
)
def test_an_image_that_cannot_be_embedded_is_an_error(
    tmp_path: Path, text: str, message: str
) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_notes(notes)
    assert str(caught.value) == f"{notes}:{message}"


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_bytes(b"caf\xe9")
    with pytest.raises(UsageError) as caught:
        read_notes(notes)
    assert str(caught.value) == f"--notes {notes}: is not UTF-8 text; save the file as UTF-8."
    notes.write_bytes(b"a" * (MAX_BYTES + 1))
    with pytest.raises(UsageError) as caught:
        read_notes(notes)
    assert str(caught.value) == f"--notes {notes}: is larger than 16 MiB; name a smaller file."
