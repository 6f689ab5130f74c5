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

Gathered = Classified | tuple[()]
"""Values of n images, (n, ...) each; empty if no metric needs them."""


def gathered_of(task: Task, result: Result, targets: jax.Array) -> Gathered:
    """The values that the split metrics of a task are computed from, on the device."""
    return predictions_of(result.output, targets) if task is Task.CLASSIFY else ()


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
            return macro_f1(values)
        case "ece":
            return expected_calibration_error(values)
        case _:
            assert_never(name)
