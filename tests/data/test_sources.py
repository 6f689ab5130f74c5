import gzip
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from cnnbench.data.catalog import describe, has_tensorflow
from cnnbench.data.dataset import Dataset, load_dataset
from cnnbench.data.published.idx import decode_idx
from cnnbench.errors import DataError
from tests.support.servers import Quiet, serving
from tests.support.tinysets import (
    FILENAMES,
    checksum_text,
    looked,
    prepare_array_records,
    register,
    tiny,
    write_idx_files,
)

MNIST_DIR = os.environ.get("CNNBENCH_TEST_MNIST")
without_tensorflow = pytest.mark.skipif(has_tensorflow(), reason="TensorFlow is installed here")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class _Broken(Quiet):
    def do_HEAD(self) -> None:  # noqa: N802 - named by the base class
        self.send_error(503)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of a tiny MNIST, on a server on this machine."""
    folder = tmp_path / "served"
    write_idx_files(folder)
    with serving(folder) as base:
        register(monkeypatch, checksum_text(folder, base))
        yield folder


def _load(name: str, data_dir: Path, **kwargs: Any) -> Dataset:
    defaults = {"offline": None, "splits": None, "train_examples": None, "notify": pytest.fail}
    return load_dataset(name, data_dir=data_dir, **{**defaults, **kwargs})


def _is_tiny(data: Dataset) -> bool:
    raw = tiny()
    return (
        data.train.images.tobytes() + data.validation.images.tobytes() == raw.train_images.tobytes()
        and [*data.train.labels, *data.validation.labels] == list(raw.train_labels)
        and data.test.images.tobytes() == raw.test_images.tobytes()
        and list(data.test.labels) == list(raw.test_labels)
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _forget(tmp_path: Path) -> None:
    (path,) = (tmp_path / "cache" / "datasets").glob("*.safetensors")
    path.unlink()


def test_downloads_then_needs_no_network(
    served: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], request: Any
) -> None:
    data_dir, notes = tmp_path / "sets", list[str]()
    first = _load("mnist", data_dir, notify=notes.append)
    assert notes == [f"Downloading 4 files of 'mnist' (55.3 KiB) to {data_dir / 'downloads'}."]
    downloads = f"IDX files downloaded to {data_dir / 'downloads'}"
    assert first.source == downloads
    assert _is_tiny(first)
    _forget(tmp_path)
    request.getfixturevalue("no_network")
    again = _load("mnist", data_dir)
    assert again.digest == first.digest
    assert capfd.readouterr() == ("", "")


def test_a_damaged_earlier_download_is_an_error(served: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "sets"
    _load("mnist", data_dir, notify=lambda _: None)
    _forget(tmp_path)
    (path,) = data_dir.glob("downloads/mnist/*train-labels*.gz")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError) as caught:
        _load("mnist", data_dir, offline="mnist_5k")
    assert str(caught.value) == (
        f"{path}: not the published file of dataset 'mnist' (expected SHA-256 "
        f"{_sha256(served / FILENAMES[1])}, found {_sha256(path)}); "
        "remove it or replace it with the right file"
    )


def test_a_download_of_another_file_is_an_error(served: Path, tmp_path: Path) -> None:
    expected = _sha256(served / FILENAMES[3])
    other = bytes((served / FILENAMES[3]).stat().st_size)  # another size counts as no network
    (served / FILENAMES[3]).write_bytes(other)
    with pytest.raises(DataError) as caught:
        _load("mnist", tmp_path / "sets", offline="mnist_5k", notify=lambda _: None)
    place, _, message = str(caught.value).partition(": ")
    assert place.endswith(f"/{FILENAMES[3]}")
    assert message == (
        f"not the published file of dataset 'mnist' (expected SHA-256 {expected}, "
        f"found {hashlib.sha256(other).hexdigest()}); put the right file into"
        f" {tmp_path / 'sets'}, or set CNNBENCH_MIRROR to another server"
    )


def test_a_file_missing_on_the_server_uses_the_fallback(served: Path, tmp_path: Path) -> None:
    (served / FILENAMES[0]).unlink()
    notes: list[str] = []
    data = _load("mnist", tmp_path / "sets", offline="mnist_5k", notify=notes.append)
    assert data.stand_in_for == "mnist"
    assert notes[-1] == (
        "Dataset 'mnist' is not available locally and cannot be downloaded "
        "(127.0.0.1: HTTP status 404); using 'mnist_5k' instead. "
        + looked(tmp_path / "sets", "contains downloads/.")
    )


def test_a_server_at_fault_counts_as_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx_files(tmp_path / "served")
    with serving(tmp_path / "served", _Broken) as base:
        register(monkeypatch, checksum_text(tmp_path / "served", base))
        with pytest.raises(DataError) as caught:
            _load("mnist", tmp_path / "sets")
    assert str(caught.value) == (
        "dataset 'mnist' is not available locally and cannot be downloaded (127.0.0.1: HTTP status "
        f"503). {looked(tmp_path / 'sets', 'does not exist')}; put the files there, pass "
        "their folder with --data-dir, or use --dataset mnist_5k"
    )


def test_a_server_that_never_answers_is_not_waited_for(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = threading.Event()

    def never(*_: object, **__: object) -> None:
        hang.wait(60)
        raise requests.ConnectionError("too late")

    monkeypatch.setattr("cnnbench.data.published.downloads.ANSWER_LIMIT_S", 0.1)
    monkeypatch.setattr(requests.Session, "request", never)
    notes: list[str] = []
    data = _load("mnist", tmp_path / "sets", offline="mnist_5k", notify=notes.append)
    hang.set()
    assert data.stand_in_for == "mnist"
    assert notes == [
        "Dataset 'mnist' is not available locally and cannot be downloaded (127.0.0.1: no answer "
        "within 0.1 s); using 'mnist_5k' instead. " + looked(tmp_path / "sets", "does not exist.")
    ]


def test_a_folder_that_cannot_hold_downloads(served: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as caught:
        _load("mnist", tmp_path / "file", notify=lambda _: None)
    assert str(caught.value) == (
        f"{tmp_path / 'file' / 'downloads'}: Not a directory; "
        "choose another folder with --data-dir or TFDS_DATA_DIR"
    )


PLACES = [".", "downloads/manual", "manual", "mnist", "MNIST/raw", "raw"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.usefixtures("no_network")
def test_files_put_there_by_hand(place: str, served: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "sets"
    (data_dir / place).parent.mkdir(parents=True, exist_ok=True)
    if place == ".":
        data_dir = served
    else:
        (data_dir / place).symlink_to(served)
    data = _load("mnist", data_dir)
    assert data.source == f"IDX files in {data_dir / place}"
    assert _is_tiny(data)


def test_missing_manual_files_are_downloaded(served: Path, tmp_path: Path) -> None:
    data_dir, notes = tmp_path / "sets", list[str]()
    write_idx_files(data_dir)
    (data_dir / FILENAMES[2]).unlink()
    data = _load("mnist", data_dir, notify=notes.append)
    assert notes == [f"Downloading 1 file of 'mnist' (9.23 KiB) to {data_dir / 'downloads'}."]
    downloads = data_dir / "downloads"
    assert data.source == f"IDX files downloaded to {downloads}"
    assert _is_tiny(data)


@pytest.mark.parametrize("missing_too", [False, True])
@pytest.mark.usefixtures("no_network")
def test_a_wrong_file_is_an_error_whatever_else(
    missing_too: bool, served: Path, tmp_path: Path
) -> None:
    data_dir = tmp_path / "sets"
    write_idx_files(data_dir)
    expected, wrong = _sha256(data_dir / FILENAMES[1]), data_dir / FILENAMES[1]
    wrong.write_bytes(wrong.read_bytes()[:-9])
    if missing_too:
        (data_dir / FILENAMES[0]).unlink()
    with pytest.raises(DataError) as caught:
        _load("mnist", data_dir, offline="mnist_5k")
    assert str(caught.value) == (
        f"{wrong}: not the published file of dataset 'mnist' (expected SHA-256 {expected}, "
        f"found {_sha256(wrong)}); remove it or replace it with the right file"
    )
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


_REMEDY = "remove it or replace it with the right file"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a valid IDX file of labels or images"),
        (b"plain", "not a valid IDX file of labels or images"),
        (
            b"\x1f\x8b",
            "not a valid gzip file (Compressed file ended before the end-of-stream marker was "
            "reached)",
        ),
        (
            gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x07", mtime=0)[:-6],
            "not a valid gzip file (Compressed file ended before the end-of-stream marker was "
            "reached)",
        ),
        (
            gzip.compress(b"\0\0\x08\x01\0\0\0\x02\x07", mtime=0),
            "not a valid IDX file of labels or images",
        ),
        (
            gzip.compress(b"\0\0\x0d\x01\0\0\0\x01\x07", mtime=0),
            "not a valid IDX file of labels or images",
        ),
        (
            gzip.compress(b"\0\0\x08\x03\0\0\0\x01\x07", mtime=0),
            "not a valid IDX file of labels or images",
        ),
        (gzip.compress(b"\0\0\x08\xff", mtime=0), "not a valid IDX file of labels or images"),
    ],
)
def test_garbled_idx_files(content: bytes, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        decode_idx(content, "a.gz")
    assert str(caught.value) == f"a.gz: {reason}; {_REMEDY}"


@pytest.mark.usefixtures("no_network")
def test_prepared_data_of_the_users_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepare_array_records("tiny_gray", tmp_path)
    capfd.readouterr()
    info = describe("tiny_gray", tmp_path)
    assert (info.shape, info.num_classes) == ((28, 28, 1), 10)
    assert (info.num_train, info.num_test, info.title) == (60, 12, "Made by a test.")
    notes: list[str] = []
    data = _load("tiny_gray", tmp_path, notify=notes.append)
    assert notes == [f"Decoding 'tiny_gray' from {tmp_path / 'tiny_gray' / '3.0.1'}."]
    source = f"data prepared by tensorflow-datasets in {tmp_path / 'tiny_gray'}"
    assert data.source == source
    again = _load("tiny_gray", tmp_path)
    assert (again.source, again.digest) == (source, data.digest)
    assert capfd.readouterr() == ("", "")
    # tensorflow-datasets has shuffled it: the same examples in another order.
    raw = tiny()
    stored = np.concatenate([data.train.images, data.validation.images])
    labels = [*data.train.labels, *data.validation.labels]
    got = [(int(y), x.tobytes()) for x, y in zip(stored, labels, strict=True)]
    expected = [
        (int(y), x.tobytes()) for x, y in zip(raw.train_images, raw.train_labels, strict=True)
    ]
    assert got != expected
    assert sorted(got) == sorted(expected)


@pytest.mark.usefixtures("no_network")
def test_prepared_mnist_has_the_order_of_its_files(tmp_path: Path) -> None:
    prepare_array_records("mnist", tmp_path)
    assert _is_tiny(_load("mnist", tmp_path, notify=lambda _: None))


@pytest.mark.usefixtures("no_network")
def test_damaged_prepared_data_is_an_error(tmp_path: Path) -> None:
    prepare_array_records("mnist", tmp_path)
    folder = tmp_path / "mnist" / "3.0.1"
    (path,) = folder.glob("*test*")
    path.write_bytes(path.read_bytes()[:2_000])
    with pytest.raises(DataError) as caught:
        _load("mnist", tmp_path, offline="mnist_5k", notify=lambda _: None)
    assert str(caught.value).startswith(f"{folder}: the prepared data cannot be read (")
    assert str(caught.value).endswith("); remove that folder and prepare the dataset again")


@pytest.mark.usefixtures("no_network")
def test_no_flipped_byte_of_prepared_data_is_trained_on(tmp_path: Path) -> None:
    prepare_array_records("mnist", tmp_path)
    folder, told = tmp_path / "mnist" / "3.0.1", 0
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for at in np.linspace(0, len(content) - 1, 9).astype(int):
            path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
            try:
                assert _is_tiny(_load("mnist", tmp_path, notify=lambda _: None)), (path, at)
            except DataError as error:
                assert str(folder.parent) in str(error), (path, at)  # noqa: PT017 - either is fine
                told += 1
        path.write_bytes(content)
    assert told > 5  # the others are where no data is stored


def _counts(data: Dataset) -> tuple[int, ...]:
    return len(data.train), len(data.validation), len(data.test)


@pytest.mark.usefixtures("no_network")
def test_replaced_prepared_data_is_decoded_again(tmp_path: Path) -> None:
    """Same folder, same name: 150 images, then 300, then others of the same sizes and dates."""
    found = []
    for number, raw in enumerate((tiny(150), tiny(300), tiny(300, seed=8))):
        shutil.rmtree(tmp_path / "tiny_gray", ignore_errors=True)
        prepare_array_records("tiny_gray", tmp_path, raw)
        for file in tmp_path.glob("tiny_gray/*/*"):
            os.utime(file, (1_700_000_000, 1_700_000_000))
        data = _load("tiny_gray", tmp_path, notify=lambda _: None)
        stored = np.concatenate([data.train.images, data.validation.images])
        assert sorted(map(bytes, stored)) == sorted(map(bytes, raw.train_images)), number
        found.append((_counts(data), data.digest))
    assert [counts for counts, _ in found] == [(125, 25, 12), (250, 50, 12), (250, 50, 12)]
    assert len({digest for _, digest in found}) == 3


@pytest.mark.usefixtures("no_network")
def test_a_set_of_the_same_name_in_another_folder_is_another_one(tmp_path: Path) -> None:
    for number in (60, 90, 60):
        folder = tmp_path / str(number)
        if not folder.exists():
            prepare_array_records("tiny_gray", folder, tiny(number))
        data = _load("tiny_gray", folder, notify=lambda _: None)
        assert len(data.train) + len(data.validation) == number
        assert data.source.startswith(
            f"data prepared by tensorflow-datasets in {folder / 'tiny_gray'}"
        )
    with pytest.raises(DataError, match=r"^unknown dataset 'tiny_gray'"):
        _load("tiny_gray", tmp_path / "nothing")


@pytest.mark.usefixtures("no_network")
def test_prepared_data_of_a_known_name_is_not_the_published_set(
    served: Path, tmp_path: Path
) -> None:
    """Nor the other way round: each folder gives its own images."""
    prepare_array_records("mnist", tmp_path / "own", tiny(90))
    for _ in range(2):
        assert _is_tiny(_load("mnist", served))
        own = _load("mnist", tmp_path / "own", notify=lambda _: None)
        assert len(own.train) + len(own.validation) == 90


def test_a_name_too_long_for_a_folder_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^unknown dataset 'a{400}'"):
        _load("a" * 400, tmp_path)


def test_an_unreadable_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    prepare_array_records("tiny_gray", tmp_path)
    monkeypatch.setattr(Path, "iterdir", refuse)
    message = (
        rf"^{tmp_path}/tiny_gray: cannot be read \(permission denied\); check its permissions$"
    )
    with pytest.raises(DataError, match=message):
        _load("tiny_gray", tmp_path)


def _spelled(filename: str, spelling: str) -> str:
    stem = filename.removesuffix(".gz")
    return {"plain": stem, "dotted": stem.replace("-idx", ".idx")}[spelling]


@pytest.fixture
def raw_sums(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SHA-256 of the tiny files, uncompressed."""
    sums = {
        _sha256(served / name): hashlib.sha256(
            gzip.decompress((served / name).read_bytes())
        ).hexdigest()
        for name in FILENAMES
    }
    monkeypatch.setattr("cnnbench.data.published.idx.UNCOMPRESSED", sums)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("spelling", ["plain", "dotted"])
@pytest.mark.usefixtures("no_network", "raw_sums")
def test_uncompressed_files(spelling: str, place: str, served: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sets" / place
    folder.mkdir(parents=True)
    for name in FILENAMES:
        content = gzip.decompress((served / name).read_bytes())
        (folder / _spelled(name, spelling)).write_bytes(content)
    for _ in range(2):  # from the cache, the second time
        data = _load("mnist", tmp_path / "sets")
        assert data.source == f"IDX files in {folder}"
        assert _is_tiny(data)


@pytest.mark.usefixtures("no_network", "raw_sums")
def test_an_uncompressed_file_of_another_set_is_refused(served: Path, tmp_path: Path) -> None:
    """Also where the cache has the right images."""
    _load("mnist", served)
    for name in FILENAMES:
        content = gzip.decompress((served / name).read_bytes())
        (tmp_path / name.removesuffix(".gz")).write_bytes(content)
    wrong = tmp_path / "t10k-labels-idx1-ubyte"
    expected, content = _sha256(wrong), wrong.read_bytes()
    wrong.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError) as caught:
        _load("mnist", tmp_path, offline="mnist_5k")
    assert str(caught.value) == (
        f"{wrong}: not the published file of dataset 'mnist' (expected SHA-256 {expected}, "
        f"found {_sha256(wrong)}); remove it or replace it with the right file"
    )


UNVERIFIED = " (uncompressed, with unknown SHA-256; only sizes were checked)"


@pytest.fixture
def unregistered(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tiny files uncompressed, of which no SHA-256 is known."""
    info = replace(describe("mnist"), num_train=60, num_test=12)
    monkeypatch.setattr("cnnbench.data.published.idx.describe", lambda _: info)
    folder = tmp_path / "sets"
    folder.mkdir()
    for name in FILENAMES:
        content = gzip.decompress((served / name).read_bytes())
        (folder / name.removesuffix(".gz")).write_bytes(content)
    return folder


@pytest.mark.usefixtures("no_network")
def test_uncompressed_files_of_no_known_digest_are_held_against_their_sizes(
    unregistered: Path, served: Path
) -> None:
    """Uncompressed files such as those of KMNIST; the published set has another cache key."""
    published = _load("mnist", served)
    for _ in range(2):  # from the cache, the second time
        data = _load("mnist", unregistered)
        assert data.source == f"IDX files in {unregistered}{UNVERIFIED}"
        assert _is_tiny(data)
        assert data.digest == published.digest
    images = unregistered / "t10k-images-idx3-ubyte"
    content = images.read_bytes()
    images.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    other = _load("mnist", unregistered)
    assert other.digest != data.digest
    assert other.test.images[-1, -1, -1, 0] == data.test.images[-1, -1, -1, 0] ^ 1
    images.write_bytes(content)
    assert _load("mnist", unregistered).digest == published.digest
    assert _load("mnist", served).source == f"IDX files in {served}"


@pytest.mark.usefixtures("no_network")
def test_decoding_is_done_once_for_uncompressed_files(
    unregistered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _load("mnist", unregistered)
    monkeypatch.setattr("cnnbench.data.dataset.load_idx_dataset", pytest.fail)
    assert _is_tiny(_load("mnist", unregistered))


def _idx(*shape: int, value: int = 0) -> bytes:
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    return header + np.full(shape, value, np.uint8).tobytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "train-images-idx3-ubyte",
            _idx(59, 28, 28),
            "has 59x28x28 values, but the file of 'mnist' has 60x28x28",
        ),
        (
            "t10k-images-idx3-ubyte",
            _idx(12, 28, 27),
            "has 12x28x27 values, but the file of 'mnist' has 12x28x28",
        ),
        ("train-labels-idx1-ubyte", _idx(12), "has 12 values, but the file of 'mnist' has 60"),
        (
            "t10k-labels-idx1-ubyte",
            _idx(12, value=10),
            "has label 10, but labels of 'mnist' are 0 to 9",
        ),
        ("t10k-labels-idx1-ubyte", b"<html>", "not a valid IDX file of labels or images"),
    ],
)
@pytest.mark.usefixtures("no_network")
def test_uncompressed_files_that_are_not_those_of_the_set(
    name: str, content: bytes, message: str, unregistered: Path
) -> None:
    wrong = unregistered / name
    wrong.write_bytes(content)
    with pytest.raises(DataError) as caught:
        _load("mnist", unregistered, offline="mnist_5k")
    remedy = "remove it or replace it with the right file"
    assert str(caught.value) == f"{wrong}: {message}; {remedy}"


@pytest.mark.usefixtures("no_network")
def test_uncompressed_files_of_another_known_dataset_are_rejected(
    unregistered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MNIST's are of the same sizes as KMNIST's."""
    wrong = unregistered / "train-labels-idx1-ubyte"
    monkeypatch.setattr("cnnbench.data.published.idx.UNCOMPRESSED", {"f" * 64: _sha256(wrong)})
    with pytest.raises(DataError) as caught:
        _load("mnist", unregistered)
    assert str(caught.value) == (
        f"{wrong}: this file belongs to a dataset other than 'mnist' (SHA-256"
        f" {_sha256(wrong)}); remove it or"
        " replace it with the right file"
    )


@pytest.mark.usefixtures("no_network")
def test_a_compressed_file_has_its_registered_digest_or_is_refused(unregistered: Path) -> None:
    wrong = unregistered / "train-labels-idx1-ubyte"
    wrong.write_bytes(gzip.compress(wrong.read_bytes(), 1))
    with pytest.raises(DataError, match=rf"^{wrong}: not the published file of dataset 'mnist'"):
        _load("mnist", unregistered)


@pytest.mark.usefixtures("no_network")
def test_a_wrong_file_is_not_passed_over_for_the_cache(served: Path, tmp_path: Path) -> None:
    _load("mnist", served)
    write_idx_files(tmp_path / "sets")
    wrong = tmp_path / "sets" / FILENAMES[1]
    wrong.write_bytes(wrong.read_bytes()[:-9])
    with pytest.raises(DataError, match=rf"^{wrong}: not the published file of dataset 'mnist'"):
        _load("mnist", tmp_path / "sets")


@pytest.mark.usefixtures("no_network")
def test_the_cache_serves_a_known_dataset_with_a_note(served: Path, tmp_path: Path) -> None:
    _load("mnist", served)
    notes: list[str] = []
    data = _load("mnist", tmp_path / "empty", notify=notes.append)
    assert _is_tiny(data)
    assert data.source == f"the cache (decoded from IDX files in {served})"
    assert notes == [
        f"{tmp_path}/empty contains no files of 'mnist'; using images from the cache (decoded from "
        f"IDX files in {served})."
    ]


@pytest.mark.usefixtures("no_network")
def test_the_cache_serves_for_files_that_are_missing(served: Path, tmp_path: Path) -> None:
    _load("mnist", served)
    write_idx_files(tmp_path)
    (tmp_path / FILENAMES[0]).unlink()
    notes: list[str] = []
    assert _is_tiny(_load("mnist", tmp_path, notify=notes.append))
    assert notes == [
        f"{tmp_path} contains only 3 of the 4 files of 'mnist'; using images from the cache"
        f" (decoded from IDX files in {served})."
    ]


@pytest.mark.usefixtures("no_network")
def test_some_files_are_missing(served: Path, tmp_path: Path) -> None:
    sets = tmp_path / "sets"
    write_idx_files(sets)
    (sets / FILENAMES[2]).rename(sets / "t10k.gz")
    for number in range(4):
        (sets / f"other{number}").mkdir()
    with pytest.raises(DataError) as caught:
        _load("mnist", sets)
    reason = "127.0.0.1: no connection"
    holds = "contains other0/, other1/, other2/, other3/, t10k-labels-idx1-ubyte.gz and 3 more"
    assert str(caught.value) == (
        f"dataset 'mnist' is not available locally and cannot be downloaded ({reason}). "
        f"{looked(sets, holds, 't10k-images-idx3-ubyte')}; put the files there, pass their "
        "folder with --data-dir, or use --dataset mnist_5k"
    )


@pytest.mark.skipif(not MNIST_DIR, reason="CNNBENCH_TEST_MNIST names no folder with full MNIST")
@pytest.mark.usefixtures("no_network")
def test_full_mnist_uncompressed(tmp_path: Path) -> None:
    assert MNIST_DIR
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for name in FILENAMES:
        content = gzip.decompress((Path(MNIST_DIR) / name).read_bytes())
        (tmp_path / "MNIST" / "raw" / name.removesuffix(".gz")).write_bytes(content)
    data = _load("mnist", tmp_path)
    assert data.source == f"IDX files in {tmp_path / 'MNIST' / 'raw'}"
    assert data.digest == _load("mnist", Path(MNIST_DIR)).digest


def _call_it_tfrecord(folder: Path) -> None:
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    assert info["fileFormat"] == "array_record"
    path.write_text(json.dumps({**info, "fileFormat": "tfrecord"}))


@without_tensorflow
@pytest.mark.usefixtures("no_network")
def test_tfrecord_data_asks_for_tensorflow(tmp_path: Path) -> None:
    prepare_array_records("tiny_gray", tmp_path)
    folder = tmp_path / "tiny_gray" / "3.0.1"
    _call_it_tfrecord(folder)
    with pytest.raises(DataError) as caught:
        _load("tiny_gray", tmp_path, offline="mnist_5k")
    assert str(caught.value) == (
        f"{folder}: reading TFRecord data requires TensorFlow; pip install 'cnnbench[tensorflow]'"
    )


@without_tensorflow
def test_tfrecord_mnist_is_read_from_its_files_instead(served: Path, tmp_path: Path) -> None:
    data_dir, notes = tmp_path / "sets", list[str]()
    prepare_array_records("mnist", data_dir)
    _call_it_tfrecord(data_dir / "mnist" / "3.0.1")
    write_idx_files(data_dir)
    assert _is_tiny(_load("mnist", data_dir, notify=notes.append))
    assert notes == [
        f"{data_dir / 'mnist' / '3.0.1'}: reading TFRecord data requires TensorFlow; "
        "looking for the original files of 'mnist'."
    ]


@without_tensorflow
def test_the_rest_of_the_catalogue_asks_for_tensorflow(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        _load("cmaterdb", tmp_path, offline="mnist_5k")
    assert str(caught.value) == (
        f"dataset 'cmaterdb' is not prepared in {tmp_path}, and preparing it requires TensorFlow; "
        "pip install 'cnnbench[tensorflow]'"
    )
