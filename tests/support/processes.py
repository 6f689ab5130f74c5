"""Programs of several processes, on devices of one."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cnnbench.nn import microbatch
from cnnbench.training import executables, step


@contextmanager
def as_processes() -> Iterator[None]:
    """Makes programs for several devices as if the devices belonged to several processes."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (executables, microbatch, step):
            patch.setattr(module, "spans_processes", lambda _: True)
        yield
