"""Images that are not in memory behave as the array that they stand for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.data.scaling import channel_statistics
from cnnbench.data.streaming.images import StreamedImages, concatenated
from cnnbench.data.streaming.source import DecodedOnce
from cnnbench.data.streaming.statistics import compute_statistics, image_digests, statistics_of
from cnnbench.errors import DataError
from tests.support.streams import ArrayReader, in_process

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (130, 3, 2, 3), np.uint8)
IMAGES = StreamedImages(ArrayReader(PIXELS), np.arange(len(PIXELS)))


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnbench.data.streaming.statistics.results", in_process)


@given(st.lists(st.integers(0, 129), min_size=1, max_size=9), st.slices(9))
def test_views_are_those_of_the_array(rows: list[int], part: slice) -> None:
    view, want = IMAGES[np.array(rows)][part], PIXELS[np.array(rows)][part]
    assert (view.shape, view.dtype, view.ndim) == (want.shape, want.dtype, want.ndim)
    assert (len(view), view.nbytes) == (len(want), want.nbytes)
    np.testing.assert_array_equal(view, want)
    np.testing.assert_array_equal(concatenated([view, IMAGES[:2]]), [*want, *PIXELS[:2]])
    assert view.astype(np.float32).dtype == np.float32
    if len(want):
        np.testing.assert_array_equal(view[0], want[0])


def decoded_once(reader: ArrayReader, *, skip: bool = False) -> StreamedImages:
    source = DecodedOnce(reader, skip, 1)
    images: StreamedImages = source.images(source.decode("", lambda _: None)).arrays["images"]  # type: ignore[assignment]
    return images


def test_there_are_digests_and_statistics_of_any_choice_of_images() -> None:
    images = decoded_once(ArrayReader(PIXELS))
    rows = np.array([129, 3, 3, 64])
    np.testing.assert_array_equal(images[rows].digests(), image_digests(PIXELS[rows]))
    assert channel_statistics(images[rows]) == channel_statistics(PIXELS[rows])
    scaled = PIXELS[rows].reshape(-1, 3) / 255
    mean, std = channel_statistics(images[rows])
    np.testing.assert_allclose(mean, scaled.mean(axis=0))
    np.testing.assert_allclose(std, scaled.std(axis=0))
    assert len(np.unique(image_digests(PIXELS), axis=0)) == len(PIXELS)


def test_statistics_may_be_unknown() -> None:
    with pytest.raises(RuntimeError, match="no statistics"):
        IMAGES.digests()


def test_broken_images_are_skipped_or_stop() -> None:
    reader = ArrayReader(PIXELS, broken=(0, 64, 129))
    images = decoded_once(reader, skip=True)
    np.testing.assert_array_equal(images, np.delete(PIXELS, (0, 64, 129), axis=0))
    want = channel_statistics(np.delete(PIXELS, (0, 64, 129), axis=0))
    assert channel_statistics(images) == want
    with pytest.raises(DataError, match="image 0 is broken"):
        decoded_once(reader)


def test_progress_is_reported() -> None:
    done: list[int] = []
    found = compute_statistics(ArrayReader(PIXELS), skip=False, workers=1, progress=done.append)
    assert done == [64, 128, 130]
    assert len(statistics_of(found).digests) == 130
