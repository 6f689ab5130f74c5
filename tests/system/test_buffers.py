"""Arrays in pages of their own: what they contain, and the memory that they take."""

from pathlib import Path

import numpy as np
import pytest

from cnnbench.system.buffers import mapped

SIZE = 64 * 2**20


@pytest.mark.parametrize("shape", [(0, 3), (1,), (5, 4, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_it_is_an_array_of_zeros_that_can_be_written(shape: tuple[int, ...], dtype: type) -> None:
    array = mapped(shape, dtype)
    np.testing.assert_array_equal(array, np.zeros(shape, dtype), strict=True)
    array[...] = 3
    np.testing.assert_array_equal(array, np.full(shape, 3, dtype), strict=True)


def resident() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * sum(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_it_takes_memory_while_it_is_used() -> None:
    before = resident()
    array = mapped((SIZE,), np.uint8)
    assert array.sum() == 0
    assert resident() - before < SIZE / 4  # nothing is written
    array[:] = 1
    assert resident() - before > SIZE / 2
    del array
    assert resident() - before < SIZE / 4
