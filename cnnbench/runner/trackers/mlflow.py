"""MLflow runs in a local SQLite database, `mlflow/mlflow.db` in the results folder.

There is one MLflow run per seed; the seeds of all runs of an experiment are one MLflow experiment.
Nothing is sent over the network, and MLflow's telemetry is off.
"""

import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cnnbench.errors import StoreError, UsageError
from cnnbench.runner.tensorboard import hyperparameters, scalars_of_epoch
from cnnbench.runs.folder import TABLES, disk
from cnnbench.runs.records import EpochRecord, RunRecord, SeedSummary, Status
from cnnbench.spec.experiment import Experiment
from cnnbench.system import commands
from cnnbench.system.files import write_atomic
from cnnbench.training.events import Event, SeedDone

FOLDER, DATABASE, IDS_FILE = "mlflow", "mlflow.db", "mlflow.json"
PACKAGES = ("mlflow", "sqlalchemy", "alembic", "cryptography")  # mlflow-skinny lacks the last three
MOST_PARAMS = 100  # that MLflow accepts at once
ENDED = {Status.FINISHED: "FINISHED", Status.FAILED: "FAILED", Status.INTERRUPTED: "KILLED"}


def require_mlflow() -> None:
    """Checks that MLflow is installed, before anything is trained.

    Raises:
      UsageError: a package is missing.
    """
    for package in PACKAGES:
        if find_spec(package) is None:
            message = f"--track mlflow: the package '{package}' is not installed"
            raise UsageError(f"{message}; run {commands.pip_install('cnnbench[mlflow]')}.")


class MlflowRuns:
    """The MLflow runs of a run, one for each seed.

    Their ids are in `mlflow.json` in the folder of the run, by seed, so that a resumed run
    continues them.

    Args:
      folder: folder of the run.
      experiment: the experiment, whose settings become parameters.
      record: the run, whose tags become tags.

    Raises:
      StoreError: the database or the ids cannot be read.
    """

    def __init__(self, folder: Path, experiment: Experiment, record: RunRecord) -> None:
        self._folder, self._experiment, self._record = folder, experiment, record
        self._ids = _read_ids(folder / IDS_FILE)
        self._open: set[int] = set()  # seeds whose MLflow runs have the status RUNNING
        with _errors(self._store):
            self._client = _client(self._store)
            self._experiment_id = self._find_experiment()

    def event(self, event: Event) -> None:
        """Logs an epoch or the test values of a seed.

        Raises:
          StoreError: the database cannot be written.
        """
        match event:
            case EpochRecord(seed=seed, epoch=epoch):
                self._log(seed, epoch, scalars_of_epoch(event))
            case SeedDone(summary=SeedSummary(seed=seed)):
                values = {f"{name}/test": value for name, value in event.summary.test.items()}
                epoch = event.summary.chosen_epoch or self._experiment.train.epochs
                self._log(seed, epoch, values)
                self._terminate(seed, Status.FINISHED)
            case _:
                pass

    def ended(self, status: Status) -> None:
        """Ends the MLflow runs of other seeds; those of a finished run get its table.

        Raises:
          StoreError: the database or the table cannot be written.
        """
        for seed in sorted(self._open):
            self._terminate(seed, status)
        table = self._folder / TABLES[0]
        if status is Status.FINISHED:
            with _errors(self._store):
                for run_id in self._ids.values():
                    self._client.log_artifact(run_id, str(table))

    @property
    def _store(self) -> Path:
        """Folder of the database, the same for all runs of a results folder."""
        return self._folder.resolve().parent.parent / FOLDER

    def _find_experiment(self) -> str:
        from filelock import FileLock

        name = self._experiment.name
        with FileLock(self._store / ".lock"):
            found = self._client.get_experiment_by_name(name)
            if found is not None:
                return str(found.experiment_id)
            place = (self._store / "artifacts").as_uri()
            return str(self._client.create_experiment(name, artifact_location=place))

    def _log(self, seed: int, epoch: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        metrics = [Metric(name, value, now, epoch) for name, value in values.items()]
        with _errors(self._store):
            self._client.log_batch(self._run(seed), metrics=metrics)

    def _run(self, seed: int) -> str:
        """Returns the id of the MLflow run of a seed, which is created or continued."""
        key = str(seed)
        if key not in self._ids:
            self._ids[key] = self._create(seed)
            self._open.add(seed)
            content = json.dumps(self._ids, indent=2) + "\n"
            write_atomic(self._folder / IDS_FILE, content.encode())
        elif seed not in self._open:
            self._client.update_run(self._ids[key], status="RUNNING")
            self._client.set_tag(self._ids[key], "epochs", str(self._record.epochs))
            self._open.add(seed)
        return self._ids[key]

    def _create(self, seed: int) -> str:
        from mlflow.entities import Param

        record = self._record
        run_name = f"{record.run_id}-seed-{seed}"
        tags = {"run": record.run_id, "seed": str(seed), "epochs": str(record.epochs)}
        tags |= {f"tag.{tag}": "true" for tag in record.tags}
        run = self._client.create_run(self._experiment_id, run_name=run_name, tags=tags)
        run_id = str(run.info.run_id)
        chosen = hyperparameters(self._experiment) | {"seed": seed}
        params = [Param(name, str(value)) for name, value in chosen.items()]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + MOST_PARAMS])
        return run_id

    def _terminate(self, seed: int, status: Status) -> None:
        with _errors(self._store):
            self._client.set_terminated(self._ids[str(seed)], ENDED[status])
        self._open.discard(seed)


def _client(store: Path) -> Any:
    """Opens the database, created by one process if several start."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when it is imported
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):  # messages about the tables that they create
        logging.getLogger(name).setLevel(logging.ERROR)
    from filelock import FileLock  # warns where there are only soft locks

    store.mkdir(parents=True, exist_ok=True)
    with FileLock(store / ".lock"):
        return MlflowClient(tracking_uri=f"sqlite:///{store / DATABASE}")


def _read_ids(path: Path) -> dict[str, str]:
    """Reads ids of MLflow runs by seed; empty if there are none.

    Raises:
      StoreError: the file is damaged.
    """
    with disk(path, "read"):
        if not path.exists():
            return {}
        content = path.read_bytes()
    try:
        return {str(seed): str(run_id) for seed, run_id in json.loads(content).items()}
    except (ValueError, AttributeError):
        message = f"{path}: not a JSON object of MLflow run ids"
        raise StoreError(f"{message}; delete it to log to new MLflow runs.") from None


@contextmanager
def _errors(store: Path) -> Iterator[None]:
    """Converts errors of MLflow and its database; hides warnings about their own code.

    Raises:
      StoreError: instead of theirs.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    with disk(store, "write"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (MlflowException, SQLAlchemyError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
            raise StoreError(f"{store / DATABASE}: MLflow cannot log: {reason}.") from error
