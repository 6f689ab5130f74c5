"""What only MLflow has: runs grouped by experiment, statuses, tags and artifacts."""

import json
from pathlib import Path

import pytest

from cnnbench.errors import StoreError
from cnnbench.runner.trackers import mlflow
from cnnbench.runner.trackers.mlflow import IDS_FILE, MlflowRuns
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import Status
from cnnbench.spec.loader import load_experiment
from tests.runner.trackers.test_trackers import SEEDS, client, train

for package in mlflow.PACKAGES:
    pytest.importorskip(package, reason="mlflow is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("mlflow"), "mlflow")


def test_seeds_are_runs_of_one_experiment(run: Path) -> None:
    found = client(run)
    experiment = found.get_experiment_by_name("lines")
    runs = found.search_runs([experiment.experiment_id])
    assert {r.data.tags["seed"] for r in runs} == {str(seed) for seed in SEEDS}
    assert {r.info.run_name for r in runs} == {f"{run.name}-seed-{seed}" for seed in SEEDS}
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert {r.data.tags["run"] for r in runs} == {run.name}


def test_the_table_is_an_artifact(run: Path) -> None:
    for run_id in json.loads((run / IDS_FILE).read_text()).values():
        (entry,) = client(run).list_artifacts(run_id)
        assert entry.path == "table.md"
    copies = [*(run.parent.parent / "mlflow" / "artifacts").rglob("table.md")]
    assert [copy.read_text() for copy in copies] == [(run / "table.md").read_text()] * 2


@pytest.mark.parametrize(
    ("status", "expected"), [(Status.INTERRUPTED, "KILLED"), (Status.FAILED, "FAILED")]
)
def test_a_run_that_stops_ends_its_mlflow_run(run: Path, status: Status, expected: str) -> None:
    """A second tracker continues the first seed, and is stopped within it."""
    result = read_run(run)
    experiment = load_experiment(run / "resolved.yaml").experiment
    tracker = MlflowRuns(run, experiment, result.record)
    (run_id, _) = json.loads((run / IDS_FILE).read_text()).values()
    tracker.event(result.epochs[0])
    assert client(run).get_run(run_id).info.status == "RUNNING"
    tracker.ended(status)
    assert client(run).get_run(run_id).info.status == expected


def test_a_damaged_file_of_ids_is_one_clear_line(run: Path, tmp_path: Path) -> None:
    experiment = load_experiment(run / "resolved.yaml").experiment
    path = tmp_path / IDS_FILE
    path.write_text("[")
    message = f"{path}: not a JSON object of MLflow run ids; delete it to log to new MLflow runs."
    with pytest.raises(StoreError) as caught:
        MlflowRuns(tmp_path, experiment, read_run(run).record)
    assert str(caught.value) == message


def test_a_damaged_database_is_one_clear_line(run: Path, tmp_path: Path) -> None:
    experiment = load_experiment(run / "resolved.yaml").experiment
    own = tmp_path / "lines" / "run"
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").write_text("no database" * 1000)
    own.mkdir(parents=True)
    with pytest.raises(StoreError, match=r"MLflow cannot log: .*not a database"):
        MlflowRuns(own, experiment, read_run(run).record)
