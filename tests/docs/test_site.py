"""What GitHub shows of a page, the site shows, too; `make docs` builds all of it."""

import importlib
from types import SimpleNamespace

import pytest

from tests.support.paths import ROOT

pytest.importorskip("mkdocs", reason="the extra docs is not installed")


@pytest.fixture(scope="module")
def hooks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        yield importlib.import_module("site_hooks")


def page(uri: str) -> SimpleNamespace:
    return SimpleNamespace(meta={}, file=SimpleNamespace(src_uri=uri))


@pytest.mark.parametrize(
    ("uri", "written", "shown"),
    [
        ("reference/cli.md", "[`a`](spec.md#top)", "[`a`](spec.md#top)"),
        ("reference/cli.md", "[a](../../CONTRIBUTING.md#how)", "[a](../contributing.md#how)"),
        ("reference/cli.md", "[a](../../benchmarks/README.md)", "[a](../benchmarks.md)"),
        ("benchmarks.md", "[a](../docs/explanation/post.md)", "[a](explanation/post.md)"),
        ("changelog.md", "![a](docs/images/run.svg)", "![a](images/run.svg)"),
        (
            "index.md",
            "[a](https://example.org/x.md) [b](#c)",
            "[a](https://example.org/x.md) [b](#c)",
        ),
        # A file of the repository without a page is named; one that there is not stays an error.
        ("benchmarks.md", "[`results/`](results) [a](nowhere.md)", "`results/` [a](nowhere.md)"),
        (
            "index.md",
            "`[a](b.md)`\n\n```\n[a](b.md)\n```\n",
            "`[a](b.md)`\n\n```\n[a](b.md)\n```\n",
        ),
    ],
)
def test_links_between_files_become_links_between_pages(hooks, uri, written, shown):
    assert hooks.on_page_markdown(written, page=page(uri)) == shown


def test_math_becomes_mathml_with_its_number(hooks):
    one = page("index.md")
    markdown = hooks.on_page_markdown("$`a_b`$\n\n```math\nx = 1 \\tag{S3}\n```\n", page=one)
    assert markdown == "HELD0INLINE\n\n\nHELD1BLOCK\n\n"
    shown = hooks.on_page_content("<p>HELD0INLINE</p>\n<p>HELD1BLOCK</p>", page=one)
    inline, block = shown.split("\n")
    assert inline.startswith("<p><math ")
    assert "<msub><mi>a</mi><mi>b</mi></msub>" in inline
    assert block.startswith('<div class="formula"><math ')
    assert block.endswith("</math><span>(S3)</span></div>")


def test_code_in_tables_breaks_between_words(hooks):
    cell, text = "<td><code>load_per.cpu 0.5</code></td>", "<p><code>a_b</code></p>"
    content = hooks.on_page_content(cell + text, page=SimpleNamespace(meta={"math": []}))
    assert content == "<td><code>load_<wbr>per.<wbr>cpu 0.5</code></td>" + text
