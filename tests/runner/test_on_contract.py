"""Every kind of command trains the same on workers as without them, bit for bit."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.runs.folder import read_run
from tests.runner.test_distributed import numbers
from tests.runner.warm_workers import WarmWorkers, lend, warm_workers
from tests.support.tinysets import write_pictures

SPEC = """\
name: {name}
task: classify
dataset: {{folder: pics, channels: 1, split: {{validation: 0.25, test: 0.25}}}}
model: {{layers: {{hidden: {{op: dense, units: {units}}}, out: {{op: dense, units: 2}}}}}}
train: {{epochs: 2, batch_size: 4, metrics: [accuracy]}}
seeds: 2
"""
NET = """\
from flax import nnx

class Net(nnx.Module):
    def __init__(self, *, rngs):
        self.out = nnx.Linear(30, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(x.reshape(len(x), -1))
"""
STOPS = "{metric: accuracy, patience: 1}"
COMMANDS = {  # words after `cnnbench run`
    "plain": ("a", "b", "--json"),
    "streamed": ("a", "dataset.streaming=true", "--workers", "1"),
    "folds": ("a", "dataset.split={validation: null, test: 0.25, folds: 3}", "--seeds", "3"),
    "by seed": ("a", "dataset.split={validation: 0.25, test: 0.25, by_seed: true}"),
    "early stopping": ("a", f"train.early_stopping={STOPS}", "--epochs", "5"),
    "restore best": ("a", "train.restore_best=accuracy", "--epochs", "3"),
    "over": ("a", "--over", "train_examples=6,12"),
    "match": ("a", "b", "--match", "params"),
    "until decided": ("a", "b", "--until-decided", "--max-seeds", "4"),
    "anytime": ("a", "b", "--anytime", "--max-seeds", "3"),
    "sweep": ("a", "train.optimizer.learning_rate=0.1,0.01", "--seeds", "1"),
    "tune": ("a", "b", "--tune", "learning_rate", "--trials", "2", "--tune-seeds", "1"),
    "python": ("p", "--allow-python"),
}


@pytest.fixture(scope="module")
def started() -> Iterator[WarmWorkers]:
    with warm_workers() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of each test: the shared workers keep what they compiled of experiments in equal folders."""
    folder = tmp_path / "contract"
    folder.mkdir()
    write_pictures(folder / "pics")
    for name, units in (("a", 3), ("b", 5)):
        (folder / f"{name}.yaml").write_text(SPEC.format(name=name, units=units))
    (folder / "net.py").write_text(NET)
    python = SPEC.format(name="p", units=3).splitlines(keepends=True)
    python[3] = 'model: {python: "net:Net"}\n'
    (folder / "p.yaml").write_text("".join(python))
    return folder


def trained(folder: Path, words: Sequence[str], results: Path, *more: str) -> str:
    """Trains in this process, with progress as without a terminal; returns the output."""
    files = [
        str(folder / f"{word}.yaml") if len(word) == 1 and word in "abp" else word for word in words
    ]
    found = CliRunner().invoke(app, ["run", *files, "--results-dir", str(results), *more])
    assert found.exit_code == 0, found.output
    return found.stdout


def everything(results: Path) -> list[str]:
    """The numbers of all runs, and how their looks ended; as text, in which NaN equals NaN."""
    runs = [read_run(path.parent) for path in results.rglob("run.json")]
    return sorted(repr((run.record.name, run.record.looks, *numbers(run))) for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_numbers_on_workers(
    name: str,
    folder: Path,
    started: WarmWorkers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started.call(partial(trained, folder, COMMANDS[name], tmp_path / "here"))
    lend(started, monkeypatch)
    before = started.started
    output = trained(folder, COMMANDS[name], tmp_path / "workers", "--on", "local:1")
    assert started.started > before
    found, expected = everything(tmp_path / "workers"), everything(tmp_path / "here")
    assert found
    assert found == expected
    if "--json" in COMMANDS[name]:
        assert json.loads(output)
