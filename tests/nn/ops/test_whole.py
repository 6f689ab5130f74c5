"""Convolutions of whole batches: both directions and all gradients, as PyTorch computes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnbench.layers.correlation import ConvGeometry
from cnnbench.nn.ops import whole
from tests.nn.ops.test_convolution import (
    Case,
    Products,
    Sample,
    check,
    random_case,
    sample,
    torch_products,
)
from tests.support.programs import copies

CASES = (
    *(random_case(seed) for seed in range(700, 710)),
    Case((9, 7), (3, 3, 4, 6), (1, 1), ((1, 1), (1, 1))),
    Case((9, 8), (3, 2, 4, 6), (2, 3), ((1, 0), (0, 1))),
    Case((8, 8), (1, 1, 4, 6), (2, 2)),  # pixels that no output reads
    Case((5, 6), (2, 2, 3, 4), (1, 1), ((2, 3), (4, 2))),  # outputs that read no pixel
    Case((6, 8), (3, 3, 3, 8), (1, 1), ((1, 1), (1, 1))),  # four and two columns at once
    Case((7, 16), (3, 5, 6, 12), (2, 2), ((1, 0), (2, 2))),
    Case((8, 9), (3, 3, 12, 6), (2, 3), ((1, 0), (1, 2))),
    Case((6, 7), (3, 2, 8, 2), (1, 1), ((1, 1), (0, 1))),  # errors of few filters
    Case((7, 6), (2, 3, 9, 4), (2, 1), ((0, 1), (3, 1))),
    Case((6, 6), (1, 1, 5, 2), (1, 1)),
    Case((9, 8), (3, 2, 1, 12), (2, 3), ((1, 0), (0, 1))),  # images of few channels
    Case((7, 6), (5, 5, 1, 16), (1, 1), ((2, 2), (2, 2))),
    Case((6, 7), (3, 1, 2, 9), (2, 2), ((0, 1), (0, 0))),
)


def both_directions(of: ConvGeometry, data: Sample) -> tuple[Products, Products]:
    """Gradients of `conv`, and of `conv_transpose` with input and output swapped."""
    out, pull = jax.vjp(lambda x, kernel: whole.conv(x, kernel, of), data.x, data.kernel)
    back, pull_back = jax.vjp(
        lambda y, kernel: whole.conv_transpose(y, kernel, of), data.y, data.kernel
    )
    dy, dkernel = pull_back(data.x)
    one, other = Products(out, *pull(data.y)), Products(dy, back, dkernel)
    return jax.tree.map(np.asarray, one), jax.tree.map(np.asarray, other)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_conv_and_its_adjoint_equal_pytorch(number: int) -> None:
    case = CASES[number]
    data = sample(case, number)
    want = torch_products(case, data)
    of = ConvGeometry(case.size, case.kernel[:2], case.stride, case.pads)
    with jax.enable_x64(True):
        for got in both_directions(of, data):
            check(got, want)


@pytest.mark.parametrize("most", [1, 40, 10**6])
@pytest.mark.parametrize("kernel", [(3, 3, 2, 3), (3, 3, 1, 12)])
def test_blocks_of_images_add_up(
    kernel: tuple[int, int, int, int], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image, some of them, and all at a time."""
    monkeypatch.setattr(whole, "_MOST_PIXELS", most)
    case = Case((6, 5), kernel, (1, 2), ((1, 1), (0, 2)))
    data = sample(case, 1)
    of = ConvGeometry(case.size, case.kernel[:2], case.stride, case.pads)
    with jax.enable_x64(True):
        found = whole.kernel_gradient(jax.numpy.asarray(data.x), jax.numpy.asarray(data.y), of)
    np.testing.assert_allclose(found, torch_products(case, data).dkernel, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1, 3])
def test_images_are_not_copied_for_blocks_of_one(size: int) -> None:
    """For a layout that only differs in an axis of one image."""
    border = (size // 2, size // 2)
    of = ConvGeometry((32, 32), (size, size), (1, 1), (border, border))

    @jax.jit
    def gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
        images = jnp.maximum(x @ kernel, 0).reshape(8, 32, 32, 96)
        return whole.kernel_gradient(images, dy, of)

    shapes = ((8 * 32 * 32, 16), (16, 96), (8, 32, 32, 16))
    program = gradient.lower(*map(jnp.zeros, shapes)).compile()
    assert copies(program, 8 * 32 * 32 * 96) == 0


def test_values_that_are_kept_and_their_gradient_are_those_given() -> None:
    x = np.arange(12.0).reshape(1, 2, 3, 2)
    got, pull = jax.vjp(whole.kept, x)
    assert (got == x).all()
    assert (pull(np.float32(2) * got)[0] == 2 * x).all()
