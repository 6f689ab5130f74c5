"""``cnnbench plot`` and ``cnnbench report``: their options and what they refuse."""

import dataclasses
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cnnbench.cli.app import app
from tests.support.samples import make_run, on_device, save, with_record


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classifiers and an autoencoder, of an older version; files are written beside them."""
    folder = tmp_path / "results"
    save(make_run(seeds=(0, 1)), folder)
    save(make_run("modified", "Modified CNN", seeds=(0, 1), start=0.92, run_id="b"), folder)
    save(make_run("autoencoder", "Autoencoder", headline="loss", run_id="c"), folder)
    monkeypatch.chdir(tmp_path)
    return folder


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "80"})


@pytest.mark.usefixtures("results")
def test_a_plot_is_a_picture_with_the_verdict_and_the_options_of_compare() -> None:
    words = ["--baseline", "modified", "--metric", "loss"]
    done = invoke("plot", "standard", "modified", *words)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "wrote comparison.svg\n")
    text = Path("comparison.svg").read_text()
    assert "Too few seeds to compare Standard CNN with Modified CNN" in text
    assert "loss (lower is better)" in text
    assert invoke("plot", "autoencoder", "-o", "one.png").exit_code == 0
    assert Path("one.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_warns_as_compare_does(results: Path) -> None:
    lost = make_run("lost", "Lost", seeds=(0, 1), run_id="d")
    epochs = tuple(dataclasses.replace(epoch, train_loss=math.nan) for epoch in lost.epochs)
    busy = on_device(dataclasses.replace(lost, epochs=epochs), load_per_cpu=0.5)
    save(with_record(busy, batch_size=1000, epochs=3), results)
    save(with_record(lost, name="half", title="Half", epochs=3, batch_size=499), results)
    done = invoke("plot", "half", "standard", "--output", "two.svg")
    *lines, last = done.stderr.splitlines()
    assert last == "wrote two.svg"
    assert max(map(len, lines)) <= 80
    told = invoke("compare", "half", "standard").stdout
    assert done.stderr.startswith("Different training recipes: Half: 3 epochs, batch size 499; ")
    assert " ".join(" ".join(lines).split()) in " ".join(told.split())
    done = invoke("plot", "lost")
    assert done.stderr.splitlines() == [
        "Warning: Lost diverged with seeds 0 and 1 (non-finite loss).",
        "Warning: timings are noisy on this machine (load 0.5 per CPU); accuracy is not ",
        "affected; --verbose for details.",
        "wrote comparison.svg",
    ]
    assert invoke("plot", "lost", "--verbose").stderr.splitlines()[1:3] == [
        "Warning: Lost: the system was under load when the run started (0.50 per CPU); ",
        "re-run on an idle machine.",
    ]


@pytest.mark.usefixtures("results")
def test_a_report_is_of_every_experiment_unless_runs_are_named() -> None:
    assert invoke("report", "--all").stderr == "wrote report.html\n"
    page = Path("report.html").read_text()
    assert page.index("Standard CNN and Modified CNN on mnist") < page.index("Autoencoder on mnist")
    assert "Kernels and predictions unavailable: " in page
    done = invoke("report", "modified", "standard", "--output", "two.html", "--min-effect", "5pp")
    assert done.exit_code == 0
    two = Path("two.html").read_text()
    assert "Too few seeds to compare Standard CNN with Modified CNN" in two
    assert "Autoencoder" not in two


@pytest.mark.usefixtures("results")
def test_a_report_has_a_title_and_notes_of_its_authors() -> None:
    Path("notes.md").write_text("# Why\n\nA *wider* kernel <script>alert(1)</script>\n")
    done = invoke("report", "standard", "modified", "--title", "Wide & tall", "--notes", "notes.md")
    assert (done.exit_code, done.stderr) == (0, "wrote report.html\n")
    page = Path("report.html").read_text()
    assert "<h1>Wide &amp; tall</h1>" in page
    assert "<h3>Why</h3>\n<p>A <em>wider</em> kernel &lt;script&gt;" in page
    assert page.index("Too few seeds") < page.index("<h3>Why</h3>") < page.index(">Cost</h2>")


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(("command", "shows"), [("report", "report"), ("plot", "compare")])
def test_what_is_left_out_is_shown_by_a_command_that_can(command: str, shows: str) -> None:
    """A picture is of one group."""
    told = " ".join(invoke(command).stderr.split())
    assert f"show all with: cnnbench {shows} --all wrote {command}" in told.replace(
        "comparison", "plot"
    )


@pytest.mark.usefixtures("results")
def test_compare_prints_a_page() -> None:
    done = invoke("compare", "standard", "modified", "--format", "html")
    assert done.exit_code == 0
    assert done.stdout.startswith("<!DOCTYPE html>\n")
    assert done.stdout.endswith("</html>\n")
    assert done.stdout.count("<table") == 2  # and costs


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["plot", "standard", "-o", "a.pdf"],
            2,
            "--output: unsupported file type 'a.pdf'; use .svg or .png.",
        ),
        (
            ["report", "standard", "--all"],
            2,
            "--all: cannot be combined with 'standard'; remove one of them.",
        ),
        (
            ["plot", "standard", "-o", "none/a.svg"],
            1,
            "--output none/a.svg: cannot be written: no such file or directory; name another.",
        ),
        (
            ["report", "standard", "-o", "results"],
            1,
            "--output results: cannot be written: is a directory; name another.",
        ),
        (
            ["report", "--min-effect", "much"],
            2,
            "--min-effect: 'much' is not an effect size; write, for example, 0.1pp (points), "
            "2% (of the baseline) or 0.003 (in the metric's unit).",
        ),
        (
            ["report", "standard", "--title", " "],
            2,
            "--title: is empty; write a title, or omit the option.",
        ),
        (
            ["report", "standard", "--notes", "none.md"],
            2,
            "--notes none.md: cannot be read: no such file or directory; check the file name.",
        ),
        (
            ["report", "--results-dir", "empty"],
            4,
            "no finished run to compare; start one with: cnnbench run standard --results-dir empty",
        ),
    ],
)
def test_what_is_wrong_is_said(words: list[str], code: int, message: str) -> None:
    done = invoke(*words)
    assert (done.exit_code, done.stderr) == (code, f"{message}\n")
