"""Reads published datasets in their original files, or as other programs left them on the disk.

Archives are read in memory and never extracted. Pickles are read without calling anything that they
name.
"""

import io
import os
import pickle
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np

from cnnbench.data.catalog import KNOWN, DatasetInfo, describe
from cnnbench.data.published.downloads import (
    REMEDY,
    RegisteredFile,
    UnavailableError,
    fetch,
    fetched_path,
    manual_dirs,
    published_files,
    verify_file,
)
from cnnbench.data.published.idx import FILENAMES, decode_idx
from cnnbench.errors import DataError, Notify, or_list
from cnnbench.formatting import enumeration
from cnnbench.system.arrays import Array, NamedArrays, Pixels
from cnnbench.system.cache import CacheEntry
from cnnbench.system.files import expand_home

# Reads files, in the order of `Source.files`: images, uint8 ``(n, height, width, channels)``, and
# labels, int32 ``(n,)``, by split.
Reader = Callable[[Sequence[Path], DatasetInfo], NamedArrays]

_DOCUMENTS = 2**20  # bytes of an archive that are not images
_MOST_PER_PIXEL = 1.25  # bytes of an archive, including labels and file names
_DAMAGED = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError)
_NOT_A_PICKLE = (
    *(pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, LookupError, MemoryError),
    *(TypeError, ValueError),
)


@dataclass(frozen=True, slots=True)
class Source:
    """One form in which a dataset is published.

    Args:
      files: the files that make it up.
      read: reads them.
      folders: subfolders in which other programs put them.
    """

    files: tuple[RegisteredFile, ...]
    read: Reader
    folders: tuple[str, ...] = ()

    def key(self, name: str) -> str:
        """Cache key of a dataset, by the content of its files."""
        return " ".join([f"{name} of", *(file.checksum for file in self.files)])


@dataclass(frozen=True, slots=True)
class Found:
    """The verified files of a source on the disk, in the order of `source.files`."""

    name: str
    source: Source
    paths: tuple[Path, ...]

    @property
    def key(self) -> str:
        """Cache key of the dataset."""
        return self.source.key(self.name)

    @property
    def text(self) -> str:
        """One-line description of the source."""
        first = self.paths[0].absolute()
        return str(first) if len(self.paths) == 1 else f"{len(self.paths)} files in {first.parent}"

    def read(self) -> CacheEntry:
        """Reads the images and labels.

        Raises:
          DataError: the files are damaged or unsafe.
        """
        return CacheEntry(self.source.read(self.paths, describe(self.name)), self.text, self.key)


# Files on the disk


def cache_keys(name: str) -> tuple[str, ...]:
    """Cache keys of a dataset in any of its forms."""
    return tuple(source.key(name) for source in SOURCES[name]())


def find(name: str, data_dir: Path, notify: Notify) -> Found | None:
    """Finds the files of a dataset in the data folder, or in the caches of other programs.

    Raises:
      DataError: a file in the data folder has the wrong checksum.
    """
    sources = (SOURCES if name in SOURCES else COPIES)[name]()
    for source in sources:
        paths = _in_data_dir(source, name, data_dir)
        for file, path in paths.items():
            verify_file(path, file, name)
        if len(paths) == len(source.files):
            return Found(name, source, tuple(paths.values()))
    for source in sources:
        paths = _in_folders(source, cache_folders())
        if len(paths) == len(source.files) and _are_right(paths, name, notify):
            return Found(name, source, tuple(paths.values()))
    return None


def download(name: str, data_dir: Path, notify: Notify) -> Found:
    """Downloads the files of a dataset that are not in the data folder, which are verified.

    Raises:
      UnavailableError: no network, or no server provides a file.
      DataError: a file has the wrong checksum, or cannot be written.
    """
    source = SOURCES[name]()[0]
    paths = _in_data_dir(source, name, data_dir)
    missing = [file for file in source.files if file not in paths]
    try:
        got = fetch(name, missing, data_dir, notify)
    except UnavailableError as error:
        raise UnavailableError(str(error), _searched(name, data_dir)) from error
    return Found(name, source, tuple(paths.get(f) or got[f.filename] for f in source.files))


def cache_folders() -> tuple[Path, ...]:
    """Folders in the home directory where Keras and medmnist keep their downloads."""
    keras = Path(os.environ.get("KERAS_HOME") or expand_home(Path("~/.keras")))
    return keras / "datasets", expand_home(Path("~/.medmnist"))


def _in_data_dir(source: Source, name: str, data_dir: Path) -> dict[RegisteredFile, Path]:
    """Manually placed and downloaded files, not yet verified."""
    first, *others = manual_dirs(data_dir)
    found = _in_folders(source, (first, data_dir / name.partition("/")[0], *others))
    for file in source.files:
        if file not in found and (path := fetched_path(file, name, data_dir)):
            found[file] = path
    return {file: found[file] for file in source.files if file in found}


def _in_folders(source: Source, folders: Sequence[Path]) -> dict[RegisteredFile, Path]:
    # Names like `train` mean something only in the folders of the other programs.
    places = [folder / sub for folder in folders for sub in source.folders or [""]]
    candidates = {file: [place / file.filename for place in places] for file in source.files}
    found = {file: next(filter(Path.is_file, paths), None) for file, paths in candidates.items()}
    return {file: path for file, path in found.items() if path}


def _are_right(paths: Mapping[RegisteredFile, Path], name: str, notify: Notify) -> bool:
    """True if files in the cache of another program have the right checksums."""
    try:
        for file, path in paths.items():
            verify_file(path, file, name)
    except DataError as error:
        notify(f"{str(error).partition(' (expected')[0]}; ignoring it.")
        return False
    return True


def _searched(name: str, data_dir: Path) -> str:
    """Description of the searched folder, and of the names that would have been found."""
    forms = [
        f"{source.folders[0]}/"
        if source.folders and source.folders[0]
        else enumeration([f.filename for f in source.files])
        for source in SOURCES[name]()
    ]
    return f"Searched {data_dir} and its subfolders for {or_list(forms)}"


# Archives


def read_tar(path: Path, names: Sequence[str], limit: int) -> dict[str, bytes]:
    """Reads members of a gzipped tar archive in memory, without extracting it.

    Args:
      path: the archive.
      names: names of the members.
      limit: maximum total size of all members in bytes.

    Raises:
      DataError: not an archive, a member is missing or too large, or would leave its folder.
    """
    content: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in _safe_members(archive, path, limit):
                name = str(PurePosixPath(member.name))
                if name in names and (file := archive.extractfile(member)):
                    content[name] = file.read()
                if len(content) == len(set(names)):
                    break
    except _DAMAGED as error:
        raise DataError(f"{path}: is not a valid tar.gz archive ({error}); {REMEDY}") from error
    if missing := [name for name in names if name not in content]:
        raise DataError(f"{path}: has no member {enumeration(missing)}; {REMEDY}")
    return content


def _safe_members(archive: tarfile.TarFile, path: Path, limit: int) -> Iterator[tarfile.TarInfo]:
    total = 0
    for member in archive:
        require_inside(member.name, path)
        if not (member.isfile() or member.isdir()):
            raise DataError(f"{path}: member '{member.name}' is a link or device; {REMEDY}")
        total += member.size
        if total > limit:
            raise _too_large(path, member.name, limit)
        yield member


def require_inside(member: str, path: Path) -> None:
    """Raises DataError if extracting a member would write outside of the folder."""
    if PurePosixPath(member).is_absolute() or ".." in PurePosixPath(member).parts or "\\" in member:
        raise DataError(
            f"{path}: member '{member}' would be extracted outside the folder; {REMEDY}"
        )


def _too_large(path: Path, member: str, limit: int) -> DataError:
    return DataError(f"{path}: exceeds the expected {limit:,} bytes at member '{member}'; {REMEDY}")


def _limit(info: DatasetInfo) -> int:
    """Maximum size of a dataset in bytes, uncompressed."""
    pixels = ((info.num_train or 0) + (info.num_test or 0)) * int(np.prod(info.shape))
    return int(pixels * _MOST_PER_PIXEL) + _DOCUMENTS


# Pickles


class _Dtype:
    """Stands for a `numpy.dtype` in a pickle."""

    def __init__(self, code: object = "", *_: object) -> None:
        text = code.decode() if isinstance(code, bytes) else code
        if not isinstance(text, str) or not re.fullmatch("[biuf][1248]", text):
            raise pickle.UnpicklingError(f"array of type {text!r}")
        self.dtype: np.dtype[Any] = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for a `numpy.ndarray` in a pickle."""

    def __init__(self, *_: object) -> None:
        self.values: Array = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, content = state
        values = np.frombuffer(content, kind.dtype)
        self.values = values.reshape(shape, order="F" if is_fortran else "C")


class _Encode:
    """Stands for `_codecs.encode`, with which protocol 2 stores bytes."""

    def __new__(cls, text: str, encoding: str) -> Any:
        return text.encode("latin1" if encoding == "latin1" else "utf-8")

    def __setstate__(self, state: object) -> None:  # a pickle could set attributes without it
        raise pickle.UnpicklingError("state of a function")


_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_ADMITTED: Mapping[tuple[str, str], Any] = MappingProxyType(
    {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _Encode,
        **{(module, "_reconstruct"): _Array for module in _NUMPY},
    }
)


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ADMITTED:
            return _ADMITTED[module, name]
        raise pickle.UnpicklingError(f"refers to {module}.{name}")


def read_pickle(content: bytes, place: str) -> Mapping[str, Any]:
    """Reads a pickled dictionary of arrays, numbers, strings, bytes, lists and dictionaries.

    Nothing that the pickle names is imported or called.

    Args:
      content: content of the file.
      place: file name, for errors.

    Raises:
      DataError: not such a pickle.
    """
    try:
        found = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except _NOT_A_PICKLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        message = "is not a pickle of only NumPy arrays, strings, lists and dictionaries"
        raise DataError(f"{place}: {message} ({reason}); {REMEDY}") from error
    if not isinstance(found, dict):
        raise DataError(f"{place}: contains a {type(found).__name__}, not a dictionary; {REMEDY}")
    return {_text(key): value for key, value in found.items()}


def _text(value: object) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


# CIFAR


@dataclass(frozen=True, slots=True)
class _Cifar:
    """Names in the files of CIFAR.

    Args:
      binary: members of the binary archive, by split.
      pickles: pickled files by split, with their MD5 as in torchvision.
      folder: their folder.
      archive: the archive of the folder, with its SHA-256 as in Keras.
      labels: key of the labels in the pickles.
      label_bytes: bytes of labels before each image in the binary files; the last one is used.
    """

    binary: Mapping[str, Sequence[str]]
    pickles: Mapping[str, Mapping[str, str]]
    folder: str
    archive: RegisteredFile
    labels: str
    label_bytes: int


CIFAR: Mapping[str, _Cifar] = MappingProxyType(
    {
        "cifar10": _Cifar(
            {
                "train": [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)],
                "test": ["cifar-10-batches-bin/test_batch.bin"],
            },
            {
                "train": {
                    "data_batch_1": "c99cafc152244af753f735de768cd75f",
                    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                    "data_batch_4": "634d18415352ddfa80567beed471001a",
                    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
                },
                "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
            },
            "cifar-10-batches-py",
            RegisteredFile(
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                "cifar-10-python.tar.gz",
                "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            ),
            "labels",
            1,
        ),
        "cifar100": _Cifar(
            {"train": ["cifar-100-binary/train.bin"], "test": ["cifar-100-binary/test.bin"]},
            {
                "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
                "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
            },
            "cifar-100-python",
            RegisteredFile(
                "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                "cifar-100-python.tar.gz",
                "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            ),
            "fine_labels",
            2,
        ),
    }
)


def cifar_sources(name: str) -> tuple[Source, ...]:
    """The binary archive, then the pickles: extracted by torchvision or Keras, and archived."""
    form = CIFAR[name]
    (archive,) = published_files(name).values()
    batches = {file: md5 for each in form.pickles.values() for file, md5 in each.items()}
    return (
        Source((archive,), partial(_read_cifar_binary, form)),
        Source(
            tuple(RegisteredFile("", file, md5) for file, md5 in batches.items()),
            partial(_read_cifar_folder, form),
            (form.folder, f"{form.folder}-target/{form.folder}"),
        ),
        Source((form.archive,), partial(_read_cifar_pickles, form)),
    )


def _read_cifar_binary(form: _Cifar, paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    (path,) = paths
    content = read_tar(path, [name for each in form.binary.values() for name in each], _limit(info))
    return _joined(
        {
            split: [
                decode_cifar(content[name], form.label_bytes, f"{path}: {name}") for name in names
            ]
            for split, names in form.binary.items()
        },
        info,
        path,
    )


def _read_cifar_pickles(form: _Cifar, paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    (path,) = paths
    names = {
        split: [f"{form.folder}/{file}" for file in files] for split, files in form.pickles.items()
    }
    content = read_tar(path, [name for each in names.values() for name in each], _limit(info))
    return _joined(
        {
            split: [_unpickled_cifar(content[name], form, f"{path}: {name}") for name in each]
            for split, each in names.items()
        },
        info,
        path,
    )


def _read_cifar_folder(form: _Cifar, paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    by_name = {path.name: path for path in paths}
    return _joined(
        {
            split: [
                _unpickled_cifar(by_name[file].read_bytes(), form, str(by_name[file]))
                for file in files
            ]
            for split, files in form.pickles.items()
        },
        info,
        paths[0].parent,
    )


def decode_cifar(content: bytes, label_bytes: int, place: str) -> tuple[Pixels, Array]:
    """Decodes a binary file of CIFAR: rows of labels, then the planes of an image.

    Args:
      content: content of the file.
      label_bytes: labels per image: 1, or 2 for coarse and fine ones.
      place: file name, for errors.

    Returns:
      Images, uint8 ``(n, 32, 32, 3)``, and their last labels, uint8 ``(n,)``.

    Raises:
      DataError: not a multiple of the size of an image.
    """
    row = label_bytes + 3_072
    if not content or len(content) % row:
        raise DataError(f"{place}: has {len(content):,} bytes, not {row:,} per image; {REMEDY}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, row)
    return _from_planes(rows[:, label_bytes:]), rows[:, label_bytes - 1]


def _unpickled_cifar(content: bytes, form: _Cifar, place: str) -> tuple[Pixels, Array]:
    """Images and labels of a pickled batch, whose rows are the planes of an image."""
    batch = read_pickle(content, place)
    data, labels = batch.get("data"), batch.get(form.labels)
    rows: Array = data.values if isinstance(data, _Array) else np.zeros(0)
    is_list = isinstance(labels, list) and all(isinstance(label, int) for label in labels)
    if rows.dtype != np.uint8 or not is_list or rows.shape != (len(labels or ()), 3_072):
        message = f"has no 'data' with 3,072 bytes per image and matching '{form.labels}'"
        raise DataError(f"{place}: {message}; {REMEDY}")
    return _from_planes(rows), np.asarray(labels)


def _from_planes(rows: Pixels) -> Pixels:
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _joined(
    parts: Mapping[str, Sequence[tuple[Pixels, Array]]], info: DatasetInfo, path: Path
) -> NamedArrays:
    """Images and labels by split, from parts of each split."""
    arrays: dict[str, Array] = {}
    for split, each in parts.items():
        images, labels = zip(*each, strict=True)
        arrays[f"{split}_images"] = np.concatenate(images)
        arrays[f"{split}_labels"] = _classes(np.concatenate(labels), info, path)
    return arrays


def _classes(labels: Array, info: DatasetInfo, path: Path) -> Array:
    """Labels as int32.

    Raises:
      DataError: a label is not one of the classes.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < info.num_classes:
        wrong = int(labels.max()) if labels.max() >= info.num_classes else int(labels.min())
        message = f"has label {wrong}, but labels of '{info.name}' are 0 to {info.num_classes - 1}"
        raise DataError(f"{path}: {message}; {REMEDY}")
    return labels.astype(np.int32)


# SVHN


def svhn_sources() -> tuple[Source, ...]:
    """The MATLAB files for training and testing; that of extra images is not needed."""
    files = published_files("svhn_cropped")
    both = (files["train_32x32.mat"], files["test_32x32.mat"])
    return (Source(both, _read_svhn, ("", "SVHN", "svhn")),)


def _read_svhn(paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    arrays: dict[str, Array] = {}
    limits = (info.num_train or 0, info.num_test or 0)
    for split, path, limit in zip(("train", "test"), paths, limits, strict=True):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = read_svhn(path, limit)
    return arrays


def read_svhn(path: Path, limit: int) -> tuple[Pixels, Array]:
    """Reads a MATLAB file of SVHN, in which the label of the digit 0 is 10.

    Args:
      path: the file.
      limit: maximum number of images.

    Returns:
      Images, uint8 ``(n, 32, 32, 3)``, and labels, int32 ``(n,)``.

    Raises:
      DataError: not such a file, or it has too many images.
    """
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    damaged = (*_DAMAGED, MatReadError, TypeError, LookupError, NotImplementedError, MemoryError)
    try:
        shapes = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        (*image, num), kind = shapes["X"]
        if image != [32, 32, 3] or kind != "uint8" or shapes["y"][0] != (num, 1):
            raise ValueError("X does not contain a 32x32x3 uint8 image per label in y")
        if num > limit:
            raise _too_many(path, num, limit)
        content = loadmat(path, variable_names=("X", "y"))
    except damaged as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: is not a MATLAB file of SVHN ({reason}); {REMEDY}") from error
    labels = content["y"][:, 0]
    if not np.isin(labels, np.arange(1, 11)).all():
        raise DataError(f"{path}: has labels outside 1 to 10; {REMEDY}")
    return np.ascontiguousarray(np.moveaxis(content["X"], 3, 0)), (labels % 10).astype(np.int32)


def _too_many(path: Path, num: int, limit: int) -> DataError:
    return DataError(f"{path}: has {num:,} images, more than the {limit:,} expected; {REMEDY}")


# EMNIST

_IDX_HEADER = 16  # bytes, at most


def emnist_sources(name: str) -> tuple[Source, ...]:
    """The archive of all splits, also where torchvision puts it."""
    files = tuple(published_files("emnist").values())
    return (Source(files, partial(_read_emnist, name), ("", "EMNIST/raw")),)


def _read_emnist(name: str, paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    (path,) = paths
    arrays: dict[str, Array] = {}
    config = name.partition("/")[2] or "byclass"
    for split, num in (("train", info.num_train), ("test", info.num_test)):
        stem, limit = f"gzip/emnist-{config}-{split}", (num or 0) * 784 + _IDX_HEADER
        images, labels = (
            decode_idx(_gunzipped(read_zip(path, member, limit), path, member, limit), str(path))
            for member in (f"{stem}-images-idx3-ubyte.gz", f"{stem}-labels-idx1-ubyte.gz")
        )
        if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
            raise DataError(f"{path}: has no 28x28 images with one label each; {REMEDY}")
        pixels, classes = as_read(images[..., None], labels.astype(np.int32), name)
        arrays |= {f"{split}_images": pixels, f"{split}_labels": _classes(classes, info, path)}
    return arrays


def as_read(images: Pixels, labels: Array, name: str) -> tuple[Pixels, Array]:
    """Images of EMNIST as one reads them, which are stored transposed, and labels from 0.

    Args:
      images: ``(n, 28, 28, 1)``, as stored.
      labels: as stored; those of letters start at 1.
      name: name of the dataset.
    """
    upright = np.ascontiguousarray(images.swapaxes(1, 2))
    return upright, labels - 1 if name == "emnist/letters" else labels


def read_zip(path: Path, name: str, limit: int) -> bytes:
    """Reads a member of a zip archive in memory, without extracting it.

    Args:
      path: the archive.
      name: name of the member.
      limit: maximum size of the member in bytes.

    Raises:
      DataError: not an archive, a member would leave its folder, or is missing or too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                require_inside(member, path)
            if name not in archive.namelist():
                raise DataError(f"{path}: has no member {name}; {REMEDY}")
            if archive.getinfo(name).file_size > limit:
                raise _too_large(path, name, limit)
            return archive.read(name)
    except (*_DAMAGED, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: is not a valid zip archive ({error}); {REMEDY}") from error


def _gunzipped(content: bytes, path: Path, name: str, limit: int) -> bytes:
    """Decompresses a gzip file of at most `limit` bytes."""
    decompressor = zlib.decompressobj(wbits=31)
    try:
        found = decompressor.decompress(content, limit + 1)
    except zlib.error as error:
        raise DataError(f"{path}: member {name} is not a gzip file ({error}); {REMEDY}") from error
    if len(found) > limit:
        raise _too_large(path, name, limit)
    if not decompressor.eof:
        raise DataError(f"{path}: member {name} is truncated; {REMEDY}")
    return found


# MedMNIST: MD5 as in medmnist 3.0.2

MEDMNIST = MappingProxyType(
    {
        "pathmnist": "a8b06965200029087d5bd730944a56c1",
        "dermamnist": "0744692d530f8e62ec473284d019b0c7",
        "octmnist": "c68d92d5b585d8d81f7112f81e2d0842",
        "pneumoniamnist": "28209eda62fecd6e6a2d98b1501bb15f",
        "retinamnist": "bd4c0672f1bba3e3a89f0e4e876791e4",
        "breastmnist": "750601b1f35ba3300ea97c75c52ff8f6",
        "bloodmnist": "7053d0359d879ad8a5505303e11de1dc",
        "tissuemnist": "ebe78ee8b05294063de985d821c1c34b",
        "organamnist": "68e3f8846a6bd62f0c9bf841c0d9eacc",
        "organcmnist": "b9ceb9546e10131b32923c5bbeaea2b1",
        "organsmnist": "9ab87b696fb54e2a387ebe992d6ed5f1",
    }
)
_ZENODO = "https://zenodo.org/records/10519652/files"


def medmnist_sources(name: str) -> tuple[Source, ...]:
    """The file of arrays, which has training, validation and test images."""
    url = f"{_ZENODO}/{name}.npz?download=1"
    return (Source((RegisteredFile(url, f"{name}.npz", MEDMNIST[name]),), _read_medmnist),)


def _read_medmnist(paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    names = {"train": "train", "validation": "val", "test": "test"}
    members = {split: (f"{name}_images", f"{name}_labels") for split, name in names.items()}
    return read_npz(paths[0], members, info)


def read_npz(path: Path, names: Mapping[str, tuple[str, str]], info: DatasetInfo) -> NamedArrays:
    """Reads images and labels of an ``.npz`` file.

    Args:
      path: the file.
      names: names of the images and labels of each split.
      info: the dataset.

    Returns:
      Images, uint8 ``(n, height, width, channels)``, and labels, int32 ``(n,)``, by split.

    Raises:
      DataError: not such a file.
    """
    arrays: dict[str, Array] = {}
    for split, members in names.items():
        images, labels = (
            decode_npy(read_zip(path, f"{member}.npy", _limit(info)), f"{path}: {member}")
            for member in members
        )
        labels = labels[:, 0] if labels.shape[1:] == (1,) else labels
        images = images if info.shape[2] > 1 else images[..., None]
        if images.shape != (*labels.shape, *info.shape) or images.dtype != np.uint8:
            size = "x".join(map(str, info.shape))
            raise DataError(f"{path}: has no uint8 images of {size} with one label each; {REMEDY}")
        arrays[f"{split}_images"] = images
        arrays[f"{split}_labels"] = _classes(labels, info, path)
    return arrays


def decode_npy(content: bytes, place: str) -> Array:
    """Decodes an ``.npy`` file of integers.

    Args:
      content: content of the file.
      place: file name, for errors.

    Raises:
      DataError: not an array of integers.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        first, later = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = (first if version == (1, 0) else later)(file)
        if dtype.kind in "iu":
            values = np.frombuffer(content, dtype, offset=file.tell())
            return values.reshape(shape, order="F" if is_fortran else "C")
        reason = f"values of type {dtype}"
    except (ValueError, TypeError, EOFError, SyntaxError) as error:
        reason = " ".join(str(error).split())
    raise DataError(f"{place}: is not an array of integers ({reason}); {REMEDY}")


# CIFAR-10.1: another test set for CIFAR-10


def cifar10_1_sources(name: str) -> tuple[Source, ...]:
    """CIFAR-10 in any of its forms for training, with the arrays of a version for testing."""
    files, config = published_files("cifar10_1"), name.partition("/")[2] or "v4"
    test = tuple(files[f"cifar10.1_{config}_{kind}.npy"] for kind in ("data", "labels"))
    return tuple(
        Source(
            (*source.files, *test),
            partial(_read_cifar10_1, source.read),
            (*source.folders, "", "downloads/cifar10"),
        )
        for source in cifar_sources("cifar10")
    )


def _read_cifar10_1(read: Reader, paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    *train, images, labels = paths
    arrays = read(train, describe("cifar10"))
    pixels, classes = (decode_npy(path.read_bytes(), str(path)) for path in (images, labels))
    if pixels.shape != (*classes.shape, *info.shape) or pixels.dtype != np.uint8:
        raise DataError(f"{images}: has no 32x32x3 images with one label each; {REMEDY}")
    return {**arrays, "test_images": pixels, "test_labels": _classes(classes, info, labels)}


# STL-10: column-major planes, and labels from 1; the unlabeled images are not needed

_STL10 = "stl10_binary"
_STL10_MD5 = {  # as in torchvision
    "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
    "train_y.bin": "5a34089d4802c674881badbb80307741",
    "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
    "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
}
_UNLABELED = 100_000


def stl10_sources() -> tuple[Source, ...]:
    """The archive, and the folder that torchvision extracts."""
    archive = tuple(published_files("stl10").values())
    files = tuple(RegisteredFile("", name, md5) for name, md5 in _STL10_MD5.items())
    return (Source(archive, _read_stl10_archive), Source(files, _read_stl10_folder, (_STL10,)))


def _read_stl10_archive(paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    limit = _limit(info) + _UNLABELED * int(np.prod(info.shape))
    content = read_tar(paths[0], [f"{_STL10}/{name}" for name in _STL10_MD5], limit)
    return _decoded_stl10([content[f"{_STL10}/{name}"] for name in _STL10_MD5], info, paths[0])


def _read_stl10_folder(paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    return _decoded_stl10([path.read_bytes() for path in paths], info, paths[0].parent)


def _decoded_stl10(contents: Sequence[bytes], info: DatasetInfo, path: Path) -> NamedArrays:
    train, train_labels, test, test_labels = (np.frombuffer(each, np.uint8) for each in contents)
    arrays: dict[str, Array] = {}
    for split, pixels, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if not len(labels) or len(pixels) != len(labels) * int(np.prod(info.shape)):
            raise DataError(f"{path}: has no 96x96x3 images with one label each; {REMEDY}")
        images = pixels.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
        arrays[f"{split}_images"] = np.ascontiguousarray(images)
        arrays[f"{split}_labels"] = _classes(labels.astype(np.int32) - 1, info, path)
    return arrays


# MNIST and Fashion-MNIST, as Keras keeps them


def _keras_mnist() -> tuple[Source, ...]:
    file = RegisteredFile(
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        "mnist.npz",
        "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
    )
    return (Source((file,), _read_keras_mnist),)


def _read_keras_mnist(paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    return read_npz(paths[0], {s: (f"x_{s}", f"y_{s}") for s in ("train", "test")}, info)


def _keras_fashion_mnist() -> tuple[Source, ...]:
    files = published_files("fashion_mnist")
    in_order = tuple(files[name] for name in FILENAMES.values())
    return (Source(in_order, _read_idx, ("fashion-mnist",)),)


def _read_idx(paths: Sequence[Path], info: DatasetInfo) -> NamedArrays:
    arrays = {
        role: decode_idx(path.read_bytes(), str(path))
        for role, path in zip(FILENAMES, paths, strict=True)
    }
    return {
        role: array[..., None] if role.endswith("images") else _classes(array, info, paths[0])
        for role, array in arrays.items()
    }


# Other forms of datasets that `idx` reads
COPIES: Mapping[str, Callable[[], tuple[Source, ...]]] = MappingProxyType(
    {"mnist": _keras_mnist, "fashion_mnist": _keras_fashion_mnist}
)
SOURCES: Mapping[str, Callable[[], tuple[Source, ...]]] = MappingProxyType(
    {
        **{name: partial(cifar_sources, name) for name in CIFAR},
        "svhn_cropped": svhn_sources,
        "stl10": stl10_sources,
        **{
            name: partial(cifar10_1_sources, name)
            for name in ("cifar10_1", "cifar10_1/v4", "cifar10_1/v6")
        },
        **{
            name: partial(emnist_sources, name)
            for name in KNOWN
            if name.partition("/")[0] == "emnist"
        },
        **{name: partial(medmnist_sources, name) for name in MEDMNIST},
    }
)
