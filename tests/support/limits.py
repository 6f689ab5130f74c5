"""How long an input may take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def in_time() -> Iterator[None]:
    """Holds its body to 2 seconds of the processor."""
    start = time.process_time()
    try:
        yield
    finally:
        assert time.process_time() - start < 2
