"""The benchmark of algorithms: its shapes, and timing of every algorithm."""

import itertools
import math

import pytest

from benchmarks import algorithms


def test_shapes_are_reproducible_and_not_too_large() -> None:
    found = list(itertools.islice(algorithms.shapes(3), 50))
    assert found == list(itertools.islice(algorithms.shapes(3), 50))
    assert len(set(found)) > 40
    for kernel, out, channels, filters in found:
        assert math.prod((*kernel, *out, channels, filters)) <= algorithms.MOST_PRODUCTS
        assert kernel != (1, 1)


@pytest.mark.slow
def test_a_shape_is_timed_by_every_algorithm() -> None:
    found = algorithms.measure(algorithms.ConvShape((4, 4), (4, 4), 4, 4))
    times = found["microseconds"]
    assert {name.split("(")[0] for name in times} == {"RowIm2col", "Im2col", "Col2im", "Winograd"}
    assert min(times.values()) > 0
    assert found["picked"] in times
    assert found["over_fastest"] >= 1
