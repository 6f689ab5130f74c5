"""How much of the spread over seeds is only the finite number of test images."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Spread:
    """The spread of a metric over seeds, and what it would be for other numbers of images.

    Args:
      std: standard deviation over seeds.
      floor: the standard deviation that independent results for each image would give: that of
        seeds that are equally good.
      unlimited: standard deviation over seeds with unlimited images; 0 if `std` is below `floor`.
    """

    std: float
    floor: float
    unlimited: float


def spread(values: "NDArray[Any]") -> Spread:
    """The spread of the mean over images of each seed, and its floor.

    With the unbiased variance v_i over seeds of the results for image i, which is
    p_i (1 - p_i) S / (S - 1) for errors, the floor is sqrt(sum_i v_i) / N. It assumes that the
    results of a seed for different images are independent, given the image; what the spread has
    beyond it is the variance of the seeds on unlimited images.

    Args:
      values: for each seed and image, (seeds, images), at least two of each.

    References:
      Jordan, "On the variance of neural network training with respect to test sets and
      distributions", arXiv 2304.01910, 2023.

    >>> import numpy as np
    >>> spread(np.array([[1.0, 0, 1, 1], [1, 1, 0, 1]]))
    Spread(std=0.0, floor=0.25, unlimited=0.0)
    """
    import numpy as np

    each = np.asarray(values, float)
    number = each.shape[1]
    total = float(each.mean(axis=1).var(ddof=1))
    within = float(each.var(axis=0, ddof=1).sum()) / number**2
    beyond = max(0.0, total - within) * number / (number - 1)
    return Spread(*map(math.sqrt, (total, within, beyond)))
