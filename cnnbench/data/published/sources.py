"""Finds the files of datasets, as published or as other programs left them on the disk."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from cnnbench.data.catalog import KNOWN, DatasetInfo
from cnnbench.data.published.downloads import (
    RegisteredFile,
    UnavailableError,
    fetch,
    fetched_path,
    manual_dirs,
    verify_file,
)
from cnnbench.data.published.forms import Source
from cnnbench.data.published.readers.cifar import CIFAR, cifar10_1_sources, cifar_sources
from cnnbench.data.published.readers.emnist import emnist_sources
from cnnbench.data.published.readers.imagenette import ARCHIVES, imagenette_sources
from cnnbench.data.published.readers.keras import keras_fashion_mnist, keras_mnist
from cnnbench.data.published.readers.medmnist import MEDMNIST, medmnist_sources
from cnnbench.data.published.readers.stl10 import stl10_sources
from cnnbench.data.published.readers.svhn import svhn_sources
from cnnbench.errors import DataError, Notify, or_list
from cnnbench.formatting import enumeration
from cnnbench.system.cache import CacheEntry
from cnnbench.system.files import expand_home

# Other forms of datasets that `idx` reads

COPIES: Mapping[str, Callable[[], tuple[Source, ...]]] = MappingProxyType(
    {"mnist": keras_mnist, "fashion_mnist": keras_fashion_mnist}
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
        **{name: partial(imagenette_sources, name) for name in ARCHIVES},
    }
)


@dataclass(frozen=True, slots=True)
class Found:
    """The verified files of a source on the disk, in the order of `source.files`."""

    info: DatasetInfo
    source: Source
    paths: tuple[Path, ...]

    @property
    def key(self) -> str:
        """Cache key of the dataset."""
        return self.source.key(self.info)

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
        return CacheEntry(self.source.read(self.paths, self.info), self.text, self.key)


def cache_keys(info: DatasetInfo) -> tuple[str, ...]:
    """Cache keys of a dataset in any of its forms."""
    return tuple(source.key(info) for source in SOURCES[info.name]())


def find(info: DatasetInfo, data_dir: Path, notify: Notify) -> Found | None:
    """Finds the files of a dataset in the data folder, or in the caches of other programs.

    Raises:
      DataError: a file in the data folder has the wrong checksum.
    """
    name = info.name
    sources = (SOURCES if name in SOURCES else COPIES)[name]()
    for source in sources:
        paths = _in_data_dir(source, name, data_dir)
        for file, path in paths.items():
            verify_file(path, file, name)
        if len(paths) == len(source.files):
            return Found(info, source, tuple(paths.values()))
    for source in sources:
        paths = _in_folders(source, cache_folders())
        if len(paths) == len(source.files) and _are_right(paths, name, notify):
            return Found(info, source, tuple(paths.values()))
    return None


def download(info: DatasetInfo, data_dir: Path, notify: Notify) -> Found:
    """Downloads the files of a dataset that are not in the data folder, which are verified.

    Raises:
      UnavailableError: no network, or no server provides a file.
      DataError: a file has the wrong checksum, or cannot be written.
    """
    name = info.name
    source = SOURCES[name]()[0]
    paths = _in_data_dir(source, name, data_dir)
    missing = [file for file in source.files if file not in paths]
    try:
        got = fetch(name, missing, data_dir, notify)
    except UnavailableError as error:
        raise UnavailableError(str(error), _searched(name, data_dir)) from error
    return Found(info, source, tuple(paths.get(f) or got[f.filename] for f in source.files))


def cache_folders() -> tuple[Path, ...]:
    """Folders in the home directory where Keras, medmnist and fastai keep their downloads."""
    keras = Path(os.environ.get("KERAS_HOME") or expand_home(Path("~/.keras")))
    fastai = Path(os.environ.get("FASTAI_HOME") or expand_home(Path("~/.fastai")))
    return keras / "datasets", expand_home(Path("~/.medmnist")), fastai / "archive"


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
