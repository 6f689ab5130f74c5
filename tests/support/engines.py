"""Engines that can be used on this machine."""

import pytest

from cnnbench.nn.lowering import unavailable
from cnnbench.nn.native.library import lacking
from cnnbench.training.strategy import NATIVE

needs_onednn = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))
USABLE = tuple(form for form in NATIVE if unavailable(form) is None)
