"""Event files for TensorBoard: `tensorboard/seed-N/` in the folder of a run.

They are written during training, with TensorBoard's own record format and messages; TensorFlow is
not needed.
"""

import io
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from cnnbench.errors import UsageError
from cnnbench.report.plots.png import mosaic, photograph
from cnnbench.runs.folder import disk
from cnnbench.runs.records import EpochRecord, SeedSummary, Status
from cnnbench.runs.settings import leaves
from cnnbench.runs.weights import Weights
from cnnbench.spec.experiment import Experiment
from cnnbench.system import commands
from cnnbench.system.files import write_atomic
from cnnbench.training.events import (
    Checkpoint,
    Compiled,
    Event,
    Remark,
    Resumed,
    SeedDone,
    Snapshot,
    StepDone,
    Trained,
    Tuning,
)

FOLDER, FILE = "tensorboard", "events.out.tfevents.cnnbench"
NUM_BUCKETS, COLUMNS, ZOOM = 30, 8, 6  # of a histogram; filters in a row; pixels of a weight


def require_tensorboard() -> None:
    """Checks that TensorBoard is installed, before anything is trained.

    Raises:
      UsageError: the package is missing.
    """
    if find_spec("tensorboard") is None:
        message = "--tensorboard: the package 'tensorboard' is not installed"
        raise UsageError(f"{message}; run {commands.pip_install('cnnbench[tensorboard]')}.")


@dataclass(frozen=True, slots=True)
class EventFiles:
    """The event files of a run, one for each seed.

    Args:
      folder: folder of the run.
      experiment: the experiment, whose settings become hyperparameters.
    """

    folder: Path
    experiment: Experiment

    def event(self, event: Event) -> None:
        """Writes the values of an event, flushed to the operating system.

        Raises:
          StoreError: the disk cannot be written.
        """
        match event:
            case EpochRecord(seed=seed, epoch=epoch):
                self._append(seed, epoch, _scalars(scalars_of_epoch(event)))
            case Snapshot(seed=seed, epoch=epoch):
                self._append(seed, epoch, _histograms(event.weights))
            case SeedDone(summary=SeedSummary(seed=seed)):
                values = {f"{name}/test": value for name, value in event.summary.test.items()}
                epoch = event.summary.chosen_epoch or self.experiment.train.epochs
                self._append(seed, epoch, [*_scalars(values), *_images(event)])
            case (
                Checkpoint() | Compiled() | Resumed() | StepDone() | Trained() | Tuning() | Remark()
            ):
                pass
            case _:
                assert_never(event)

    def ended(self, status: Status) -> None:
        """Does nothing: event files are complete after each event."""

    def renew_hyperparameters(self) -> None:
        """Rewrites the hyperparameters of files after a change of the number of epochs.

        TensorBoard reads the first hyperparameters of a file only, so appending is not enough.

        Raises:
          StoreError: the disk cannot be written.
        """
        for seed in self.experiment.seeds:
            path = self._path(seed)
            with disk(path, "write"):
                if path.exists():
                    content = path.read_bytes()
                    write_atomic(path, _records(self._first(seed)), content[_start(content) :])

    def _path(self, seed: int) -> Path:
        return self.folder / FOLDER / f"seed-{seed}" / FILE

    def _append(self, seed: int, step: int, values: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event as Entry
        from tensorboard.compat.proto.summary_pb2 import Summary

        path = self._path(seed)
        entries = [] if path.exists() else self._first(seed)
        now = time.time()
        entries.append(Entry(wall_time=now, step=step, summary=Summary(value=values)))
        with disk(path, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(_records(entries))

    def _first(self, seed: int) -> list[Any]:
        """Returns the first entries of a file: format version and hyperparameters."""
        from tensorboard.compat.proto.event_pb2 import Event as Entry
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        chosen = hyperparameters(self.experiment) | {"seed": seed}
        # Seeds of one experiment are one trial of several sessions.
        summary = hparams_pb(chosen, trial_id=self.folder.name)
        now = time.time()
        return [
            Entry(wall_time=now, file_version="brain.Event:2"),
            Entry(wall_time=now, summary=summary),
        ]


def _records(entries: Iterable[Any]) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter

    content = io.BytesIO()
    for entry in entries:
        RecordWriter(content).write(entry.SerializeToString())
    return content.getvalue()


def _start(content: bytes) -> int:
    """Returns the offset of the first epoch, behind format version and hyperparameters."""
    start = 0
    for _ in range(2):
        # A record is its length (8 bytes), a checksum (4), the message, a checksum (4).
        start += 8 + 4 + int.from_bytes(content[start : start + 8], "little") + 4
    return start


def hyperparameters(experiment: Experiment) -> dict[str, bool | float | str]:
    """Returns the hyperparameters of an experiment by dotted names, as on the command line.

    Layers are `model.NAME.KEY`; lists are strings, and defaults are omitted.
    """
    model = {
        name: op.model_dump(mode="json", exclude={"op", "inputs"}, exclude_defaults=True)
        for name, op in experiment.model.layers.items()
    }
    content = {
        "name": experiment.name,
        "dataset": experiment.dataset.label,
        "train": experiment.train.model_dump(mode="json"),
        "model": model or experiment.model.args | {"python": experiment.model.python},
    }
    return {
        path: value if isinstance(value, bool | int | float) else str(value)
        for path, value in leaves(content)
        if value not in (None, {})
    }


def scalars_of_epoch(record: EpochRecord) -> dict[str, float]:
    """Returns scalars by tag; trackers group tags with the same prefix."""
    loss = record.validation_loss
    return {
        "loss/train": record.train_loss,
        **({} if loss is None else {"loss/validation": loss}),
        **{f"{name}/validation": value for name, value in record.metrics.items()},
        "time/train_s": record.train_s,
        "time/eval_s": record.eval_s,
        "time/samples_per_s": record.samples_per_s,
    }


def _scalars(values: Mapping[str, float]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]


def _histograms(weights: Weights) -> Any:
    """Makes histograms of weights; arrays that diverged have none."""
    from tensorboard.compat.proto.histogram_pb2 import HistogramProto
    from tensorboard.compat.proto.summary_pb2 import Summary

    found = []
    for name, weight in weights.items():
        values = weight.astype(np.float64).ravel()
        if not values.size or not np.isfinite(values).all():
            continue
        counts, edges = np.histogram(values, NUM_BUCKETS)
        histogram = HistogramProto(
            min=values.min(),
            max=values.max(),
            num=values.size,
            sum=values.sum(),
            sum_squares=(values**2).sum(),
            bucket_limit=edges[1:],
            bucket=counts,
        )
        found.append(Summary.Value(tag=name.replace(".", "/"), histo=histogram))
    return found


def _images(done: SeedDone) -> Any:
    """Makes images of the first filters, and of reconstructions below their inputs."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    channels = done.inputs.shape[-1]
    pictures = {
        f"filters/{name.rpartition('.')[0]}": filter_grid(weight)
        for name, weight in done.weights.items()
        if weight.ndim == 4 and weight.shape[2] == channels and np.isfinite(weight).all()
    }
    if done.outputs is not None:
        rows = [np.concatenate(list(row), axis=1) for row in (done.inputs, done.outputs)]
        pictures["reconstructions"] = np.nan_to_num(np.concatenate(rows)).clip(0, 255)
    for tag, picture in pictures.items():
        height, width, _ = picture.shape
        image = Summary.Image(
            height=height,
            width=width,
            colorspace=channels,
            encoded_image_string=photograph(picture).png,
        )
        yield Summary.Value(tag=tag, image=image)


def filter_grid(kernel: NDArray[Any]) -> NDArray[np.uint8]:
    """Draws filters in a grid, a square per weight: zero is gray, extremes are black and white.

    Args:
      kernel: (kh, kw, channels, filters).

    Returns:
      Pixels, (h, w, channels).
    """
    largest = np.abs(kernel).max() or 1.0
    filters = np.round(kernel.transpose(3, 0, 1, 2) / largest * 127.5 + 127.5)
    grid = np.nan_to_num(mosaic(filters, COLUMNS, gap=2, scale=ZOOM))
    return np.asarray(grid, np.uint8)
