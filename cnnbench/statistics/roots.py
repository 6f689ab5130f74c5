"""Roots of functions of one number, without SciPy's solvers, which take 0.2 s to import."""

from collections.abc import Callable

_STEPS = 100  # of the bisection; doubles have 53 binary digits


def root_between(function: Callable[[float], float], one: float, other: float) -> float:
    """The root of a continuous function between two numbers, by bisection.

    Args:
      function: the function; its signs at the ends differ.
      one: an end.
      other: the other end.

    >>> root_between(lambda x: x * x - 2, 2, 0)
    1.4142135623730951
    """
    start = function(one) > 0
    for _ in range(_STEPS):
        middle = (one + other) / 2
        if middle in {one, other}:
            break
        if (function(middle) > 0) == start:
            one = middle
        else:
            other = middle
    return one
