"""The table of metrics; their formulas are in `training.losses`.

To add a metric that is a mean over images, add its name to `ImageMetricName`, a row to the table,
and its formula for one image to `training.losses.per_image_metric`. For any other function of the
outputs and targets of a split, add its name to `SplitMetricName`, and its formula to
`training.metrics.split.split_metric`. Checks of experiment files, messages, tables, charts,
verdicts and docs/reference/spec.md read the table.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cnnbench.data.catalog import DatasetInfo
    from cnnbench.layers import LayerOp

    LayerOps = Mapping[str, LayerOp]

ImageMetricName = Literal[
    "accuracy",
    "top5_accuracy",
    "brier_score",
    "mse",
    "mae",
    "psnr",
    "ssim",
    "exact_match",
    "hamming_loss",
    "kl",
]
"""Metrics that are means over images."""

BINARY_METRICS = frozenset({"accuracy", "top5_accuracy", "exact_match"})
"""Those that are 0 or 1 for each image."""

SplitMetricName = Literal[
    "balanced_accuracy", "macro_f1", "ece", "r2", "rmse", "mean_average_precision", "micro_f1"
]
"""Metrics that are functions of the outputs and targets of a whole split."""

MetricName = Literal[ImageMetricName, SplitMetricName]
"""Names that `train.metrics` accepts."""

SSIM_WINDOW = 11  # pixels; no smaller image has an SSIM

Objection = tuple[str, str]
"""Message and remedy for a metric that does not suit an experiment."""


@dataclass(frozen=True, slots=True)
class Metric:
    """Properties of a metric.

    Args:
      name: its key in `train.metrics` and in files.
      title: display name in sentences and tables.
      description: what it measures, for docs/reference/spec.md.
      tasks: the tasks it is available for; empty if it is reported automatically.
      higher_is_better: True if larger values are better.
      is_fraction: True if its values are in [0, 1] and shown as percentages.
      other_names: its names in other libraries.
      objection: maps (layers, dataset), each None if unknown, to the reason why the metric is
        useless for them, or None.
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
        return f"ssim needs at least {window} pixels, but images are {images}", "remove it"
    return None


def _no_sample(layers: "LayerOps | None", _: "DatasetInfo | None") -> Objection | None:
    from cnnbench.layers import Sample

    if layers is None or any(isinstance(op, Sample) for op in layers.values()):
        return None
    message = "kl is the divergence of sample layers, and the model has none"
    return message, "remove it, or add a layer with op: sample"


_CLASSIFY, _RECONSTRUCT = ("classify",), ("reconstruct",)
_REGRESS, _MULTILABEL = ("regress",), ("multilabel",)
DEFAULT_METRICS: Mapping[str, tuple[MetricName, ...]] = {
    "classify": ("accuracy",),
    "reconstruct": (),
    "regress": ("r2", "mae"),
    "multilabel": ("mean_average_precision", "macro_f1"),
}
"""Metrics that are reported unless `train.metrics` is set; the first one decides verdicts."""
_TABLE = (
    Metric(
        name="accuracy",
        title="accuracy",
        description="fraction of images whose label has the largest output",
        tasks=_CLASSIFY,
        higher_is_better=True,
        is_fraction=True,
        other_names=(
            *("acc", "top1", "top1_accuracy", "sparse_categorical_accuracy"),
            *("val_accuracy", "val_acc"),
        ),
    ),
    Metric(
        name="top5_accuracy",
        title="top5 accuracy",
        description="fraction of images whose label is among the five largest outputs; ties go"
        " to the lower class index",
        tasks=_CLASSIFY,
        higher_is_better=True,
        is_fraction=True,
        other_names=("top5", "top_5", "acc5", "top_k_accuracy", "top_k_categorical_accuracy"),
        objection=_too_few_classes,
    ),
    Metric(
        name="brier_score",
        title="Brier score",
        description="squared distance between class probabilities (softmax) and one-hot label,"
        " summed over classes: 0 for confident correct predictions, 2 for confident wrong ones; low"
        " if probabilities are both sharp and calibrated (Brier 1950)",
        tasks=_CLASSIFY,
        other_names=("brier", "brier_score_loss", "brier_loss"),
    ),
    Metric(
        name="balanced_accuracy",
        title="balanced accuracy",
        description="mean over classes of the fraction of a class's images that are classified"
        " correctly (recall): all classes count the same, however many images they have; classes"
        " without images do not count",
        tasks=_CLASSIFY,
        higher_is_better=True,
        is_fraction=True,
        other_names=(
            *("balanced_acc", "bal_accuracy", "bal_acc", "bacc", "balanced_accuracy_score"),
            *("macro_accuracy", "macro_recall", "recall_macro", "unweighted_average_recall", "uar"),
            *("mean_per_class_accuracy", "mean_class_accuracy", "per_class_accuracy"),
        ),
    ),
    Metric(
        name="macro_f1",
        title="macro F1",
        description="mean over classes, or over labels, of the F1 score, the harmonic mean of"
        " precision and recall; those that are neither label nor prediction of any image do not"
        " count",
        tasks=_CLASSIFY + _MULTILABEL,
        higher_is_better=True,
        is_fraction=True,
        other_names=("f1", "f1_score", "f1_macro", "macro_f1_score", "multiclass_f1_score"),
    ),
    Metric(
        name="ece",
        title="ECE",
        description="expected calibration error (Guo et al. 2017): distance between the mean"
        " probability of the predicted class (confidence) and the accuracy, in 15 bins of equal"
        " width by confidence, averaged over images",
        tasks=_CLASSIFY,
        is_fraction=True,
        other_names=(
            *("expected_calibration_error", "calibration_error", "calibration"),
            "multiclass_calibration_error",
        ),
    ),
    Metric(
        name="mse",
        title="MSE",
        description="mean squared error over pixels or targets",
        tasks=_RECONSTRUCT + _REGRESS,
        other_names=("mean_squared_error", "l2"),
    ),
    Metric(
        name="mae",
        title="MAE",
        description="mean absolute error over pixels or targets",
        tasks=_RECONSTRUCT + _REGRESS,
        other_names=("mean_absolute_error", "l1"),
    ),
    Metric(
        name="psnr",
        title="PSNR",
        description="peak signal-to-noise ratio in dB, averaged over images",
        tasks=_RECONSTRUCT,
        higher_is_better=True,
    ),
    Metric(
        name="ssim",
        title="SSIM",
        description="structural similarity (Wang et al. 2004), 1 for identical images",
        tasks=_RECONSTRUCT,
        higher_is_better=True,
        objection=_too_small,
    ),
    Metric(
        name="r2",
        title="R2",
        description="coefficient of determination, mean over targets: 1 for perfect predictions, 0"
        " for the mean of the targets, negative for worse ones; scikit-learn's r2_score",
        tasks=_REGRESS,
        higher_is_better=True,
        other_names=("r2_score", "r_squared", "r_square", "coefficient_of_determination"),
    ),
    Metric(
        name="rmse",
        title="RMSE",
        description="root mean squared error of the whole split in the unit of the targets, mean"
        " over targets; scikit-learn's root_mean_squared_error",
        tasks=_REGRESS,
        other_names=("root_mean_squared_error", "root_mse", "rms_error"),
    ),
    Metric(
        name="mean_average_precision",
        title="mean AP",
        description="mean over labels of the average precision, the area under the curve of"
        " precision against recall; labels that no image has do not count; scikit-learn's"
        " average_precision_score",
        tasks=_MULTILABEL,
        higher_is_better=True,
        is_fraction=True,
        other_names=("map", "average_precision", "average_precision_score", "macro_ap", "pr_auc"),
    ),
    Metric(
        name="micro_f1",
        title="micro F1",
        description="F1 score of all labels of all images together, with probability 0.5 as"
        " threshold",
        tasks=_MULTILABEL,
        higher_is_better=True,
        is_fraction=True,
        other_names=("f1_micro",),
    ),
    Metric(
        name="exact_match",
        title="exact match",
        description="fraction of images whose labels are all predicted correctly, with probability"
        " 0.5 as threshold; scikit-learn's accuracy_score",
        tasks=_MULTILABEL,
        higher_is_better=True,
        is_fraction=True,
        other_names=("subset_accuracy", "exact_match_ratio", "emr"),
    ),
    Metric(
        name="hamming_loss",
        title="Hamming loss",
        description="fraction of labels that are predicted incorrectly, with probability 0.5 as"
        " threshold",
        tasks=_MULTILABEL,
        is_fraction=True,
        other_names=("hamming", "hamming_distance"),
    ),
    Metric(
        name="kl",
        title="KL divergence",
        description="KL divergence of all `op: sample` layers from the prior, in nats per image",
        tasks=_CLASSIFY + _RECONSTRUCT + _REGRESS + _MULTILABEL,
        other_names=("kl_divergence", "kld", "kl_div"),
        objection=_no_sample,
    ),
    Metric(name="loss", title="loss", description="the training objective"),
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
    "precision recall weighted_f1 auc roc_auc confusion_matrix iou dice mape"
    " msle perplexity"
    " top3 top3_accuracy top10_accuracy lpips fid ms_ssim cohen_kappa mcc matthews_corrcoef mce"
)
"""Metrics of other libraries that are not supported, so that no similar name is suggested."""

_IMAGES = ("training", "validation", "test")


def names_of(task: str) -> tuple[str, ...]:
    """Metrics that are available for a task.

    >>> names_of("classify")
    ('accuracy', 'top5_accuracy', 'brier_score', 'balanced_accuracy', 'macro_f1', 'ece', 'kl')
    """
    return tuple(name for name, metric in METRICS.items() if task in metric.tasks)


def _parts(name: str) -> tuple[str, Metric]:
    """Splits a name such as `test_accuracy` into split and metric.

    Runs of other versions may have metrics that are not in the table; they are plain numbers.
    """
    images, _, rest = name.partition("_")
    if images not in _IMAGES or not rest:
        images, rest = "", name
    return images, METRICS.get(rest) or Metric(rest, rest.replace("_", " "), "")


def words(metric: str) -> str:
    """Display name of a metric within a sentence.

    >>> words("top5_accuracy"), words("kl"), words("test_mse")
    ('top5 accuracy', 'KL divergence', 'test MSE')
    """
    images, known = _parts(metric)
    return f"{images} {known.title}".lstrip()


def heading(metric: str) -> str:
    """Display name of a metric as a column header or at the start of a sentence.

    >>> heading("code_accuracy"), heading("ssim")
    ('Code accuracy', 'SSIM')
    """
    name = words(metric)
    return name[:1].upper() + name[1:]


def is_fraction(metric: str) -> bool:
    """Returns True if a metric is a fraction, shown as a percentage.

    >>> is_fraction("test_accuracy"), is_fraction("psnr")
    (True, False)
    """
    return _parts(metric)[1].is_fraction


def higher_is_better(metric: str) -> bool:
    """Returns True if larger values are better.

    >>> higher_is_better("ssim"), higher_is_better("loss")
    (True, False)
    """
    return _parts(metric)[1].higher_is_better


def metric_text(metric: str, value: float, digits: int | None = None) -> str:
    """Formats a value of a metric.

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
