"""Which trackers a run has: those of `--track`, and those that a resumed run had before."""

from collections.abc import Callable, Collection

from cnnbench.runner import tensorboard
from cnnbench.runner.tensorboard import EventFiles
from cnnbench.runner.trackers import mlflow
from cnnbench.runner.trackers.mlflow import MlflowRuns, require_mlflow
from cnnbench.runner.trackers.tracker import Trackers
from cnnbench.runner.work import RunWork
from cnnbench.runs.folder import RunFolder
from cnnbench.runs.records import RunRecord

TENSORBOARD, MLFLOW = "tensorboard", "mlflow"


def require_trackers(names: Collection[str]) -> None:
    """Checks that the packages of trackers are installed, before anything is trained.

    Raises:
      UsageError: a package is missing.
    """
    if TENSORBOARD in names:
        tensorboard.require_tensorboard()
    if MLFLOW in names:
        require_mlflow()


def trackers_of(
    work: RunWork, folder: RunFolder, record: RunRecord, note: Callable[[str], None]
) -> Trackers:
    """Opens the trackers of a run; one that cannot be opened is reported.

    Args:
      work: the training.
      folder: folder of the run.
      record: the run.
      note: called with a sentence for the user.
    """
    trackers = Trackers({}, note)
    if work.snapshots:
        events = EventFiles(folder.path, work.experiment)
        trackers.active["--tensorboard"] = events
        if record.extended:
            trackers.attempt("--tensorboard", events.renew_hyperparameters)
    if MLFLOW in work.track or (folder.path / mlflow.IDS_FILE).exists():
        option = "--track mlflow"

        def add() -> None:
            require_mlflow()  # a resumed run may be elsewhere
            trackers.active[option] = MlflowRuns(folder.path, work.experiment, record)

        trackers.attempt(option, add)
    return trackers
