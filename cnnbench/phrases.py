"""Numbers and names as people read them."""

import math
from collections.abc import Sequence


def words(metric: str) -> str:
    """A metric's name in a sentence."""
    return metric.replace("_", " ")


def is_fraction(metric: str) -> bool:
    """Whether a metric is a share, which is shown in percent."""
    return metric.endswith("accuracy")


def metric_text(metric: str, value: float) -> str:
    """One value of a metric.

    >>> metric_text("accuracy", 0.98974), metric_text("loss", 0.012345)
    ('98.97 %', '0.01235')
    """
    if math.isnan(value):
        return "NaN"
    if is_fraction(metric):
        return f"{100 * value:.2f} %"
    return f"{value:#.4g}".removesuffix(".")


def seconds_text(value: float) -> str:
    """Seconds with three digits or two decimals.

    >>> seconds_text(6.7712), seconds_text(0.0123456)
    ('6.77 s', '0.0123 s')
    """
    return f"{value:.2f} s" if value >= 1 or math.isnan(value) else f"{value:#.3g} s"


def count_text(value: float) -> str:
    """A number of things."""
    return f"{value:,.0f}"


def enumeration(names: Sequence[str]) -> str:
    """All of them in a sentence.

    >>> enumeration(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def clean(text: str) -> str:
    """One printable line: a title may hold line breaks and terminal control codes."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
