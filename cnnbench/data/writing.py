"""Writes a dataset as a folder of images: ``train/CLASS/00000.png``, ``validation/``, ``test/``."""

import re
from collections.abc import Sequence
from pathlib import Path

from cnnbench.data.dataset import Dataset
from cnnbench.data.splits import Split
from cnnbench.errors import DataError, UsageError, cannot_write


def write_folder(dataset: Dataset, folder: Path) -> int:
    """Writes the images of a dataset as PNG files, which lose nothing.

    Args:
      dataset: the dataset; gray or RGB.
      folder: the folder, which must not exist yet or be empty.

    Returns:
      The number of files.

    Raises:
      UsageError: the folder has files.
      DataError: the images have another number of channels.
      StoreError: the disk cannot be written.
    """
    if dataset.info.shape[2] not in {1, 3}:
        raise DataError(
            f"dataset '{dataset.info.name}' has {dataset.info.shape[2]} channels; only gray and RGB"
            " images can be written as files"
        )
    names = class_folders(dataset.info.classes, dataset.info.num_classes)
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UsageError(f"{folder}: already exists; name another folder.")
        for split, images in splits.items():
            _write_split(images, names, folder / split)
    except OSError as error:
        raise cannot_write(folder, error, "name another folder") from error
    return sum(map(len, splits.values()))


def class_folders(names: Sequence[str], num_classes: int) -> list[str]:
    """Names of the folders of classes, which sort like numbers if the classes have no names.

    >>> class_folders(["T-shirt/top", "Bag"], 2), class_folders([], 11)[:3]
    (['T-shirt-top', 'Bag'], ['00', '01', '02'])
    """
    if not names:
        return [f"{label:0{len(str(num_classes - 1))}}" for label in range(num_classes)]
    safe = [re.sub(r'[\x00-\x1f/\\:*?"<>|]+', "-", name).strip(". ") for name in names]
    unique = len(set(safe)) == len(safe) and all(safe)
    return safe if unique else [f"{label} {name}".strip() for label, name in enumerate(safe)]


def _write_split(images: Split, names: Sequence[str], folder: Path) -> None:
    from PIL import Image

    if not len(images):
        return
    for name in names:
        (folder / name).mkdir(parents=True)
    digits = max(5, len(str(len(images))))
    for number, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
        gray = pixels[..., 0] if pixels.shape[2] == 1 else pixels
        Image.fromarray(gray).save(folder / names[label] / f"{number:0{digits}}.png")
