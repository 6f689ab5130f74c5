"""Quality of the choice of convolution algorithms: `python -m benchmarks.algorithms`.

Times every algorithm on random shapes, forward and backward, and reports the time of the chosen
algorithm relative to the fastest. The factors in the algorithms' `cost` were fitted to these times.
Pin it to one core (`taskset -c 0`) of an idle machine.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from cnnbench.nn.ops import convolution
from cnnbench.nn.ops.im2col import Col2im, Im2col, RowIm2col
from cnnbench.nn.ops.winograd import tilings

IMAGES, ROWS, CALLS = 10, 8, 9
MOST_PRODUCTS = 40e6  # per image; larger layers are rare and slow to measure


class ConvShape(NamedTuple):
    """A valid correlation of stride one."""

    kernel: tuple[int, int]
    out: tuple[int, int]
    channels: int
    filters: int


def shapes(seed: int) -> Iterator[ConvShape]:
    """An infinite sequence of random shapes."""
    rng = np.random.default_rng(seed)
    while True:
        taps = tuple(int(rng.integers(1, 10)) for _ in range(2))
        kernel = taps if rng.random() < 0.3 else (taps[0], taps[0])
        side, channels, filters = (int(rng.choice(c)) for c in ((4, 6, 8, 12, 16, 24), *_CHANNELS))
        shape = ConvShape(kernel, (side, side), channels, filters)  # type: ignore[arg-type]
        if math.prod(kernel) * side**2 * channels * filters <= MOST_PRODUCTS and kernel != (1, 1):
            yield shape


_CHANNELS = ((4, 8, 12, 16, 24, 32, 48, 64, 96), (4, 8, 12, 16, 24, 32, 48, 64, 96))


def microseconds(shape: ConvShape, by: convolution.Algorithm) -> float:
    """Seconds per image, forward and backward: minimum over several calls on micro-batches."""
    (kh, kw), (oh, ow), channels, filters = shape
    rng = np.random.default_rng(0)
    sizes = ((oh + kh - 1, ow + kw - 1, IMAGES, channels), (kh, kw, channels, filters))
    x, kernel, dy = (
        jnp.asarray(rng.normal(size=size), jnp.float32)
        for size in (*sizes, (oh, ow, IMAGES, filters))
    )

    def row(total: Any, scale: jax.Array) -> tuple[Any, None]:
        # All images differ, so that nothing is common to the rows.
        y, pull = jax.vjp(lambda x, k: convolution._correlate(x, k, by), x * scale, total[2])
        dx, dkernel = pull(dy * scale + 1e-6 * y)
        return (jnp.maximum(total[0], dx), total[1] + dkernel, total[2]), None

    @jax.jit
    def run(kernel: jax.Array) -> Any:
        carry = (jnp.zeros_like(x), jnp.zeros_like(kernel), kernel)
        return jax.lax.scan(row, carry, jnp.linspace(0.5, 1, ROWS))[0][:2]

    prepared = by.prepare(kernel)
    jax.block_until_ready(run(prepared))
    return min(_seconds(run, prepared) for _ in range(CALLS)) / IMAGES / ROWS * 1e6


def _seconds(run: Any, kernel: jax.Array) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run(kernel))
    return time.perf_counter() - start


def measure(shape: ConvShape) -> dict[str, Any]:
    """Microseconds of every algorithm, and the ratio of the chosen one to the fastest."""
    kernel, out, channels, filters = shape
    ways: list[convolution.Algorithm] = [
        RowIm2col(kernel, out),
        Im2col(kernel, out),
        Col2im(kernel, out),
    ]
    times = {way: microseconds(shape, way) for way in (*ways, *tilings(kernel, out))}
    picked = convolution.pick_algorithm(kernel, out, channels, filters, "fast")
    return {
        "shape": shape._asdict(),
        "microseconds": {str(way): round(spent, 1) for way, spent in times.items()},
        "picked": str(picked),
        "over_fastest": times[picked] / min(times.values()),
    }


def main() -> None:
    """Print a line of JSON per shape, and the geometric mean of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="time budget")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    console = Console()
    end, ratios = time.monotonic() + arguments.seconds, []
    for shape in shapes(arguments.seed):
        found = measure(shape)
        ratios.append(found["over_fastest"])
        console.print(json.dumps(found), soft_wrap=True, highlight=False)
        if time.monotonic() > end:
            break
    mean = math.exp(np.mean(np.log(ratios)))
    console.print(
        f"{len(ratios)} shapes: {mean:.2f}x the fastest (geometric mean), worst {max(ratios):.2f}x"
    )


if __name__ == "__main__":
    main()
