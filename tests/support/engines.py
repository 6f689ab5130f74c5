"""Engines that can be used on this machine."""

import pytest

from cnnbench.nn.native.library import lacking
from cnnbench.nn.ops.convolution import EngineName

ONEDNN: tuple[EngineName, ...] = () if lacking() else ("onednn",)
needs_onednn = pytest.mark.skipif(not ONEDNN, reason=str(lacking()))
