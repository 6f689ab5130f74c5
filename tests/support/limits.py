"""Time limits for inputs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def in_time() -> Iterator[None]:
    """Limit the body to 2 seconds of CPU time."""
    start = time.process_time()
    try:
        yield
    finally:
        assert time.process_time() - start < 2
