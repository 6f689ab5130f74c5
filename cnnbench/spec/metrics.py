"""The table of metrics: all that is known of each but its formula, which is in `training.losses`.

To add a metric, add its name to `MetricName`, a row to the table, and its formula to
`training.losses.per_image_metric`. Checks of experiment files, messages, tables, charts, verdicts
and docs/reference/spec.md read the table.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cnnbench.data.catalog import DatasetInfo
    from cnnbench.layers import LayerOp

    LayerOps = Mapping[str, LayerOp]

MetricName = Literal["accuracy", "top5_accuracy", "brier_score", "mse", "mae", "psnr", "ssim", "kl"]
"""What `train.metrics` accepts."""

SSIM_WINDOW = 11  # pixels; no smaller image has an SSIM

Objection = tuple[str, str]
"""What is wrong with a metric in an experiment, and what to do."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What is known of a metric.

    Args:
      name: its key in `train.metrics` and in files.
      title: its name in sentences and tables.
      description: what it measures, for docs/reference/spec.md.
      tasks: those that it can be asked for; empty if it is reported without being asked for.
      higher_is_better: True if larger values are better.
      is_fraction: True if its values are from 0 to 1 and are shown in percent.
      other_names: what other libraries call it.
      objection: (layers, dataset), each None if it is not known, to what makes the metric
        useless for them; None if nothing does.
    """

    name: str
    title: str
    description: str
    tasks: tuple[str, ...] = ()
    higher_is_better: bool = False
    is_fraction: bool = False
    other_names: tuple[str, ...] = ()
    objection: "Callable[[LayerOps | None, DatasetInfo | None], Objection | None] | None" = None


def _too_few_classes(_: "LayerOps | None", dataset: "DatasetInfo | None") -> Objection | None:
    if dataset and dataset.num_classes <= 5:
        return f"top5_accuracy is always 1 with {dataset.num_classes} classes", "remove it"
    return None


def _too_small(_: "LayerOps | None", dataset: "DatasetInfo | None") -> Objection | None:
    from cnnbench.layers.base import shape_text

    if dataset and min(dataset.shape[:2]) < SSIM_WINDOW:
        window = f"{SSIM_WINDOW}x{SSIM_WINDOW}"
        images = shape_text(dataset.shape)
        return f"ssim looks at {window} pixels, and images are {images}", "remove it"
    return None


def _no_sample(layers: "LayerOps | None", _: "DatasetInfo | None") -> Objection | None:
    from cnnbench.layers import Sample

    if layers is None or any(isinstance(op, Sample) for op in layers.values()):
        return None
    message = "kl is the divergence of a layer that samples, and there is none"
    return message, "remove it, or add a layer of op: sample"


_CLASSIFY, _RECONSTRUCT = ("classify",), ("reconstruct",)
_TABLE = (
    Metric(
        name="accuracy",
        title="accuracy",
        description="share of the images whose largest output is that of their label",
        tasks=_CLASSIFY,
        higher_is_better=True,
        is_fraction=True,
        other_names=("acc", "top1", "top1_accuracy", "sparse_categorical_accuracy"),
    ),
    Metric(
        name="top5_accuracy",
        title="top5 accuracy",
        description="share of the images whose label has one of the five largest outputs; of"
        " equal outputs, those of lower class numbers count as larger",
        tasks=_CLASSIFY,
        higher_is_better=True,
        is_fraction=True,
        other_names=("top5", "top_5", "acc5", "top_k_accuracy", "top_k_categorical_accuracy"),
        objection=_too_few_classes,
    ),
    Metric(
        name="brier_score",
        title="Brier score",
        description="squared distance of the class probabilities (softmax) from the label, summed"
        " over the classes: 0 if all are certain and right, 2 if all are certain and wrong; low"
        " if probabilities are both sharp and calibrated (Brier 1950)",
        tasks=_CLASSIFY,
        other_names=("brier", "brier_score_loss", "brier_loss"),
    ),
    Metric(
        name="mse",
        title="MSE",
        description="mean squared error of the pixels",
        tasks=_RECONSTRUCT,
        other_names=("mean_squared_error", "l2"),
    ),
    Metric(
        name="mae",
        title="MAE",
        description="mean absolute error of the pixels",
        tasks=_RECONSTRUCT,
        other_names=("mean_absolute_error", "l1"),
    ),
    Metric(
        name="psnr",
        title="PSNR",
        description="peak signal-to-noise ratio in decibels, mean over images",
        tasks=_RECONSTRUCT,
        higher_is_better=True,
    ),
    Metric(
        name="ssim",
        title="SSIM",
        description="structural similarity (Wang et al. 2004), 1 for the same image",
        tasks=_RECONSTRUCT,
        higher_is_better=True,
        objection=_too_small,
    ),
    Metric(
        name="kl",
        title="KL divergence",
        description="divergence from the prior of all layers of `op: sample`, in nats per image",
        tasks=_CLASSIFY + _RECONSTRUCT,
        other_names=("kl_divergence", "kld", "kl_div"),
        objection=_no_sample,
    ),
    Metric(name="loss", title="loss", description="what is minimized"),
    Metric(
        name="code_accuracy",
        title="code accuracy",
        description="accuracy of a linear classifier on the code of an autoencoder",
        higher_is_better=True,
        is_fraction=True,
    ),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _TABLE}
NO_METRICS = (
    "precision recall f1 f1_score auc roc_auc confusion_matrix iou dice mape r2"
    " rmse msle perplexity"
    " top3 top3_accuracy top10_accuracy lpips fid ms_ssim cohen_kappa balanced_accuracy"
)
"""Other libraries' metrics that there are not, so that no near name is suggested for them."""

_IMAGES = ("training", "validation", "test")


def names_of(task: str) -> tuple[str, ...]:
    """The metrics that a task can be asked for.

    >>> names_of("classify")
    ('accuracy', 'top5_accuracy', 'brier_score', 'kl')
    """
    return tuple(name for name, metric in METRICS.items() if task in metric.tasks)


def _parts(name: str) -> tuple[str, Metric]:
    """The images that a value was taken on, if its name says so, and the metric.

    Runs of another version may have metrics that the table lacks: they are plain numbers.
    """
    images, _, rest = name.partition("_")
    if images not in _IMAGES or not rest:
        images, rest = "", name
    return images, METRICS.get(rest) or Metric(rest, rest.replace("_", " "), "")


def words(metric: str) -> str:
    """A metric's name in a sentence.

    >>> words("top5_accuracy"), words("kl"), words("test_mse")
    ('top5 accuracy', 'KL divergence', 'test MSE')
    """
    images, known = _parts(metric)
    return f"{images} {known.title}".lstrip()


def heading(metric: str) -> str:
    """A metric's name above a column or at the start of a sentence.

    >>> heading("code_accuracy"), heading("ssim")
    ('Code accuracy', 'SSIM')
    """
    name = words(metric)
    return name[:1].upper() + name[1:]


def is_fraction(metric: str) -> bool:
    """Whether a metric is a share, which is shown in percent.

    >>> is_fraction("test_accuracy"), is_fraction("psnr")
    (True, False)
    """
    return _parts(metric)[1].is_fraction


def higher_is_better(metric: str) -> bool:
    """Whether larger values are better.

    >>> higher_is_better("ssim"), higher_is_better("loss")
    (True, False)
    """
    return _parts(metric)[1].higher_is_better


def metric_text(metric: str, value: float, digits: int | None = None) -> str:
    """One value of a metric.

    >>> metric_text("accuracy", 0.98974), metric_text("loss", 0.012345)
    ('98.97%', '0.01235')
    >>> metric_text("accuracy", 0.98974, 1), metric_text("loss", 0.012345, 3)
    ('99.0%', '0.012')
    """
    if math.isnan(value):
        return "NaN"
    if is_fraction(metric):
        return f"{100 * value:.{2 if digits is None else digits}f}%"
    return f"{value:#.4g}".removesuffix(".") if digits is None else f"{value:.{digits}f}"
