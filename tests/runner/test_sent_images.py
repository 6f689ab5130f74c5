"""Images that the driver sends: equal to the last byte, verified, kept, and refused if large."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnbench.data.adjustments import NONE
from cnnbench.data.catalog import EMBEDDED
from cnnbench.data.dataset import Dataset, dataset_digest, load_dataset
from cnnbench.data.splits import RandomSplit
from cnnbench.errors import DataError
from cnnbench.runner import sent_images
from cnnbench.runner.sent_images import kept, packed, received, without_images


def of(split: RandomSplit | None) -> Dataset:
    return load_dataset(EMBEDDED, train_examples=40, split=split, notify=pytest.fail)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "split", [None, RandomSplit(0.1), RandomSplit(0.1, by_seed=True), RandomSplit(folds=5)]
)
def test_received_images_are_those_of_the_driver(
    split: RandomSplit | None, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, asked, told = of(split), list[str](), list[str]()

    def fetch(name: str) -> bytes:
        asked.append(name)
        return packed(sent)

    monkeypatch.setattr(sent_images, "fetch", fetch)
    rest = without_images(sent)
    assert len(rest) < 20_000
    assert kept(rest, sent.digest, told.append) is None
    for _ in range(2):  # the second comes from the cache
        found = received(rest, sent.digest, told.append, own=False)
        assert found
        assert dataset_digest(found, own=False) == found.digest == sent.digest
        assert (found.info, found.random, found.drawn) == (sent.info, sent.random, NONE)
        for seed in (0, 3):
            mine, theirs = found.of_seed(seed), sent.of_seed(seed)
            for name in ("train", "validation", "test"):
                for part in ("images", "labels"):
                    one, other = (getattr(getattr(d, name), part) for d in (mine, theirs))
                    np.testing.assert_array_equal(one, other)
                    assert one.dtype == other.dtype
    assert asked == [sent.digest]
    (text,) = told
    assert text.startswith(f"a machine without '{EMBEDDED}' got its images from this one (")
    assert list(cache.glob("datasets/sent-*.safetensors"))


def test_other_or_damaged_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, rest = of(None), without_images(of(None))
    for content, message in [
        (packed(of(RandomSplit(0.1))), "the images from the driver are not those of the run; "),
        (packed(sent)[:-1] + b"?", "the images from the driver: the SHA-256 does not match; "),
    ]:
        monkeypatch.setattr(sent_images, "fetch", lambda _, content=content: content)
        with pytest.raises(DataError) as caught:
            received(rest, sent.digest, pytest.fail, own=False)
        assert str(caught.value).startswith(message)
        assert kept(rest, sent.digest, pytest.fail) is None


def test_nobody_offers_images_outside_of_workers() -> None:
    sent: Any = of(None)
    assert received(without_images(sent), sent.digest, pytest.fail, own=False) is None


def test_large_images_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent_images, "MOST_SENT", 2**20)
    with pytest.raises(DataError) as caught:
        packed(load_dataset(EMBEDDED, notify=pytest.fail))
    assert str(caught.value) == (
        "a machine does not have the 3.76 MiB of images, and only images in memory, of up to 1 MiB,"
        " are sent; copy them to the same path on all machines, or use a shared folder"
    )
