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
from cnnbench.api import requests
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
        (
            {"engine": "fats"},
            "engine: 'fats' is not auto, plain, whole, onednn, winograd, direct or fast.",
        ),
        ({"data_dir": "gone"}, "data_dir: no such folder: 'gone'; check the path."),
        ({"tags": ["a@b"]}, "tags: 'a@b' "),
        ({"seeds": 0}, "seeds: '0' "),
        ({"cores": 0}, "cores: 0 is not positive; use 1 or more."),
        ({"alpha": 0}, "alpha: 0 is not between 0.0001 and 0.5; write 0.05."),
        ({"test": "welch"}, "test: 'welch' is no test; write unpaired or paired."),
        (
            {"looks": [5, 10]},
            "looks: has an effect with until_decided or anytime only; add one of them, or write"
            " seeds.",
        ),
        (
            {"until_decided": True},
            "until_decided: compares experiments, and there is only tiny.yaml; name another one"
            " after it.",
        ),
        (
            {"until_decided": True, "over": {"train_examples": [50, 100]}},
            "until_decided: cannot be combined with over; remove one of them.",
        ),
        (
            {"over": {"train_examples": [50, 100], "train.epochs": [1]}},
            "over: 2 keys (train_examples, train.epochs); name one, with its values.",
        ),
        ({"over": {"train_examples": []}}, "over: 'train_examples=' is not KEY=VALUE,VALUE; "),
        (
            {"over": {"train_examples": [np.zeros(2)]}},
            "over: train_examples: a value of type ndarray is not plain data; write a number, a"
            " string, a list or a dict.",
        ),
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
    monkeypatch.setattr(training, "_train", lambda requests, *_, **__: asked.extend(requests))
    cnnbench.run(*(given.split() if isinstance(given, str) else [given]), **options)  # type: ignore[arg-type]
    expected = ["cnnbench", "run", "tiny", "wide.yaml", *words.split()]
    assert [request.command for request in asked] == [expected] * 2
    tags = [word for word in words.split() if word.isalpha()]
    assert [list(request.tags) for request in asked] == [tags] * 2


def test_an_empty_list_of_experiments_names_none() -> None:
    assert str(refused([])) == str(refused())  # type: ignore[arg-type]


def test_parameters_are_options_of_the_commands() -> None:
    for train in (cnnbench.run, cnnbench.tune, cnnbench.sweep):
        own = set(inspect.signature(train).parameters)
        assert own - {"experiments", "overrides", "tags", "progress", "keys", "values"} <= {
            *inspect.signature(run_command).parameters
        }
    for judge in (cnnbench.compare, cnnbench.compare_over):
        own = set(inspect.signature(judge).parameters)
        assert own <= {*inspect.signature(compare_command).parameters}


def test_options_of_the_commands_are_parameters() -> None:
    """What remains is about the terminal, or explained on the page."""
    known = {*inspect.signature(cnnbench.run).parameters}
    known |= {*inspect.signature(cnnbench.tune).parameters}
    known |= {*inspect.signature(cnnbench.sweep).parameters}
    assert {*inspect.signature(run_command).parameters} - known == {
        *("specs", "match", "tune", "profile", "resume", "tag", "dry_run", "json", "quiet"),
        "verbose",
        "track",
        *("retune", "sbatch", "gpus", "cpus", "processes", "shard"),
    }
    assert {*inspect.signature(compare_command).parameters} - {
        *inspect.signature(cnnbench.compare).parameters,
        *inspect.signature(cnnbench.compare_over).parameters,
    } == {
        *("fail_if", "sort_by", "only_changed", "precision", "format", "verbose", "every"),
        *("predictions", "data_dir"),
    }


def test_runs_stop_when_decided(capsys: pytest.CaptureFixture[str]) -> None:
    runs = cnnbench.run(
        ["tiny", "wide"], until_decided=True, looks=[4, 5], metric="loss", min_effect=100
    )
    assert [run.record.seeds for run in runs] == [tuple(range(4))] * 2
    told = capsys.readouterr().err
    assert "look 1, 4 seeds: loss " in told
    assert "Seeds: 2 of 10 were not needed (about 1 s saved)" in told
    rule = runs[0].record.looks
    assert rule is not None
    assert (rule.numbers, rule.reason) == ((4, 5), "within min_effect")
    (verdict,) = cnnbench.compare(runs, metric="loss").verdicts
    assert verdict.stopped is not None
    assert verdict.stopped.threshold == rule.thresholds[0]
    command = ("--until-decided", "--looks", "4,5", "--metric", "loss", "--min-effect", "100")
    assert runs[0].record.environment.command == ("cnnbench", "run", "tiny", "wide", *command)


@pytest.mark.slow
def test_runs_at_several_values_are_compared_over_them() -> None:
    over = {"train_examples": [50, 100]}
    runs = cnnbench.run("tiny", "wide", seeds=4, epochs=1, over=over, progress=False)
    assert [(run.record.name, run.record.dataset.num_train) for run in runs] == [
        ("tiny", 50),
        ("wide", 50),
        ("tiny", 100),
        ("wide", 100),
    ]
    result = cnnbench.compare_over(runs, over="train_examples")
    assert [row.value for row in result.rows] == ["50", "100"]
    assert runs[0].record.environment.command[-2:] == ("--over", "dataset.train_examples=50")
    by_name = cnnbench.compare_over("tiny", "wide", over=over)
    assert by_name.to_json() == result.to_json()


def test_a_run_shows_itself() -> None:
    run = make_run(title="A <b>", seeds=(0, 1))
    text = "finished, mnist, seeds 2, epochs 3, test accuracy 98.05%>"
    assert repr(run) == f"<RunResult standard/20251123T063012Z-a1b2: {text}"
    assert repr(cnnbench.RunList([run])) == f"[{run!r}]"
    page = run._repr_html_()
    assert "A &lt;b&gt;" in page
    assert "98.05%" in page
    assert cnnbench.RunList()._repr_html_() == "[]"


@pytest.mark.parametrize(("test", "p"), [(None, "p = 0.0022"), ("paired", "p = 0.031")])
def test_a_notebook_uses_the_test_of_the_run(
    test: str | None, p: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = range(6)
    found = [make_run(seeds=seeds), make_run("b", "B", seeds=seeds, start=0.93, run_id="b")]
    monkeypatch.setattr(training, "run_requests", lambda *_: found)
    runs = cnnbench.run("tiny", "wide", test=test, progress=False)  # type: ignore[arg-type]
    assert p in runs._repr_html_()


def test_a_notebook_gets_lines_instead_of_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)  # as ipykernel's streams say
    monkeypatch.setattr(sys, "stderr", terminal)
    assert requests.progress_console().is_terminal
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    console = requests.progress_console()
    assert (console.is_jupyter, console.is_terminal, console.file) == (False, False, terminal)


CORES = """
import os
import cnnbench
from cnnbench.errors import UsageError

(first,) = cnnbench.run("tiny", epochs=1, cores=1, progress=False)
(again,) = cnnbench.run("tiny", epochs=1, cores=1, progress=False)
for record in (first.record, again.record):
    assert record.environment.num_cpus == len(os.sched_getaffinity(0)) == 1
    assert record.environment.command[-2:] == ("--cores", "1")
for number in (2, 1000):
    try:
        cnnbench.run("tiny", cores=number)
    except UsageError as error:
        print(error)
"""
LATE = """
import jax
import cnnbench

jax.devices()
try:
    cnnbench.run("tiny", cores=1)
except cnnbench.CnnbenchError as error:
    print(error)
"""


def said_by(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no affinity")
def test_cores_are_kept_until_the_process_ends() -> None:
    remedy = "write cores=1, or start another process."
    assert said_by(CORES) == [f"cores: this process keeps to 1 until it ends; {remedy}"] * 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no affinity")
def test_cores_of_a_jax_that_runs_are_fixed() -> None:
    assert said_by(LATE) == [
        "cores: JAX has started in this process, with threads for all of its cores; call run with"
        " cores first, in a new process."
    ]


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
