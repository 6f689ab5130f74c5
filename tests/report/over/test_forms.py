"""Comparisons at several values in every form: approved, and the same numbers everywhere."""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from cnnbench.comparisons.over.points import OverComparison, compare_over
from cnnbench.comparisons.verdict import Criteria
from cnnbench.report.over.files import csv_over, json_over
from cnnbench.report.over.latex import latex_over
from cnnbench.report.over.page import over_report_page, over_table_page
from cnnbench.report.over.series import all_series, axis, picture_words
from cnnbench.report.over.table import markdown_over, terminal_over
from cnnbench.report.run_artifacts import RunArtifacts
from tests.report.test_html import Page
from tests.support.golden import approved
from tests.support.overs import over_datasets, over_examples, run_at


def shown(over: OverComparison) -> str:
    text = io.StringIO()
    Console(file=text, width=80, color_system=None).print(terminal_over(over))
    return "\n".join(map(str.rstrip, text.getvalue().splitlines())) + "\n"


def drawn(over: OverComparison) -> str:
    """The data of the picture."""
    series = [dataclasses.asdict(each) for each in all_series(over)]
    found = {"axis": dataclasses.asdict(axis(over)), "series": series, "words": picture_words(over)}
    return json.dumps(_rounded(found), indent=1, ensure_ascii=False) + "\n"


def _rounded(value: object) -> object:
    """Without the last digits, which depend on the platform."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def rounded_json(over: OverComparison) -> str:
    return json.dumps(_rounded(json.loads(json_over(over))), indent=1, ensure_ascii=False) + "\n"


def rounded_csv(over: OverComparison) -> str:
    return re.sub(r"\d\.\d{9,}", lambda found: f"{float(found[0]):.9g}", csv_over(over))


FORMS: dict[str, Callable[[], str]] = {
    "over.txt": lambda: shown(over_examples()),
    "over.md": lambda: markdown_over(over_examples()),
    "over.tex": lambda: latex_over(over_examples()),
    "over.csv": lambda: rounded_csv(over_examples()),
    "over_picture.json": lambda: drawn(over_examples()),
    "over_datasets.txt": lambda: shown(over_datasets()),
    "over_datasets.tex": lambda: latex_over(over_datasets()),
    "over_datasets.json": lambda: rounded_json(over_datasets()),
    "over_datasets_picture.json": lambda: drawn(over_datasets()),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_as_it_was_approved(name: str) -> None:
    text = FORMS[name]()
    assert text == approved(name, text)


@pytest.mark.parametrize("over", [over_examples, over_datasets])
def test_no_line_is_longer_than_the_terminal(over: Callable[[], OverComparison]) -> None:
    assert max(map(len, shown(over()).splitlines())) <= 80


@pytest.mark.parametrize("over", [over_examples, over_datasets])
def test_every_form_has_the_difference_and_the_interval_of_the_verdict(
    over: Callable[[], OverComparison],
) -> None:
    found = over()
    lines = list(csv.DictReader(io.StringIO(csv_over(found))))
    rows = json.loads(json_over(found))["over"]["rows"]
    points = [series.points[place] for place in range(3) for series in all_series(found)]
    for row, line, one, point in zip(found.rows, lines, rows, points, strict=True):
        verdict = row.verdict
        assert verdict.interval is not None
        ends = [verdict.interval.low, verdict.interval.high]
        assert [float(line["low"]), float(line["high"])] == pytest.approx(ends)
        assert [one["verdict"]["interval"][end] for end in ("low", "high")] == pytest.approx(ends)
        assert [point.low, point.high] == pytest.approx([100 * end for end in ends])
        assert point.value == pytest.approx(100 * verdict.difference)
        cell = f"{100 * ends[0]:+.2f} to {100 * ends[1]:+.2f}"
        for text in (shown(found), markdown_over(found), over_table_page(found)):
            assert cell in text
        assert re.sub(r"(\S+) to (\S+)", r"$\1$ to $\2$", cell) in latex_over(found)


def test_a_page_says_first_what_the_values_say_together() -> None:
    page = Page(over_table_page(over_examples()))
    text = page.text
    places = [
        text.index(words)
        for words in (
            "the sign changes The sign changes: Modified CNN is better than Standard CNN at",
            "The difference depends on train_examples",
            "Difference by train_examples",
            "P(better)",
            "train_examples=1,000: Standard CNN and Modified CNN on mnist",
            "train_examples=40,000: Standard CNN and Modified CNN on mnist",
        )
    ]
    assert places == sorted(places[:2]) + places[2:]
    (picture,) = page.all("svg")
    assert picture["aria-label"] == picture_words(over_examples())
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert all(link["href"].removeprefix("#") in ids for link in page.all("a"))


def test_a_page_over_datasets_has_the_ranks() -> None:
    text = Page(over_table_page(over_datasets())).text
    assert "Ranks and mean differences over datasets" in text
    assert "Nemenyi's critical difference is 1.91" in text
    assert "critical difference 1.91" in text  # in the diagram


def test_a_report_has_a_section_with_pictures_at_each_value() -> None:
    over = over_examples()
    runs = [
        run_at(name, title, value, 0.9, num_train=int(value))
        for value in over.values
        for name, title in (("standard", "Standard CNN"), ("modified", "Modified CNN"))
    ]
    artifacts = [RunArtifacts(run, run.record.title) for run in runs]
    page = Page(over_report_page(over, runs, artifacts, title="Enough images?"))
    assert page.text.count("Learning curves by epoch") == 3
    assert "Enough images?" in page.text
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_a_title_is_no_markup_and_no_latex() -> None:
    title = "<b>\\5%_{x}"
    groups = [[run_at("a", "A", v, 0.9), run_at("b", title, v, 0.92)] for v in ("1", "2")]
    over = compare_over("train.epochs", ("1", "2"), groups, Criteria())
    assert "<b>\\5" not in over_table_page(over)
    assert r"\textless{}b\textgreater{}\textbackslash{}5\%\_\{x\}" in latex_over(over)
