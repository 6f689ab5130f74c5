"""Users' words inside of Markdown, CSV, Mermaid, HTML and markup: they stay words."""

import csv
import dataclasses
import html
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.text import Text

from cnnbench.analysis.predict import Guess
from cnnbench.bench.measurements import Benchmark
from cnnbench.bench.report import Report
from cnnbench.bench.report import markdown as bench_markdown
from cnnbench.cli.console import LegibleConsole
from cnnbench.comparisons.comparison import compare
from cnnbench.data.own.image_files import PreparedImage
from cnnbench.formatting import clean, csv_cell, escape_markdown
from cnnbench.report import comparison, csv_json
from cnnbench.report.html import table_page
from cnnbench.report.plots.diagram import diagram
from cnnbench.report.plots.mermaid import mermaid
from cnnbench.report.predictions import files as predictions
from cnnbench.report.predictions.files import Predictions
from cnnbench.spec.loader import load_experiment
from tests.support.samples import ENVIRONMENT, make_run

GFM = MarkdownIt("commonmark").enable(["table", "strikethrough"])
TITLES = (
    "_x_ and __y__",
    "*x* and **y**",
    "~~x~~ and ~y~",
    "&copy; &#169; &#xa9; & co",
    "`code` ``more``",
    "a | b || c",
    "<b>bold</b> <i <!-- x --> <?php ?> <https://example.org>",
    "[link](https://example.org) ![image](x.png) [x]: y [^1]",
    "# one",
    "#hash and trailing ##",
    "1. one",
    "12) twelve",
    "- item",
    "+ item",
    "> quoted",
    "---",
    "===",
    "```",
    "~~~",
    "back\\slash \\* \\",
    "$x^2$ and $$y$$",
    "- [ ] task",
    "snake_case_name _ lone __init__",
    "0.5 < x > 0.1 &lt; R&D",
)
TEXT = st.text(st.sampled_from("ab 1.)_*`~|<>&;#=+-[]()!\\$:\"'^/@é")) | st.text()
PLACES = {
    "paragraph": "{}\n",
    "after bold": "**Verdict:** {}\n",
    "item": "- {}\n",
    "heading": "### {}\n",
    "cell": "| a | b |\n|---|---|\n| {} | {} |\n",
}


def words(tokens: list[Token] | None) -> Iterator[str]:
    """The text of a document; constructs other than text are shown by their kind."""
    for token in tokens or ():
        if token.type == "inline":
            yield "".join(words(token.children))
        elif token.type in {"text", "text_special"}:
            yield token.content
        elif token.type not in {"strong_open", "strong_close"} and not token.block:
            yield f"({token.type})"


def shown(document: str, form: str) -> list[str]:
    tokens = GFM.parse(document)
    expected = [token.type for token in GFM.parse(form.format("x", "x"))]
    assert [token.type for token in tokens] == expected, document
    return list(filter(None, words(tokens)))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("title", TITLES)
def test_titles_are_text_in_markdown(title: str, place: str) -> None:
    form = PLACES[place]
    document = form.format(escape_markdown(title), escape_markdown(title))
    found = shown(document, form)
    if place == "after bold":
        assert "".join(found) == f"Verdict: {clean(title)}"
    else:
        assert found[-1] == clean(title)


@given(title=TEXT)
@example(title="a\n# b")
@example(title="\t    code")
def test_any_text_is_text_in_markdown(title: str) -> None:
    for form in PLACES.values() if clean(title) else ():
        found = "".join(shown(form.format(escape_markdown(title), escape_markdown(title)), form))
        assert found.endswith(clean(title))


def test_numbers_and_names_are_not_disfigured() -> None:
    for text in (
        "+0.42 points (95% CI +0.31 to -0.53)",
        "mnist_5k",
        "<0.01",
        "1.5 s",
        "a-b",
    ):
        assert escape_markdown(text) == text


@pytest.mark.parametrize("title", TITLES)
def test_comparisons_are_whole_in_markdown(title: str) -> None:
    runs = [make_run("a", title), make_run("b", f"{title} 2", run_id="b")]
    tokens = GFM.parse(comparison.markdown([compare(runs)], wide=True))
    inline = [token for token in tokens if token.type == "inline"]
    kinds = {child.type for token in inline for child in token.children or ()}
    assert kinds <= {"text", "text_special", "strong_open", "strong_close"}
    cells = [t for t, before in zip(tokens[1:], tokens, strict=False) if before.type == "td_open"]
    assert "".join(words([cells[0]])) == clean(title)
    assert {t.type for t in tokens if t.type.endswith("_open")} == {
        f"{kind}_open"
        for kind in (
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "paragraph",
            "bullet_list",
            "list_item",
        )
    }


def test_predictions_and_benchmarks_are_whole_in_markdown() -> None:
    title = "_x_ ~~y~~ &copy; a | b"
    benchmark = Benchmark("a", title, "mnist_5k", 4000, 500, 1, None, ())
    started = make_run().record.started_at
    shown = bench_markdown(Report((benchmark,), ENVIRONMENT, {}, started))
    heading = next(token for token in GFM.parse(shown) if token.type == "inline")
    assert "".join(words([heading])).startswith(title)
    photograph = PreparedImage("_a_ | `b`.png", 2, 2, np.zeros((2, 2, 1), np.uint8), 0.0, False)
    guess = Guess(3, 0.75, 5, 0.25, (3,), (0.0, 0.75))
    record = make_run("a", title).record
    text = predictions.markdown(Predictions(record, (0,), "cross_entropy", [photograph], [guess]))
    (heading, *cells) = [token for token in GFM.parse(text) if token.type == "inline"]
    assert "".join(words([heading])).startswith(title)
    assert "_a_ | `b`.png" in list(words(cells))


@pytest.mark.parametrize(
    "title",
    ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1+1", "\r=1+1", "\n=1", "＝1", "=", "-", "+a"],  # noqa: RUF001
)
def test_no_cell_is_a_formula(title: str) -> None:
    text = csv_json.csv_text([compare([make_run("a", title)])])
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert {row["title"] for row in rows} == {"'" + title.replace("\r", "\n")}
    assert {row["name"] for row in rows} == {"a"}


@pytest.mark.parametrize("value", [-0.5, 3, None, "-0.5", "+1e-3", "-7", "a=b", "5 - 3", ""])
def test_numbers_and_other_words_are_as_they_were(value: object) -> None:
    assert csv_cell(value) == value


def test_negative_numbers_stay_numbers_in_a_file() -> None:
    run = make_run("a", "-0.5")
    epochs = tuple(dataclasses.replace(e, metrics={"accuracy": -0.25}) for e in run.epochs)
    text = csv_json.csv_text([compare([dataclasses.replace(run, epochs=epochs)])])
    row = next(csv.DictReader(io.StringIO(text)))
    assert (row["title"], row["value_mean"]) == ("-0.5", "-0.25")


MARKUP = "[red]x[/red] [/] [link=https://example.org]y[/link] :smile: \\[b]"


def test_brackets_and_colons_are_no_markup_in_a_terminal() -> None:
    from rich.table import Table

    out = io.StringIO()
    console = LegibleConsole(file=out, width=100)
    table = Table(MARKUP, title=MARKUP)
    table.add_row(MARKUP)
    console.print(MARKUP, table, Text(MARKUP), highlight=False)
    assert out.getvalue().count(MARKUP) == 5


class _Texts(HTMLParser):
    """What a browser shows, and the elements that it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        titled = tag == "title" or ("name", "description") in attrs
        self.tags.append(tag if titled else f"{tag} {attrs}")


@pytest.mark.parametrize("title", ["<script>alert(1)</script>", '"><img src=x>', "&copy; & <b>"])
def test_titles_are_text_in_html(title: str) -> None:
    page, plain = _Texts(), _Texts()
    page.feed(table_page([compare([make_run("a", title)])]))
    plain.feed(table_page([compare([make_run("a", "A")])]))
    assert title in page.texts
    assert page.tags == plain.tags


@pytest.mark.parametrize("title", ['"]; click n1 "x', "a --> b", "`md` **b**", "#quot; <b>", "end"])
def test_titles_are_text_in_mermaid(title: str, tmp_path: Path) -> None:
    """Its entities are `#number;`; nothing else of a label has a meaning."""
    file = tmp_path / "a.yaml"
    file.write_text(
        "name: a\ntask: classify\ndataset: {name: mnist_5k}\n"
        "model: {layers: {flat: {op: flatten}, out: {op: dense, units: 10}}}\n"
    )
    plan = load_experiment(file).plan
    assert plan is not None
    drawn = diagram(plan)
    text = mermaid([(title, drawn), (title, drawn)])
    label = re.findall(r'subgraph g0\["(.*)"\]', text)[0]
    assert html.unescape(re.sub(r"#(\d+);", r"&#\1;", label)) == title
    assert re.fullmatch(r"[\w .,#;-]*", label)
