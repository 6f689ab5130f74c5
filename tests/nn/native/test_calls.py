"""What all convolutions in C have in common, whatever their algorithm."""

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.serialize_executable import deserialize_and_load, serialize

from cnnbench.layers.correlation import ConvGeometry
from cnnbench.nn.lowering import unavailable
from cnnbench.nn.native import few, onednn, winograd
from cnnbench.nn.native.correlation import Correlation
from cnnbench.system.arrays import Pair
from tests.nn.ops.test_convolution import Case, Products, Sample, sample
from tests.support.oracles import Array

ONE = ((1, 1), (1, 1))
CASES = (
    Case((16, 16), (3, 3, 16, 16), (1, 1), ONE),
    Case((9, 14), (3, 3, 17, 40), (1, 1), ONE),
    Case((8, 6), (5, 5, 20, 17), (1, 1), ((2, 2), (2, 2))),
)
WITHOUT_ONEDNN, WITHOUT_WINOGRAD = unavailable("onednn"), unavailable("winograd")
SKIPS = {
    few: pytest.mark.skipif(WITHOUT_WINOGRAD is not None, reason=str(WITHOUT_WINOGRAD)),
    onednn: pytest.mark.skipif(WITHOUT_ONEDNN is not None, reason=str(WITHOUT_ONEDNN)),
    winograd: pytest.mark.skipif(WITHOUT_WINOGRAD is not None, reason=str(WITHOUT_WINOGRAD)),
}
EACH = [pytest.param(native, case, marks=skip) for native, skip in SKIPS.items() for case in CASES]


def correlation(case: Case, groups: int = 1, dilation: Pair = (1, 1)) -> Correlation:
    extent = [(k - 1) * d + 1 for k, d in zip(case.kernel[:2], dilation, strict=True)]
    places = ConvGeometry(case.size, (extent[0], extent[1]), case.stride, case.pads).places
    channels = groups * case.kernel[2], case.kernel[3]
    taps = case.kernel[:2]
    return Correlation(case.size, taps, case.stride, dilation, case.pads, places, *channels, groups)


def both_directions(native: ModuleType, of: Correlation, data: Sample) -> tuple[Products, Products]:
    """Products of a convolution, and of its adjoint with input and output swapped."""
    x, kernel, y = (jnp.asarray(v, jnp.float32) for v in data)
    out, pull = jax.vjp(jax.jit(lambda x, kernel: native.conv(x, kernel, of)), x, kernel)
    transposed = jax.jit(lambda y, kernel: native.conv_transpose(y, kernel, of))
    back, pull_back = jax.vjp(transposed, y, kernel)
    dy, dkernel = pull_back(x)
    one, other = Products(out, *pull(y)), Products(dy, back, dkernel)
    return jax.tree.map(np.asarray, one), jax.tree.map(np.asarray, other)


@pytest.mark.parametrize(("native", "case"), EACH)
def test_seeds_in_parallel_equal_each_alone(native: ModuleType, case: Case) -> None:
    """Of `jax.vmap`, over images and kernels."""
    of = correlation(case)
    data = [sample(case, seed, np.float32) for seed in (1, 2)]
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *data)

    def products(x: jax.Array, kernel: jax.Array, y: jax.Array) -> Products:
        out, pull = jax.vjp(lambda x, kernel: native.conv(x, kernel, of), x, kernel)
        return Products(out, *pull(y))

    got = jax.jit(jax.vmap(products))(*stacked)
    for i, each in enumerate(data):
        want = jax.jit(products)(*each)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda v, i=i: v[i], got), want)


@pytest.mark.parametrize(("native", "case"), EACH)
def test_threads_compute_at_once(native: ModuleType, case: Case) -> None:
    """Handlers share nothing between calls."""
    of = correlation(case)
    program = jax.jit(lambda x, kernel: native.conv(x, kernel, of))
    data = [sample(case, seed, np.float32) for seed in range(8)]
    want = [np.asarray(program(each.x, each.kernel)) for each in data]

    def run(each: Sample) -> list[Array]:
        return [np.asarray(program(each.x, each.kernel)) for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        for values, expected in zip(pool.map(run, data), want, strict=True):
            for value in values:
                np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize(("native", "case"), EACH)
def test_a_compiled_program_can_be_stored(native: ModuleType, case: Case) -> None:
    """As the cache of compiled programs does."""
    of, data = correlation(case), sample(case, 1, np.float32)
    program = jax.jit(lambda x, kernel: native.conv(x, kernel, of))
    stored, inputs, outputs = serialize(program.lower(data.x, data.kernel).compile())
    devices = jax.devices()[:1]
    again = deserialize_and_load(stored, inputs, outputs, execution_devices=devices)
    np.testing.assert_array_equal(again(data.x, data.kernel), program(data.x, data.kernel))


CONVS = "winograd", "pooled", "few", "depthwise"
CHECKED = (*CONVS, "pool", "sums", "activation", "norm", "attention")


@pytest.mark.skipif(WITHOUT_WINOGRAD is not None, reason=str(WITHOUT_WINOGRAD))
@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="the options are those of GCC on x86-64",
)
@pytest.mark.parametrize("options", ["-mno-avx512f", "-mno-avx"])
def test_shorter_vectors_compute_the_same(options: str, tmp_path: Path) -> None:
    code = "\n".join(
        f"from tests.nn.native.test_{n} import check_all; check_all()" for n in CHECKED
    )
    compiler = {"CC": f"cc {options}", "CNNBENCH_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=os.environ | compiler, check=True)
    assert list(tmp_path.glob("native/*.so"))
