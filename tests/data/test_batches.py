"""The order in which training visits images."""

import numpy as np

from cnnbench.data.batches import batches, epoch_order


def test_an_epoch_visits_every_image_once() -> None:
    for num_images in (1, 2, 1000):
        order = epoch_order(3, 1, num_images)
        assert order.dtype == np.int32
        np.testing.assert_array_equal(np.sort(order), np.arange(num_images))


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    orders = {epoch_order(seed, epoch, 50).tobytes() for seed in range(4) for epoch in range(1, 5)}
    assert len(orders) == 16  # also (1, 2) and (2, 1)
    np.testing.assert_array_equal(epoch_order(2, 5, 50), epoch_order(2, 5, 50))
    stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence([2, 5])))
    np.testing.assert_array_equal(epoch_order(2, 5, 50), stream.permutation(50))


def test_batches_follow_the_order_and_leave_the_rest() -> None:
    found = batches(3, 2, 11, 5)
    np.testing.assert_array_equal(found.ravel(), epoch_order(3, 2, 11)[:10])
    assert found.shape == (2, 5)
