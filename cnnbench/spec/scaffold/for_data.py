"""Scaffolds an experiment for a dataset: image size, network and training settings that fit it."""

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from cnnbench.data.catalog import DatasetInfo
from cnnbench.data.inspection.survey import Survey
from cnnbench.data.places import DataPlace
from cnnbench.errors import DataError
from cnnbench.formatting import clean
from cnnbench.layers.base import shape_text
from cnnbench.spec.document import inline_text
from cnnbench.spec.experiment import MAX_NAME
from cnnbench.spec.scaffold.extending import Scaffold
from cnnbench.spec.scaffold.naming import (
    check_path,
    checked_name,
    name_lines,
    refuse_taken,
    schema_line,
    siblings,
)
from cnnbench.spec.scaffold.network import (
    ResizeChoice,
    choose_batch_size,
    choose_epochs,
    choose_layers,
    choose_resize,
    num_pools,
)

SHARES = (0.15, 0.2, 0.25, 0.34)  # of validation and test images, the smallest that fits
IMBALANCED = 3  # times as many images in the largest class as in the smallest


def default_path(place: DataPlace) -> Path:
    """File name of an experiment, from the name of its data.

    >>> default_path(DataPlace("folder", "my pictures/Wild flowers")).name
    'Wild_flowers.yaml'
    """
    stem = Path(place.value).absolute().name if place.key != "name" else place.value
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem.partition(".")[0]).strip("_-")[:MAX_NAME]
    return Path(f"{name if name[:1].isalpha() else f'data_{name}'.rstrip('_')}.yaml")


def scaffold_for_folder(
    path: Path, place: DataPlace, found: Survey, name: str | None = None
) -> Scaffold:
    """Creates an experiment for a folder of images.

    Args:
      path: the file to create.
      place: the folder.
      found: properties of the images.
      name: name of the experiment; default: from the file name.

    Raises:
      UsageError: invalid or existing name or path.
      DataError: there are too few images for a test split.
    """
    sizes = [(each.height, each.width) for each in found.headers]
    resize = choose_resize(sizes, found.num_train)
    if resize is None and found.is_sample:
        resize = ResizeChoice(sizes[0], "crop", 0.0)
    shape = resize.size if resize else sizes[0]
    data = [
        *_folder_lines(place, path, found),
        *_resize_lines(sizes, resize),
        *_split_lines(place, found),
        *_scaling_lines(constant=found.constant),
        *_flip_lines(gray=found.gray),
    ]
    train = _train_lines(found.num_train, tuple(found.counts.values()))
    return _scaffold(
        path, name, data, [*_layer_lines(shape, len(found.counts), found.num_train), *train]
    )


def scaffold_for_arrays(
    path: Path, place: DataPlace, info: DatasetInfo, name: str | None = None
) -> Scaffold:
    """Creates an experiment for array files, or for a published dataset.

    Args:
      path: the file to create.
      place: the files or the name.
      info: shape and sizes of the dataset.
      name: name of the experiment; default: from the file name.

    Raises:
      UsageError: invalid or existing name or path.
    """
    pool = info.num_train or 0
    num_train = pool - (pool // 6 if info.num_validation is None else info.num_validation)
    images = f"{info.num_train:,} training and " if info.num_train else ""
    tests = f"{info.num_test:,} test images" if info.num_test else "test images"
    data = [
        f"  # {images}{tests} of {shape_text(info.shape)}, {info.num_classes:,} classes.",
        f"  {place.key}: {inline_text(place.relative_to(path.parent))}",
        *([f"  resize: {{size: {list(info.shape[:2])}, method: crop}}"] if info.form else []),
        *_scaling_lines(constant=False),
        *_flip_lines(gray=info.shape[2] == 1),
    ]
    layers = _layer_lines(info.shape[:2], info.num_classes, num_train)
    return _scaffold(path, name, data, [*layers, *_train_lines(num_train, ())])


def _scaffold(path: Path, name: str | None, data: list[str], rest: list[str]) -> Scaffold:
    check_path(path)
    found = checked_name(path, name)
    refuse_taken(found, set(siblings(path)) - {path})
    head = [schema_line(), *name_lines(found), "task: classify", "dataset:"]
    return Scaffold(path, found, "\n".join([*head, *data, *rest, ""]), None, {})


def _folder_lines(place: DataPlace, path: Path, found: Survey) -> Iterator[str]:
    low, high = min(found.counts.values()), max(found.counts.values())
    each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    yield f"  # {found.num_images:,} images: {len(found.counts):,} classes of {each}."
    yield f"  folder: {inline_text(place.relative_to(path.parent))}"
    if found.gray:
        yield "  channels: 1  # all images are gray"
    if found.broken:
        noun = "image" if len(found.broken) == 1 else "images"
        verb = "is" if len(found.broken) == 1 else "are"
        yield f"  # {len(found.broken):,} {noun} cannot be read and {verb} left out, such as"
        yield f"  # {clean(found.broken[0])}."
        yield "  on_error: skip"
    if number := sum(each.has_alpha for each in found.headers):
        yield f"  background: white  # behind transparent pixels, which {number:,} images may have"


def _resize_lines(sizes: list[tuple[int, int]], resize: ResizeChoice | None) -> Iterator[str]:
    if resize is None:
        yield f"  # All images have {shape_text(sizes[0])} pixels, so they are not resized."
        return
    middle = shape_text(tuple(round(median(side)) for side in zip(*sizes, strict=True)))
    share = f"{resize.waste:.0%}"
    if len(set(sizes)) == 1:
        yield f"  # The images have {middle} pixels. Smaller ones train faster."
    else:
        yield f"  # The median size is {middle} pixels, height x width. Smaller ones train faster."
    if resize.method == "fit":
        yield f"  # fit pads; crop would cut {share} or more off a quarter of the images."
    elif resize.method == "stretch":
        yield "  # stretch keeps all of wide or tall images; fit would shrink their shorter side."
    elif resize.waste >= 0.01:
        yield f"  # crop cuts at most {share} off three quarters of the images; fit would pad."
    size = resize.size[0] if len(set(resize.size)) == 1 else list(resize.size)
    yield f"  resize: {inline_text({'size': size, 'method': resize.method})}"


def _split_lines(place: DataPlace, found: Survey) -> Iterator[str]:
    missing = [name for name in ("validation", "test") if name not in found.splits]
    if not missing:
        return
    smallest, largest = min(found.counts.values()), max(found.counts.values())
    if largest < 2 and "test" in missing:
        raise DataError(
            f"{place.value}: every class has only one image, which leaves none for testing; add"
            " images"
        )
    needed = smallest if smallest > 2 else largest
    share = next((each for each in SHARES if int(needed * each + 0.5) >= 1), SHARES[-1])
    parts = dict.fromkeys(missing, share)
    yield f"  split: {inline_text(parts)}  # fractions of each class"


def _scaling_lines(*, constant: bool) -> Iterator[str]:
    if constant:
        yield "  pixel_scale: 255  # not normalize: auto, because a channel is constant"
    else:
        yield "  normalize: auto  # by mean and standard deviation of the training images"


def _flip_lines(*, gray: bool) -> Iterator[str]:
    example = "not letters or digits" if gray else "as most photos are"
    yield f"  # If mirrored images are still of their class ({example}):"
    yield "  # augment: {random_flip: horizontal}"


def _layer_lines(shape: tuple[int, int], num_classes: int, num_train: int) -> Iterator[str]:
    number = num_pools(shape)
    end = (shape[0] >> number, shape[1] >> number)
    yield "model:"
    yield "  layers:"
    if number:
        yield f"    # Pooling reduces {shape_text(shape)} to {shape_text(end)}."
    for name, layer in choose_layers(shape, num_classes, num_train):
        reason = "  # against overfitting, with few images" if name == "drop" else ""
        yield f"    {name}: {inline_text(layer)}{reason}"


def _train_lines(num_train: int, counts: tuple[int, ...]) -> Iterator[str]:
    batch_size = choose_batch_size(num_train)
    epochs, steps = choose_epochs(num_train, batch_size), max(1, num_train // batch_size)
    yield "train:"
    yield f"  epochs: {epochs}"
    yield f"  batch_size: {batch_size}  # {steps:,} steps per epoch"
    yield "  optimizer: {name: adam, learning_rate: 0.001}"
    yield "  schedule: cosine"
    if counts and max(counts) >= IMBALANCED * min(counts):
        ratio = max(counts) / min(counts)
        yield f"  # The largest class has {ratio:.1f} times as many images as the smallest. To"
        yield "  # weight all classes equally in the loss:"
        yield "  # class_weights: balanced"
