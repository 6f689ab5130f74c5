"""Loads the experiment of a run, also if the user's own images are gone."""

from collections.abc import Sequence
from pathlib import Path

from cnnbench.data.catalog import DatasetInfo
from cnnbench.runs.folder import RESOLVED_FILE
from cnnbench.runs.records import RunRecord
from cnnbench.spec.experiment import Task
from cnnbench.spec.loader import Loaded, load_experiment


def load_trained_experiment(
    folder: Path,
    record: RunRecord,
    overrides: Sequence[str] = (),
    *,
    data_dir: Path | None = None,
) -> Loaded:
    """Loads the resolved experiment of a run, with the classes and image size that it had.

    Args:
      folder: of the run.
      record: of the run.
      overrides: further overrides, such as ``train.precision=float32``.
      data_dir: folder of prepared datasets, for names that are not built in.

    Raises:
      SpecError: the experiment cannot be read.
    """
    return load_experiment(
        folder / RESOLVED_FILE,
        (*record.overrides, *overrides),
        data_dir=data_dir,
        known=info_of(record),
    )


def info_of(record: RunRecord) -> DatasetInfo | None:
    """Shape and classes of the images that a run used; None in runs of older versions.

    The sizes are not given, because those of a run may be smaller than those of its dataset.
    """
    used = record.dataset
    num_classes = used.num_classes or len(used.classes)
    if used.shape is None or not num_classes or record.task not in set(Task):
        return None
    return DatasetInfo(
        used.name,
        used.shape,
        num_classes,
        None,
        None,
        used.title,
        classes=used.classes,
        labels=Task(record.task).labels,
    )
