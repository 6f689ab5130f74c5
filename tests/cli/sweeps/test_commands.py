"""``cnnbench sweep`` and ``cnnbench confirm`` end to end, on a sweep that is trained once."""

import base64
import csv
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.runs.find import list_runs
from cnnbench.statistics.best_of import expected_best
from tests.cli.sweeps.test_running import NET

GRID = ("train.optimizer.learning_rate=0.01,0.1", "model.params.units=2,4")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder with a trained sweep of four trials."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "a.yaml").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CNNBENCH_ENGINE", "plain")
        assert invoke("run", "a.yaml", *GRID, "-q").exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def _here(results, monkeypatch):
    monkeypatch.chdir(results)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("CNNBENCH_ENGINE", "plain")


def invoke(*words: str):
    return CliRunner().invoke(app, list(words), prog_name="cnnbench", catch_exceptions=False)


def shown() -> Any:
    return json.loads(invoke("sweep", "show", "--format", "json").stdout)


def test_runs_are_named_by_what_differs():
    titles = [entry.record.title for entry in list_runs(Path("results")).entries]
    assert titles[:2] == ["Net learning_rate=0.01 units=2", "Net learning_rate=0.01 units=4"]


def test_json_has_every_seed_and_the_expected_best():
    document = shown()
    assert document["keys"] == ["train.optimizer.learning_rate", "model.params.units"]
    means = [sum(t["scores"]) / len(t["scores"]) for t in document["trials"]]
    assert means == sorted(means, reverse=True)
    assert [t["mean"] for t in document["trials"]] == pytest.approx(means)
    assert document["expected_best"]["Net"] == pytest.approx(expected_best(means))
    for trial in document["trials"]:
        summary = json.loads(Path("results", trial["run"], "summary.json").read_text())
        assert trial["scores"] == [seed["final"]["accuracy"] for seed in summary["seeds"]]


def test_csv_has_a_line_for_each_seed():
    lines = list(csv.DictReader(io.StringIO(invoke("sweep", "show", "--format", "csv").stdout)))
    expected = [
        (str(t["trial"]), str(seed), score)
        for t in shown()["trials"]
        for seed, score in zip(t["seeds"], t["scores"], strict=True)
    ]
    assert [(r["trial"], r["seed"], float(r["accuracy"])) for r in lines] == expected


def test_the_table_with_a_heat_map():
    done = invoke("sweep", "show", "a")
    assert done.exit_code == 0
    assert "accuracy, higher is better: learning_rate down, units across" in done.stdout
    assert "Confirm it with fresh seeds: cnnbench confirm " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("column", "expected"),
    [("trial", "1234"), ("learning_rate", "1122"), ("train.optimizer.learning_rate", "1122")],
)
def test_sorting(column, expected):
    lines = invoke("sweep", "show", "--format", "md", "--sort-by", column).stdout.splitlines()[2:6]
    trials = [line.split("|")[1].strip() for line in lines]
    if column == "trial":
        assert trials == list(expected)
    else:
        assert [{"1": "1", "2": "1", "3": "2", "4": "2"}[n] for n in trials] == list(expected)


ROW = r'<tr data-trial="[0-9a-f]{8}-1-\d" tabindex="0">'  # of a trial


def test_a_report_has_a_section_of_its_sweep():
    """The table of trials is that of the page of the sweep."""
    assert invoke("sweep", "show", "-o", "s.html").exit_code == 0
    paths = sorted(map(str, Path("results/a").iterdir()))
    done = invoke("report", *paths, "--output", "r.html")
    assert (done.exit_code, done.stderr.count("does not show sweep")) == (0, 0), done.output
    pages = [Path(name).read_text() for name in ("s.html", "r.html")]
    assert len(re.findall(ROW, pages[1])) == 4
    tables = [
        page.partition('<table class="trials">')[2].partition("</table>")[0] for page in pages
    ]
    assert tables[0] == tables[1] != ""
    assert [page.count('<svg class="coordinates"') for page in pages] == [1, 1]
    assert "Confirm it with fresh seeds: cnnbench confirm " in pages[1]
    for page in pages:
        (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src &#39;sha256-{digest}&#39;" in page.replace("'", "&#39;")


def test_pages_and_pictures():
    for name in ("s.svg", "s.png", "s.html"):
        assert invoke("sweep", "show", "-o", name).exit_code == 0
    assert Path("s.png").read_bytes().startswith(b"\x89PNG")
    page = Path("s.html").read_text()
    assert len(re.findall(r"<polyline data-trial", page)) == 4
    assert len(re.findall(ROW, page)) == 4
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert invoke("sweep", "show", "--format", "html").stdout.strip() == page.strip()
    assert invoke("sweep", "show", "--format", "latex").stdout.count(r" \\") == 5


def test_listing():
    done = invoke("sweep", "list")
    assert "4 of 4" in done.stdout
    assert "learning_rate units" in done.stdout


def test_a_missing_run_is_not_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(NET)
    assert invoke("sweep", "list").stderr == "no sweeps in results\n"
    done = invoke("sweep", "show")
    assert done.exit_code == 2
    assert done.stderr == ("no sweeps in results; start one with: cnnbench run FILE KEY=1,2\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("show", "nothing"),
            "'nothing' is neither a sweep nor an experiment; list all with: cnnbench sweep list",
        ),
        (
            ("show", "--sort-by", "tria"),
            "--sort-by: no column 'tria' (did you mean 'trial'?); write trial, time, learning_rate"
            " or units.",
        ),
        (("show", "-o", "x.pdf"), "--output: unsupported file type 'x.pdf'; use .svg, .png or"),
    ],
)
def test_messages(words, says):
    done = invoke("sweep", *words)
    assert done.exit_code == 2
    assert says in done.stderr


def test_confirming_uses_seeds_that_the_sweep_never_saw():
    done = invoke("confirm", "--seeds", "4", "-q")
    assert done.exit_code == 0
    assert "Verdict: " in done.stdout
    assert " as the best of 4, " in done.stdout
    assert "not interleaved" not in done.stdout
    fresh = [e.record for e in list_runs(Path("results")).entries if 5000 in e.record.seeds]
    assert [record.seeds for record in fresh] == [(5000, 5001, 5002, 5003)] * 2
    assert fresh[0].title == "Net"


def test_a_sweep_of_an_experiment_that_ships_with_cnnbench_is_confirmed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = "dataset.splits={train: 20, validation: 20, test: 20}"
    words = ("mlp", few, "train.optimizer.learning_rate=0.01,0.1", "--seeds", "1", "--epochs", "1")
    assert invoke("run", *words, "-q", "--dataset", "mnist_5k").exit_code == 0
    done = invoke("confirm", "--seeds", "2", "--against", "written", "-q")
    assert done.exit_code == 0, done.stderr
    assert "Verdict: " in done.stdout


def test_messages_of_confirm():
    best = shown()["trials"][0]["trial"]
    done = invoke("confirm", "--against", str(best))
    assert done.exit_code == 2
    assert f"is trial {best} itself; name another trial: --against " in done.stderr
    done = invoke("confirm", "--against", "5")
    assert done.exit_code == 2
    assert "write a number from 1 to 4, or written." in done.stderr
