"""Reads MNIST and related datasets in IDX format."""

import gzip
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from os.path import commonpath
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.catalog import describe
from cnnbench.data.file_digests import digest_of
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
from cnnbench.errors import DataError
from cnnbench.formatting import enumeration, reason
from cnnbench.system.arrays import Array
from cnnbench.system.cache import CacheEntry

# Datasets that consist of the four files below, with their folder names in torchvision.
IDX_DATASETS: Mapping[str, str] = MappingProxyType(
    {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
)
FILENAMES = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}
# SHA-256 of the uncompressed content by SHA-256 of the published file. Unknown for kmnist: of its
# uncompressed files, only the headers are checked.
UNCOMPRESSED = {
    # mnist, in the order of FILENAMES
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c": (
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    ),
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6": (
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    ),
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6": (
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    ),
    # fashion_mnist
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845": (
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
    ),
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073": (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    ),
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5": (
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
    ),
}
UNVERIFIED = " (uncompressed, with unknown SHA-256; only sizes were checked)"
SHOWN_FILES = 5  # per folder, in messages


def registered_key(name: str) -> str:
    """Cache key of an IDX dataset with registered files, whose content is known."""
    return f"{name} as registered"


def content_key(name: str, sums: Mapping[str, str]) -> str:
    """Cache key of an IDX dataset with unregistered files, by their content.

    Args:
      name: name of the dataset.
      sums: SHA-256 of the available files, by role.

    Returns:
      The key; empty if a file is missing, which disables caching.
    """
    if len(sums) < len(FILENAMES):
        return ""
    return " ".join([f"{name} of", *(sums[role] for role in FILENAMES)])


def load_idx_dataset(name: str, data_dir: Path, notify: Callable[[str], None]) -> CacheEntry:
    """Loads an IDX dataset from manually placed, previously downloaded, or newly downloaded files.

    Files must have the SHA-256 registered in tensorflow-datasets, or that of the uncompressed
    content. If the latter is unknown, only the numbers of images, rows and columns are checked,
    which is noted in the source.

    Returns:
      Images, uint8 ``(n, height, width, 1)``, and labels, int32 ``(n,)``, in file order.

    Raises:
      UnavailableError: a file is missing and cannot be downloaded.
      DataError: a file has the wrong SHA-256 or content.
    """
    by_name = published_files(name)
    files = {role: by_name[filename] for role, filename in FILENAMES.items()}
    manual = manual_files(name, data_dir)
    fetched = {role: fetched_path(file, name, data_dir) for role, file in files.items()}
    paths = manual | {role: p for role, p in fetched.items() if p and role not in manual}
    # Local files are verified before downloading the rest, so that a wrong file is reported
    # instead of using the fallback dataset.
    sums = {role: _verified(path, files[role], name, role) for role, path in paths.items()}
    source = manual_source(manual)
    if len(manual) < len(files):
        source = f"IDX files downloaded to {data_dir.absolute() / 'downloads'}"
    if missing := [files[role] for role in files if role not in paths]:
        try:
            got = fetch(name, missing, data_dir, notify)
        except UnavailableError as error:
            raise UnavailableError(str(error), _searched(name, data_dir, missing)) from error
        paths |= {role: got[file.filename] for role, file in files.items() if role not in paths}
    arrays = {role: decode_idx(path.read_bytes(), str(path)) for role, path in paths.items()}
    known = all(sum_ in _sums(files[role]) for role, sum_ in sums.items())
    return CacheEntry(
        {
            role: arrays[role][..., None] if role.endswith("images") else _labels(arrays[role])
            for role in FILENAMES
        },
        source if known else f"{source}{UNVERIFIED}",
        registered_key(name) if known else content_key(name, sums),
        {role: _sums(file) for role, file in files.items()} if known else {},
    )


def manual_files(name: str, data_dir: Path) -> dict[str, Path]:
    """Manually placed files of an IDX dataset by role, not verified.

    They may be compressed or not, and also be in the folders that torchvision uses.
    """
    found: dict[str, Path] = {}
    for role, filename in FILENAMES.items():
        paths = (
            folder / each for folder in folders(name, data_dir) for each in name_variants(filename)
        )
        if path := next((path for path in paths if path.is_file()), None):
            found[role] = path
    return found


def has_files(name: str, data_dir: Path) -> bool:
    """Returns True if the data folder has a file of an IDX dataset, right or wrong."""
    fetched = (fetched_path(file, name, data_dir) for file in published_files(name).values())
    return bool(manual_files(name, data_dir)) or any(fetched)


def folders(name: str, data_dir: Path) -> tuple[Path, ...]:
    """Folders to search for the files of an IDX dataset, in order of precedence."""
    raw = (data_dir / name, data_dir / IDX_DATASETS[name] / "raw", data_dir / "raw")
    return (data_dir, *raw, *manual_dirs(data_dir)[1:])


def name_variants(filename: str) -> tuple[str, ...]:
    """Alternative names of a file.

    >>> name_variants("train-images-idx3-ubyte.gz")[2:]
    ('train-images.idx3-ubyte.gz', 'train-images.idx3-ubyte')
    """
    stem = filename.removesuffix(".gz")
    dotted = stem.replace("-idx", ".idx")
    return (filename, stem, f"{dotted}.gz", dotted)


def manual_source(paths: Mapping[str, Path]) -> str:
    """Description of the source of the images, from files by role."""
    folders = [path.parent.absolute() for path in paths.values()]
    return f"IDX files in {commonpath(folders)}" if folders else ""


def decode_idx(content: bytes, place: str) -> NDArray[np.uint8]:
    """Decodes an IDX file of unsigned bytes, gzipped or not.

    Args:
      content: content of the file.
      place: file name, for errors.

    Returns:
      The array, of shape ``(n,)`` or ``(n, rows, columns)``.

    Raises:
      DataError: not a valid IDX file of labels or images.

    References:
      Y. LeCun, C. Cortes, C. J. C. Burges, *The MNIST database of handwritten
      digits*: the format is described at the bottom of the page.

    >>> decode_idx(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1])), "labels.gz")
    array([7, 2, 1], dtype=uint8)
    """
    try:
        raw = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{place}: not a valid gzip file ({reason(error)}); {REMEDY}") from error
    num_axes = raw[3] if len(raw) > 4 and raw[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * num_axes
    shape = [int.from_bytes(raw[at : at + 4], "big") for at in range(4, start, 4)]
    if num_axes not in {1, 3} or len(raw) != start + math.prod(shape):
        raise DataError(f"{place}: not a valid IDX file of labels or images; {REMEDY}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def encode_idx(array: Array) -> bytes:
    """Encodes images, ``(n, rows, columns, 1)``, or labels, ``(n,)``, as an IDX file.

    >>> encode_idx(np.array([7, 2, 1])).hex(" ")
    '00 00 08 01 00 00 00 03 07 02 01'
    """
    values = array[..., 0] if array.ndim == 4 else array
    header = bytes([0, 0, 8, values.ndim])
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + sizes + values.astype(np.uint8).tobytes()


def _labels(array: NDArray[np.uint8]) -> NDArray[np.int32]:
    return array.astype(np.int32)


def _sums(file: RegisteredFile) -> tuple[str, ...]:
    """The accepted SHA-256 values of a file."""
    return tuple(filter(None, (file.checksum, UNCOMPRESSED.get(file.checksum))))


def _verified(path: Path, file: RegisteredFile, name: str, role: str) -> str:
    """Verifies a file and returns its SHA-256.

    Raises:
      DataError: not the file of the dataset.
    """
    found = digest_of(path)
    if found in _sums(file):
        return found
    if file.checksum in UNCOMPRESSED or _is_gzip(path):
        verify_file(path, file, name, UNCOMPRESSED.get(file.checksum, ""))
    if found in UNCOMPRESSED.values():
        message = f"{path}: this file belongs to a dataset other than '{name}' (SHA-256 {found})"
        raise DataError(f"{message}; {REMEDY}")
    _require_sizes(path, name, role)
    return found


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _require_sizes(path: Path, name: str, role: str) -> None:
    """Raises DataError if the count, shape or labels do not match the dataset."""
    info, array = describe(name), decode_idx(path.read_bytes(), str(path))
    count = info.num_train if role.startswith("train") else info.num_test
    expected = (count, *info.shape[:2]) if role.endswith("images") else (count,)
    if array.shape != expected:
        sizes = ("x".join(map(str, shape)) for shape in (array.shape, expected))
        found, wanted = sizes
        message = f"{path}: has {found} values, but the file of '{name}' has {wanted}"
        raise DataError(f"{message}; {REMEDY}")
    if role.endswith("labels") and (most := int(array.max())) >= info.num_classes:
        message = f"{path}: has label {most}, but labels of '{name}' are 0 to"
        raise DataError(f"{message} {info.num_classes - 1}; {REMEDY}")


def _searched(name: str, data_dir: Path, missing: list[RegisteredFile]) -> str:
    """Searched folders and file names, and the content of the main folder."""
    first, *below = folders(name, data_dir)
    places = enumeration([f"{folder.relative_to(first)}/" for folder in below])
    stems = [file.filename.removesuffix(".gz") for file in missing]
    dotted = name_variants(missing[0].filename)[-1]
    return (
        f"Searched {first} and its subfolders {places} for {enumeration(stems)} (with or without"
        f" .gz, or named like {dotted}). {_content(first)}"
    )


def _content(folder: Path) -> str:
    """Describes the content of a folder."""
    if not folder.exists():
        return f"{folder} does not exist"
    try:
        names = sorted(_entries(folder))
    except OSError as error:
        return f"{folder} cannot be read ({reason(error)})"
    if not names:
        return f"{folder} is empty"
    more = len(names) - SHOWN_FILES
    shown = names if more < 2 else [*names[:SHOWN_FILES], f"{more} more"]
    return f"{folder} contains {enumeration(shown)}"


def _entries(folder: Path) -> Iterator[str]:
    return (path.name + "/" * path.is_dir() for path in folder.iterdir())
