"""The experiment of a run: its files, also if the user's own images are gone, and its names."""

from collections.abc import Sequence
from pathlib import Path

from cnnbench.data.catalog import DatasetInfo
from cnnbench.layers import Sample, VectorQuantizer
from cnnbench.runs.folder import RESOLVED_FILE
from cnnbench.runs.records import Direction, RunRecord
from cnnbench.spec.experiment import LOSSES, Experiment, Loss, Task
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.spec.metrics import DEFAULT_METRICS, MetricName, higher_is_better


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


def loss_name(experiment: Experiment) -> Loss:
    """Name of the loss."""
    return experiment.train.loss or LOSSES[experiment.task][0]


def objective_name(experiment: Experiment) -> str:
    """Name of the training objective: the loss, and the weights of KL divergences and commitments.

    Losses are comparable only if their objectives have the same name; that of normalized targets
    has no unit.
    """
    samples = [op for op in experiment.model.layers.values() if isinstance(op, Sample)]
    terms = [f"{op.kl_weight:g} KL" for op in samples]
    for op in experiment.model.layers.values():
        if isinstance(op, VectorQuantizer):
            terms += ["codebook", f"{op.commitment:g} commitment"]
    normalized = " of normalized targets" * (experiment.dataset.normalize_targets is not None)
    return " + ".join([f"{loss_name(experiment)}{normalized}", *terms])


def metric_names(experiment: Experiment) -> tuple[MetricName, ...]:
    """Names of the metrics reported in addition to the loss."""
    own = experiment.train.metrics
    return DEFAULT_METRICS[experiment.task] if own is None else own


def metric_directions(experiment: Experiment) -> dict[str, Direction]:
    """Every metric of an experiment with its better direction."""
    names = (*metric_names(experiment), "loss")
    return {n: Direction.HIGHER if higher_is_better(n) else Direction.LOWER for n in names}
