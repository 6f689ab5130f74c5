"""Which trackers a run has: those of `--track`, and those that a resumed run had before."""

from collections.abc import Callable, Collection

from cnnbench.runner import tensorboard
from cnnbench.runner.tensorboard import EventFiles
from cnnbench.runner.trackers import mlflow, wandb
from cnnbench.runner.trackers.mlflow import MlflowRuns, require_mlflow
from cnnbench.runner.trackers.tracker import Trackers
from cnnbench.runner.trackers.wandb import WandbRuns, require_wandb
from cnnbench.runner.work import RunWork
from cnnbench.runs.folder import RunFolder
from cnnbench.runs.records import RunRecord

TENSORBOARD, MLFLOW, WANDB = "tensorboard", "mlflow", "wandb"


def require_trackers(names: Collection[str]) -> None:
    """Checks that the packages of trackers are installed, before anything is trained.

    Raises:
      UsageError: a package is missing.
    """
    if TENSORBOARD in names:
        tensorboard.require_tensorboard()
    if MLFLOW in names:
        require_mlflow()
    if WANDB in names:
        require_wandb()


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

        def add_mlflow() -> None:
            require_mlflow()  # a resumed run may be elsewhere
            runs = MlflowRuns(folder.path, work.experiment, record)
            trackers.active["--track mlflow"] = runs

        trackers.attempt("--track mlflow", add_mlflow)
    if WANDB in work.track or wandb.was_tracked(folder.path):

        def add_wandb() -> None:
            require_wandb()
            trackers.active["--track wandb"] = WandbRuns(folder.path, work.experiment, record)

        trackers.attempt("--track wandb", add_wandb)
    return trackers
