"""Numbers and names as people read them.

`digits` are those after the point; they follow from the size of the number if None.
"""

import math
from collections.abc import Sequence

from cnnbench.stats import Estimate

MISSING = "–"  # noqa: RUF001 - a dash, in place of what is not known


def words(metric: str) -> str:
    """A metric's name in a sentence."""
    return metric.replace("_", " ")


def is_fraction(metric: str) -> bool:
    """Whether a metric is a share, which is shown in percent."""
    return metric.endswith("accuracy")


def metric_text(metric: str, value: float, digits: int | None = None) -> str:
    """One value of a metric.

    >>> metric_text("accuracy", 0.98974), metric_text("loss", 0.012345)
    ('98.97 %', '0.01235')
    >>> metric_text("accuracy", 0.98974, 1), metric_text("loss", 0.012345, 3)
    ('99.0 %', '0.012')
    """
    if math.isnan(value):
        return "NaN"
    if is_fraction(metric):
        return f"{100 * value:.{2 if digits is None else digits}f} %"
    return f"{value:#.4g}".removesuffix(".") if digits is None else f"{value:.{digits}f}"


def estimate_text(metric: str, estimate: Estimate, digits: int | None = None) -> str:
    """Mean and spread, such as `98.97 ± 0.05 %`.

    A spread that rounds to zero would claim a certainty that is not there.

    >>> estimate_text("accuracy", Estimate((0.98, 0.98), 0.98, 0.0))
    '98.00 ± <0.01 %'
    """
    value, std = metric_text(metric, estimate.mean, digits), estimate.std
    if std is None or math.isnan(std):
        return value
    if is_fraction(metric):
        spread = _spread(100 * std, 2 if digits is None else digits)
        return f"{value.removesuffix(' %')} ± {spread} %"
    if digits is not None:
        return f"{value} ± {_spread(std, digits)}"
    return f"{value} ± {std:#.2g}" if std else f"{value} ± 0"


def _spread(std: float, digits: int) -> str:
    least = 10.0**-digits
    return f"<{least:.{digits}f}" if std < least / 2 else f"{std:.{digits}f}"


def seconds_text(value: float, digits: int | None = None) -> str:
    """Seconds with three digits or two decimals; milliseconds where they are few.

    >>> seconds_text(6.7712), seconds_text(0.0123456), seconds_text(0.000182)
    ('6.77 s', '0.0123 s', '0.182 ms')
    """
    if 0 < value < (0.01 if digits is None else 1):
        return f"{1000 * value:#.3g} ms" if digits is None else f"{1000 * value:.{digits}f} ms"
    if digits is not None:
        return f"{value:.{digits}f} s"
    return f"{value:.2f} s" if value >= 1 or math.isnan(value) else f"{value:#.3g} s"


def count_text(value: float) -> str:
    """A number of things."""
    return f"{value:,.0f}"


def flops_text(value: float, digits: int | None = None) -> str:
    """A number of operations.

    >>> flops_text(4_524_077.0), flops_text(999.0), flops_text(25_600_000_000.0, 3)
    ('4.52 M', '999', '25.600 G')
    """
    return _scaled(value, 1000, ("", "k", "M", "G", "T"), digits)


def bytes_text(value: float, digits: int | None = None) -> str:
    """An amount of memory.

    >>> bytes_text(18_718_088), bytes_text(2048, 0)
    ('17.9 MiB', '2 KiB')
    """
    return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"), digits)


def _scaled(value: float, step: int, units: tuple[str, ...], digits: int | None) -> str:
    """Three digits and a unit."""
    place = 0
    while abs(value) >= step and place < len(units) - 1:
        value, place = value / step, place + 1
    if digits is None:
        digits = 0 if place == 0 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {units[place]}".rstrip()


def percent_text(value: float, digits: int | None = None) -> str:
    """A share in whole percents.

    >>> percent_text(0.384), percent_text(0.384, 1)
    ('38 %', '38.4 %')
    """
    return f"{100 * value:.{digits or 0}f} %"


def epochs_text(number: int) -> str:
    """How long a training is.

    >>> epochs_text(1), epochs_text(30)
    ('1 epoch', '30 epochs')
    """
    return "1 epoch" if number == 1 else f"{number} epochs"


def enumeration(names: Sequence[str]) -> str:
    """All of them in a sentence.

    >>> enumeration(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def clean(text: str) -> str:
    """One printable line: a title may hold line breaks and terminal control codes."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
