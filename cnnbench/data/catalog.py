"""Names, shapes and sizes of image classification datasets."""

import contextlib
import hashlib
import importlib
import importlib.util
import io
import logging
import os
import re
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cnnbench.data.class_names import NAMES
from cnnbench.errors import DataError, KnownNames, Notify, did_you_mean, or_list
from cnnbench.system import commands
from cnnbench.system.files import expand_home

if TYPE_CHECKING:  # reading an experiment imports no NumPy
    from cnnbench.system.cache import CacheEntry

EMBEDDED = "mnist_5k"
TESTED = "4.9.10"  # of tensorflow-datasets
TENSORFLOW_EXTRA = commands.pip_install("cnnbench[tensorflow]")
NOISE = "random"
NUM_NOISE = MappingProxyType({"train": 1_200, "test": 200})
_NOISE = re.compile(rf"{NOISE}/([1-9]\d*)x([1-9]\d*)x([1-9]\d*)/([1-9]\d*)")
_MOST_BYTES = 2**32
ResizeMethod = Literal["crop", "fit", "stretch"]
READABLE = "PNG, JPEG, WebP, GIF, BMP or TIFF"
LIST = f"`{commands.cnnbench('data', 'list')}`"

SPLITS = ("train", "validation", "test")
KINDS = ("images", "labels")
ROLES = tuple(f"{split}_{kind}" for split in SPLITS for kind in KINDS)  # of arrays
CLASS_NAMES = "class_names"
LabelKind = Literal["class", "targets", "multilabel"]
"""What the images of a dataset have: one class, numbers (regression), or several labels."""
ChannelOrder = Literal["channels_first", "channels_last"]

_LABEL_WORDS: Mapping[LabelKind, tuple[str, str]] = MappingProxyType(
    {
        "class": ("class", "classes"),
        "targets": ("target", "targets"),
        "multilabel": ("label", "labels"),
    }
)
_patching = threading.Lock()

_NAMES = KnownNames(  # names in other libraries
    {
        "cifar10": ("cifar", "cifar-10"),
        "fashion_mnist": ("fashion", "FashionMNIST"),
        "kmnist": ("kuzushiji", "KuzushijiMNIST"),
        "pathmnist": ("medmnist",),
        "svhn_cropped": ("svhn",),
    }
)


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """Metadata of a dataset, available without reading it.

    Args:
      name: name in tensorflow-datasets, ``name`` or ``name/config``, or ``mnist_5k``.
      shape: height, width and channels of the images.
      num_classes: number of classes, targets or labels; classes are 0 to ``num_classes - 1``.
      num_train: number of images for training and validation; None until prepared.
      num_test: number of test images; None until prepared.
      title: one-line description.
      classes: names of the classes, targets or labels, in order; empty if unknown.
      num_validation: number of images of `num_train` that are a validation set of their own; None
        without one.
      license: license of the images, where the authors state one.
      form: how images of various sizes are decoded; None for images of one size.
      labels: what the images are labeled with.
      own_test: False if test images are split off from the training images.
    """

    name: str
    shape: tuple[int, int, int]
    num_classes: int
    num_train: int | None
    num_test: int | None
    title: str
    classes: tuple[str, ...] = ()
    num_validation: int | None = None
    license: str = ""
    form: "ImageForm | None" = None
    labels: LabelKind = "class"
    own_test: bool = True

    @property
    def varies(self) -> bool:
        """True if the images have various sizes, so that height and width are 0."""
        return 0 in self.shape

    @property
    def labels_text(self) -> str:
        """Number of classes, targets or labels, in words.

        >>> DatasetInfo("x", (8, 8, 1), 1, None, None, "x", labels="targets").labels_text
        '1 target'
        """
        one, several = _LABEL_WORDS[self.labels]
        return f"{self.num_classes} {one if self.num_classes == 1 else several}"


class OwnData(Protocol):
    """Files of the user that are a dataset; one class per key of `dataset`, such as `folder`."""

    def info(self) -> DatasetInfo:
        """Shape, classes and sizes, without decoding the images.

        Raises:
          DataError: the files are not such a dataset.
        """

    def key(self) -> str:
        """Cache key, of the content of the files and all options; empty to decode each time.

        Raises:
          DataError: a file cannot be read.
        """

    def decode(self, key: str, notify: Notify) -> "CacheEntry":
        """Decodes the files; the result is cached.

        Raises:
          DataError: a file is invalid.
        """

    def split(self, decoded: "CacheEntry", notify: Notify) -> "CacheEntry":
        """Divides what was decoded into training, validation and test images.

        Each split is in random order, so that its first images are a sample of it.

        Args:
          decoded: result of `decode`, or its copy from the cache.
          notify: called with messages for the user.

        Returns:
          ``train_images``, uint8 (n, height, width, channels), ``train_labels``, as in
          `dataset.Split`, and the same of ``validation`` and ``test``.
        """

    def has_test(self, decoded: "CacheEntry") -> bool:
        """Returns True if the files have test images, False if `split` takes them off.

        Args:
          decoded: result of `decode`, or its copy from the cache.
        """


def _emnist(config: str, num_classes: int, train: int, test: int, title: str) -> DatasetInfo:
    return DatasetInfo(f"emnist{config}", (28, 28, 1), num_classes, train, test, title)


def _medmnist(
    name: str, channels: int, num_classes: int, sizes: tuple[int, int, int], title: str
) -> DatasetInfo:
    train, validation, test = sizes
    return DatasetInfo(
        f"{name}mnist",
        (28, 28, channels),
        num_classes,
        train + validation,
        test,
        title,
        num_validation=validation,
        license="CC BY-NC 4.0" if name == "derma" else "CC BY 4.0",
    )


_EMNIST = (
    _emnist("", 62, 697_932, 116_323, "digits and letters"),
    _emnist("/byclass", 62, 697_932, 116_323, "the same as emnist"),
    _emnist("/bymerge", 47, 697_932, 116_323, "similar cases merged"),
    _emnist("/balanced", 47, 112_800, 18_800, "balanced emnist/bymerge"),
    _emnist("/letters", 26, 124_800, 20_800, "case-insensitive letters"),
    _emnist("/digits", 10, 240_000, 40_000, "balanced digits"),
    _emnist("/mnist", 10, 60_000, 10_000, "same sizes as mnist"),
)

_FINDINGS = (
    *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia"),
    *("pneumothorax", "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
)
# As in medmnist 3.0.2
_MEDMNIST = (
    replace(
        _medmnist("chest", 1, 14, (78_468, 11_219, 22_433), "chest X-rays, several labels"),
        classes=_FINDINGS,
        labels="multilabel",
    ),
    _medmnist("path", 3, 9, (89_996, 10_004, 7_180), "colon tissue"),
    _medmnist("derma", 3, 7, (7_007, 1_003, 2_005), "skin lesions"),
    _medmnist("oct", 1, 4, (97_477, 10_832, 1_000), "retinal OCT"),
    _medmnist("pneumonia", 1, 2, (4_708, 524, 624), "chest X-rays"),
    _medmnist("retina", 3, 5, (1_080, 120, 400), "retinopathy grades"),
    _medmnist("breast", 1, 2, (546, 78, 156), "breast ultrasound"),
    _medmnist("blood", 3, 8, (11_959, 1_712, 3_421), "blood cells"),
    _medmnist("tissue", 1, 8, (165_466, 23_640, 47_280), "kidney cells"),
    _medmnist("organa", 1, 11, (34_561, 6_491, 17_778), "abdominal CT, axial"),
    _medmnist("organc", 1, 11, (12_975, 2_392, 8_216), "abdominal CT, coronal"),
    _medmnist("organs", 1, 11, (13_932, 2_452, 8_827), "abdominal CT, sagittal"),
)
_V1, _V2 = (12_894, 500), (9_469, 3_925)  # images for training and testing
_IMAGENETTE = tuple(
    DatasetInfo(
        f"imagenette{config}",
        (0, 0, 3),
        10,
        *sizes,
        title,
        (
            *("tench", "English springer", "cassette player", "chain saw", "church"),
            *("French horn", "garbage truck", "gas pump", "golf ball", "parachute"),
        ),
    )
    for config, sizes, title in (
        ("", _V2, "10 classes of ImageNet"),
        ("/160px-v2", _V2, "the same as imagenette"),
        ("/320px-v2", _V2, "imagenette, larger"),
        ("/full-size-v2", _V2, "imagenette, original size"),
        ("/160px", _V1, "earlier split"),
        ("/320px", _V1, "earlier split, larger"),
        ("/full-size", _V1, "earlier split, original"),
    )
)

# Sizes as in tensorflow-datasets 4.9.10, except for emnist/letters, of which it reads only a part.
KNOWN: Mapping[str, DatasetInfo] = MappingProxyType(
    {
        info.name: replace(info, classes=NAMES.get(info.name, info.classes))
        for info in (
            DatasetInfo("mnist", (28, 28, 1), 10, 60_000, 10_000, "handwritten digits"),
            DatasetInfo("fashion_mnist", (28, 28, 1), 10, 60_000, 10_000, "articles of clothing"),
            DatasetInfo("kmnist", (28, 28, 1), 10, 60_000, 10_000, "cursive Japanese characters"),
            *_EMNIST,
            DatasetInfo("cifar10", (32, 32, 3), 10, 50_000, 10_000, "small color photos"),
            DatasetInfo("cifar100", (32, 32, 3), 100, 50_000, 10_000, "cifar10 with 100 classes"),
            DatasetInfo("svhn_cropped", (32, 32, 3), 10, 73_257, 26_032, "house numbers"),
            *(
                DatasetInfo(f"cifar10_1{config}", (32, 32, 3), 10, 50_000, test, title)
                for config, test, title in (
                    ("", 2_021, "cifar10, new test images"),
                    ("/v4", 2_021, "the same as cifar10_1"),
                    ("/v6", 2_000, "balanced cifar10_1"),
                )
            ),
            DatasetInfo("stl10", (96, 96, 3), 10, 5_000, 8_000, "photos"),
            *_MEDMNIST,
            *_IMAGENETTE,
            DatasetInfo(
                EMBEDDED,
                (28, 28, 1),
                10,
                4_500,
                500,
                "5,000 MNIST digits, embedded",
                num_validation=500,
            ),
        )
    }
)


def split_sizes(
    wanted: Mapping[str, int], pool: int, held_out: int | None = None
) -> tuple[int, int]:
    """Numbers of training and validation images.

    By default, the last sixth of the training images (or the remainder, if smaller) is used for
    validation and the rest for training. The numbers are not validated.

    Args:
      wanted: requested numbers by ``train`` and ``validation``; missing keys have defaults.
      pool: number of images in the training set.
      held_out: number of images in a separate validation set; None to split the training set.

    >>> split_sizes({}, 60_000), split_sizes({"train": 55_000}, 60_000)
    ((50000, 10000), (55000, 5000))
    >>> split_sizes({"validation": 0}, 60_000)
    (60000, 0)
    """
    if held_out is not None:
        return wanted.get("train", pool), wanted.get("validation", held_out)
    rest = pool - wanted.get("train", 0)
    validation = wanted.get("validation", min(pool // 6, rest))
    return wanted.get("train", pool - validation), validation


@dataclass(frozen=True, slots=True)
class ImageForm:
    """The form that images are converted to.

    Args:
      size: height and width; None if all images have the same.
      method: how images of another size are scaled.
      channels: 1 for gray, 3 for RGB.
      background: color behind transparent pixels, and around images with ``fit``.
    """

    size: tuple[int, int] | None
    method: ResizeMethod
    channels: int
    background: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class ArrayOptions:
    """Properties of array files that are not detected, or not correctly.

    Args:
      keys: pairs of one of `KINDS`, `ROLES` or `CLASS_NAMES`, and the name in the files: of an
        array in an ``.npz`` file, or of a column; several columns for ``labels``.
      shape: height, width and channels of flattened images.
      layout: order of the axes of color images.
      value_range: pixel values of black and white.
      form: size of image files in a table, and their background; None for the same size, on white.
      labels: what the images are labeled with.
    """

    keys: tuple[tuple[str, str | tuple[str, ...]], ...] = ()
    shape: tuple[int, int, int] | None = None
    layout: ChannelOrder | None = None
    value_range: tuple[float, float] | None = None
    form: ImageForm | None = None
    labels: LabelKind = "class"


@dataclass(frozen=True, slots=True)
class Shares:
    """Division of images that have no splits of their own.

    Args:
      validation: share of the images for validation.
      test: share of the images for testing.
      stratified: divide each class by itself, so that all splits have the same proportions.
      seed: seed of the random order.
    """

    validation: float = 0.15
    test: float = 0.15
    stratified: bool = True
    seed: int = 0


def divide(
    keys: Sequence[str], labels: Sequence[int], wanted: Mapping[str, float], shares: Shares
) -> dict[str, list[int]]:
    """Divides images into splits, in a random order that depends on their keys and the seed.

    The order of two images does not depend on any other image, so that most images stay in their
    split when images are added.

    Args:
      keys: a unique text per image, such as its file name.
      labels: its class.
      wanted: shares of splits by name; the rest is ``train``.
      shares: the seed, and whether each class is divided by itself.

    Returns:
      Indices of the images by split; ``train`` has at least one image of each class.

    >>> found = divide("abcdefgh", [0, 0, 0, 0, 1, 1, 1, 1], {"test": 0.25}, Shares())
    >>> {name: len(indices) for name, indices in found.items()}
    {'test': 2, 'train': 6}
    """
    order = random_order(keys, shares.seed)
    kinds: dict[int, list[int]] = {}
    for index in order:
        kinds.setdefault(labels[index] if shares.stratified else 0, []).append(index)
    found: dict[str, set[int]] = {name: set() for name in wanted}
    for members in kinds.values():
        rest = members
        for name, share in wanted.items():
            number = min(int(len(members) * share + 0.5), len(rest) - 1)
            found[name].update(rest[:number])
            rest = rest[number:]
    taken = set().union(*found.values())
    named = {name: [index for index in order if index in chosen] for name, chosen in found.items()}
    return named | {"train": [index for index in order if index not in taken]}


def random_order(keys: Sequence[str], seed: int) -> list[int]:
    """Indices of the keys, in the order of their hashes with the seed."""
    texts = (f"{seed} {key}".encode(errors="surrogateescape") for key in keys)
    hashes = [hashlib.sha256(text).digest() for text in texts]
    return sorted(range(len(keys)), key=hashes.__getitem__)


def describe(name: str, data_dir: Path | None = None) -> DatasetInfo:
    """Shape and size of a dataset, without reading or downloading it.

    Args:
      name: a key of `KNOWN`, a noise dataset, or any image classification dataset of
        tensorflow-datasets.
      data_dir: folder of prepared datasets, which may include custom ones.

    Raises:
      DataError: unknown dataset, or its images are not supported.

    >>> describe("cifar10").shape
    (32, 32, 3)
    """
    if name in KNOWN:
        return KNOWN[name]
    if is_noise(name):
        return _noise(name)
    return info_of(name, open_builder(name, default_data_dir(data_dir)))


def resized_info(info: DatasetInfo, form: ImageForm | None) -> DatasetInfo:
    """Metadata of a dataset by name whose images are resized.

    Raises:
      DataError: the images have various sizes, and there is no size to scale them to.

    >>> resized_info(describe("mnist"), ImageForm((32, 32), "fit", 3, (0, 0, 0))).shape
    (32, 32, 1)
    """
    if form is None or form.size is None:
        if info.varies:
            raise DataError(
                f"dataset '{info.name}' has images of various sizes; set dataset.resize, such as "
                "{size: [128, 128]}"
            )
        return info
    own = form if info.varies else None
    return replace(info, shape=(*form.size, info.shape[2]), form=own)


def is_noise(name: str) -> bool:
    """Returns True for a noise dataset, `random/HEIGHTxWIDTHxCHANNELS/CLASSES`.

    >>> is_noise("random/224x224x3/1000")
    True
    """
    return name.partition("/")[0] == NOISE


def _noise(name: str) -> DatasetInfo:
    if not (match := _NOISE.fullmatch(name)):
        example = f"{NOISE}/HEIGHTxWIDTHxCHANNELS/CLASSES, such as {NOISE}/224x224x3/1000"
        raise DataError(f"dataset '{name}' has no image shape and number of classes; use {example}")
    height, width, channels, num_classes = (int(number) for number in match.groups())
    train, test = NUM_NOISE.values()
    if (size := (train + test) * height * width * channels) > _MOST_BYTES:
        raise DataError(
            f"dataset '{name}' needs {size / 2**30:.1f} GiB of memory, more than the"
            f" {_MOST_BYTES >> 30} GiB allowed; use smaller images"
        )
    return DatasetInfo(name, (height, width, channels), num_classes, train, test, "noise")


def default_data_dir(data_dir: Path | None) -> Path:
    """The given data folder, or the default of tensorflow-datasets."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or Path("~/tensorflow_datasets")
    return expand_home(Path(chosen))


def open_builder(name: str, data_dir: Path, **kwargs: Any) -> Any:
    """The `tfds.core.DatasetBuilder` of a dataset, without downloading anything.

    Raises:
      DataError: unknown or unsuitable dataset, or a required package is missing.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_]*(/[\w.+-]+)?", name):
        raise DataError(_unknown(name))
    with quiet():
        import tensorflow_datasets as tfds
        from google.protobuf.json_format import ParseError

        try:
            with _without_temporary_folder():
                return tfds.builder(name, data_dir=data_dir, **kwargs)
        except tfds.core.DatasetNotFoundError:
            raise DataError(_unknown(name)) from None
        except ModuleNotFoundError as error:
            raise DataError(_missing_package(name, error)) from error
        except ValueError as error:
            if "/" not in name:
                raise DataError(_damaged(name, data_dir, error)) from error
            raise DataError(_wrong_config(name)) from error
        except (ParseError, KeyError, TypeError, AttributeError, OSError) as error:
            raise DataError(_damaged(name, data_dir, error)) from error


@contextlib.contextmanager
def _without_temporary_folder() -> Iterator[None]:
    """Keeps tensorflow-datasets from querying its GCS bucket, which is disabled.

    Each query would leave a temporary folder behind.
    """
    import tensorflow_datasets as tfds

    with _patching:
        info = tfds.core.DatasetInfo
        ask = info.initialize_from_bucket
        info.initialize_from_bucket = lambda _: None
        try:
            yield
        finally:
            info.initialize_from_bucket = ask


def info_of(name: str, builder: Any) -> DatasetInfo:
    """Metadata of a dataset builder.

    Raises:
      DataError: examples are not one image with one class label, or image sizes vary.
    """
    image, label = (builder.info.features[key] for key in supervised_keys(name, builder))
    splits, numbers = builder.info.splits, list(map(str, range(label.num_classes)))
    return DatasetInfo(
        name=name,
        shape=(image.shape[0] or 0, image.shape[1] or 0, image.shape[2]),
        num_classes=label.num_classes,
        num_train=splits["train"].num_examples if "train" in splits else None,
        num_test=splits["test"].num_examples if "test" in splits else None,
        title=textwrap.shorten(builder.info.description or name, 80, placeholder=" ..."),
        classes=() if label.names == numbers else tuple(label.names),
    )


def supervised_keys(name: str, builder: Any) -> tuple[str, str]:
    """Names of the image and label features.

    Raises:
      DataError: not an image classification dataset.
    """
    import numpy as np
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    match [(key, features.get(key)) for key in builder.info.supervised_keys or ()]:
        case [(image, tfds.features.Image() as feature), (label, tfds.features.ClassLabel())] if (
            np.dtype(feature.np_dtype) == np.uint8
        ):
            return image, label
    raise DataError(
        f"dataset '{name}' is not an image classification dataset (examples must be one "
        f"8-bit image with one class label); see {LIST} for some that are"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences tensorflow-datasets.

    It prints banners, progress bars and retries; everything relevant reaches the user
    through exceptions.
    """
    # TensorFlow reads this once, when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    loggers = [logging.getLogger(each) for each in ("absl", "urllib3.connectionpool")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with contextlib.redirect_stdout(io.StringIO()):
            import tensorflow_datasets as tfds

            tfds.disable_progress_bar()
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def private_api(module: str, name: str) -> Any:
    """Imports a class or function from the private API of tensorflow-datasets.

    Args:
      module: module name, relative to `tensorflow_datasets.core`.
      name: name of a class or function in it.

    Raises:
      DataError: the installed version does not have it.
    """
    try:
        return getattr(importlib.import_module(f"tensorflow_datasets.core.{module}"), name)
    except (ImportError, AttributeError):
        found = f"tensorflow-datasets {version('tensorflow-datasets')} has no core.{module}.{name}"
        remedy = f"run {commands.pip_install(f'tensorflow-datasets=={TESTED}')}"
        raise DataError(f"{found}, which cnnbench requires; {remedy}.") from None


def has_tensorflow() -> bool:
    """Returns True if TensorFlow is installed."""
    return importlib.util.find_spec("tensorflow") is not None


def _unknown(name: str) -> str:
    import tensorflow_datasets as tfds

    near = _NAMES.hint(name, [*KNOWN, *tfds.list_builders(with_community_datasets=False)])
    return f"unknown dataset '{name}'{near or f'; see {LIST}'}"


def _wrong_config(name: str) -> str:
    import tensorflow_datasets as tfds

    base, _, config = name.partition("/")
    configs = list(tfds.builder_cls(base).builder_configs)
    if not configs:
        return f"dataset '{base}' has no configurations; use '{base}' without '/{config}'"
    near = did_you_mean(config, configs) or f"; use one of {or_list(configs)}"
    return f"dataset '{base}' has no configuration '{config}'{near}"


def _damaged(name: str, data_dir: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[-80:].rstrip(".") or type(error).__name__
    where = f"{data_dir / name}: the description of the prepared data cannot be read"
    return f"{where} ({reason}); remove that folder and prepare the dataset again"


def _missing_package(name: str, error: ModuleNotFoundError) -> str:
    # tensorflow-datasets raises the error again without its `name`.
    package = str(error).rpartition("No module named ")[2].strip("'").partition(".")[0]
    install = TENSORFLOW_EXTRA if package == "tensorflow" else commands.pip_install(package)
    return f"dataset '{name}' requires the package '{package}'; {install}"
