"""How long an input may take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from coverage import Coverage


@contextmanager
def in_time() -> Iterator[None]:
    """Holds its body to 2 seconds of this thread; to 5 where its lines are measured as well."""
    start = time.thread_time()
    try:
        yield
    finally:
        assert time.thread_time() - start < (5 if Coverage.current() else 2)
