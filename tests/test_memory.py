"""Memory of this process."""

import numpy as np

from cnnbench.memory import peak_memory_bytes


def test_peak_memory_remembers_what_was_freed() -> None:
    block = np.ones(30_000_000, np.uint64)
    del block
    peak = peak_memory_bytes()
    assert peak is not None
    assert peak >= 240_000_000
