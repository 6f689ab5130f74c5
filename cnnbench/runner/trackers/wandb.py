"""W&B runs in local files, `wandb/offline-run-*` in the results folder, for `wandb sync`.

There is one W&B run per seed, in a group per run, in a project per experiment. Nothing is sent over
the network unless the user sets `WANDB_MODE`.
"""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cnnbench.errors import StoreError, UsageError, or_list, quoted
from cnnbench.runner.tensorboard import hyperparameters, scalars_of_epoch
from cnnbench.runs.folder import disk
from cnnbench.runs.records import EpochRecord, RunRecord, SeedSummary, Status
from cnnbench.spec.experiment import Experiment
from cnnbench.system import commands
from cnnbench.training.events import Event, SeedDone

FOLDER = "wandb"
MODES = ("offline", "online", "shared", "disabled", "dryrun", "run")
EXIT_CODES = {Status.FINISHED: 0, Status.FAILED: 1, Status.INTERRUPTED: 255}  # 255: as W&B's Ctrl-C


def require_wandb() -> None:
    """Checks that W&B's client is installed and has a mode, before anything is trained.

    Raises:
      UsageError: it is missing, or `WANDB_MODE` is wrong.
    """
    if find_spec("wandb") is None:
        message = "--track wandb: the package 'wandb' is not installed"
        raise UsageError(f"{message}; run {commands.pip_install('cnnbench[wandb]')}.")
    if _mode() not in MODES:
        message = f"--track wandb: WANDB_MODE is {quoted(_mode())}"
        raise UsageError(f"{message}; set it to {or_list(MODES)}, or unset it for offline.")


def was_tracked(folder: Path) -> bool:
    """True if W&B has files of a run, so that a resumed run continues them.

    Args:
      folder: folder of the run.
    """
    return any((_store(folder) / FOLDER).glob(f"*-{folder.name}-seed-*"))


class WandbRuns:
    """The W&B runs of a run, one for each seed, with ids that are the same after it is resumed.

    Args:
      folder: folder of the run.
      experiment: the experiment, whose settings become W&B's `config`.
      record: the run, whose tags become tags.

    Raises:
      StoreError: the folder of W&B's files cannot be created.
    """

    def __init__(self, folder: Path, experiment: Experiment, record: RunRecord) -> None:
        self._store, self._experiment, self._record = _store(folder), experiment, record
        self._open: dict[int, Any] = {}  # by seed
        with disk(self._store / FOLDER, "create"):
            (self._store / FOLDER).mkdir(exist_ok=True)

    def event(self, event: Event) -> None:
        """Logs an epoch or the test values of a seed.

        Raises:
          StoreError: W&B cannot log.
        """
        with _errors(self._store):
            match event:
                case EpochRecord(seed=seed, epoch=epoch):
                    values: Mapping[str, float] = scalars_of_epoch(event)
                    self._run(seed).log({**values, "epoch": epoch}, step=epoch)
                case SeedDone(summary=SeedSummary(seed=seed)):
                    values = {f"{name}/test": value for name, value in event.summary.test.items()}
                    self._run(seed).summary.update(values)
                    self._finish(seed, Status.FINISHED)
                case _:
                    pass

    def ended(self, status: Status) -> None:
        """Ends the W&B runs of other seeds.

        Raises:
          StoreError: W&B cannot log.
        """
        with _errors(self._store):
            for seed in sorted(self._open):
                self._finish(seed, status)

    def _run(self, seed: int) -> Any:
        """Returns the W&B run of a seed, which is created or continued."""
        if seed not in self._open:
            name = f"{self._record.run_id}-seed-{seed}"
            self._open[seed] = _wandb().init(
                project=self._experiment.name,
                group=self._record.run_id,
                id=name,
                name=name,
                dir=str(self._store),
                config=hyperparameters(self._experiment) | {"seed": seed},
                tags=self._record.tags,
                settings=_settings(),
            )
        return self._open[seed]

    def _finish(self, seed: int, status: Status) -> None:
        self._open.pop(seed).finish(exit_code=EXIT_CODES[status])


def _store(folder: Path) -> Path:
    """The results folder, in which W&B makes a folder of its own."""
    return folder.resolve().parent.parent


def _mode() -> str:
    return os.environ.get("WANDB_MODE") or MODES[0]


def _wandb() -> Any:
    """Imports W&B's client, without reports of its errors to its makers."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when it is imported
    import wandb

    return wandb


def _settings() -> Any:
    """What W&B does: log numbers, and record neither the machine, the code nor the terminal."""
    return _wandb().Settings(
        mode=_mode(),
        silent=True,
        console="off",
        host="unknown",
        reinit="create_new",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
    )


@contextmanager
def _errors(store: Path) -> Iterator[None]:
    """Converts errors of W&B; hides warnings about its own code.

    Raises:
      StoreError: instead of theirs.
    """
    errors = _wandb().errors
    with disk(store / FOLDER, "write"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except errors.Error as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
            raise StoreError(f"{store / FOLDER}: W&B cannot log: {reason}.") from error
