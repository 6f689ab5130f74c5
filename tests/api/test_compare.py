"""`cnnbench.compare` gives what the command prints, as values."""

import io
import json
import math
import re
import warnings
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import cnnbench
from cnnbench.cli.app import app
from cnnbench.comparisons.verdict import Finding
from cnnbench.errors import IncomparableError, UsageError
from cnnbench.runs.folder import read_run
from tests.support.samples import make_run, on_device, save

SEEDS = tuple(range(8))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    save(make_run(seeds=SEEDS), tmp_path)
    save(make_run("modified", "Modified <CNN>", seeds=SEEDS, start=0.9213, run_id="b"), tmp_path)
    return tmp_path


def printed(results: Path, *options: str) -> str:
    """Standard output of the command."""
    words = ["compare", "standard", "modified", "--results-dir", str(results), *options]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
    assert done.exit_code == 0
    return done.stdout


def by_name(results: Path, **options: object) -> cnnbench.ComparisonResult:
    return cnnbench.compare("standard", "modified", results_dir=results, **options)  # type: ignore[arg-type]


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def test_text_forms_are_those_of_the_command(results: Path) -> None:
    result = by_name(results)
    assert lines(str(result)) == lines(printed(results))
    assert result.to_markdown() == printed(results, "--format", "md")
    assert result.to_csv() == printed(results, "--format", "csv")
    assert result.to_json() == printed(results, "--format", "json")
    assert result.to_latex() == printed(results, "--format", "latex")


def test_the_verdict_is_a_sentence_and_a_value(results: Path) -> None:
    result = by_name(results)
    text = " ".join(printed(results).split())
    assert f"Verdict: {result.verdict}" in text
    assert "+1.13 points" in result.verdict
    assert repr(result) == f"<ComparisonResult: {result.verdict}>"
    (verdict,) = result.verdicts
    assert verdict.finding == "better"
    assert verdict.difference == pytest.approx(0.0113)


def test_runs_are_named_in_every_form(results: Path) -> None:
    one, two = (read_run(path) for path in sorted(results.glob("*/*"), reverse=True))
    path = results / "modified" / "b"
    expected = by_name(results).to_json()
    forms: list[list[object]] = [
        [one, two],
        [[one, two]],
        ["standard", two],
        [one, path],
        [str(results / "standard"), ["b"]],
        [(run for run in (one, two))],
    ]
    for runs in forms:
        assert cnnbench.compare(*runs, results_dir=results).to_json() == expected  # type: ignore[arg-type]


def test_without_runs_the_newest_are_compared(results: Path) -> None:
    save(make_run("code", "Autoencoder", headline="loss", run_id="0"), results)
    with pytest.warns(UserWarning, match="skipped, not comparable with") as found:
        result = cnnbench.compare(results_dir=results)
    assert found[0].filename == __file__
    assert len(result.verdicts) == 1
    empty = results / "empty"
    message = (
        f"no finished run to compare; start one with: cnnbench run standard --results-dir {empty}"
    )
    with pytest.raises(IncomparableError, match=f"^{re.escape(message)}$"):
        cnnbench.compare(results_dir=empty)


def test_without_a_run_the_error_names_what_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "standard" / "20251123T063012Z-a1b2" / "run.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(IncomparableError) as caught:
        cnnbench.compare(results_dir=tmp_path)
    first, told = str(caught.value).splitlines()
    assert first.startswith("no finished run to compare; ")
    assert told.startswith(f"skipped: {path}:")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("runs", [([],), ([], ()), (cnnbench.RunList(),)])
def test_an_empty_selection_is_not_all_runs(results: Path, runs: tuple[object, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        cnnbench.compare(*runs, results_dir=results)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "runs: empty; name a run, or call compare() without runs to use the newest ones."
    )


def test_one_run_has_no_verdict(results: Path) -> None:
    result = cnnbench.compare("standard", results_dir=results)
    assert (result.verdict, result.verdicts) == ("", ())
    assert repr(result) == "<ComparisonResult: Standard CNN>"


def test_criteria_are_those_of_the_command(results: Path) -> None:
    result = by_name(
        results, baseline="modified", metric="test_accuracy", alpha=0.1, min_effect=0.02, target=0.9
    )
    options = ["--baseline", "modified", "--metric", "test_accuracy", "--alpha", "0.1"]
    options += ["--min-effect", "0.02", "--target", "0.9", "--format", "json"]
    assert json.loads(result.to_json()) == json.loads(printed(results, *options))
    assert result.verdicts[0].finding is Finding.NOISE
    assert by_name(results, min_effect="2pp").verdicts[0].finding is Finding.NOISE
    assert by_name(results, min_effect=1e-5).verdicts[0].min_effect == 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 2}, "alpha: 2 is not between 0.0001 and 0.5; write 0.05."),
        ({"alpha": math.nan}, "alpha: nan is not between 0.0001 and 0.5; write 0.05."),
        ({"baseline": "standrad"}, "baseline: "),
        ({"min_effect": "x"}, "min_effect: 'x' "),
        ({"min_effect": math.inf}, "min_effect: 'Infinity' "),
        ({"target": "x"}, "target: 'x'"),
        ({"metric": "acuracy"}, "metric: "),
    ],
)
def test_errors_name_parameters(results: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        by_name(results, **options)
    assert str(caught.value).startswith(message)
    assert "--" not in str(caught.value).split(";")[0]
    assert isinstance(caught.value, cnnbench.CnnbenchError)


def test_a_run_that_does_not_exist_is_an_error(results: Path) -> None:
    with pytest.raises(UsageError, match=r"^'nothing' is not a run folder"):
        cnnbench.compare("nothing", results_dir=results)


def test_a_notebook_shows_tables_and_the_verdict(results: Path) -> None:
    page = by_name(results)._repr_html_()
    verdict = by_name(results).verdict
    assert "Modified &lt;CNN&gt;" in page
    assert "<CNN>" not in page
    assert (
        f"<p><strong>Verdict:</strong> {verdict.replace('<', '&lt;').replace('>', '&gt;')}</p>"
        in page
    )
    epochs, costs = re.findall("<table>.*?</table>", page)
    for table, each in ((epochs, 2), (costs, 1)):
        header, *labels = re.findall('<th style="text-align: left">(.*?)</th>', table)
        assert header == "Type"
        assert labels == ["Standard CNN"] * each + ["Modified &lt;CNN&gt;"] * each


def test_a_notebook_warns_of_doubtful_times(results: Path) -> None:
    busy = on_device(make_run("busy", "Busy", seeds=SEEDS, run_id="c"), load_per_cpu=0.5)
    result = cnnbench.compare("standard", busy, results_dir=results)
    text = "timings are noisy on this machine (load 0.5 per CPU); accuracy is not affected."
    assert f"<p>Warning: {text}</p>" in result._repr_html_()
    assert f"<p>Warning: {text}</p>" in cnnbench.RunList([busy])._repr_html_()
    assert "Warning" not in by_name(results)._repr_html_()


def test_a_frame_has_the_rows_of_the_csv_file(results: Path) -> None:
    frame = by_name(results).to_frame()
    oracle = pd.read_csv(io.StringIO(by_name(results).to_csv()))
    assert list(frame.columns) == list(oracle.columns)
    known = frame.astype(object).where(frame.notna(), math.nan)
    pd.testing.assert_frame_equal(known, oracle, check_dtype=False, check_exact=False)


def test_nothing_is_warned_of_without_a_reason(results: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_name(results)
