"""Memory of this process."""

import ctypes
import subprocess
import sys

import numpy as np
import pytest

from cnnbench.system.memory import peak_memory_bytes


def test_peak_memory_remembers_what_was_freed() -> None:
    block = np.ones(30_000_000, np.uint64)
    del block
    peak = peak_memory_bytes()
    assert peak is not None
    assert peak >= 240_000_000


CHILD = """
import sys
import numpy as np
from cnnbench.system import memory
if sys.argv[1] == "keep":
    memory.keep_freed()
block = np.ones(25_000_000, np.uint64)
del block
status = open("/proc/self/status").read()
print(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="only GNU's C library is told what to keep",
)
def test_what_is_freed_stays_with_the_process() -> None:
    resident = {
        mode: int(subprocess.run([sys.executable, "-c", CHILD, mode], check=True,
                                 capture_output=True, text=True).stdout)
        for mode in ("keep", "return")
    }  # fmt: skip
    assert resident["keep"] - resident["return"] > 150_000  # KiB of 195,312
