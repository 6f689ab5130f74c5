"""Peak arithmetic throughput of a machine, measured by its fastest float32 matrix product."""

import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

SIZE = 2048  # large enough to be compute-bound
REPEATS = 3


def libraries() -> tuple[str, ...]:
    """Installed libraries that multiply matrices."""
    return tuple(name for name in ("jax", "torch", "numpy") if find_spec(name))


def multiplier(library: str, size: int) -> Callable[[], object]:
    """A function that multiplies two float32 matrices and blocks until the product is ready.

    Args:
      library: one of `libraries`.
      size: number of rows and columns.
    """
    a, b = np.random.default_rng(0).random((2, size, size), dtype=np.float32)
    if library == "torch":
        import torch

        x, y = torch.from_numpy(a), torch.from_numpy(b)
        return lambda: torch.mm(x, y)
    if library == "jax":
        import jax
        import jax.numpy as jnp

        left, right, multiply = jnp.asarray(a), jnp.asarray(b), jax.jit(jnp.matmul)
        return lambda: multiply(left, right).block_until_ready()
    return lambda: a @ b


def product_seconds(multiply: Callable[[], object], repeats: int = REPEATS) -> float:
    """Seconds of the fastest of `repeats` products."""

    def once() -> float:
        start = time.perf_counter()
        multiply()
        return time.perf_counter() - start

    return min(once() for _ in range(repeats))


def product_flops(size: int) -> int:
    """Floating-point operations of a product of square matrices.

    >>> product_flops(10)
    2000
    """
    return 2 * size**3
