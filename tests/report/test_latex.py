"""LaTeX tables: an approved one, what is bold, and the structure that LaTeX needs."""

import dataclasses
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cnnbench.comparisons.comparison import Comparison, compare
from cnnbench.comparisons.verdict import Criteria
from cnnbench.report.columns import TableOptions
from cnnbench.report.latex import escape_latex, latex
from cnnbench.runs.records import RunResult
from cnnbench.statistics.estimates import estimate
from tests.support.golden import approved
from tests.support.samples import make_run, without_validation

SEEDS = tuple(range(6))


def pair(start: float = 0.9213, title: str = "Modified CNN", **options: object) -> list[RunResult]:
    """The standard network and a modified one, which is better unless `start` is below 0.91."""
    other = make_run("modified", title, start=start, run_id="b", seeds=SEEDS, **options)  # type: ignore[arg-type]
    return [make_run(seeds=SEEDS, **options), other]  # type: ignore[arg-type]


def body(text: str) -> list[list[str]]:
    """The cells of the lines between the rules."""
    lines = text.split("\\midrule\n")[1].split("    \\bottomrule", maxsplit=1)[0].splitlines()
    return [re.split(r" (?<!\\)& ", line.strip().removesuffix(r" \\")) for line in lines]


def bold(comparison: Comparison) -> list[str]:
    """Labels of the rows that have a bold cell."""
    return [row[0] for row in body(latex([comparison])) if "\\mathbf" in "".join(row)]


def test_a_table_is_as_it_was_approved() -> None:
    loss = compare([make_run("code", "Autoencoder", headline="loss", seeds=(0, 1))])
    text = latex([compare(pair()), loss])
    assert text == approved("compare.tex", text)


@pytest.mark.parametrize(
    ("start", "baseline", "label"),
    [
        (0.9213, None, ["Modified CNN"]),
        (0.9, None, ["Standard CNN"]),
        (0.9, "modified", ["Standard CNN"]),
        (0.91, None, []),
    ],
)
def test_the_best_is_bold_if_the_verdict_confirms_it(
    start: float, baseline: str | None, label: list[str]
) -> None:
    comparison = compare(pair(start), Criteria(baseline))
    assert bold(comparison) == label
    assert ("Bold:" in latex([comparison])) == bool(label)


def test_the_lowest_loss_is_bold() -> None:
    better, worse = (compare(pair(start, headline="loss")) for start in (0.9, 0.93))
    assert (bold(better), bold(worse)) == (["Modified CNN"], ["Standard CNN"])
    assert [cell for cell in body(latex([better]))[1] if "\\mathbf" in cell] == [
        "$\\mathbf{0.9725 \\pm 0.0019}$"
    ]


def test_too_few_seeds_make_nothing_bold() -> None:
    runs = [make_run(), make_run("modified", "Modified CNN", start=0.95, run_id="b")]
    assert bold(compare(runs)) == []


def test_the_column_of_the_verdict_has_the_bold_cell() -> None:
    by_test = latex([compare(pair(), Criteria(metric="test_accuracy"))])
    assert [["\\mathbf" in cell for cell in row] for row in body(by_test)] == [
        [False] * 5,
        [False, False, False, True, False],
    ]
    by_loss = latex([compare(pair(0.9), Criteria(metric="loss"))])
    assert "Validation loss & Test loss" in by_loss
    assert "\\mathbf" not in by_loss  # the losses are the same


def test_without_validation_images_there_is_one_column_of_the_metric() -> None:
    text = latex([compare(list(map(without_validation, pair())))])
    assert "Network & Parameters & Test accuracy (\\%) & Time per epoch \\\\" in text
    assert "60,000 training and 10,000 test images" in text


def test_precision_and_changed_columns_are_chosen() -> None:
    comparison = compare(pair())
    text = latex([comparison], TableOptions(precision=1))
    assert body(text)[0][2] == "$97.1 \\pm 0.1$"
    text = latex([comparison], TableOptions(only_changed=True))
    assert "Network & Validation accuracy (\\%) & Test accuracy (\\%) \\\\" in text


def test_the_column_of_the_verdict_is_kept_though_nothing_changed() -> None:
    changed = TableOptions(only_changed=True)
    one, equal = compare(pair()[:1]), compare(pair(0.91))
    assert "Network & Validation accuracy (\\%) \\\\" in latex([one], changed)
    assert "Network & Validation accuracy (\\%) \\\\" in latex([equal], changed)
    by_test = compare(pair(0.91), Criteria(metric="test_accuracy"))
    assert "Network & Test accuracy (\\%) \\\\" in latex([by_test], changed)
    untested = compare([without_validation(pair()[0])])
    assert "Network & Test accuracy (\\%) \\\\" in latex([untested], changed)
    loss = compare(pair(0.91, headline="loss"))  # judged by the test images
    assert "Network & Test loss \\\\" in latex([loss], changed)


def test_seeds_that_diverged_are_named() -> None:
    comparison = compare(pair())
    lost = estimate([0.9, float("nan")])
    rows = [dataclasses.replace(row, value=lost, test=row.test and lost) for row in comparison.rows]
    text = latex([dataclasses.replace(comparison, rows=tuple(rows))])
    assert body(text)[0][2:4] == ["1 of 2 diverged"] * 2


def test_a_code_has_its_column() -> None:
    comparison = compare(pair(headline="loss"))
    code = estimate([0.5, 0.6])
    rows = tuple(dataclasses.replace(row, code=code) for row in comparison.rows)
    text = latex([dataclasses.replace(comparison, rows=rows)])
    assert "Code accuracy (\\%)" in text
    assert body(text)[0][4] == "$55.00 \\pm 7.07$"


@given(st.text(max_size=30))
@example("[2] CNN")
@example("* CNN")
@example(" *[a]")
@pytest.mark.slow
def test_no_title_breaks_a_table(title: str) -> None:
    """Four ampersands, balanced braces and dollars, nothing commented out: pairs of \\ aside."""
    text = latex([compare(pair(title=title or "x"))])
    table = text.split("% Verdict:")[0].split("\n", 1)[1]
    plain = re.sub(r"\\(textbackslash|[{}$&#%_])", "", table)
    assert all(line.count("&") == 4 for line in plain.splitlines() if line.endswith("\\\\"))
    assert len([line for line in plain.splitlines() if line.endswith("\\\\")]) == 3
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    assert not set("%#~") & set(plain)
    # After a line break and after a rule, LaTeX would read these as options.
    assert not any(line.lstrip().startswith(("[", "*")) for line in plain.splitlines())
    # A comment ends with its line, whatever the title holds.
    assert all(line.startswith("% ") for line in text.split("\\end{table}\n")[1].splitlines())


def test_special_characters_are_escaped() -> None:
    assert escape_latex(r"\{}$&#%_^~<>|[*]") == (
        r"\textbackslash{}\{\}\$\&\#\%\_\textasciicircum{}\textasciitilde{}"
        r"\textless{}\textgreater{}\textbar{}{[}{*}]"
    )
