"""`cnnbench.compare_over` gives what the command prints, as values."""

from pathlib import Path

import pytest

import cnnbench
from cnnbench.errors import IncomparableError, UsageError
from cnnbench.runs.folder import read_run
from tests.cli.test_over import SEEDS, invoke, save_at
from tests.support.samples import make_run

OVER = {"train_examples": [1000, 4000]}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for examples, start in ((1000, 0.90), (4000, 0.93)):
        save_at(tmp_path, make_run(seeds=SEEDS), examples)
        save_at(tmp_path, make_run("modified", "Mod <b>", seeds=SEEDS, start=start), examples)
    return tmp_path


def printed(results: Path, *options: str) -> str:
    words = ["standard", "modified", "--over", "train_examples=1000,4000", *options]
    return invoke("compare", *words, "--results-dir", str(results)).stdout


def test_forms_are_those_of_the_command(results: Path) -> None:
    result = cnnbench.compare_over("standard", "modified", over=OVER, results_dir=results)
    shown = [line.rstrip() for line in printed(results).rstrip().splitlines()]
    assert str(result).splitlines() == shown
    assert result.to_markdown() == printed(results, "--format", "md")
    assert result.to_csv() == printed(results, "--format", "csv")
    assert result.to_json() == printed(results, "--format", "json")
    assert result.to_latex() == printed(results, "--format", "latex")
    frame = result.to_frame()
    assert list(frame.finding) == ["worse", "better"]
    assert result.verdict.startswith("The sign changes: Mod <b> is better than Standard CNN at")
    assert repr(result) == f"<OverResult: {result.verdict}>"
    assert [row.verdict.finding for row in result.rows] == ["worse", "better"]
    assert result.results["1000"].verdicts == (result.rows[0].verdict,)


def test_runs_are_named_by_experiment_or_given_as_results(results: Path) -> None:
    expected = cnnbench.compare_over("standard", "modified", over=OVER, results_dir=results)
    runs = [read_run(path) for path in sorted(results.glob("*/*"), reverse=True)]
    for over in (OVER, "train_examples", "dataset.train_examples"):
        found = cnnbench.compare_over(runs, over=over, baseline="standard", results_dir=results)
        assert found.to_json() == expected.to_json()


def test_a_notebook_shows_sentence_picture_and_table(results: Path) -> None:
    page = cnnbench.compare_over(
        "standard", "modified", over=OVER, results_dir=results
    )._repr_html_()
    assert "<p>Verdict: The sign changes: Mod &lt;b&gt; is better" in page
    assert page.count('<img src="data:image/svg+xml;base64,') == 1
    assert page.count("<table>") == 1
    assert "<b>" not in page


def test_mistakes(results: Path) -> None:
    run = read_run(next(results.glob("standard/*")))
    for runs, over, message in (
        (([],), OVER, "runs: empty; name a run, or name experiments that were trained."),
        (("standard",), OVER, "over: compares experiments at each value; name two, or compare the"),
        (("standard", run), OVER, "runs: names and results are mixed; write names only, or"),
        (("standard", "modified"), "", "over: '' is not KEY=VALUE,VALUE; write, for example,"),
        (("standard", "modified"), "epocs=1,2", "over: standard has no key 'epocs' (did you mean"),
        (("standard", "modified"), "train_examples=1000", "over='train_examples=1000': a single"),
    ):
        with pytest.raises(UsageError) as caught:
            cnnbench.compare_over(*runs, over=over, results_dir=results)
        assert str(caught.value).startswith(message)
    more = {"train_examples": [1000, 8000]}
    with pytest.raises(IncomparableError, match=r"^over: 2 of 4 runs are missing: standard at"):
        cnnbench.compare_over("standard", "modified", over=more, results_dir=results)
