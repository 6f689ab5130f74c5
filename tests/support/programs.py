"""Compiled programs of XLA."""

import math
import re

from jax.stages import Compiled

_COPY = re.compile(r" = f32\[([\d,]+)\]\S* copy\(")
_FUSED = re.compile(r"^%?fused_computation\S* \((.*)\) ->", re.MULTILINE)


def copies(program: Compiled, size: int) -> int:
    """Number of copies of arrays with as many values."""
    shapes = (map(int, shape.split(",")) for shape in _COPY.findall(str(program.as_text())))
    return sum(math.prod(shape) == size for shape in shapes)


def most_inputs(program: Compiled) -> int:
    """Maximum number of arrays that one fused loop reads."""
    fused = _FUSED.findall(str(program.as_text()))
    return max(len(re.findall(r"param\S*: ", arguments)) for arguments in fused)
