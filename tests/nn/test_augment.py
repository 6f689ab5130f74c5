"""Augmentation against NumPy and SciPy, and the distribution of its random numbers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage, stats

from cnnbench.nn.augment import (
    Draws,
    MixedLabels,
    draw_augmentation,
    erase,
    first_stream,
    label_share,
    mix_images,
    mixed,
    move_pixels,
    rotate,
    shift,
    views_of,
)
from cnnbench.spec.experiment import Augment
from tests.support.oracles import Array

SIZE = (7, 5)
EVERYTHING = {
    "random_crop": {"padding": 2},
    "random_translation": {"pixels": 3},
    "random_flip": "horizontal",
    "rand_augment": {},
    "random_rotation": {"degrees": 15},
    "random_erasing": {},
    "mixup": {},
    "cutmix": {},
}


def spec_of(**options: Any) -> Augment:
    return Augment.model_validate(options)


def draws_of(spec: Augment, number: int, seed: int = 0, step: int = 0) -> Draws:
    stream = first_stream(seed)._replace(step=jnp.int32(step))
    return draw_augmentation(spec, stream, jnp.arange(number), SIZE)


def some_images(number: int = 40, channels: int = 2) -> Array:
    return np.random.default_rng(0).integers(1, 256, (number, *SIZE, channels), np.uint8)


@pytest.mark.parametrize(("mode", "reflects"), [("constant", False), ("reflect", True)])
def test_crops_are_those_of_padded_images_in_numpy(mode: Any, reflects: bool) -> None:
    images, values = some_images(), np.random.default_rng(1).random((40, 2), np.float32)
    got = shift(jnp.asarray(images), jnp.asarray(values), 3, reflects=reflects)
    assert got.dtype == np.uint8
    padded = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)), mode)
    starts = (values * 7).astype(int)
    assert starts.min() == 0
    assert starts.max() == 6
    for image, whole, (row, column) in zip(np.asarray(got), padded, starts, strict=True):
        np.testing.assert_array_equal(image, whole[row : row + 7, column : column + 5])


@pytest.mark.parametrize(("axis", "flip"), [(2, "horizontal"), (1, "vertical")])
def test_half_of_the_images_are_flipped(axis: int, flip: str) -> None:
    images = some_images()
    values = np.linspace(0, 1, 40, endpoint=False, dtype=np.float32)[:, None]
    own = {"random_flip": jnp.asarray(values)}
    got = move_pixels(spec_of(random_flip=flip), jnp.asarray(images), own)
    np.testing.assert_array_equal(got[:20], np.flip(images, axis)[:20])
    np.testing.assert_array_equal(got[20:], images[20:])


@pytest.mark.parametrize("degrees", [-170, -30, 0, 7.5, 45])
@pytest.mark.parametrize("size", [(7, 5), (6, 6)])
def test_rotation_is_bilinear_as_in_scipy(degrees: float, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((*size, 2), np.float32)
    got = jax.jit(rotate)(image, math.radians(degrees))
    want = ndimage.rotate(image, degrees, reshape=False, order=1, mode="grid-constant")
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_quarter_turn_is_counterclockwise() -> None:
    image = np.random.default_rng(0).random((6, 6, 1), np.float32)
    got = rotate(jnp.asarray(image), jnp.float32(math.pi / 2))
    np.testing.assert_allclose(got, np.rot90(image), atol=1e-5)


def test_angles_are_uniform() -> None:
    image = np.zeros((1, 41, 41, 1), np.uint8)
    image[0, 20, 20:] = 255
    values = np.array([[0.0], [0.5], [0.75]], np.float32)
    images = jnp.asarray(np.repeat(image, 3, axis=0))
    got = move_pixels(spec_of(random_rotation={"degrees": 30}), images, {
        "random_rotation": jnp.asarray(values)})  # fmt: skip
    rows, columns = np.mgrid[20:-21:-1, -20:21]
    for turned, angle in zip(np.asarray(got)[..., 0], (-30, 0, 15), strict=True):
        y, x = (turned * rows).sum(), (turned * columns).sum()
        assert math.degrees(math.atan2(y, x)) == pytest.approx(angle, abs=0.5)


@pytest.mark.parametrize(("probability", "area"), [(0.3, 0.33), (1.0, 0.1), (1.0, 0.01)])
def test_rectangles_are_erased(probability: float, area: float) -> None:
    spec = spec_of(random_erasing={"probability": probability, "area": area})
    images = np.ones((4000, 40, 30, 1), np.float32)
    got = np.asarray(erase(spec, jnp.asarray(images), draws_of(spec, 4000).own))[..., 0] == 0
    hit = got.any(axis=(1, 2))
    assert stats.binomtest(int(hit.sum()), 4000, probability).pvalue > 1e-3
    height, width = got.any(axis=2).sum(axis=1), got.any(axis=1).sum(axis=1)
    pixels = got.sum(axis=(1, 2))
    np.testing.assert_array_equal(pixels, height * width)  # rectangles
    share = pixels[hit] / 1200
    assert share.mean() == pytest.approx((min(0.02, area) + area) / 2, rel=0.05)
    assert share.max() < 1.3 * area  # sides are rounded
    ratios = np.log(height[hit] / width[hit])
    assert abs(ratios.mean()) < 0.08
    # All places are equally likely, so the mean image is symmetric.
    seen = got.mean(axis=0)
    assert np.abs(seen - seen[::-1, ::-1]).max() < 0.06


def test_mixup_mixes_an_image_with_its_neighbor_in_the_batch() -> None:
    spec, images = spec_of(mixup={"alpha": 1.0}), some_images(6).astype(np.float32)
    draws = draws_of(spec, 6)
    assert draws.mix is not None
    others = images[np.asarray(draws.mix.indices)]
    np.testing.assert_array_equal(others, np.roll(images, 1, axis=0))
    share = float(draws.mix.share[0])
    assert 0 < share < 1
    got = mix_images(jnp.asarray(images), jnp.asarray(others), draws.mix)
    np.testing.assert_allclose(got, share * images + (1 - share) * others, rtol=1e-5)
    np.testing.assert_allclose(label_share(draws.mix, SIZE), np.full(6, share), rtol=1e-6)


def test_cutmix_pastes_a_box_and_its_share_is_the_area_left() -> None:
    spec, images = spec_of(cutmix={}), some_images(3).astype(np.float32)
    others = np.roll(images, 1, axis=0)
    shares = []
    for step in range(20):
        draws = draws_of(spec, 3, step=step)
        assert draws.mix is not None
        got = np.asarray(mix_images(jnp.asarray(images), jnp.asarray(others), draws.mix))
        top, bottom, left, right = np.asarray(draws.mix.box)[0]
        want = images.copy()
        want[:, top:bottom, left:right] = others[:, top:bottom, left:right]
        np.testing.assert_array_equal(got, want)
        share = 1 - (bottom - top) * (right - left) / 35
        np.testing.assert_allclose(label_share(draws.mix, SIZE), share, rtol=1e-6)
        shares.append(share)
    assert min(shares) < 0.6
    assert max(shares) > 0.9


def test_mixed_labels_give_the_loss_of_soft_labels() -> None:
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(5, 4)), jnp.float32)
    labels, others = rng.integers(0, 4, (2, 5))
    share = rng.random(5).astype(np.float32)
    soft = share[:, None] * np.eye(4)[labels] + (1 - share)[:, None] * np.eye(4)[others]
    score = optax.softmax_cross_entropy_with_integer_labels
    targets = MixedLabels(*map(jnp.asarray, (labels, others, share)))
    np.testing.assert_allclose(
        mixed(score, logits, targets), optax.softmax_cross_entropy(logits, soft), rtol=1e-5
    )


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_have_the_beta_distribution(alpha: float) -> None:
    spec = spec_of(mixup={"alpha": alpha})
    steps = jnp.arange(3000)

    def share(step: jax.Array) -> Any:
        mix = draw_augmentation(spec, first_stream(1)._replace(step=step), jnp.arange(2), SIZE).mix
        assert mix is not None
        return mix.share[0]

    found = np.asarray(jax.vmap(share)(steps))
    assert stats.kstest(found, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_mixup_and_cutmix_take_turns_at_random() -> None:
    spec = spec_of(mixup={}, cutmix={})

    def both(step: jax.Array) -> Any:
        mix = draw_augmentation(spec, first_stream(1)._replace(step=step), jnp.arange(2), SIZE).mix
        assert mix is not None
        return mix.share[0], mix.box[0]

    share, box = jax.vmap(both)(jnp.arange(1000))
    cut = np.asarray(share) == 1
    assert stats.binomtest(int(cut.sum()), 1000, 0.5).pvalue > 1e-3
    assert not np.asarray(box)[~cut].any()
    assert np.asarray(box)[cut].any(axis=1).mean() > 0.7


def test_values_are_uniform_and_differ_between_images_steps_and_seeds() -> None:
    spec = spec_of(**EVERYTHING)
    found = [draws_of(spec, 2000), draws_of(spec, 2000, step=1), draws_of(spec, 2000, seed=1)]
    columns = np.concatenate(
        [np.asarray(values) for draws in found for values in draws.own.values()], axis=1
    )
    assert columns.min() >= 0
    assert columns.max() < 1
    for column in columns.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    correlations = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlations).max() < 0.1


def test_an_augmentation_does_not_change_the_values_of_others() -> None:
    alone, together = (
        draws_of(spec_of(random_rotation={"degrees": 9}), 8),
        draws_of(spec_of(**EVERYTHING), 8),
    )
    np.testing.assert_array_equal(alone.own["random_rotation"], together.own["random_rotation"])


@pytest.mark.parametrize("size", [(7, 5), (2, 2)])
def test_views_are_those_of_airbench(size: tuple[int, int]) -> None:
    """The mean of `infer_mirror` and of `infer_mirror` on two crops of the padded images."""
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 2), np.uint8)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    height, width = size
    crops = [images, padded[:, :height, :width], padded[:, 2:, 2:]]
    want = [(w, v) for w, x in zip((4, 8, 8), crops, strict=True) for v in (x, np.flip(x, 2))]
    for given in (images, jnp.asarray(images)):
        views = views_of("flip_translate", given)
        assert [weight for weight, _ in views] == [1 / each for each, _ in want]
        for (_, view), (_, wanted) in zip(views, want, strict=True):
            np.testing.assert_array_equal(view, wanted)
    (half, same), (other, mirrored) = views_of("flip", images)
    assert (half, other) == (0.5, 0.5)
    np.testing.assert_array_equal(same, images)
    np.testing.assert_array_equal(mirrored, images[:, :, ::-1])
    assert [weight for weight, _ in views_of(None, images)] == [1.0]
