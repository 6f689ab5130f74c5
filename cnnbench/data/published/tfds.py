"""Reads and prepares datasets with tensorflow-datasets."""

import errno
import itertools
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from cnnbench.data.catalog import (
    TENSORFLOW_EXTRA,
    DatasetInfo,
    has_tensorflow,
    open_builder,
    private_api,
    quiet,
    supervised_keys,
)
from cnnbench.data.file_digests import digest_of
from cnnbench.data.published.downloads import (
    fetched_path,
    manual_dirs,
    manual_path,
    registered_files,
    require_network,
    translated_errors,
    verify_file,
)
from cnnbench.data.published.idx import IDX_DATASETS
from cnnbench.data.published.readers.emnist import as_read
from cnnbench.data.published.sources import SOURCES
from cnnbench.data.resizing import require_memory, resized_image
from cnnbench.errors import DataError, or_list
from cnnbench.formatting import reason
from cnnbench.system.arrays import NamedArrays
from cnnbench.system.cache import CacheEntry

_DESCRIPTION = "dataset_info.json"


def prepared_key(info: DatasetInfo, data_dir: Path) -> str | None:
    """Cache key of the prepared files of a dataset; None if it is not prepared.

    Hashes all files, which is faster than reading the decoded images, and does not import
    tensorflow-datasets.

    Args:
      info: the dataset.
      data_dir: folder that contains ``NAME/VERSION/`` or ``NAME/CONFIG/VERSION/``.

    Raises:
      DataError: a file cannot be read.
    """
    name, above = info.name, data_dir / info.name
    if info.form and name in SOURCES:
        return None  # its archives are read instead
    try:
        descriptions = [*above.glob(f"*/{_DESCRIPTION}"), *above.glob(f"*/*/{_DESCRIPTION}")]
        files = sorted(f for each in descriptions for f in each.parent.iterdir() if f.is_file())
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise DataError(
            f"{above}: cannot be read ({reason(error)}); check its permissions"
        ) from error
    if not files:
        return None
    digest = sha256()
    for file in files:
        digest.update(f"{file.relative_to(above)} {digest_of(file)}\n".encode())
    how = "prepared, in the order of its files" if name in SOURCES else "prepared"
    form = f" as {info.form}" if info.form else ""
    return f"{name} {how} {digest.hexdigest()}{form}"


def prepared_source(name: str, data_dir: Path) -> str:
    """Description of the source of the images."""
    return f"data prepared by tensorflow-datasets in {data_dir.absolute() / name}"


def read_prepared(
    info: DatasetInfo, data_dir: Path, notify: Callable[[str], None]
) -> CacheEntry | None:
    """Reads a dataset that is prepared in `data_dir`.

    ArrayRecord data is read without TensorFlow, TFRecord data with it. Images are in the order of
    tensorflow-datasets, except for the datasets that cnnbench also reads without it, which are
    restored to the order of their original files, so that splits do not depend on the source.

    Returns:
      Images, uint8 ``(n, height, width, channels)``, and labels, int32 ``(n,)``; None if not
      prepared, or if such a dataset is prepared as TFRecord but TensorFlow is not installed.

    Raises:
      DataError: no train or test split, or the data cannot be read.
    """
    name = info.name
    builder = open_builder(name, data_dir)
    with quiet():
        if not builder.is_prepared():
            return None
    if not (_is_array_record(builder) or has_tensorflow()):
        reason = f"{builder.data_dir}: reading TFRecord data requires TensorFlow"
        if name not in IDX_DATASETS and name not in SOURCES:
            raise DataError(f"{reason}; {TENSORFLOW_EXTRA}")
        notify(f"{reason}; looking for the original files of '{name}'.")
        return None
    if not {"train", "test"} <= set(builder.info.splits):
        raise DataError(
            f"dataset '{name}' has no train and test splits, only "
            f"{or_list(map(repr, builder.info.splits))}; choose another dataset"
        )
    key = prepared_key(info, data_dir)  # before reading, as the files may be replaced meanwhile
    notify(f"Decoding '{name}' from {builder.data_dir}.")
    arrays: dict[str, Any] = {}
    for split in ("train", "test"):
        arrays |= _read_split(info, builder, split)
    return CacheEntry(arrays, prepared_source(name, data_dir), key or "")


def prepare_with_tensorflow(
    info: DatasetInfo, data_dir: Path, notify: Callable[[str], None]
) -> CacheEntry:
    """Downloads and prepares a dataset with tensorflow-datasets, and reads it.

    Raises:
      UnavailableError: no network, or a server does not provide a file.
      DataError: TensorFlow is not installed, or a file has the wrong SHA-256.
    """
    name = info.name
    if not has_tensorflow():
        raise DataError(
            f"dataset '{name}' is not prepared in {data_dir}, and preparing it requires "
            f"TensorFlow; {TENSORFLOW_EXTRA}"
        )
    builder = open_builder(name, data_dir, file_format="array_record")
    supervised_keys(name, builder)
    files = registered_files(builder)
    paths = {f: manual_path(f, data_dir) or fetched_path(f, name, data_dir) for f in files}
    for file, path in paths.items():
        if path:
            verify_file(path, file, name)
    if files and not any(paths.values()):
        require_network(name, files[0].url)
    notify(f"Downloading and preparing '{name}' in {data_dir}; this can take minutes.")
    _download_and_prepare(name, builder, data_dir)
    entry = read_prepared(info, data_dir, notify)
    if entry is None:
        raise DataError(f"{builder.data_dir}: prepared, but not found; try another --data-dir")
    return entry


def _download_and_prepare(name: str, builder: Any, data_dir: Path) -> None:
    import tensorflow_datasets as tfds

    filenames = {file.filename for file in registered_files(builder)}
    manual = [
        folder
        for folder in manual_dirs(data_dir)
        if any((folder / filename).is_file() for filename in filenames)
    ]
    config = tfds.download.DownloadConfig(
        manual_dir=manual[0] if manual else data_dir / "downloads" / "manual",
        try_download_gcs=False,
    )
    with quiet(), translated_errors(name):
        try:
            builder.download_and_prepare(download_config=config)
        except AssertionError as error:
            # Raised by tensorflow-datasets if files must be downloaded manually.
            raise DataError(f"dataset '{name}': {error}") from error


def _is_array_record(builder: Any) -> bool:
    return any(each.value == "array_record" for each in builder.info.available_file_formats())


def _read_split(info: DatasetInfo, builder: Any, split: str) -> NamedArrays:
    num = builder.info.splits[split].num_examples
    require_memory(num, info.shape)
    images = np.empty((num, *info.shape), np.uint8)
    labels = np.empty(num, np.int32)
    image_key, label_key = supervised_keys(info.name, builder)
    known = info.name in IDX_DATASETS or info.name in SOURCES
    order = _file_order(num, split) if known else range(num)
    try:
        with quiet():
            for at, row in zip(order, _rows(builder, split), strict=True):
                image = row[image_key]
                images[at] = resized_image(image, info.shape[:2], info.form) if info.form else image
                labels[at] = row[label_key]
    except (RuntimeError, ValueError, OSError) as error:
        raise DataError(
            f"{builder.data_dir}: the prepared data cannot be read ({reason(error)}); "
            "remove that folder and prepare the dataset again"
        ) from error
    if num and not 0 <= labels.min() <= labels.max() < info.num_classes:
        raise DataError(
            f"dataset '{info.name}' has images without a class in its '{split}' split; "
            "choose another dataset"
        )
    if info.name.partition("/")[0] == "emnist":
        images, labels = as_read(images, labels, info.name)
    return {f"{split}_images": images, f"{split}_labels": labels}


def _rows(builder: Any, split: str) -> Iterable[Any]:
    if _is_array_record(builder):
        source, step = builder.as_data_source(split), 1_000
        # Reading in batches is six times faster per example.
        batches = (range(at, min(at + step, len(source))) for at in range(0, len(source), step))
        return itertools.chain.from_iterable(map(source.__getitems__, batches))
    import tensorflow_datasets as tfds

    # Read files sequentially; TensorFlow interleaves them by default.
    one_by_one = tfds.ReadConfig(interleave_cycle_length=1)
    records: Iterable[Any] = tfds.as_numpy(builder.as_dataset(split, read_config=one_by_one))
    return records


def _file_order(num: int, split: str) -> Sequence[int]:
    """Index in the IDX file of each stored example.

    tensorflow-datasets sorts examples by the hash of their key, which for these datasets is the
    index in the file.
    """
    return sorted(range(num), key=private_api("hashing", "Hasher")(split).hash_key)
