"""Reads labeled images from array files: ``.npz``, ``.npy``, CSV and Parquet.

Nothing is ever unpickled. Images become uint8 ``(n, h, w, c)``, labels become int32 ``(n,)``.
"""

import csv
import gzip
import hashlib
import io
import json
import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from tokenize import TokenError
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.catalog import (
    CLASS_NAMES,
    KINDS,
    ROLES,
    SPLITS,
    ArrayOptions,
    ChannelOrder,
    DatasetInfo,
    ImageForm,
    Shares,
    divide,
    random_order,
)
from cnnbench.data.dataset import decoded_files
from cnnbench.data.own.decoding import resized
from cnnbench.data.own.image_files import BROKEN, MAX_PIXELS
from cnnbench.data.published.downloads import sha256_of
from cnnbench.errors import DataError, Notify, did_you_mean, or_list, quoted
from cnnbench.formatting import clean, enumeration
from cnnbench.system import commands
from cnnbench.system.arrays import Array, NamedArrays, Pixels
from cnnbench.system.cache import CacheEntry

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 2**32  # of one array as stored, to limit memory
TABLES = (".csv", ".tsv", ".txt")
SUFFIXES = (".npz", ".npy", *TABLES, ".parquet")

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "te"), "test"),
}
_KIND_WORDS = {
    **dict.fromkeys(
        ("x", "image", "images", "img", "imgs", "data", "pixels", "features"), "images"
    ),
    **dict.fromkeys(("y", "label", "labels", "target", "targets"), "labels"),
}
_LABEL_COLUMNS = ("label", "labels", "class", "target", "y", "digit", "fine_label")
_IMAGE_COLUMNS = ("image", "img", "images", "x")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_AS_IT_IS = ImageForm(None, "stretch", 3, (255, 255, 255))  # also gray, if all images are
_GRAY_MODES = ("1", "L")
_AT_ONCE = 4_096  # images converted at a time, to limit memory
_MANY_CLASSES = 1_000
_BROKEN_ZIP = (  # raised by zipfile for invalid or encrypted files
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
)
_ROUNDING = 1e-3  # interpolation leaves values slightly outside 0 to 1
_DIM = 64  # a smaller maximum is unlikely for pixels from 0 to 255
_SHOWN = 6  # names in messages


DEFAULTS = ArrayOptions()


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class ArrayData:
    """Labeled images that were read from array files.

    Args:
      arrays: ``train_images``, uint8 ``(n, h, w, c)``; ``train_labels``, int32 ``(n,)``; the
        same of ``validation`` and ``test``, if the files have them.
      num_classes: number of classes; labels are 0 to ``num_classes - 1``.
      class_names: name of each class; empty if labels are numbered from 0 and have no names.
      notes: how the arrays were converted, such as ``float32 in [0, 1]``.
    """

    arrays: NamedArrays
    num_classes: int
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class _Raw:
    """An array as stored, with its file and name for messages."""

    values: Array
    where: str


def read_array_files(
    files: Path | Mapping[str, Path], options: ArrayOptions = DEFAULTS
) -> ArrayData:
    """Reads images and labels from array files.

    Args:
      files: a file (``.npz``, CSV or Parquet) or a folder of files named by split; or files by
        ``train``, ``validation`` and ``test``; or ``.npy`` files by ``train_images``,
        ``train_labels`` and so on.
      options: what cannot be recognized.

    Raises:
      DataError: a file is missing, damaged or unsafe, or its arrays are not labeled images.
    """
    raw = _read_all(find_files(files), dict(options.keys), options.form)
    names = raw.pop(CLASS_NAMES, None)
    _require_pairs(raw, files)
    images = {role: each for role, each in raw.items() if role.endswith("images")}
    labels = {role: each for role, each in raw.items() if role.endswith("labels")}
    for role, each in images.items():
        _require_count(each, labels[f"{_split_of(role)}_labels"])
    classes, class_names, num_classes = _classes(labels, names)
    pixels, notes = _pixels(images, options)
    arrays: NamedArrays = {**pixels, **classes}
    return ArrayData(
        {role: arrays[role] for role in ROLES if role in arrays}, num_classes, class_names, notes
    )


# A dataset of an experiment

_ABOUT = "about"  # name of the array of a cache entry that is the text of all but the arrays


@dataclass(frozen=True, slots=True)
class ArraySource:
    """A dataset in array files.

    Args:
      files: a file or folder, or files by role, as for `read_array_files`.
      options: what cannot be recognized.
      shares: of the splits that the files do not have.
    """

    files: Path | tuple[tuple[str, Path], ...]
    options: ArrayOptions
    shares: Shares

    @property
    def name(self) -> str:
        """Name of the file or folder, or of the folder of the first file."""
        path = self.files if isinstance(self.files, Path) else self.files[0][1].absolute().parent
        return path.name or str(path)

    @property
    def place(self) -> str:
        """The files, for messages."""
        paths = [self.files] if isinstance(self.files, Path) else [path for _, path in self.files]
        return _listed([str(path) for path in paths])

    def info(self) -> DatasetInfo:
        """Shape, classes and sizes; reads the files, unless they are in the cache.

        Raises:
          DataError: as `read_array_files`, or there are no test images.
        """
        return _info(self, self.key())

    def key(self) -> str:
        """Cache key: the content and role of every file, and the options.

        Raises:
          DataError: a file is missing or cannot be read.
        """
        digest = hashlib.sha256(f"{self.options}\n".encode())
        for role, path in find_files(self._given()):
            state = path.stat()
            own = _sha256((path, state.st_size, state.st_mtime_ns))
            digest.update(f"{role} {_suffix(path)} {own}\n".encode())
        return f"arrays {digest.hexdigest()}"

    def decode(self, key: str, notify: Notify) -> CacheEntry:
        """Reads the files.

        Raises:
          DataError: as `read_array_files`.
        """
        notify(f"Reading {self.place}.")
        data = read_array_files(self._given(), self.options)
        about = {"classes": data.class_names, "number": data.num_classes, "notes": data.notes}
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        return CacheEntry({**data.arrays, _ABOUT: text}, self.place, key)

    def split(self, decoded: CacheEntry, notify: Notify) -> CacheEntry:  # noqa: ARG002
        """Divides the training images into the splits that the files do not have."""
        arrays: dict[str, Array] = {}
        for split, (pool, indices) in self._divided(decoded.arrays).items():
            for kind in KINDS:
                arrays[f"{split}_{kind}"] = decoded.arrays[f"{pool}_{kind}"][indices]
        notes = "".join(f"; {note}" for note in _about(decoded.arrays)["notes"])
        return CacheEntry(arrays, f"{self.place}{notes}", decoded.key)

    def _given(self) -> Path | dict[str, Path]:
        return self.files if isinstance(self.files, Path) else dict(self.files)

    def _divided(self, arrays: NamedArrays) -> dict[str, tuple[str, list[int]]]:
        """Pool and indices of the images of each split, in random order."""
        own = [split for split in SPLITS[1:] if f"{split}_labels" in arrays]
        shares = (("test", self.shares.test), ("validation", self.shares.validation))
        wanted = {split: share for split, share in shares if split not in own}
        labels = arrays["train_labels"].tolist()
        parts = divide(_numbers(len(labels)), labels, wanted, self.shares)
        found = {split: ("train", indices) for split, indices in parts.items()}
        for split in own:
            keys = _numbers(len(arrays[f"{split}_labels"]))
            found[split] = (split, random_order(keys, self.shares.seed))
        return found


@lru_cache(maxsize=8)
def _info(source: ArraySource, key: str) -> DatasetInfo:
    """Metadata of a source whose files have the content of the key."""
    arrays = decoded_files(source, key, lambda _: None).arrays
    about = _about(arrays)
    sizes = {split: len(indices) for split, (_, indices) in source._divided(arrays).items()}
    if not sizes["test"]:
        raise DataError(
            f"{source.place}: there are no test images; increase dataset.split.test, or add "
            "test_images and test_labels"
        )
    return DatasetInfo(
        name=source.name,
        shape=arrays["train_images"].shape[1:],
        num_classes=about["number"],
        num_train=sizes["train"] + sizes["validation"],
        num_test=sizes["test"],
        title="images in array files",
        classes=tuple(about["classes"]),
        num_validation=sizes["validation"],
    )


@lru_cache(maxsize=64)
def _sha256(state: tuple[Path, int, int]) -> str:
    """SHA-256 of a file, given with its size and time of change, so that it is read once."""
    return sha256_of(state[0])


def _about(arrays: NamedArrays) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(arrays[_ABOUT].tobytes())
    return about


def _numbers(num: int) -> list[str]:
    return list(map(str, range(num)))


# Files


def find_files(files: Path | Mapping[str, Path]) -> tuple[tuple[str, Path], ...]:
    """Files to read, each with its role: empty, a split, or one of `ROLES`.

    Args:
      files: as for `read_array_files`.

    Raises:
      DataError: a file or folder does not exist, or a folder has no files named by split.
    """
    if isinstance(files, Path):
        return _in_folder(files) if files.is_dir() else (("", _existing(files)),)
    return tuple((role, _existing(path)) for role, path in files.items())


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise DataError(f"{path}: is a folder; specify a file in it")
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path")
    return path


def _in_folder(folder: Path) -> tuple[tuple[str, Path], ...]:
    """Files of a folder by the split in their names; datasets on the Hugging Face Hub use data/."""
    for place in (folder, folder / "data"):
        paths = sorted(path for path in place.glob("*") if _suffix(path) in SUFFIXES)
        found = [(role_of(_stem(path)), path) for path in paths]
        if roles := tuple((_role_in_folder(role, path), path) for role, path in found if role):
            return roles
    raise DataError(
        f"{folder}: has no array files named after a split; use names such as train.csv and "
        "test.csv, x_train.npy and y_train.npy, or train-00000.parquet, or list the files in "
        "dataset.arrays"
    )


def _role_in_folder(role: str, path: Path) -> str:
    return role if _suffix(path) == ".npy" else _split_of(role)


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem


def _split_of(role: str) -> str:
    return role.partition("_")[0]


def role_of(name: str) -> str:
    """The split and kind that the name of an array or file denotes; empty if it has no split.

    >>> role_of("x_train"), role_of("val_labels"), role_of("testImages"), role_of("train-00000")
    ('train_images', 'validation_labels', 'test_images', 'train')
    >>> role_of("Xtrain"), role_of("weights")
    ('train_images', '')
    """
    split, kind = _words(name)
    return f"{split}_{kind}" if split and kind else split


def _words(name: str) -> tuple[str, str]:
    """Split and kind in a name; empty where it has none, or several."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    words = [part for word in words for part in _glued(word)]
    splits = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    kinds = {_KIND_WORDS[word] for word in words if word in _KIND_WORDS}
    return _only(splits), _only(kinds)


def _glued(word: str) -> tuple[str, ...]:
    """Parts of a name without a separator, such as xtrain or testy; else the word."""
    for kind, split in ((word[:1], word[1:]), (word[-1:], word[:-1])):
        if kind in {"x", "y"} and split in _SPLIT_WORDS:
            return kind, split
    return (word,)


def _only(found: set[str]) -> str:
    return next(iter(found)) if len(found) == 1 else ""


def _read_all(
    files: Iterable[tuple[str, Path]], keys: Mapping[str, str], form: ImageForm | None
) -> dict[str, _Raw]:
    """Arrays by role. Several files of a split are joined in the given order."""
    parts: dict[str, list[_Raw]] = {}
    for role, path in files:
        for name, array in _read_file(role, path, keys, form).items():
            parts.setdefault(name, []).append(array)
    return {name: _joined(name, arrays) for name, arrays in parts.items()}


def _joined(name: str, parts: Sequence[_Raw]) -> _Raw:
    first = parts[0]
    for other in parts[1:]:
        if name == CLASS_NAMES and not np.array_equal(other.values, first.values):
            raise DataError(
                f"{other.where}: has other class names than {first.where}; use the same"
            )
        if other.values.shape[1:] != first.values.shape[1:]:
            raise _unequal(other, first)
    if name == CLASS_NAMES or len(parts) == 1:
        return first
    return _Raw(np.concatenate([part.values for part in parts]), first.where)


def _unequal(raw: _Raw, first: _Raw) -> DataError:
    return DataError(
        f"{raw.where}: each image has shape {raw.values.shape[1:]}, but those of "
        f"{_short(first.where)} have {first.values.shape[1:]}; use images of the same size"
    )


def _read_file(
    role: str, path: Path, keys: Mapping[str, str], form: ImageForm | None
) -> dict[str, _Raw]:
    suffix = _suffix(path)
    if form and form.size and suffix in SUFFIXES and suffix != ".parquet":
        raise DataError(
            f"{path}: dataset.resize has no effect on {suffix} files; resize the arrays and "
            "remove it"
        )
    if role in ROLES or role in KINDS:
        if suffix != ".npy":
            raise DataError(
                f"{path}: is not an .npy file, which {role} requires; save it with np.save"
            )
        _require_keys(path, keys, ())
        return {role if role in ROLES else f"train_{role}": _read_npy(path)}
    if suffix == ".npy":
        raise DataError(
            f"{path}: contains a single array, without labels; use arrays: "
            f"{{train_images: {path.name}, train_labels: ...}}"
        )
    if suffix != ".npz":
        _require_keys(path, keys, KINDS if suffix == ".parquet" else KINDS[1:])
    if suffix == ".npz":
        found = _read_npz(path, keys, role)
    elif suffix in TABLES:
        found = _read_table(path, keys)
    elif suffix == ".parquet":
        found = _read_parquet(path, keys, form)
    else:
        raise DataError(f"{path}: is not an array file; use one of {or_list(SUFFIXES)}")
    return {_in_split(name, role or "train"): array for name, array in found.items()}


def _require_keys(path: Path, keys: Mapping[str, str], known: Sequence[str]) -> None:
    """Raises DataError for a key that has no effect on a file."""
    for key in keys:
        if key not in known:
            remedy = f"use {or_list(known)}" if known else "remove it"
            kind = _suffix(path)
            raise DataError(f"{path}: dataset.keys.{key} has no effect on {kind} files; {remedy}")


def _in_split(name: str, split: str) -> str:
    return f"{split}_{name}" if name in KINDS else name


def _require_pairs(raw: Mapping[str, object], files: Path | Mapping[str, Path]) -> None:
    where = files if isinstance(files, Path) else "dataset.arrays"
    for split in SPLITS:
        has = [f"{split}_{kind}" in raw for kind in KINDS]
        if has[0] != has[1] or (split == "train" and not has[0]):
            missing = [
                f"{split}_{kind}" for kind, given in zip(KINDS, has, strict=True) if not given
            ]
            raise DataError(
                f"{where}: has no {enumeration(missing)}; add {'them' if missing[1:] else 'it'}"
            )


# NumPy files


def _read_npz(path: Path, keys: Mapping[str, str], role: str) -> dict[str, _Raw]:
    """Arrays of an ``.npz`` file by role."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
            chosen = _choose(path, tuple(members), keys, role)
            return {
                each: _member(archive, members[name], f"{path}: {clean(name)}")
                for each, name in chosen.items()
            }
    except (*_BROKEN_ZIP, OSError) as error:
        raise _unreadable(path, ".npz", error) from error


def _choose(
    path: Path, names: Sequence[str], keys: Mapping[str, str], split: str
) -> dict[str, str]:
    """Name of the array for each role, as the user says or recognized; of `split`, if not empty."""
    if not names:
        raise DataError(f"{path}: has no arrays; save it with np.savez")
    own = {_in_split(key, split or "train"): (key, name) for key, name in keys.items()}
    chosen = {}
    for role, (key, name) in own.items():
        if split in {"", _split_of(role)} or role == CLASS_NAMES:
            if name not in names:
                raise _no_such(path, "array", name, key, names)
            chosen[role] = name
    taken = set(chosen.values())
    for name in names:
        role = _recognized(name, split)
        if not role or role in own or name in taken:
            continue
        if role in chosen:
            raise DataError(
                f"{path}: {chosen[role]} and {name} both look like {role}; choose one with "
                f"dataset.keys: {{{role}: {name}}}"
            )
        chosen[role] = name
    if not any(role in ROLES for role in chosen):
        raise DataError(
            f"{path}: no array has a name like x_train or train_images, only "
            f"{_listed(names)}; set dataset.keys: {{train_images: NAME, train_labels: NAME}}"
        )
    return chosen


def _recognized(name: str, split: str) -> str:
    """Role of an array by its name; empty if it has none, or is of another split."""
    if name.lower() in {CLASS_NAMES, "label_names", "target_names"}:
        return CLASS_NAMES
    own, kind = _words(name)
    return f"{own or split or 'train'}_{kind}" if kind and (not split or own in {"", split}) else ""


def _no_such(path: Path, what: str, name: str, key: str, names: Sequence[str]) -> DataError:
    hint = did_you_mean(name, names) or f", only {_listed(names)}"
    return DataError(f"{path}: has no {what} {quoted(name)}{hint}; change dataset.keys.{key}")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    shown = names if more < 2 else [*names[:_SHOWN], f"{more} more"]
    return enumeration([clean(name) for name in shown]) or "none"


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> _Raw:
    return _read_array(lambda: archive.open(info), info.file_size, where)


def _read_npy(path: Path) -> _Raw:
    try:
        return _read_array(lambda: path.open("rb"), path.stat().st_size, str(path))
    except OSError as error:
        raise _unreadable(path, ".npy", error) from error


def _read_array(open_: Callable[[], IO[bytes]], size: int, where: str) -> _Raw:
    """Reads an array in NumPy's format, after its header shows that this is safe.

    Args:
      open_: opens the array.
      size: number of bytes, header included.
      where: file and array, for errors.
    """
    try:
        with open_() as stream:
            shape, dtype = _header(stream, where)
            _require_safe(shape, dtype, size - stream.tell(), where)
        with open_() as stream:
            return _Raw(np.lib.format.read_array(stream, allow_pickle=False), where)
    except (ValueError, EOFError, TokenError, SyntaxError) as error:  # headers are Python literals
        raise DataError(f"{where}: is damaged or not in NumPy's format; save it again") from error


def _header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    match np.lib.format.read_magic(stream):
        case (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        case (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        case _:  # used for names of fields only
            raise DataError(f"{where}: has named fields; save each field as a separate array")
    return shape, dtype


def _require_safe(shape: tuple[int, ...], dtype: np.dtype[Any], available: int, where: str) -> None:
    if dtype.hasobject:
        raise DataError(
            f"{where}: contains pickled Python objects, which are never loaded; save "
            "np.stack(x) for images of the same size, or x.astype(str) for labels"
        )
    size = math.prod(shape) * dtype.itemsize
    if size > MOST_BYTES:
        raise DataError(
            f"{where}: needs {size / 2**30:.1f} GiB of memory, more than the "
            f"{MOST_BYTES >> 30} GiB allowed; save it as uint8, or use fewer or smaller images"
        )
    if size > available:
        raise DataError(
            f"{where}: is damaged: {available:,} bytes are too few for {_described(shape, dtype)}; "
            "save it again"
        )


def _described(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"{dtype} of shape {shape}"


def _unreadable(path: Path, kind: str, error: Exception) -> DataError:
    if isinstance(error, OSError) and error.strerror:
        return DataError(f"{path}: cannot be read: {error.strerror.lower()}; check its permissions")
    return DataError(f"{path}: is not a valid {kind} file ({_reason(error)}); save it again")


def _reason(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")


# Tables


class _Lines:
    """Lines of a text file that are not blank; knows the number of the last one."""

    def __init__(self, path: Path, file: Iterable[str]) -> None:
        self.number = 0
        self._path, self._file, self._length = path, iter(file), 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while True:
            line = next(self._file)
            self.number += 1
            self._length += len(line)
            if self._length > MOST_BYTES:
                most = f"{MOST_BYTES >> 30} GiB allowed"
                raise DataError(f"{self._path}: is larger than the {most}; save it as .npz")
            if line.strip():
                return line


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns of a table.

    Args:
      label: index of the label.
      names: names of all columns; empty without a header.
    """

    label: int
    names: tuple[str, ...]

    @property
    def unused(self) -> tuple[int, ...]:
        """Indices that are not pixels: the label, and an index that pandas wrote without a name."""
        return (self.label, *(i for i, name in enumerate(self.names) if not name))


def _read_table(path: Path, keys: Mapping[str, str]) -> dict[str, _Raw]:
    """Pixels, float32 ``(n, pixels)``, and labels of a CSV file."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline=None) as file:
            return _table(path, _Lines(path, cast(IO[str], file)), keys)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise _unreadable(path, "CSV", error) from error


def _table(path: Path, lines: _Lines, keys: Mapping[str, str]) -> dict[str, _Raw]:
    first = next(lines, "")
    delimiter = max(",;\t", key=first.count)
    cells = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
    columns = _columns(path, cells, keys.get("labels"))
    rest = lines if columns.names else chain([first], lines)
    codes: dict[str, int] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no rows, which is reported below
            table = np.loadtxt(
                rest,
                np.float32,
                comments=None,
                delimiter=delimiter,
                quotechar='"',
                ndmin=2,
                converters={columns.label: lambda text: codes.setdefault(text.strip(), len(codes))},
            )
    except ValueError as error:
        raise _bad_line(path, lines.number, error) from error
    if not codes:
        raise DataError(f"{path}: has no rows; check the file")
    texts = _numbers_if_all(list(codes))
    labels = texts[table[:, columns.label].astype(np.intp)]
    name = columns.names[columns.label] if columns.names else f"column {columns.label + 1}"
    return {
        "images": _Raw(np.delete(table, columns.unused, axis=1), str(path)),
        "labels": _Raw(labels, f"{path}: {name}"),
    }


def _columns(path: Path, cells: Sequence[str], named: str | None) -> _Columns:
    """Finds the label in the first line of a table, which may be a header or not."""
    words = [cell.lower() for cell in cells]
    known = next((name for name in _LABEL_COLUMNS if name in words), None)
    counted = [cell for cell in cells if cell] == [str(i) for i in range(sum(map(bool, cells)))]
    mostly_text = not sum(map(_is_number, cells)) * 2 > len(cells)
    has_name = named in cells and not _is_number(named or "")
    names = tuple(cells) if known or has_name or counted or mostly_text else ()
    if named is not None and not names and re.fullmatch(r"-?\d+", named):
        if int(named) not in range(-len(cells), len(cells)):
            raise DataError(
                f"{path}: column {named} is out of range for {len(cells)} columns; use 0 to "
                f"{len(cells) - 1} for dataset.keys.labels"
            )
        return _Columns(int(named) % len(cells), ())
    if named is not None:
        if named not in names:
            raise _no_such(path, "column", named, "labels", names)
        return _Columns(names.index(named), names)
    if known:
        return _Columns(words.index(known), names)
    if names and not counted:
        raise DataError(
            f"{path}: no column is named {or_list(_LABEL_COLUMNS)}, only {_listed(names)}; set "
            "dataset.keys: {labels: NAME}"
        )
    return _Columns(next((i for i, cell in enumerate(cells) if cell), 0), names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers_if_all(texts: Sequence[str]) -> Array:
    """Numbers, if all are in number format, such as 7 or 7.00e+00; else strings."""
    return np.array([float(t) for t in texts] if all(map(_is_number, texts)) else texts)


def _bad_line(path: Path, number: int, error: ValueError) -> DataError:
    found = re.search(
        r"could not convert string (.*) to float32 at row \d+, column (\d+)", str(error)
    )
    if found:
        text, column = found.groups()
        what = "is empty" if text == "''" else f"{text} is not a number"
        return DataError(f"{path}:{number}: column {column}: {what}; use 0 to 255")
    if found := re.search(r"columns changed from (\d+) to (\d+)", str(error)):
        before, now = found.groups()
        return DataError(
            f"{path}:{number}: has {now} columns, but the lines above have {before}; use one "
            "column per pixel and one for the label"
        )
    return DataError(f"{path}:{number}: is not a line of numbers ({_reason(error)}); correct it")


# Parquet


def _read_parquet(path: Path, keys: Mapping[str, str], form: ImageForm | None) -> dict[str, _Raw]:
    """Decoded images, labels and class names of a file in the layout of the Hugging Face Hub."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        install = commands.pip_install("cnnbench[parquet]")
        raise DataError(f"{path}: Parquet files require pyarrow; {install}") from error
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            image = _parquet_column(path, names, keys, "images", _IMAGE_COLUMNS)
            label = _parquet_column(path, names, keys, "labels", _LABEL_COLUMNS)
            known = _hub_names(file.schema_arrow.metadata or {}, label)
            table = file.read([image, label])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, "Parquet", error) from error
    where = f"{path}: {image}"
    images = _decoded(where, table[image].to_pylist(), form or _AS_IT_IS)
    labels = _label_values(f"{path}: {label}", table[label].to_pylist())
    raw = {"images": _Raw(images, where), "labels": _Raw(labels, f"{path}: {label}")}
    return raw | ({CLASS_NAMES: _Raw(np.array(known), f"{path}: {label}")} if known else {})


def _parquet_column(
    path: Path, names: Sequence[str], keys: Mapping[str, str], key: str, known: Sequence[str]
) -> str:
    if (named := keys.get(key)) is not None:
        if named not in names:
            raise _no_such(path, "column", named, key, names)
        return named
    found = next((name for name in known if name in names), None)
    if found is None:
        raise DataError(
            f"{path}: no column is named {or_list(known)}, only {_listed(names)}; set "
            f"dataset.keys: {{{key}: NAME}}"
        )
    return found


def _hub_names(metadata: Mapping[bytes, bytes], label: str) -> tuple[str, ...]:
    """Names of classes, which the package datasets adds to the schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return tuple(map(str, features[label].get("names", ())))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()


def _label_values(where: str, values: Sequence[object]) -> Array:
    if None in values:
        raise DataError(f"{where}: image {values.index(None)} has no label; remove it")
    try:
        return np.array(values)
    except ValueError:  # lists of different lengths
        raise DataError(f"{where}: has several labels per image; use one") from None


def _decoded(where: str, cells: Sequence[object], form: ImageForm) -> Pixels:
    """Decodes images of one size: grayscale, ``(n, h, w)``, if all are, else RGB."""
    if not cells:
        raise DataError(f"{where}: has no images; check the file")
    images = [_decode(f"{where}: image {i}", cell, form) for i, cell in enumerate(cells)]
    first = images[0].shape[:2]
    for i, image in enumerate(images):
        if image.shape[:2] != first:
            sizes = f"is {_size(image.shape)}, but image 0 is {_size(first)}"
            raise DataError(
                f"{where}: image {i} {sizes} pixels; set dataset.resize: {{size: {list(first)}}}"
            )
    if all(image.ndim == 2 for image in images):
        return np.stack(images)
    return np.stack([np.stack([i] * 3, axis=-1) if i.ndim == 2 else i for i in images])


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _decode(where: str, cell: object, form: ImageForm) -> Pixels:
    """Decodes an image file, (h, w) or (h, w, 3)."""
    from PIL import Image

    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        raise DataError(
            f"{where}: contains no image bytes; embed the images, as Dataset.to_parquet of the "
            "datasets package does"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # see MAX_PIXELS
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise _too_large(where)
                plain = _plain(image, form.background)
                return np.asarray(resized(plain, form.size, form) if form.size else plain)
    except Image.DecompressionBombError:
        raise _too_large(where) from None
    except BROKEN as error:
        raise DataError(f"{where}: is not a readable image file; remove or replace it") from error


def _too_large(where: str) -> DataError:
    return DataError(f"{where}: has more than {MAX_PIXELS // 1_000_000} million pixels; resize it")


def _plain(image: "Image", background: tuple[int, int, int]) -> "Image":
    """The image upright on a background, with mode ``L`` if it has no color, else ``RGB``."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits
        return Image.fromarray((np.asarray(upright) / 257).round().astype(np.uint8))
    gray = upright.mode in _GRAY_MODES
    if upright.has_transparency_data:
        gray = (gray or upright.mode == "LA") and len(set(background)) == 1
        upright = upright.convert("RGBA")
        ground = Image.new("RGBA", upright.size, (*background, 255))
        upright = Image.alpha_composite(ground, upright)
    return upright.convert("L" if gray else "RGB")


# Pixels


def _require_count(images: _Raw, labels: _Raw) -> None:
    shape, found = images.values.shape, labels.values.shape
    num_images, num_labels = (each[0] if each else 0 for each in (shape, found))
    if not num_images or 0 in shape:
        raise DataError(f"{images.where}: has no images (shape {shape}); check the file")
    if num_images != num_labels:
        moved = len(shape) == 4 and shape[-1] == num_labels
        remedy = (
            "move the last axis to the front with np.moveaxis(x, -1, 0)"
            if moved
            else "use one per image"
        )
        raise DataError(
            f"{labels.where}: has {num_labels:,} labels for the {num_images:,} images of "
            f"{_short(images.where)}; {remedy}"
        )


def _short(where: str) -> str:
    """An array without its folder."""
    path, colon, name = where.partition(": ")
    return name if colon else Path(path).name


def _pixels(
    images: Mapping[str, _Raw], options: ArrayOptions
) -> tuple[dict[str, Pixels], tuple[str, ...]]:
    """Converts images to uint8 ``(n, h, w, c)``, all in the same way."""
    first = images["train_images"]
    for each in images.values():
        if each.values.dtype.kind not in "buif":
            raise DataError(f"{each.where}: has dtype {each.values.dtype}; save pixels as uint8")
        if each.values.shape[1:] != first.values.shape[1:]:
            raise _unequal(each, first)
    shaped, note = _channels_last(images, options)
    black, white = _value_range(images, options.value_range)
    kind = f"{first.values.dtype.name} in [{black:g}, {white:g}]"
    notes = () if first.values.dtype == np.uint8 and white == 255 else (kind,)
    converted = {role: _to_bytes(each, black, white) for role, each in shaped.items()}
    return converted, (*notes, *([note] if note else []))


def _channels_last(
    images: Mapping[str, _Raw], options: ArrayOptions
) -> tuple[dict[str, Array], str]:
    """Moves the axis of channels to the end, which is added to grayscale images."""
    first = images["train_images"]
    inner = first.values.shape[1:]
    if len(inner) == 1:
        inner = _unflattened(first, options)
    elif len(inner) == 2:
        inner = (*inner, 1)
    elif len(inner) != 3:
        raise DataError(
            f"{first.where}: has shape {first.values.shape}; use (n, height, width) or "
            "(n, height, width, channels)"
        )
    flat = first.values.ndim == 2
    layout = _layout(first, inner, options) if first.values.ndim == 4 or flat else "channels_last"
    shaped = {role: each.values.reshape(-1, *inner) for role, each in images.items()}
    if layout == "channels_first":
        shaped = {role: np.moveaxis(each, 1, -1) for role, each in shaped.items()}
    shape = shaped["train_images"].shape[1:]
    if options.shape is not None and shape != options.shape:
        raise DataError(
            f"{first.where}: has images of shape {list(shape)}, not {list(options.shape)}; "
            "correct or remove dataset.shape"
        )
    return shaped, "channels first" if layout == "channels_first" else ""


def _unflattened(raw: _Raw, options: ArrayOptions) -> tuple[int, int, int]:
    """Shape in the file of flattened images."""
    num = raw.values.shape[1]
    if options.shape is not None:
        if math.prod(options.shape) != num:
            raise DataError(
                f"{raw.where}: has {num} pixel values per image, not {math.prod(options.shape)} "
                f"as in dataset.shape: {list(options.shape)}; correct the shape"
            )
        height, width, channels = options.shape
        return (channels, height, width) if options.layout == "channels_first" else options.shape
    if (side := math.isqrt(num)) ** 2 == num:
        return (1, side, side) if options.layout == "channels_first" else (side, side, 1)
    third = math.isqrt(num // 3)
    guess = f"[{third}, {third}, 3]" if 3 * third**2 == num else "[HEIGHT, WIDTH, CHANNELS]"
    raise DataError(
        f"{raw.where}: has {num} pixel values per image, which is not a square number; set "
        f"dataset.shape: {guess}"
    )


def _layout(raw: _Raw, inner: tuple[int, ...], options: ArrayOptions) -> ChannelOrder:
    """Order of the axes of images, from the sizes: 1 or 3 channels, or else 2 or 4."""
    if options.layout is not None:
        return options.layout
    if inner[-1] == 1 and raw.values.ndim == 2:
        return "channels_last"
    if raw.values.ndim == 4:
        for likely in ((1, 3), (2, 4)):
            first, last = inner[0] in likely, inner[-1] in likely
            if first != last:
                return "channels_first" if first else "channels_last"
            if first:
                break
    raise DataError(
        f"{raw.where}: the channel axis is ambiguous in shape {raw.values.shape}; set "
        "dataset.layout: channels_first or channels_last"
    )


def _value_range(
    images: Mapping[str, _Raw], wanted: tuple[float, float] | None
) -> tuple[float, float]:
    """Values of black and white: 0 to 1 or 0 to 255, unless given."""
    for each in images.values():
        if each.values.dtype.kind == "f" and not (finite := np.isfinite(each.values)).all():
            bad = int(np.argmin(finite.reshape(len(finite), -1).all(axis=1)))
            raise DataError(f"{each.where}: image {bad} has non-finite values; remove it")
    low = min(float(each.values.min()) for each in images.values())
    high = max(float(each.values.max()) for each in images.values())
    if wanted is None:
        usual = all(each.values.dtype == np.uint8 for each in images.values())
        if low >= -_ROUNDING and high <= 1 + _ROUNDING:
            return 0.0, 1.0
        if low >= 0 and (high >= _DIM or usual) and high <= 255:
            return 0.0, 255.0
    elif wanted[0] <= low and high <= wanted[1]:
        return wanted
    where = images["train_images"].where
    but = f", outside dataset.value_range: [{wanted[0]:g}, {wanted[1]:g}]" if wanted else ""
    raise DataError(
        f"{where}: has pixel values from {low:.5g} to {high:.5g}{but}; set "
        f"dataset.value_range: {_likely_range(low, high)}, the values of black and white"
    )


def _likely_range(low: float, high: float) -> str:
    """The usual range that contains all values, such as [-1, 1] or [0, 4095].

    >>> _likely_range(-0.9, 1), _likely_range(0, 3_000), _likely_range(0, 16)
    ('[-1, 1]', '[0, 4095]', '[0, 16]')
    """
    if low >= -1 and high <= 1:
        return "[-1, 1]"
    if low >= 0 and high > 255:
        return f"[0, {2 ** int(high).bit_length() - 1}]"
    return f"[{min(low, 0):.5g}, {high:.5g}]"


def _to_bytes(images: Array, black: float, white: float) -> Pixels:
    """Scales pixel values to 0 to 255, rounded."""
    if images.dtype == np.uint8 and (black, white) == (0, 255):
        return np.ascontiguousarray(images)
    pixels = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _AT_ONCE):
        part = images[start : start + _AT_ONCE].astype(np.float64)
        scaled = (part - black) * (255 / (white - black))
        pixels[start : start + _AT_ONCE] = scaled.round().clip(0, 255)
    return pixels


# Labels


def _classes(
    labels: Mapping[str, _Raw], names: _Raw | None
) -> tuple[dict[str, NDArray[np.int32]], tuple[str, ...], int]:
    """Classes from 0, their names, and how many there are."""
    flat = {role: _flat(each) for role, each in labels.items()}
    first = flat["train_labels"]
    if names is not None:
        known = _class_names(names)
        texts = first.values.dtype.kind == "U"
        values = np.array(known) if texts else np.arange(len(known))
        of = f"the {len(known)} class names"
    elif first.one_hot:
        values, known, of = np.arange(first.one_hot), (), f"the {first.one_hot} classes"
    else:
        values, of = np.unique(first.values), "the training labels"
        known = () if _counts_up(values) else tuple(map(str, values))
    _require_classes(first.where, values, len(first.values))
    return {role: _numbered(each, values, of) for role, each in flat.items()}, known, len(values)


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class _Labels:
    """Labels, integers or strings of shape ``(n,)``; `one_hot` is the number of columns, or 0."""

    values: Array
    where: str
    one_hot: int = 0


def _counts_up(values: Array) -> bool:
    return values.dtype.kind in "iu" and bool((values == np.arange(len(values))).all())


def _require_classes(where: str, values: Array, num: int) -> None:
    if len(values) < 2:
        raise DataError(f"{where}: has only one class, {values[0]}; use two or more")
    if len(values) > max(_MANY_CLASSES, num // 2):
        raise DataError(
            f"{where}: has {len(values):,} classes for {num:,} images; use class labels, not "
            "image indices"
        )


def _numbered(labels: _Labels, values: Array, of: str) -> NDArray[np.int32]:
    """Index of each label in `values`."""
    same = (labels.values.dtype.kind == "U") == (values.dtype.kind == "U")
    unknown = ~np.isin(labels.values, values) if same else np.ones(len(labels.values), bool)
    if unknown.any():
        at = int(np.argmax(unknown))
        label = quoted(labels.values[at].item())
        raise DataError(
            f"{labels.where}: label {label} of image {at} is not one of {of}; correct it"
        )
    order = np.argsort(values)
    return order[np.searchsorted(values, labels.values, sorter=order)].astype(np.int32)


def _class_names(raw: _Raw) -> tuple[str, ...]:
    if raw.values.ndim != 1 or raw.values.dtype.kind not in "US":
        kind = _described(raw.values.shape, raw.values.dtype)
        raise DataError(f"{raw.where}: is {kind}, not one name per class; save a list of strings")
    names = tuple(map(str, _text_values(raw)))
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise DataError(f"{raw.where}: two classes are named {quoted(twice)}; rename one")
    return names


def _text_values(raw: _Raw) -> Array:
    if raw.values.dtype.kind == "U":
        return raw.values
    try:
        return np.char.decode(raw.values, "utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{raw.where}: has bytes that are not UTF-8; save strings") from None


def _flat(raw: _Raw) -> _Labels:
    """One label per image from a column, an array, or one-hot rows."""
    values, where = raw.values, raw.where
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2 and values.dtype.kind in "buif":
        return _Labels(_from_one_hot(values, where), where, values.shape[1])
    if values.ndim != 1:
        raise DataError(f"{where}: has shape {values.shape}; use one label per image, (n,)")
    match values.dtype.kind:
        case "i" | "u":
            return _Labels(values, where)
        case "b":
            return _Labels(values.astype(np.int64), where)
        case "f":
            return _Labels(_integral(values, where), where)
        case "U" | "S":
            return _Labels(_integers_if_all(_text_values(_Raw(values, where))), where)
        case _:
            raise DataError(f"{where}: has dtype {values.dtype}; use integers or strings")


def _from_one_hot(values: Array, where: str) -> NDArray[np.int64]:
    wrong = ~(((values == 0) | (values == 1)).all(axis=1) & (values.sum(axis=1) == 1))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise DataError(
            f"{where}: has shape {values.shape}, and row {at} is not one-hot; use one class per "
            "image"
        )
    return np.asarray(values.argmax(axis=1), np.int64)


def _integral(values: Array, where: str) -> NDArray[np.int64]:
    wrong = values != np.round(values)  # true of NaN
    if (wrong := wrong | ~np.isfinite(values)).any():
        at = int(np.argmax(wrong))
        raise DataError(
            f"{where}: label {values[at]:g} of image {at} is not an integer; correct it"
        )
    return np.asarray(values, np.int64)


def _integers_if_all(texts: Array) -> Array:
    """Integers, if all strings are written like them."""
    number = all(re.fullmatch(r"0|-?[1-9]\d{0,17}", text) for text in np.unique(texts))
    return texts.astype(np.int64) if number else texts
