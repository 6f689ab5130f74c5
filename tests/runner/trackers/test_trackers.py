"""What all trackers have in common, read back by the tools themselves."""

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.cli.progress import Silent
from cnnbench.errors import StoreError
from cnnbench.runner.run import Request, run_by_turns
from cnnbench.runner.tensorboard import EventFiles
from cnnbench.runner.trackers import mlflow, wandb
from cnnbench.runner.trackers.mlflow import DATABASE, FOLDER, IDS_FILE, MlflowRuns
from cnnbench.runner.trackers.tracker import Trackers
from cnnbench.runner.trackers.wandb import WandbRuns
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import Status
from cnnbench.training.events import Event
from tests.runner.test_tensorboard import CLASSIFIER
from tests.support.wandb_files import read_wandb

SEEDS = 4, 2
Points = dict[str, list[tuple[int, float]]]


class Notes(Silent):
    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def train(folder: Path, tracker: str, listener: Silent | None = None) -> Path:
    """Trains an experiment; returns the folder of the run."""
    path = folder / "lines.yaml"
    path.write_text(CLASSIFIER)
    request = Request(path, results_dir=folder / "results", engine="plain", track=(tracker,))
    (result,) = run_by_turns([request], [listener or Notes()])
    assert result.record.status is Status.FINISHED
    return folder / "results" / "lines" / result.record.run_id


def client(run: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{run.parent.parent / FOLDER / DATABASE}")


def of_mlflow(run: Path, seed: int) -> tuple[Points, Mapping[str, str]]:
    found = client(run)
    run_id = json.loads((run / IDS_FILE).read_text())[str(seed)]
    data = found.get_run(run_id).data
    points = {
        name: sorted((m.step, m.value) for m in found.get_metric_history(run_id, name))
        for name in data.metrics
    }
    return points, data.params


def of_tensorboard(run: Path, seed: int) -> tuple[Points, Mapping[str, str]]:
    from tensorboard.plugins.hparams import metadata

    from tests.runner.test_tensorboard import read

    events = read(run, seed)
    points = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    params = metadata.parse_session_start_info_plugin_data(content).hparams
    values = {name: value.WhichOneof("kind") for name, value in params.items()}
    return points, {
        name: f"{getattr(params[name], kind):g}"
        if kind == "number_value"
        else str(getattr(params[name], kind))
        for name, kind in values.items()
    }


def of_wandb(run: Path, seed: int) -> tuple[Points, Mapping[str, str]]:
    found = read_wandb(run.parent.parent, run.name, seed)
    points: Points = {}
    for step in found.history:
        for name in [name for name in step if "/" in name]:
            points.setdefault(name, []).append((step["_step"], step[name]))
    last = max(step["_step"] for step in found.history)
    points |= {name: [(last, v)] for name, v in found.summary.items() if name.endswith("/test")}
    return points, {name: str(value) for name, value in found.config.items()}


READERS = {"tensorboard": of_tensorboard, "mlflow": of_mlflow, "wandb": of_wandb}
CLASSES = {"tensorboard": EventFiles, "mlflow": MlflowRuns, "wandb": WandbRuns}


def require(tracker: str) -> None:
    for package in mlflow.PACKAGES if tracker == "mlflow" else (tracker,):
        pytest.importorskip(package, reason=f"{tracker} is not installed")


@pytest.fixture(params=READERS, scope="module")
def tracker(request: pytest.FixtureRequest) -> str:
    require(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def run(tracker: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def refuse(_: object, address: object, *args: object) -> None:
        raise AssertionError(f"a tracker connects to {address}")

    with pytest.MonkeyPatch.context() as patch:
        if tracker != "wandb":  # which has a process of its own: test_wandb
            patch.setattr(socket.socket, "connect", refuse)
            patch.setattr(socket, "getaddrinfo", refuse)
        return train(tmp_path_factory.mktemp(tracker), tracker)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_metrics_are_those_of_the_run(tracker: str, run: Path) -> None:
    epochs = read_run(run).epochs
    summary = json.loads((run / "summary.json").read_text())
    for seed in SEEDS:
        points, _ = READERS[tracker](run, seed)
        own = [epoch for epoch in epochs if epoch.seed == seed]
        wanted: dict[str, list[tuple[int, float | None]]] = {
            "loss/train": [(e.epoch, e.train_loss) for e in own],
            "loss/validation": [(e.epoch, e.validation_loss) for e in own],
            "accuracy/validation": [(e.epoch, e.metrics["accuracy"]) for e in own],
        }
        (test,) = [entry["test"] for entry in summary["seeds"] if entry["seed"] == seed]
        wanted |= {f"{name}/test": [(2, value)] for name, value in test.items()}
        for name, expected in wanted.items():
            assert [step for step, _ in points[name]] == [step for step, _ in expected]
            values = [value for _, value in expected]
            assert [value for _, value in points[name]] == pytest.approx(values, rel=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_settings_are_parameters(tracker: str, run: Path) -> None:
    for seed in SEEDS:
        _, params = READERS[tracker](run, seed)
        assert params["seed"] == str(seed)
        assert params["train.epochs"] == "2"
        assert params["train.batch_size"] == "20"
        assert params["model.conv.filters"] == "3"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_resumed_run_continues(tracker: str, tmp_path: Path) -> None:
    run = train(tmp_path, tracker)
    before = {seed: READERS[tracker](run, seed)[0]["loss/train"] for seed in SEEDS}
    words = ["run", "--resume", str(run), "--epochs", "3"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    for seed in SEEDS:
        losses = READERS[tracker](run, seed)[0]["loss/train"]
        assert [step for step, _ in losses] == [1, 2, 3]
        assert losses[:2] == before[seed]


def test_an_error_is_reported_once(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, event: Event) -> None:
        raise StoreError("the disk is full.")

    monkeypatch.setattr(CLASSES[tracker], "event", fail)
    listener = Notes()
    run = train(tmp_path, tracker, listener)
    assert (run / "summary.json").exists()
    option = "--tensorboard" if tracker == "tensorboard" else f"--track {tracker}"
    expected = f"{option}: the disk is full. The training continues without it."
    assert [text for text in listener.texts if "disk" in text] == [expected]


@pytest.mark.parametrize(("module", "name"), [(mlflow, "mlflow"), (wandb, "wandb")])
def test_without_the_package_nothing_is_trained(
    module: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    (tmp_path / "lines.yaml").write_text(CLASSIFIER)
    words = ["run", str(tmp_path / "lines.yaml"), "--track", name]
    done = CliRunner().invoke(app, [*words, "--results-dir", str(tmp_path / "results")])
    assert done.exit_code == 2
    message = f"--track {name}: the package '{name}' is not installed"
    assert done.stderr == f"{message}; run pip install 'cnnbench[{name}]'.\n"
    assert not (tmp_path / "results").exists()


def test_one_tracker_that_fails_does_not_disturb_another() -> None:
    class Recording:
        def __init__(self) -> None:
            self.statuses: list[Status] = []

        def event(self, event: Event) -> None:
            raise AssertionError(event)

        def ended(self, status: Status) -> None:
            self.statuses.append(status)

    class Failing(Recording):
        def ended(self, status: Status) -> None:
            super().ended(status)
            raise StoreError("a: cannot write.")

    notes: list[str] = []
    good, bad = Recording(), Failing()
    trackers = Trackers({"--bad": bad, "--good": good}, notes.append)
    trackers.ended(Status.INTERRUPTED)
    trackers.ended(Status.FINISHED)
    assert good.statuses == [Status.INTERRUPTED, Status.FINISHED]
    assert bad.statuses == [Status.INTERRUPTED]
    assert notes == ["--bad: a: cannot write. The training continues without it."]
