"""`cnnbench.run`: one training, and what it refuses."""

import inspect
import io
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cnnbench
from cnnbench.api import run as training
from cnnbench.cli.commands.compare import compare as compare_command
from cnnbench.cli.commands.run import run as run_command
from cnnbench.errors import CnnbenchError, SpecError, UsageError
from cnnbench.runner.run import Request
from cnnbench.runs.records import Status
from tests.support.samples import make_run

TINY = """\
name: tiny
task: classify
dataset: {name: mnist_5k, train_examples: 200}
model:
  layers:
    dense1: {op: dense, units: 10}
train: {epochs: 3, batch_size: 100}
"""
WIDE = "extends: tiny.yaml\nname: wide\ntitle: Wide\nmodel: {layers: {dense1: {use_bias: false}}}\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    Path("tiny.yaml").write_text(TINY)
    Path("wide.yaml").write_text(WIDE)


def test_runs_are_trained_compared_and_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    runs = cnnbench.run(
        "tiny",
        Path("wide.yaml"),
        seeds=range(2),
        epochs=2,
        overrides={"train.optimizer.learning_rate": 1e-5, "train.optimizer": "adam"},
        results_dir="out",
        tags=["first"],
        progress=False,
    )
    assert [run.record.name for run in runs] == ["tiny", "wide"]
    assert [run.record.status for run in runs] == [Status.FINISHED] * 2
    assert runs[0].record.seeds == (0, 1)
    assert runs[0].record.epochs == 2
    assert runs[0].record.tags == ("first",)
    assert runs[0].path is not None
    assert runs[0].path.parent == Path("out/tiny")
    assert len(runs.to_frame()) == 8
    assert (
        cnnbench.compare(runs).to_json()
        == cnnbench.compare("tiny", "wide", results_dir="out").to_json()
    )
    assert capsys.readouterr() == ("", "")
    # The command line that trains the same runs.
    assert runs[1].record.environment.command == (
        *("cnnbench", "run", "tiny", "wide.yaml", "--seeds", "0,1", "--epochs", "2"),
        *("--results-dir", "out", "--tag", "first"),
        *("train.optimizer.learning_rate=1.0e-05", "train.optimizer=adam"),
    )
    again = cnnbench.run(
        "tiny",
        seeds=2,
        epochs=2,
        overrides=["train.optimizer.learning_rate=1e-5", "train.optimizer=adam"],
        results_dir="out",
        needed=True,
    )
    assert again[0].record.run_id == runs[0].record.run_id
    assert capsys.readouterr().err
    page = runs._repr_html_()
    assert page.count("<table>") == 1
    assert [name for name in ("tiny", "Wide") if f">{name} @first</th>" in page] == ["tiny", "Wide"]


def refused(*experiments: str, **options: object) -> CnnbenchError:
    with pytest.raises(CnnbenchError) as caught:
        cnnbench.run(*experiments, progress=False, **options)  # type: ignore[arg-type]
    assert not Path("results").exists()
    return caught.value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "device: 'cuda' is not auto, cpu, gpu or tpu."),
        ({"engine": "fats"}, "engine: 'fats' is not auto, plain, direct or fast."),
        ({"data_dir": "gone"}, "data_dir: no such folder: 'gone'; name an existing one."),
        ({"tags": ["a@b"]}, "tags: 'a@b' "),
        ({"seeds": 0}, "seeds: '0' "),
        (
            {"overrides": {"train.epochs": np.zeros(2)}},
            "overrides: train.epochs: a value of type ndarray is not plain data; write a number, a"
            " string, a list or a dict.",
        ),
    ],
)
def test_errors_name_parameters(options: dict[str, object], message: str) -> None:
    error = refused("tiny", **options)
    assert isinstance(error, UsageError)
    assert str(error).startswith(message)


def test_errors_of_overrides_name_their_keys() -> None:
    for overrides in ({"train.epochs": 0}, ["train.epochs=0"], "train.epochs=0"):
        error = refused("tiny", overrides=overrides)
        assert isinstance(error, SpecError)
        assert str(error).startswith("train.epochs: ")
        assert len(error.problems) == 1


def test_an_experiment_has_to_be_named() -> None:
    assert str(refused()) == "experiments: none given; name a file, or 'standard'."
    assert str(refused("standrad")).startswith(
        "no experiment named 'standrad' (did you mean 'standard'?)"
    )
    assert "gone.yaml" in str(refused("gone.yaml"))


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ("tiny wide.yaml", {"tags": "best"}, "--tag best"),
        (["tiny", Path("wide.yaml")], {"tags": iter(["a", "b"])}, "--tag a --tag b"),
        (("tiny", "wide.yaml"), {"seeds": "6"}, "--seeds 6"),
        (["tiny", "wide.yaml"], {"seeds": "0,1"}, "--seeds 0,1"),
        (["tiny", "wide.yaml"], {"seeds": iter([7])}, "--seeds 7,"),
    ],
)
def test_strings_and_lists_are_read_as_the_command_line_reads_them(
    given: object,
    options: dict[str, object],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Request] = []
    monkeypatch.setattr(training, "_train", lambda requests, **_: asked.extend(requests))
    cnnbench.run(*(given.split() if isinstance(given, str) else [given]), **options)  # type: ignore[arg-type]
    expected = ["cnnbench", "run", "tiny", "wide.yaml", *words.split()]
    assert [request.command for request in asked] == [expected] * 2
    tags = [word for word in words.split() if word.isalpha()]
    assert [list(request.tags) for request in asked] == [tags] * 2


def test_an_empty_list_of_experiments_names_none() -> None:
    assert str(refused([])) == str(refused())  # type: ignore[arg-type]


def test_parameters_are_options_of_the_commands() -> None:
    own = set(inspect.signature(cnnbench.run).parameters)
    assert own - {"experiments", "overrides", "tags", "progress"} <= {
        *inspect.signature(run_command).parameters
    }
    assert set(inspect.signature(cnnbench.compare).parameters) <= {
        *inspect.signature(compare_command).parameters
    }


def test_a_run_shows_itself() -> None:
    run = make_run(title="A <b>", seeds=(0, 1))
    text = "finished, mnist, seeds 2, epochs 3, test accuracy 98.05%>"
    assert repr(run) == f"<RunResult standard/20251123T063012Z-a1b2: {text}"
    assert repr(cnnbench.RunList([run])) == f"[{run!r}]"
    page = run._repr_html_()
    assert "A &lt;b&gt;" in page
    assert "98.05%" in page
    assert cnnbench.RunList()._repr_html_() == "[]"


def test_a_notebook_gets_lines_instead_of_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)  # as ipykernel's streams say
    monkeypatch.setattr(sys, "stderr", terminal)
    assert training._console().is_terminal
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    console = training._console()
    assert (console.is_jupyter, console.is_terminal, console.file) == (False, False, terminal)


def test_import_is_cheap() -> None:
    code = """
import sys
import cnnbench
heavy = {"flax", "jax", "numpy", "pandas", "rich", "typer", "yaml"} & set(sys.modules)
assert not heavy, heavy
assert set(cnnbench.__all__) <= set(dir(cnnbench))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_subpackage_has_the_name_of_a_function() -> None:
    """Once imported, it would be an attribute of the package in place of the function."""
    packages = {module.name for module in pkgutil.iter_modules(cnnbench.__path__)}
    assert {"api", "comparisons"} <= packages
    assert not packages & {*cnnbench.__all__}
