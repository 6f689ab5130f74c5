"""Sparklines: curves in a few characters."""

import math
from collections.abc import Sequence

from cnnbench.formatting import MISSING
from cnnbench.runs.index.curves import binned

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-=+*#@"
WIDTH = 8  # characters, at most


def sparkline(values: Sequence[float], encoding: str = "utf-8", width: int = WIDTH) -> str:
    """Renders values as a sparkline, one character per bin.

    Args:
      values: in order; non-finite values leave a gap.
      encoding: of the output; anything but UTF-8 is drawn in ASCII.
      width: maximum number of characters; further values share bins.

    Returns:
      The sparkline, or a dash for fewer than two values.

    >>> sparkline([1.0, 2.0, 4.0, 8.0]), sparkline([1.0, 2.0, 4.0, 8.0], "ascii")
    ('▁▂▄█', '_.=@')
    >>> sparkline([0.5], "latin-1")
    '-'
    """
    draws_blocks = encoding.lower().replace("_", "-") in {"utf-8", "utf8"}
    if len(values) < 2:
        return MISSING if draws_blocks else "-"
    bins = binned(values, width)
    finite = [value for value in bins if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    ramp = BLOCKS if draws_blocks else ASCII
    return "".join(_character(value, low, high, ramp) for value in bins)


def bars(counts: Sequence[int], encoding: str = "utf-8") -> str:
    """Renders counts as bars from zero, one character each; a space stands for zero.

    Args:
      counts: in order.
      encoding: as for `sparkline`.

    >>> bars([0, 1, 8]), bars([0, 1, 8], "ascii")
    (' ▁█', ' _@')
    """
    ramp = BLOCKS if encoding.lower().replace("_", "-") in {"utf-8", "utf8"} else ASCII
    most = max(counts)
    return "".join(ramp[-(-count * len(ramp) // most) - 1] if count else " " for count in counts)


def _character(value: float, low: float, high: float, ramp: str) -> str:
    if not math.isfinite(value):
        return " "
    share = (value - low) / (high - low) if high > low else 0.5
    return ramp[min(int(share * len(ramp)), len(ramp) - 1)]
