"""Names of layers in compiled programs, by which profiles assign times to layers."""

import re
from contextlib import AbstractContextManager

import jax

_PREFIX = "layer."


def layer_scope(name: str) -> AbstractContextManager[None]:
    """Names the operations of a layer, and those of its gradient, in profiles and in HLO.

    Args:
      name: the layer.
    """
    return jax.named_scope(f"{_PREFIX}{name}")


def layer_of(op_name: str) -> str | None:
    """The layer that an operation of a compiled program belongs to; None if it is of none.

    Args:
      op_name: the metadata of the operation in HLO.

    >>> layer_of("jit(step)/while/body/transpose(jvp(layer.block.0.conv))/dot_general")
    'block.0.conv'
    """
    found = re.search(rf"(?:^|[/(]){re.escape(_PREFIX)}([^/()]+)", op_name)
    return found[1] if found else None


def is_gradient(op_name: str) -> bool:
    """True if an operation is of the backward pass.

    >>> is_gradient("jit(step)/transpose(jvp(layer.conv))/mul"), is_gradient("jit(step)/mul")
    (True, False)
    """
    return "transpose(" in op_name
