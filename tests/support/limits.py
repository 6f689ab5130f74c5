"""Time limits: in CPU time, which other programs on the machine hardly change, or generous."""

import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.environments import without

PATIENCE_S = 600.0  # for what happens however slow the machine is; what hangs fails all the same
YARDSTICK_S = 0.8  # CPU time of an import of SciPy that the limits assume; not measured
DONT_WRITE = "PYTHONDONTWRITEBYTECODE"


@contextmanager
def in_time() -> Iterator[None]:
    """Limit the body to 10 seconds: what grows exponentially takes minutes.

    Measuring lines slows the body down fivefold, and so does Python's garbage collector in a
    process with many objects.
    """
    start = time.thread_time()
    try:
        yield
    finally:
        assert time.thread_time() - start < 10


def can_take(code: str, limit_s: float, *arguments: str, exit_code: int = 0) -> bool:
    """True if a new Python process takes less than a limit in its fastest of up to eight runs.

    The others may be slowed down by programs that evict the caches. Lines are not measured, and
    modules are compiled once, as for users. The limit is for a machine that imports `scipy.stats`
    in `YARDSTICK_S`, and is longer on a slower one: the two are measured in turn.
    """
    env = without("COVERAGE_", DONT_WRITE)

    def cpu_seconds(code: str, *arguments: str, exit_code: int = 0) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, check=False, env=env)
        assert done.returncode == exit_code, done.stderr
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    fastest = yardstick = math.inf
    for _ in range(8):
        fastest = min(fastest, cpu_seconds(code, *arguments, exit_code=exit_code))
        if fastest < limit_s:
            return True
        yardstick = min(yardstick, cpu_seconds("import scipy.stats"))
        if fastest < limit_s * yardstick / YARDSTICK_S:
            return True
    return False
