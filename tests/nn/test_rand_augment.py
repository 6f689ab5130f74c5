"""RandAugment against torchvision's operations on images of uint8."""

import importlib.util
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnbench.nn.augment import draw_augmentation, first_stream, move_pixels
from cnnbench.nn.rand_augment import OPERATIONS, apply_operation, rand_augment
from cnnbench.spec.experiment import Augment
from tests.support.oracles import Array

# Largest difference in brightness, and largest share of pixels that differ. Everything else is
# exact: a place may be a tie between two pixels, and a sum one rounding away from an integer.
TOLERANCES = {
    **dict.fromkeys(("shear_x", "shear_y", "rotate"), (255, 0.02)),
    "contrast": (1, 0.01),
}
NAMES = ["".join(word.title() for word in name.split("_")) for name in OPERATIONS]  # torchvision's


def some_image(size: tuple[int, int], channels: int) -> Array:
    """Uneven in brightness, so that equalizing and stretching change it."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]]
    image = 30 + 150 * np.sin(x / 5 + y[..., None].T.shape[0])[..., None] ** 2 * [0.6, 0.9, 1.0]
    return (image + rng.integers(0, 25, (*size, 3))).astype(np.uint8)[..., :channels]


@pytest.mark.parametrize(
    "magnitude", [9, 30, *(pytest.param(each, marks=pytest.mark.slow) for each in (0, 17))]
)
@pytest.mark.parametrize(("size", "channels"), [((28, 28), 1), ((32, 33), 3)])
def test_every_operation_is_torchvisions(
    size: tuple[int, int], channels: int, magnitude: int
) -> None:
    torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    from tests.support.torchvision_models import package

    autoaugment = package().transforms.autoaugment
    image = some_image(size, channels)
    kinds, negative = np.divmod(np.arange(2 * len(OPERATIONS)), 2)
    apply = jax.vmap(partial(apply_operation, magnitude=magnitude), in_axes=(None, 0, 0))
    found = np.asarray(jax.jit(apply)(image, kinds, negative))
    assert found.dtype == np.uint8
    theirs = autoaugment.RandAugment()
    space = theirs._augmentation_space(31, size)
    assert list(space) == NAMES
    tensor = torch.tensor(image.transpose(2, 0, 1))
    for ours, kind, minus in zip(found, kinds, negative, strict=True):
        levels, signed = space[NAMES[kind]]
        level = float(levels[magnitude]) if levels.ndim else 0.0
        level *= -1 if signed and minus else 1
        given = (NAMES[kind], level, theirs.interpolation, theirs.fill)
        want = autoaugment._apply_op(tensor, *given).numpy().transpose(1, 2, 0)
        most, share = TOLERANCES.get(OPERATIONS[kind], (0, 0))
        difference = np.abs(ours.astype(int) - want)
        assert difference.max() <= most, given
        assert np.mean(difference > 0) <= share, given


@pytest.mark.parametrize("image", [np.full((4, 4, 1), 7), np.arange(2)[:, None, None]])
def test_operations_on_images_without_contrast_or_neighbors(image: Array) -> None:
    """Equalizing and stretching a constant image, and blurring one of two pixels, do nothing."""
    apply = jax.jit(partial(apply_operation, magnitude=30))
    for name in ("sharpness", "equalize") + ("auto_contrast",) * (len(image) == 4):
        kind = jnp.int32(OPERATIONS.index(name))
        given = jnp.asarray(image, jnp.uint8)
        found = apply(given, kind, jnp.int32(0))
        np.testing.assert_array_equal(found, image)


@pytest.mark.slow
def test_operations_follow_each_other_and_are_uniform() -> None:
    spec = Augment.model_validate({"rand_augment": {"num_ops": 3, "magnitude": 12}})
    draws = draw_augmentation(spec, first_stream(0), jnp.arange(3000), (8, 8))
    values = draws.own["rand_augment"]
    assert values.shape == (3000, 6)
    kinds = np.floor(np.asarray(values[:, ::2]) * len(OPERATIONS)).astype(int)
    counts = np.bincount(kinds.ravel(), minlength=len(OPERATIONS))
    assert counts.min() > 0.8 * counts.mean()
    assert counts.max() < 1.2 * counts.mean()
    image = some_image((8, 8), 3)
    images = jnp.broadcast_to(jnp.asarray(image), (5, *image.shape))
    few = {"rand_augment": values[:5]}
    found = move_pixels(spec, images, few)
    np.testing.assert_array_equal(found, rand_augment(images, values[:5], 12))
    want = np.asarray(images)
    apply = jax.jit(partial(apply_operation, magnitude=12))
    for chosen, sign in zip(kinds[:5].T, np.asarray(values[:5, 1::2]).T < 0.5, strict=True):
        want = np.stack(
            [
                apply(jnp.asarray(x), jnp.int32(k), jnp.int32(s))
                for x, k, s in zip(want, chosen, sign, strict=True)
            ]
        )
    np.testing.assert_array_equal(found, want)
