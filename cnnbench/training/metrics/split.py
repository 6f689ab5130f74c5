"""Metrics of a whole split: values of each image from the device, formulas on the host.

The values of all images are gathered, whatever the chunks, micro-batches and devices that computed
them. So a formula is a NumPy function, and its result does not depend on how images are split up.
"""

from typing import Any, assert_never

import jax

from cnnbench.nn.result import Result
from cnnbench.spec.experiment import Task
from cnnbench.spec.metrics import SplitMetricName
from cnnbench.training.metrics.classification import (
    Classified,
    balanced_accuracy,
    expected_calibration_error,
    macro_f1,
    predictions_of,
)
from cnnbench.training.metrics.multilabel import (
    Labeled,
    macro_f1_of_labels,
    mean_average_precision,
    micro_f1,
)
from cnnbench.training.metrics.regression import Regressed, r2, rmse

Gathered = Classified | Regressed | Labeled | tuple[()]
"""Values of n images, (n, ...) each; empty if no metric needs them."""


def gathered_of(task: Task, result: Result, targets: jax.Array) -> Gathered:
    """The values that the split metrics of a task are computed from, on the device."""
    match task:
        case Task.CLASSIFY:
            return predictions_of(result.output, targets)
        case Task.REGRESS:
            return Regressed(result.output, targets)
        case Task.MULTILABEL:
            return Labeled(result.output, targets)
        case Task.RECONSTRUCT:
            return ()
        case _:
            assert_never(task)


def split_metric(name: SplitMetricName, values: Any) -> float:
    """A metric of a whole split.

    Args:
      name: the metric.
      values: as of `gathered_of`, for all images of the split, as NumPy arrays.
    """
    match name:
        case "balanced_accuracy":
            return balanced_accuracy(values)
        case "macro_f1":
            return macro_f1_of_labels(values) if isinstance(values, Labeled) else macro_f1(values)
        case "ece":
            return expected_calibration_error(values)
        case "r2":
            return r2(values)
        case "rmse":
            return rmse(values)
        case "mean_average_precision":
            return mean_average_precision(values)
        case "micro_f1":
            return micro_f1(values)
        case _:
            assert_never(name)
